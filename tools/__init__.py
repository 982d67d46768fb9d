"""A real server and a real browser, for the tests, the benchmarks and the pictures in docs/."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
