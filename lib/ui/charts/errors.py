"""Figures of the Errors page: confusion matrix, accuracy per class and calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib.ui.charts.colors import PALETTE, SURFACE
from lib.ui.charts.error_bars import error_bars

if TYPE_CHECKING:
    from lib.evaluation.metrics import Bin
    from lib.evaluation.proportion import Proportion


def confusion_matrix(counts: Sequence[Sequence[int]], chosen: tuple[int, int]) -> str:
    """Return the figure of a confusion matrix, with the count in each cell and a frame around the chosen one.

    `counts` is (10, 10): a row for each true digit, a column for each predicted one; `chosen` is (row, column). The
    diagonal has its own color: on the scale of its counts, some 1,000 each, the errors would look like 0.
    """
    digits = [str(digit) for digit in range(len(counts))]
    wrong = [[None if row == column else n for column, n in enumerate(line)] for row, line in enumerate(counts)]
    right = [[n if row == column else None for column, n in enumerate(line)] for row, line in enumerate(counts)]
    max_errors = max((n for line in wrong for n in line if n), default=1)
    shared = {
        "type": "heatmap",
        "x": digits,
        "y": digits,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "textfont": {"size": 12},
        "hoverongaps": False,
    }
    traces = [
        {
            **shared,
            "z": wrong,
            "zmin": 0,
            "zmax": max_errors,
            "colorscale": [[0, SURFACE], [1, PALETTE[0]]],
            "texttemplate": "%{z}",
            "hovertemplate": "%{y} classified as %{x}: %{z}<extra></extra>",
        },
        {
            **shared,
            "z": right,
            "colorscale": [[0, PALETTE[2]], [1, PALETTE[2]]],
            "texttemplate": "<b>%{z}</b>",
            "hovertemplate": "%{y} classified correctly: %{z}<extra></extra>",
        },
    ]
    row, column = chosen
    frame = {
        "type": "rect", "x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5,
        "line": {"color": PALETTE[1], "width": 3},
    }  # fmt: skip
    across = {"type": "category", "fixedrange": True, "showgrid": False, "zeroline": False, "ticks": ""}
    layout = {
        "xaxis": {**across, "title": {"text": "Predicted digit"}},
        "yaxis": {**across, "title": {"text": "True digit"}, "autorange": "reversed"},
        "margin": {"l": 45, "r": 5, "t": 5, "b": 45},
        "shapes": [frame],
        "dragmode": False,
        "hovermode": "closest",
    }
    return json.dumps({"data": traces, "layout": layout})


def class_accuracy(classes: Sequence[Proportion]) -> str:
    """Return the figure of the accuracy of each class with its 95 % interval; a class without images is left empty."""
    shares = [100 * accuracy.share if accuracy.count else None for accuracy in classes]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [str(digit) for digit in range(len(classes))],
        "y": shares,
        "error_y": {
            **error_bars([(accuracy.share, accuracy.count) for accuracy in classes]),
            "thickness": 2,
            "width": 6,
        },
        "marker": {"color": PALETTE[0], "size": 10},
        "cliponaxis": False,
        "hovertemplate": "%{x}: %{y:.2f} %<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "title": {"text": "Digit"}, "fixedrange": True, "showgrid": False},
        "yaxis": {"title": {"text": "Accuracy, %", "standoff": 8}, "automargin": True, "fixedrange": True},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 45},
        "showlegend": False,
    }
    return json.dumps({"data": [trace], "layout": layout})


def reliability(bins: Sequence[Bin]) -> str:
    """Return the reliability diagram: accuracy, with 95 % interval, over mean confidence of each bin with images."""
    filled = [part for part in bins if part.accuracy.count]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "This network, with 95 % intervals",
        "x": [100 * part.confidence for part in filled],
        "y": [100 * part.accuracy.share for part in filled],
        "error_y": {
            **error_bars([(part.accuracy.share, part.accuracy.count) for part in filled]),
            "thickness": 2,
            "width": 6,
        },
        "customdata": [part.accuracy.count for part in filled],
        "line": {"color": PALETTE[0]},
        "marker": {"color": PALETTE[0], "size": 10},
        "hovertemplate": "%{customdata:,} images: confidence %{x:.1f} %, accuracy %{y:.1f} %<extra></extra>",
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "Perfect calibration",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": PALETTE[7], "dash": "dash"},
        "hoverinfo": "skip",
    }
    across = {"range": [-2, 102], "fixedrange": True}
    layout = {
        "xaxis": {**across, "title": {"text": "Mean confidence, %"}},
        "yaxis": {**across, "title": {"text": "Accuracy, %", "standoff": 8}, "automargin": True},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 45},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hovermode": "closest",
    }
    return json.dumps({"data": [ideal, trace], "layout": layout})
