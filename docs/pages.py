"""The documentation's Markdown files, and how their generated parts are rewritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def pages() -> list[Path]:
    """Return the pages in the project's folder and in docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def rewrite(refreshed: Callable[[str], str]) -> None:
    """Write each page as `refreshed` returns it, and print the names of those that have changed."""
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = refreshed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"refreshed {path.relative_to(ROOT)}")
