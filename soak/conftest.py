"""What the long tests share: real MNIST and a real Chromium."""

from __future__ import annotations

from tests.conftest import mnist
from tests.test_browser import chromium

__all__ = ["chromium", "mnist"]
