"""Plotly figures as JSON, in the colors of the light theme; `live_figure.js` replaces them by the page's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lib.design.analysis import NetworkAnalysis
from lib.design.exercise import PARAMS_LIMIT
from lib.design.formulas import layer_formulas
from lib.design.layers import Architecture
from lib.evaluation.proportion import wilson_interval
from lib.text.untrusted_text import html_escaped

if TYPE_CHECKING:
    from lib.evaluation.metrics import Bin
    from lib.evaluation.proportion import Proportion
    from lib.inference.predict import Prediction
    from lib.training.history import Curves
    from lib.training.trainer import EpochMetrics

PALETTE = ("#3B5BDB", "#D9480F", "#087F5B", "#862E9C", "#C2255C", "#0B7285", "#5C940D", "#868E96")
# What is empty; the page puts its own in.
SURFACE = "#F3F5FB"
# Of each curve; all curves together stay below 2,000.
RAW_POINTS, SMOOTH_POINTS, RATE_POINTS, GHOST_POINTS = 500, 250, 150, 150
SMOOTHING = 50
ACCURACY_FLOOR = 0.9
# A probability from which a digit's curve is told apart from the others.
LIKELY = 0.1
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True, eq=False)
class RunCurves:
    """What is drawn of one run: its steps, its epochs, and the name that stands before its curves as a ghost."""

    steps: Curves
    epochs: Sequence[EpochMetrics]
    validation: str
    name: str = ""


def training_curves(run: RunCurves, steps_total: int, ghost: RunCurves | None = None) -> str:
    """Loss, accuracy and learning rate over the steps, one below the other on one axis of steps; the figure's JSON.

    The ghost is another run, dotted. Written without Plotly's objects: they would take longer than the rest of a tick.
    """
    steps = run.steps
    losses, correct = running_mean(steps.train_loss, SMOOTHING), running_mean(steps.train_accuracy, SMOOTHING)
    measured = "Test" if run.validation == "test" else "Held-out"
    traces = [
        *(_reference_traces(ghost) if ghost else []),
        _curve(1, "Batch loss", steps, steps.train_loss, RAW_POINTS, 7, opacity=0.45),
        _curve(1, f"Mean loss of {SMOOTHING} batches", steps, losses, SMOOTH_POINTS, 0),
        _points(1, f"{measured} loss", run.epochs, [epoch.validation_loss for epoch in run.epochs], 1),
        _curve(2, f"Training accuracy, {SMOOTHING} batches", steps, 100 * correct, SMOOTH_POINTS, 0),
        {
            **_points(2, f"{measured} accuracy, with its 95 % interval", run.epochs, _accuracies(run), 1),
            "error_y": _error_bars([(e.validation_accuracy, e.validation_images) for e in run.epochs]),
        },
        _curve(3, "Learning rate", steps, steps.learning_rate, RATE_POINTS, 2),
    ]
    # What a class looks at is above 90 %; a run that has not come there shows all of the axis.
    learnt = len(correct) > 0 and correct[-1] > ACCURACY_FLOOR
    rows: dict[str, dict[str, object]] = {
        "yaxis": {"domain": [0.645, 1], "title": {"text": "Loss", "standoff": 8}, "type": "log", "dtick": "D2"},
        "yaxis2": {
            "domain": [0.245, 0.595],
            "title": {"text": "Accuracy, %", "standoff": 8},
            "range": [100 * ACCURACY_FLOOR if learnt else 0, 100.2],
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


def _error_bars(accuracies: Sequence[tuple[float, int]]) -> dict[str, object]:
    """95 % confidence intervals, in percentage points, of (share, number of samples); length 0 without samples."""
    intervals = [(share, *wilson_interval(share, count)) if count else (0.0, 0.0, 0.0) for share, count in accuracies]
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - share) for share, _, high in intervals],
        "arrayminus": [100 * (share - low) for share, low, _ in intervals],
    }


def _reference_traces(run: RunCurves) -> list[dict[str, object]]:
    steps, losses = run.steps, running_mean(run.steps.train_loss, SMOOTHING)
    dotted = {"line": {"color": PALETTE[3], "dash": "dot"}, "opacity": 0.7}
    name = html_escaped(run.name)
    return [
        _curve(1, f"{name}: mean loss", steps, losses, GHOST_POINTS, 3) | dotted,
        _points(2, f"{name}: accuracy", run.epochs, _accuracies(run), 3) | dotted,
        _curve(3, f"{name}: learning rate", steps, steps.learning_rate, GHOST_POINTS, 3) | dotted,
    ]


def _curve(
    row: int, name: str, steps: Curves, values: NDArray[np.float64], limit: int, colour: int, **options: object
) -> dict[str, object]:
    kept = downsample_min_max(values, limit)
    # JSON has no word for what is not a number; a gap shows it.
    numbers = [float(f"{value:.6g}") if np.isfinite(value) else None for value in values[kept]]
    return {**_trace(row, name, colour), "x": steps.steps[kept].tolist(), "y": numbers, "mode": "lines", **options}


def _points(row: int, name: str, epochs: Sequence[EpochMetrics], values: list[float], colour: int) -> dict[str, object]:
    return {
        **_trace(row, name, colour),
        "x": [epoch.step for epoch in epochs],
        "y": [value if np.isfinite(value) else None for value in values],
        "mode": "lines+markers",
        "cliponaxis": False,
        "marker": {"color": PALETTE[colour], "size": 9},
    }


def _trace(row: int, name: str, colour: int) -> dict[str, object]:
    axis = "" if row == 1 else str(row)
    return {
        "type": "scatter", "name": name, "xaxis": f"x{axis}", "yaxis": f"y{axis}", "line": {"color": PALETTE[colour]}
    }  # fmt: skip


def layer_costs(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """Parameters and MACs a layer, each bar beginning where the one above it ends, so that the last ends at the total.

    The budget of parameters is a line across the first; hovering says the sums. The figure's JSON, written without
    Plotly's objects: they would take longer than all the rest that a moved slider asks for.
    """
    names = [row.label for row in analysis.rows]
    sums = layer_formulas(architecture)
    traces: list[dict[str, object]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": title,
            "x": numbers,
            "y": names,
            "base": [0, *accumulate(numbers)][:-1],
            "customdata": list(zip(numbers, formulas, strict=True)),
            "hovertemplate": f"%{{y}}<br><b>%{{customdata[0]:,}}</b> {unit}<br>%{{customdata[1]}}<extra></extra>",
            "marker": {"color": PALETTE[colour]},
            "xaxis": axis,
            "yaxis": "y",
        }
        for title, unit, numbers, formulas, colour, axis in (
            ("Parameters", "parameters", [r.num_params for r in analysis.rows], [w.params for w in sums], 0, "x"),
            ("MACs", "MACs", [row.macs for row in analysis.rows], [w.macs for w in sums], 2, "x2"),
        )
    ]
    budget = {
        "type": "scatter",
        "mode": "lines",
        "name": "Budget",
        "x": [PARAMS_LIMIT] * len(names),
        "y": names,
        "line": {"color": PALETTE[1], "dash": "dash", "width": 2},
        "hovertemplate": f"The budget: under {PARAMS_LIMIT:,} parameters for 99.4 %<extra></extra>",
    }
    across = {"rangemode": "tozero", "nticks": 6, "anchor": "y"}
    layout = {
        "xaxis": {**across, "domain": [0, 0.48], "title": {"text": "Parameters, added up"}},
        "xaxis2": {**across, "domain": [0.53, 1], "title": {"text": "MACs, added up"}},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False},
        "margin": {"l": 10, "r": 15, "t": 30, "b": 45},
        "bargap": 0.25,
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    }
    return json.dumps({"data": [*traces, budget], "layout": layout})


def probability_bars(prediction: Prediction | None) -> go.Figure:
    """Ten horizontal bars, 0 at the top; the likeliest digit in the first colour. Empty without a prediction."""
    probabilities = prediction.probabilities if prediction else (0.0,) * 10
    best = prediction.digit if prediction else -1
    figure = go.Figure(
        go.Bar(
            x=[100 * p for p in probabilities],
            y=[str(digit) for digit in range(10)],
            orientation="h",
            marker={"color": [PALETTE[0] if digit == best else PALETTE[7] for digit in range(10)]},
            text=[f"{100 * p:.1f} %" if prediction else "" for p in probabilities],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    )
    figure.update_xaxes(
        range=[0, 118], showticklabels=False, showgrid=False, zeroline=False, showline=False, fixedrange=True
    )
    figure.update_yaxes(type="category", autorange="reversed", fixedrange=True, showgrid=False, tickfont={"size": 16})
    figure.update_layout(margin={"l": 30, "r": 10, "t": 5, "b": 5}, bargap=0.25, showlegend=False, template=None)
    return figure


def probability_curves(steps: Sequence[int], predictions: Sequence[Prediction]) -> str:
    """The ten probabilities of one image over the steps of a training, the steps on a logarithmic axis; JSON.

    Digits that were ever likely have a colour, a dash and their number at the end of their line; the others are grey.
    """
    traces = []
    final = predictions[-1].digit
    likely = [d for d in range(10) if max(prediction.probabilities[d] for prediction in predictions) >= LIKELY]
    styles = {digit: (number % 7, DASHES[number % len(DASHES)]) for number, digit in enumerate(likely)}
    for digit in sorted(range(10), key=lambda digit: digit in styles):
        values = [round(100 * prediction.probabilities[digit], 2) for prediction in predictions]
        colour, dash = styles.get(digit, (7, "solid"))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text" if digit in styles else "lines",
                "name": str(digit),
                "x": list(steps),
                "y": values,
                "line": {"color": PALETTE[colour], "dash": dash, "width": 3 if digit == final else 1.5},
                "marker": {"size": 4, "color": PALETTE[colour]},
                "opacity": 1.0 if digit in styles else 0.35,
                "text": [""] * (len(values) - 1) + [f"<b>{digit}</b>"],
                "textposition": "middle right",
                "textfont": {"size": 16, "color": PALETTE[colour]},
                "cliponaxis": False,
                "hovertemplate": f"{digit}: %{{y:.1f}} % after %{{x:,}} steps<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": "Step (each mark is ten times the one before)"}, "dtick": 1},
        "yaxis": {"title": {"text": "Probability, %"}, "range": [-2, 104]},
        "margin": {"l": 50, "r": 30, "t": 10, "b": 45},
        "showlegend": False,
        "hovermode": "closest",
    }
    return json.dumps({"data": traces, "layout": layout})


def confusion_matrix(counts: Sequence[Sequence[int]], chosen: tuple[int, int]) -> str:
    """Counts (10, 10), row the truth, column what is read, written in their cells; the chosen (row, column) framed.

    The diagonal, read right, has a colour of its own: beside its thousand a handful of errors would look like none. The
    figure's JSON.
    """
    digits = [str(digit) for digit in range(len(counts))]
    wrong = [[None if row == column else n for column, n in enumerate(line)] for row, line in enumerate(counts)]
    right = [[n if row == column else None for column, n in enumerate(line)] for row, line in enumerate(counts)]
    most = max((n for line in wrong for n in line if n), default=1)
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
            "zmax": most,
            "colorscale": [[0, SURFACE], [1, PALETTE[0]]],
            "texttemplate": "%{z}",
            "hovertemplate": "%{y} read as %{x}: %{z}<extra></extra>",
        },
        {
            **shared,
            "z": right,
            "colorscale": [[0, PALETTE[2]], [1, PALETTE[2]]],
            "texttemplate": "<b>%{z}</b>",
            "hovertemplate": "%{y} read right: %{z}<extra></extra>",
        },
    ]
    row, column = chosen
    frame = {
        "type": "rect", "x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5,
        "line": {"color": PALETTE[1], "width": 3},
    }  # fmt: skip
    across = {"type": "category", "fixedrange": True, "showgrid": False, "zeroline": False, "ticks": ""}
    layout = {
        "xaxis": {**across, "title": {"text": "Read as"}},
        "yaxis": {**across, "title": {"text": "Truth"}, "autorange": "reversed"},
        "margin": {"l": 45, "r": 5, "t": 5, "b": 45},
        "shapes": [frame],
        "dragmode": False,
        "hovermode": "closest",
    }
    return json.dumps({"data": traces, "layout": layout})


def class_accuracy(classes: Sequence[Proportion]) -> str:
    """For each digit the share of its images that are read right, with its 95 % interval; the figure's JSON."""
    shares = [100 * found.share if found.count else None for found in classes]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [str(digit) for digit in range(len(classes))],
        "y": shares,
        "error_y": {**_error_bars([(found.share, found.count) for found in classes]), "thickness": 2, "width": 6},
        "marker": {"color": PALETTE[0], "size": 10},
        "cliponaxis": False,
        "hovertemplate": "%{x}: %{y:.2f} %<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "title": {"text": "Digit"}, "fixedrange": True, "showgrid": False},
        "yaxis": {"title": {"text": "Read right, %", "standoff": 8}, "automargin": True, "fixedrange": True},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 45},
        "showlegend": False,
    }
    return json.dumps({"data": [trace], "layout": layout})


def reliability(bins: Sequence[Bin]) -> str:
    """Accuracy over mean confidence of each bin that has images, with its 95 % interval; the figure's JSON."""
    filled = [found for found in bins if found.accuracy.count]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "This network, with 95 % intervals",
        "x": [100 * found.confidence for found in filled],
        "y": [100 * found.accuracy.share for found in filled],
        "error_y": {
            **_error_bars([(found.accuracy.share, found.accuracy.count) for found in filled]),
            "thickness": 2,
            "width": 6,
        },
        "customdata": [found.accuracy.count for found in filled],
        "line": {"color": PALETTE[0]},
        "marker": {"color": PALETTE[0], "size": 10},
        "hovertemplate": "%{customdata:,} images: confidence %{x:.1f} %, right %{y:.1f} %<extra></extra>",
    }
    ideal = {
        "type": "scatter",
        "mode": "lines",
        "name": "As sure as it is right",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": PALETTE[7], "dash": "dash"},
        "hoverinfo": "skip",
    }
    across = {"range": [-2, 102], "fixedrange": True}
    layout = {
        "xaxis": {**across, "title": {"text": "Mean confidence, %"}},
        "yaxis": {**across, "title": {"text": "Read right, %", "standoff": 8}, "automargin": True},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 45},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hovermode": "closest",
    }
    return json.dumps({"data": [ideal, trace], "layout": layout})


def downsample_min_max(values: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Indices, ascending, of at most `limit` (4 or more) of the values; each bin's least and greatest survive.

    What is not a number survives as the greatest of its bin.
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
    """Mean of each value and up to width - 1 before it."""
    if not len(values):
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return np.asarray((sums[end] - sums[start]) / (end - start))
