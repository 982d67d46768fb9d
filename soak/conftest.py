"""What the long tests share: real MNIST and a real Chromium."""

from __future__ import annotations

from tests.conftest import chromium, mnist

__all__ = ["chromium", "mnist"]
