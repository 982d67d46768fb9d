"""The figure of the Design page: parameters and MACs of each layer."""

from __future__ import annotations

import json
from itertools import accumulate

from lib.design.analysis import NetworkAnalysis
from lib.design.exercise import PARAMS_LIMIT
from lib.design.formulas import layer_formulas
from lib.design.layers import Architecture
from lib.ui.charts.colors import PALETTE


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
