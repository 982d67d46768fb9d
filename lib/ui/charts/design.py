"""Figures of the Design page: parameters and MACs of each layer, and public results."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from lib.data.public_results import PublicResult
from lib.design.analysis import NetworkAnalysis
from lib.design.exercise import EPOCHS_LIMIT, PARAMS_LIMIT, TARGET_ACCURACY
from lib.design.formulas import layer_formulas
from lib.design.layers import Architecture
from lib.evaluation.proportion import accuracy_text, wilson_interval
from lib.ui.charts.colors import PALETTE
from lib.ui.charts.error_bars import error_bars

# The axes of the public results show these numbers of parameters, and at least this share of the accuracies; both
# grow to show the network itself.
MIN_PARAMS, MAX_PARAMS = 2000, 100_000
SHOWN_SHARE = 0.95


def layer_sizes(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """Return the figure of parameters and MACs of each layer, as a waterfall whose last bar ends at the total.

    The limit of parameters is a line across the first plot. Hovering over a bar shows the formula.
    """
    # Without the notes, which leave no room for the bars; the number is unique.
    names = [row.label.partition(",")[0] for row in analysis.rows]
    labels = [row.label for row in analysis.rows]
    formulas = layer_formulas(architecture)
    traces: list[dict[str, object]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": title,
            "x": numbers,
            "y": names,
            "base": [0, *accumulate(numbers)][:-1],
            "customdata": list(zip(numbers, formula, labels, strict=True)),
            "hovertemplate": (
                f"%{{customdata[2]}}<br><b>%{{customdata[0]:,}}</b> {unit}<br>%{{customdata[1]}}<extra></extra>"
            ),
            "marker": {"color": PALETTE[color]},
            "xaxis": axis,
            "yaxis": "y",
        }
        for title, unit, numbers, formula, color, axis in (
            ("Parameters", "parameters", [r.num_params for r in analysis.rows], [f.params for f in formulas], 0, "x"),
            ("MACs", "MACs", [row.macs for row in analysis.rows], [f.macs for f in formulas], 2, "x2"),
        )
    ]
    limit = {
        "type": "scatter",
        "mode": "lines",
        "name": "Limit",
        "x": [PARAMS_LIMIT] * len(names),
        "y": names,
        "line": {"color": PALETTE[1], "dash": "dash", "width": 2},
        "hovertemplate": f"Limit: fewer than {PARAMS_LIMIT:,} parameters<extra></extra>",
    }
    across = {"rangemode": "tozero", "nticks": 6, "anchor": "y"}
    layout = {
        "xaxis": {**across, "domain": [0, 0.48], "title": {"text": "Parameters<br>(cumulative)"}},
        "xaxis2": {**across, "domain": [0.53, 1], "title": {"text": "MACs<br>(cumulative)"}},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False},
        "margin": {"l": 10, "r": 15, "t": 30, "b": 60},
        "bargap": 0.25,
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    }
    return json.dumps({"data": [*traces, limit], "layout": layout})


@dataclass(frozen=True)
class Axes:
    """What the chart of public results shows: parameters, and accuracies in per cent."""

    min_params: float
    max_params: float
    min_accuracy: float
    max_accuracy: float

    def outside(self, results: Iterable[PublicResult]) -> tuple[int, int]:
        """Return the number of results below the lowest accuracy, and of all others with too few or many parameters."""
        below = beside = 0
        for result in results:
            if result.accuracy < self.min_accuracy:
                below += 1
            elif not self.min_params <= result.params <= self.max_params:
                beside += 1
        return below, beside


def result_axes(results: Sequence[PublicResult], num_params: int, trained: tuple[float, int] | None) -> Axes:
    """Return axes that show most results, and a network of `num_params` parameters with its interval.

    `trained` is the accuracy of that network, as a fraction, and the number of images that it was measured on.
    """
    accuracies = sorted(result.accuracy for result in results)
    # Half percentage points.
    low = math.floor(2 * accuracies[int((1 - SHOWN_SHARE) * len(accuracies))]) / 2
    high = accuracies[-1]
    if trained:
        own_low, own_high = wilson_interval(*trained)
        low, high = min(low, math.floor(200 * own_low) / 2), max(high, 100 * own_high)
    own = max(num_params, 1)
    return Axes(min(MIN_PARAMS, own / 1.5), max(MAX_PARAMS, 1.5 * own), low, high + 0.04 * (high - low))


def meets_other_limits(result: PublicResult) -> bool:
    """Whether a result meets the two limits that the axes do not show: epochs, and no fully connected layer."""
    return result.epochs is not None and result.epochs < EPOCHS_LIMIT and not result.fully_connected


def public_results(results: tuple[PublicResult, ...], num_params: int, trained: tuple[float, int] | None) -> str:
    """Return the figure of the accuracy of public networks over their parameters, and of where this network stands.

    `num_params` and `trained` are those of this network, as in `result_axes`. A point is one or several results with
    the same parameters and accuracy. The limits of the exercise are dashed lines.
    """
    axes = result_axes(results, num_params, trained)
    traces = _result_traces(results)
    if trained:
        traces += ", " + json.dumps(_own_result(num_params, trained))
    limit = {"line": {"color": PALETTE[1], "dash": "dash", "width": 2}, "layer": "below"}
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1}
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
    upright_label = {"yref": "paper", "y": 0, "yanchor": "bottom", "textangle": -90, "showarrow": False}
    own, target = max(num_params, 1), 100 * TARGET_ACCURACY
    decades = math.log10(axes.max_params / axes.min_params)
    layout = {
        "xaxis": {
            "type": "log",
            "range": [math.log10(axes.min_params), math.log10(axes.max_params)],
            "title": {"text": "Parameters"},
            # Labels at 1, 2 and 5, or at powers of ten alone.
            "dtick": "D2" if decades < 2 else 1,
            "tickformat": "~s",
        },
        "yaxis": {
            "range": [axes.min_accuracy, axes.max_accuracy],
            "title": {"text": "Test accuracy, %", "standoff": 8},
            "automargin": True,
        },
        "shapes": [
            {**upright, **limit, "x0": PARAMS_LIMIT, "x1": PARAMS_LIMIT},
            {**across, **limit, "y0": target, "y1": target},
            {**upright, "x0": own, "x1": own, "line": {"color": PALETTE[0], "width": 2}, "layer": "below"},
        ],
        # On a logarithmic axis, the place of a text is a logarithm and that of a line is not.
        "annotations": [
            {
                **upright_label, "text": f"Limit: {PARAMS_LIMIT:,}", "x": math.log10(PARAMS_LIMIT), "xanchor": "left",
            },
            {
                "text": f"Limit: {target:.1f} %", "xref": "paper", "x": 1, "xanchor": "right", "y": target,
                "yanchor": "top", "showarrow": False,
            },
            {**upright_label, "text": "This network", "x": math.log10(own), "xanchor": "right"},
        ],
        "margin": {"l": 60, "r": 20, "t": 30, "b": 45},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
    }  # fmt: skip
    return f'{{"data": [{traces}], "layout": {json.dumps(layout)}}}'


@lru_cache(maxsize=2)
def _result_traces(results: tuple[PublicResult, ...]) -> str:
    """The traces of the public results as JSON, without the brackets of the list."""
    points: dict[tuple[int, float], list[PublicResult]] = defaultdict(list)
    for result in results:
        points[result.params, result.accuracy].append(result)
    meeting, others = (
        f"Under {EPOCHS_LIMIT} epochs, no fully connected layer",
        f"{EPOCHS_LIMIT} epochs or more, or fully connected",
    )
    traces = []
    for meets, can_load in ((False, True), (False, False), (True, True), (True, False)):
        shown = [
            (place, at_point)
            for place, at_point in points.items()
            if any(map(meets_other_limits, at_point)) == meets and any(r.notation for r in at_point) == can_load
        ]
        if not shown:
            continue
        click = "Click to load this network" if can_load else "The notation cannot write this network"
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": meeting if meets else others,
                "legendgroup": str(meets),
                "legendrank": 1 if meets else 2,
                "showlegend": can_load,
                "x": [params for (params, _), _ in shown],
                "y": [accuracy for (_, accuracy), _ in shown],
                "text": ["<br>".join(dict.fromkeys(map(_training_text, at_point))) for _, at_point in shown],
                "marker": {"color": PALETTE[7], "size": 8, "symbol": "circle" if meets else "circle-open"},
                "hovertemplate": f"%{{x:,}} parameters<br>%{{text}}<br>{click}<extra></extra>",
            }
        )
    return json.dumps(traces)[1:-1]


def _training_text(result: PublicResult) -> str:
    parts = [
        result.epochs_text,
        None if result.final_accuracy is None else f"final {result.final_accuracy:.2f} %",
        None if result.best_accuracy is None else f"best {result.best_accuracy:.2f} %",
    ]
    return ", ".join(part for part in parts if part)


def _own_result(num_params: int, trained: tuple[float, int]) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "This network, final epoch, 95 % interval",
        "legendrank": 0,
        "x": [num_params],
        "y": [100 * trained[0]],
        "error_y": {**error_bars([trained]), "thickness": 2, "width": 6},
        "marker": {"color": PALETTE[0], "size": 12, "symbol": "diamond"},
        "hovertemplate": f"This network, after the final epoch:<br>{accuracy_text(*trained)}<extra></extra>",
    }
