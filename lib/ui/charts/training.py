"""The figure of the Train page: the curves of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.text.untrusted_text import html_escaped
from lib.ui.charts.colors import PALETTE
from lib.ui.charts.error_bars import error_bars

if TYPE_CHECKING:
    from lib.training.history import Curves
    from lib.training.trainer import EpochMetrics

# Points of each curve; all curves together have fewer than 2,000.
RAW_POINTS, SMOOTH_POINTS, RATE_POINTS, REFERENCE_POINTS = 500, 250, 150, 150
SMOOTHING = 50
ACCURACY_FLOOR = 0.9


@dataclass(frozen=True, eq=False)
class RunCurves:
    """The curves of one run: its steps and its epochs; `name` labels the curves of a reference run."""

    steps: Curves
    epochs: Sequence[EpochMetrics]
    validation: str
    name: str = ""


def training_curves(run: RunCurves, steps_total: int, reference: RunCurves | None = None) -> str:
    """Return the figure of loss, accuracy and learning rate over the steps: three plots that share their x-axis.

    The curves of the reference run are dotted.
    """
    steps = run.steps
    losses, correct = running_mean(steps.train_loss, SMOOTHING), running_mean(steps.train_accuracy, SMOOTHING)
    measured = "Test" if run.validation == "test" else "Held-out"
    traces = [
        *(_reference_traces(reference) if reference else []),
        _curve(1, "Batch loss", steps, steps.train_loss, RAW_POINTS, 7, opacity=0.45),
        _curve(1, f"Mean loss of {SMOOTHING} batches", steps, losses, SMOOTH_POINTS, 0),
        _points(1, f"{measured} loss", run.epochs, [epoch.validation_loss for epoch in run.epochs], 1),
        _curve(2, f"Training accuracy, {SMOOTHING} batches", steps, 100 * correct, SMOOTH_POINTS, 0),
        {
            **_points(2, f"{measured} accuracy, with its 95 % interval", run.epochs, _accuracies(run), 1),
            "error_y": error_bars([(e.validation_accuracy, e.validation_images) for e in run.epochs]),
        },
        _curve(3, "Learning rate", steps, steps.learning_rate, RATE_POINTS, 2),
    ]
    # Differences between good networks are above 90 %; a run that has not got there shows the whole axis.
    good = len(correct) > 0 and correct[-1] > ACCURACY_FLOOR
    rows: dict[str, dict[str, object]] = {
        "yaxis": {"domain": [0.645, 1], "title": {"text": "Loss", "standoff": 8}, "type": "log", "dtick": "D2"},
        "yaxis2": {
            "domain": [0.245, 0.595],
            "title": {"text": "Accuracy, %", "standoff": 8},
            "range": [100 * ACCURACY_FLOOR if good else 0, 100.2],
        },
        "yaxis3": {
            "domain": [0, 0.195], "title": {"text": "Learning rate", "standoff": 8}, "rangemode": "tozero", "nticks": 4,
            "tickformat": ".2g",
        },
    }  # fmt: skip
    layout: dict[str, object] = {
        name: {**axis, "anchor": f"x{name.removeprefix('yaxis')}", "automargin": True} for name, axis in rows.items()
    }
    across = {"range": [0, max(steps_total, 1)], "domain": [0, 1]}
    layout |= {
        "xaxis": {**across, "anchor": "y", "matches": "x3", "showticklabels": False},
        "xaxis2": {**across, "anchor": "y2", "matches": "x3", "showticklabels": False},
        "xaxis3": {**across, "anchor": "y3", "title": {"text": "Step (one batch)"}},
        "hovermode": "x",
        "margin": {"l": 70, "r": 10, "t": 10, "b": 45},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    }
    return json.dumps({"data": traces, "layout": layout})


def _accuracies(run: RunCurves) -> list[float]:
    return [100 * epoch.validation_accuracy for epoch in run.epochs]


def _reference_traces(run: RunCurves) -> list[dict[str, object]]:
    steps, losses = run.steps, running_mean(run.steps.train_loss, SMOOTHING)
    dotted = {"line": {"color": PALETTE[3], "dash": "dot"}, "opacity": 0.7}
    name = html_escaped(run.name)
    return [
        _curve(1, f"{name}: mean loss", steps, losses, REFERENCE_POINTS, 3) | dotted,
        _points(2, f"{name}: accuracy", run.epochs, _accuracies(run), 3) | dotted,
        _curve(3, f"{name}: learning rate", steps, steps.learning_rate, REFERENCE_POINTS, 3) | dotted,
    ]


def _curve(
    row: int, name: str, steps: Curves, values: NDArray[np.float64], limit: int, color: int, **options: object
) -> dict[str, object]:
    kept = downsample_min_max(values, limit)
    # JSON has no NaN; null is drawn as a gap.
    numbers = [float(f"{value:.6g}") if np.isfinite(value) else None for value in values[kept]]
    return {**_trace(row, name, color), "x": steps.steps[kept].tolist(), "y": numbers, "mode": "lines", **options}


def _points(row: int, name: str, epochs: Sequence[EpochMetrics], values: list[float], color: int) -> dict[str, object]:
    return {
        **_trace(row, name, color),
        "x": [epoch.step for epoch in epochs],
        "y": [value if np.isfinite(value) else None for value in values],
        "mode": "lines+markers",
        "cliponaxis": False,
        "marker": {"color": PALETTE[color], "size": 9},
    }


def _trace(row: int, name: str, color: int) -> dict[str, object]:
    axis = "" if row == 1 else str(row)
    return {
        "type": "scatter", "name": name, "xaxis": f"x{axis}", "yaxis": f"y{axis}", "line": {"color": PALETTE[color]}
    }  # fmt: skip


def downsample_min_max(values: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Return ascending indices of at most `limit` (4 or more) values: the ends, and minimum and maximum of each bin.

    NaN counts as the maximum of its bin.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    bins = np.array_split(np.arange(count), (limit - 2) // 2)
    kept = {0, count - 1}
    for part in bins:
        kept.add(int(part[np.argmin(values[part])]))
        kept.add(int(part[np.argmax(values[part])]))
    return np.array(sorted(kept))


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of each value and up to `width - 1` values before it."""
    if not len(values):
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return np.asarray((sums[end] - sums[start]) / (end - start))
