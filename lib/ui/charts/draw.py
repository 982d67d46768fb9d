"""Figures of the Draw page: the probabilities of the ten digits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib.ui.charts.colors import PALETTE

if TYPE_CHECKING:
    from lib.inference.predict import Prediction

# Digits whose probability stays below this are gray.
MIN_SHOWN = 0.1
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def probability_bars(prediction: Prediction | None) -> str:
    """Return the figure of ten horizontal bars, 0 at the top, the predicted digit in the first color.

    Without a prediction the bars are empty.
    """
    probabilities = prediction.probabilities if prediction else (0.0,) * 10
    best = prediction.digit if prediction else -1
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * p for p in probabilities],
        "y": [str(digit) for digit in range(10)],
        "marker": {"color": [PALETTE[0] if digit == best else PALETTE[7] for digit in range(10)]},
        "text": [f"{100 * p:.1f} %" if prediction else "" for p in probabilities],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.2f} %<extra></extra>",
    }
    layout = {
        "xaxis": {
            "range": [0, 118], "showticklabels": False, "showgrid": False, "zeroline": False, "showline": False,
            "fixedrange": True,
        },
        "yaxis": {
            "type": "category", "autorange": "reversed", "fixedrange": True, "showgrid": False,
            "tickfont": {"size": 16},
        },
        "margin": {"l": 30, "r": 10, "t": 5, "b": 5},
        "bargap": 0.25,
        "showlegend": False,
    }  # fmt: skip
    return json.dumps({"data": [trace], "layout": layout})


def probability_curves(steps: Sequence[int], predictions: Sequence[Prediction]) -> str:
    """Return the figure of the ten probabilities of one image over the steps of a training, on a logarithmic axis.

    Digits whose probability was ever at least MIN_SHOWN have a color, a dash and their label at the end of the curve;
    the others are gray.
    """
    traces = []
    final = predictions[-1].digit
    likely = [d for d in range(10) if max(prediction.probabilities[d] for prediction in predictions) >= MIN_SHOWN]
    styles = {digit: (number % 7, DASHES[number % len(DASHES)]) for number, digit in enumerate(likely)}
    for digit in sorted(range(10), key=lambda digit: digit in styles):
        values = [round(100 * prediction.probabilities[digit], 2) for prediction in predictions]
        color, dash = styles.get(digit, (7, "solid"))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text" if digit in styles else "lines",
                "name": str(digit),
                "x": list(steps),
                "y": values,
                "line": {"color": PALETTE[color], "dash": dash, "width": 3 if digit == final else 1.5},
                "marker": {"size": 4, "color": PALETTE[color]},
                "opacity": 1.0 if digit in styles else 0.35,
                "text": [""] * (len(values) - 1) + [f"<b>{digit}</b>"],
                "textposition": "middle right",
                "textfont": {"size": 16, "color": PALETTE[color]},
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
