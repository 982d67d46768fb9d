"""Curves thinned for the screen, and the colors of the page."""

from __future__ import annotations

import json
import math
import time
import tomllib

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib.data import public_results as public_results_file
from lib.data.public_results import PublicResult
from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.evaluation.metrics import Bin
from lib.evaluation.proportion import Proportion, wilson_interval
from lib.inference.predict import Prediction
from lib.training.history import Curves
from lib.training.trainer import EpochMetrics
from lib.ui.charts.colors import PALETTE, SURFACE
from lib.ui.charts.design import layer_sizes, public_results, result_axes
from lib.ui.charts.draw import probability_bars
from lib.ui.charts.errors import class_accuracy, confusion_matrix, reliability
from lib.ui.charts.training import RAW_POINTS, RunCurves, downsample_min_max, running_mean, training_curves
from tests.architectures import architectures
from tools import ROOT

CONFIG = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
values = arrays(np.float64, st.integers(0, 3000), elements=st.floats(-1e6, 1e6))


@given(values, st.integers(4, 700))
def test_thinned_curves_keep_their_ends_and_their_spikes(curve: np.ndarray, limit: int) -> None:
    kept = downsample_min_max(curve, limit)
    assert len(kept) <= max(limit, 0)
    assert list(kept) == sorted(set(kept.tolist()))
    if len(curve):
        assert kept[0] == 0
        assert kept[-1] == len(curve) - 1
        assert curve[kept].max() == curve.max()
        assert curve[kept].min() == curve.min()


@given(values, st.integers(1, 60))
def test_running_mean_is_the_mean_of_the_last_few(curve: np.ndarray, width: int) -> None:
    means = running_mean(curve, width)
    assert len(means) == len(curve)
    for index in range(0, len(curve), 97):
        assert means[index] == pytest.approx(curve[max(0, index - width + 1) : index + 1].mean(), abs=1e-3)


def run_curves(steps: int, epochs: int, name: str = "", validation: str = "test") -> RunCurves:
    losses = 1 / np.arange(1.0, steps + 1)
    return RunCurves(
        Curves(1, losses, 1 - losses, np.full(steps, 0.01)),
        [EpochMetrics(i, i * 1000, 0.1, 0.9, 0.1, 0.99, 10_000, 0.99, 10.0, 5000.0) for i in range(1, epochs + 1)],
        validation,
        name,
    )


def test_the_name_of_a_ghost_is_no_html() -> None:
    """F12: Plotly makes a link of one."""
    named = training_curves(run_curves(10, 1), 10, run_curves(10, 1, '<a href="//evil.io">x</a> &lt;'))
    ghosts = [trace["name"] for trace in json.loads(named)["data"] if "evil" in trace.get("name", "")]
    shown = '&lt;a href="//evil.io"&gt;x&lt;/a&gt; &amp;lt;'
    assert ghosts == [f"{shown}: {what}" for what in ("mean loss", "accuracy", "learning rate")]


def test_a_long_run_and_its_ghost_send_at_most_two_thousand_points() -> None:
    run = run_curves(100_000, 100)
    spike = 54_321
    run.steps.train_loss[spike] = 99.0
    # Plotly's own validation refuses a name or a value that it does not know.
    figure = go.Figure(json.loads(training_curves(run, 100_000, run_curves(90_000, 100, "run-7"))))
    sizes = {trace.name: len(trace.x) for trace in figure.data}
    assert sum(sizes.values()) <= 2000
    assert sizes["Test loss"] == sizes["run-7: accuracy"] == 100
    raw = next(trace for trace in figure.data if trace.name == "Batch loss")
    assert max(raw.y) == 99.0
    assert raw.x[list(raw.y).index(99.0)] == spike + 1
    assert len(raw.x) <= RAW_POINTS


def test_what_is_not_a_number_is_a_gap_and_valid_json() -> None:
    run = run_curves(3000, 1)
    run.steps.train_loss[-1] = np.nan
    text = training_curves(run, 3000)
    assert "NaN" not in text
    raw = next(trace for trace in json.loads(text)["data"] if trace["name"] == "Batch loss")
    assert raw["y"][-1] is None


def test_a_run_without_a_step_is_an_empty_figure_that_names_what_it_is_measured_on() -> None:
    traces = json.loads(training_curves(run_curves(0, 0, validation="held-out"), 0))["data"]
    assert all(trace["x"] == [] for trace in traces)
    assert "Held-out loss" in {trace["name"] for trace in traces}


def test_bars_name_every_digit_and_mark_the_likeliest() -> None:
    (bar,) = go.Figure(json.loads(probability_bars(Prediction((0.1, 0.2, 0.7, 0, 0, 0, 0, 0, 0, 0))))).data
    assert list(bar.y) == [str(d) for d in range(10)]
    assert bar.text[2] == "70.0 %"
    assert [color == PALETTE[0] for color in bar.marker.color].index(True) == 2
    assert json.loads(probability_bars(None))["data"][0]["text"] == [""] * 10


def test_the_palette_is_the_light_themes_and_the_dark_one_is_as_long() -> None:
    assert CONFIG["theme"]["light"]["chartCategoricalColors"] == list(PALETTE)
    assert len(CONFIG["theme"]["dark"]["chartCategoricalColors"]) == len(PALETTE)
    assert CONFIG["theme"]["light"]["secondaryBackgroundColor"] == SURFACE


@given(architectures())
def test_bars_end_at_the_totals_and_plotly_takes_them(architecture: Architecture) -> None:
    analysis = per_layer(analyze(architecture), architecture)
    # Plotly's own validation refuses a name or a value that it does not know.
    figure = go.Figure(json.loads(layer_sizes(analysis, architecture)))
    parameters, macs, budget = figure.data
    for bars, total in ((parameters, analysis.num_params), (macs, analysis.macs)):
        ends = [base + length for base, length in zip(bars.base, bars.x, strict=True)]
        assert list(bars.base) == [0, *ends[:-1]]
        assert ends[-1] == total
    assert set(budget.x) == {20_000}


RESULTS = (
    *(PublicResult(5_000 + i, 15, 99.5, 99.0 + i / 100, 0, "4 M 10 A") for i in range(37)),
    PublicResult(9_000, 19, 99.45, None, 0, "8 M 10 A"),
    PublicResult(9_000, None, None, 99.45, 0, ""),
    PublicResult(9_100, 20, 99.5, 99.2, 0, "4 M 10 A"),
    PublicResult(9_200, 19, 99.5, 99.2, 1, ""),
    PublicResult(9_300, 1, 41.5, 41.14, 0, "4 M 10 A"),
    PublicResult(6_379_786, 20, 99.36, 99.34, 0, "4 M 10 A"),
)


def test_public_results_are_points_that_say_what_a_click_does() -> None:
    # Plotly's own validation refuses a name or a value that it does not know.
    figure = go.Figure(json.loads(public_results(RESULTS, 9274, None)))
    shown = {
        (x, y): (trace.marker.symbol, text, "Click to load" in trace.hovertemplate)
        for trace in figure.data
        for x, y, text in zip(trace.x, trace.y, trace.text, strict=True)
    }
    # Two results are at one point.
    assert len(shown) == sum(len(trace.x) for trace in figure.data) == len(RESULTS) - 1
    assert shown[9_000, 99.45] == ("circle", "19 epochs, best 99.45 %<br>final 99.45 %", True)
    assert shown[9_100, 99.2] == ("circle-open", "20 epochs, final 99.20 %, best 99.50 %", True)
    assert shown[9_200, 99.2] == ("circle-open", "19 epochs, final 99.20 %, best 99.50 %", False)
    assert shown[9_300, 41.14] == ("circle", "1 epoch, final 41.14 %, best 41.50 %", True)
    assert {trace.name: trace.marker.symbol for trace in figure.data if trace.showlegend} == {
        "Under 20 epochs, no fully connected layer": "circle",
        "20 epochs or more, or fully connected": "circle-open",
    }


def test_the_limits_and_this_network_are_lines_and_its_accuracy_is_a_point_with_its_interval() -> None:
    untrained, trained = (json.loads(public_results(RESULTS, 9274, of)) for of in (None, (0.9948, 10_000)))
    assert len(trained["data"]) == len(untrained["data"]) + 1
    own = go.Figure(trained).data[-1]
    assert (list(own.x), list(own.y)) == ([9274], [99.48])
    low, high = wilson_interval(0.9948, 10_000)
    assert own.y[0] - own.error_y.arrayminus[0] == pytest.approx(100 * low)
    assert own.y[0] + own.error_y.array[0] == pytest.approx(100 * high)
    assert "after the final epoch" in own.hovertemplate
    assert "99.48 % (95 % CI 99.32–99.60 %)" in own.hovertemplate
    for figure in (untrained, trained):
        parameters, accuracy, this = figure["layout"]["shapes"]
        assert parameters["x0"] == parameters["x1"] == 20_000
        assert accuracy["y0"] == accuracy["y1"] == 99.4
        assert this["x0"] == this["x1"] == 9274
        places = [note["x"] for note in figure["layout"]["annotations"]]
        assert places == [math.log10(20_000), 1, math.log10(9274)]


def test_the_axes_show_most_results_and_this_network_and_count_the_others() -> None:
    axes = result_axes(RESULTS, 9274, None)
    assert (axes.min_params, axes.max_params, axes.min_accuracy) == (2000, 100_000, 99.0)
    assert axes.outside(RESULTS) == (1, 1)
    assert axes.max_accuracy > 99.45
    large = result_axes(RESULTS, 6_379_786, (0.905, 10_000))
    assert large.max_params > 6_379_786
    # The lower end of its interval is 89.9 %.
    assert large.min_accuracy == 89.5
    assert large.outside(RESULTS) == (1, 0)
    assert result_axes(RESULTS, 90, None).min_params < 90
    perfect = result_axes(RESULTS, 9274, (1.0, 10_000))
    assert perfect.max_accuracy > 100
    assert "NaN" not in public_results(RESULTS, 0, (1.0, 10_000))


def test_the_chart_of_public_results_is_small_and_made_at_once() -> None:
    results = public_results_file.load()
    public_results(results, 9274, None)
    start = time.perf_counter()
    for params in range(9000, 9020):
        figure = public_results(results, params, (0.99, 10_000))
    assert (time.perf_counter() - start) / 20 < 0.003
    assert len(figure) < 20_000


def test_a_confusion_matrix_has_its_errors_beside_its_diagonal_and_frames_one_cell() -> None:
    counts = [[100 * (row == column) + row * (column == 3) for column in range(10)] for row in range(10)]
    figure = go.Figure(json.loads(confusion_matrix(counts, (7, 3))))
    wrong, right = figure.data
    assert [wrong.z[i][i] for i in range(10)] == [None] * 10
    assert [right.z[i][i] for i in range(10)] == [100, 100, 100, 103, *[100] * 6]
    assert wrong.z[7][3] == 7
    # Nine 9s read as 3 are the darkest; the diagonal does not matter.
    assert (wrong.zmin, wrong.zmax) == (0, 9)
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 6.5, 7.5)
    assert go.Figure(json.loads(confusion_matrix([[1] * 1], (0, 0)))).data[0].zmax == 1


def test_intervals_are_drawn_from_end_to_end_and_empty_classes_and_bins_are_gaps() -> None:
    classes = [Proportion(8, 10), Proportion(0, 0)]
    text = class_accuracy(classes)
    assert "NaN" not in text
    (trace,) = go.Figure(json.loads(text)).data
    assert trace.y == (80, None)
    assert trace.y[0] + trace.error_y.array[0] == pytest.approx(94.33, abs=0.01)
    assert trace.y[0] - trace.error_y.arrayminus[0] == pytest.approx(49.02, abs=0.01)
    text = reliability([Bin(0.1, 0.2, math.nan, Proportion(0, 0)), Bin(0.8, 0.9, 0.85, Proportion(8, 10))])
    assert "NaN" not in text
    ideal, found = go.Figure(json.loads(text)).data
    assert ideal.x == ideal.y
    assert (found.x, found.y) == ((85,), (80,))
