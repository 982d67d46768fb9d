"""Numbers as people read them."""

from __future__ import annotations


def percent(fraction: float, decimals: int = 1) -> str:
    """0.9954 -> "99.5 %"."""
    return f"{100 * fraction:.{decimals}f} %"


def megabytes(count: int) -> str:
    """2_400_000 -> "2.4 MB"."""
    return f"{count / 1e6:,.1f} MB"


def gigabytes(count: int) -> str:
    """536_870_912 -> "0.5 GB"."""
    return f"{count / 1e9:,.1f} GB"


def shape_text(shape: tuple[int, int, int]) -> str:
    """(16, 7, 7) -> "16 × 7 × 7": channels, height, width."""
    return " × ".join(map(str, shape))
