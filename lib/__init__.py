"""Receptive: see docs/architecture.md."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
