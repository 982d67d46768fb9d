"""Confidence intervals as Plotly's error bars."""

from __future__ import annotations

from collections.abc import Sequence

from lib.evaluation.proportion import wilson_interval


def error_bars(accuracies: Sequence[tuple[float, int]]) -> dict[str, object]:
    """Return the 95 % intervals, in percentage points, of pairs (share, number of samples).

    An error bar has length 0 if there are no samples.
    """
    intervals = [(share, *wilson_interval(share, count)) if count else (0.0, 0.0, 0.0) for share, count in accuracies]
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - share) for share, _, high in intervals],
        "arrayminus": [100 * (share - low) for share, low, _ in intervals],
    }
