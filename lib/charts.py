"""Data -> Plotly figures, in the colours of the light theme; `lib/live_figure.js` puts in the page's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from lib.analysis import MAX_PARAMS, NetworkAnalysis, interval95
from lib.architecture import Architecture
from lib.formulas import workings

if TYPE_CHECKING:
    from lib.digits import Prediction
    from lib.training import EpochMetrics, StepMetrics

PALETTE = ("#3B5BDB", "#D9480F", "#087F5B", "#862E9C", "#C2255C", "#0B7285", "#5C940D", "#868E96")
MAX_POINTS = 600
SMOOTHING = 50
ACCURACY_FLOOR = 0.9


def training_curves(
    steps: Sequence[StepMetrics], epochs: Sequence[EpochMetrics], steps_total: int, test_count: int = 10_000
) -> go.Figure:
    """Loss, accuracy and learning rate over the steps, one below the other on one axis of steps."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.4, 0.4, 0.2])
    number = np.array([step.step for step in steps])
    losses = np.array([step.train_loss for step in steps])
    rates = np.array([step.learning_rate for step in steps])
    correct = running_mean(np.array([step.train_accuracy for step in steps]), SMOOTHING)
    raw, smooth = thin(losses, MAX_POINTS), thin(correct, MAX_POINTS)
    ends = [epoch.step for epoch in epochs]

    def add(row: int, name: str, x: object, y: object, colour: int, **options: object) -> None:
        figure.add_scatter(
            x=x, y=y, name=name, row=row, col=1, line={"color": PALETTE[colour]},
            marker={"color": PALETTE[colour], "size": 9}, **{"mode": "lines", **options},
        )  # fmt: skip

    add(1, "Batch loss", number[raw], losses[raw], 7, opacity=0.45)
    mean_loss = running_mean(losses, SMOOTHING)
    add(1, f"Mean loss of {SMOOTHING} batches", number[smooth], mean_loss[smooth], 0)
    add(1, "Test loss", ends, [e.test_loss for e in epochs], 1, mode="lines+markers", cliponaxis=False)
    add(2, f"Training accuracy, {SMOOTHING} batches", number[smooth], 100 * correct[smooth], 0)
    add(
        2, "Test accuracy, with its 95 % interval", ends, [100 * e.test_accuracy for e in epochs], 1,
        mode="lines+markers", cliponaxis=False,
        error_y={"type": "data", "array": [100 * interval95(e.test_accuracy, test_count) for e in epochs]},
    )  # fmt: skip
    add(3, "Learning rate", number[thin(rates, MAX_POINTS)], rates[thin(rates, MAX_POINTS)], 2)
    figure.update_xaxes(range=[0, max(steps_total, 1)])
    figure.update_xaxes(title_text="Step (one batch)", row=3, col=1)
    figure.update_yaxes(title_standoff=8, automargin=True)
    figure.update_yaxes(title_text="Loss", type="log", dtick="D2", row=1, col=1)
    # What a class looks at is above 90 %; a run that has not come there shows all of the axis.
    learnt = len(correct) > 0 and correct[-1] > ACCURACY_FLOOR
    accuracy_range = [100 * ACCURACY_FLOOR if learnt else 0, 100.2]
    figure.update_yaxes(title_text="Accuracy, %", range=accuracy_range, row=2, col=1)
    figure.update_yaxes(title_text="Learning rate", rangemode="tozero", nticks=4, tickformat=".2g", row=3, col=1)
    figure.update_layout(
        hovermode="x",
        margin={"l": 70, "r": 10, "t": 10, "b": 45},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        template=None,
    )
    return figure


def layer_costs(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """Parameters and MACs a layer, each bar beginning where the one above it ends, so that the last ends at the total.

    The budget of parameters is a line across the first; hovering says the sums. The figure's JSON, written without
    Plotly's objects: they would take longer than all the rest that a moved slider asks for.
    """
    names = [row.label for row in analysis.rows]
    sums = workings(architecture)
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
            ("Parameters", "parameters", [r.num_params for r in analysis.rows], [w.parameters for w in sums], 0, "x"),
            ("MACs", "MACs", [row.macs for row in analysis.rows], [w.macs for w in sums], 2, "x2"),
        )
    ]
    budget = {
        "type": "scatter",
        "mode": "lines",
        "name": "Budget",
        "x": [MAX_PARAMS] * len(names),
        "y": names,
        "line": {"color": PALETTE[1], "dash": "dash", "width": 2},
        "hovertemplate": f"The budget: under {MAX_PARAMS:,} parameters for 99.4 %<extra></extra>",
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


def thin(values: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Indices, ascending, of at most `limit` (4 or more) of the values; each bin's least and greatest survive."""
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
