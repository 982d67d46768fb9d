"""JavaScript, CSS and HTML of the components."""

from pathlib import Path


def read_asset(name: str) -> str:
    """Return the text of a file in this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
