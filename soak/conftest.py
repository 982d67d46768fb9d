"""Fixtures of the long tests: MNIST and Chromium."""

from __future__ import annotations

from tests.conftest import chromium, mnist

__all__ = ["chromium", "mnist"]
