"""The panel of the Design page that shows where the network stands among public ones."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

import streamlit as st

from lib.data import public_results
from lib.data.dataset import DatasetError
from lib.data.public_results import PublicResult, notations_at
from lib.design.exercise import PARAMS_LIMIT, TARGET_ACCURACY
from lib.design.layers import Architecture
from lib.design.notation import notation
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped
from lib.ui.cache import trained_accuracy
from lib.ui.charts import design as charts
from lib.ui.layer_editor import set_network
from lib.ui.url_state import TEST_IMAGES
from lib.ui.widgets import live_figure


def public_results_panel(architecture: Architecture, num_params: int) -> None:
    """Show the chart of public results beside this network; a click on a point loads that network."""
    st.subheader("Public results", help="Click a point to load its network. If there are several, click again.")
    try:
        results = public_results.load()
    except DatasetError as error:
        st.info(escaped(str(error)), icon=":material/info:")
        return
    accuracy = trained_accuracy(architecture)
    trained = None if accuracy is None else (accuracy, TEST_IMAGES)
    meeting = sum(map(_meets_all_limits, results))
    summary = f"{meeting} of the {len(results)} meet all four limits"

    def load(x: str, y: str) -> None:
        # The browser may send anything.
        with suppress(ValueError):
            _load_network(results, int(x), float(y))

    live_figure(
        charts.public_results(results, num_params, trained),
        key="public_results",
        height=430,
        revision=f"{notation(architecture)} {accuracy}",
        tools=False,
        lazy=True,
        on_pick=load,
        alt=f"Test accuracy over parameters of {len(results)} public networks; {summary}. This network has "
        f"{num_params:,} parameters" + (f" and reached {percent(accuracy, 2)}" if accuracy is not None else ""),
    )
    axes = charts.result_axes(results, num_params, trained)
    below, beside = axes.outside(results)
    lowest = percent(axes.min_accuracy / 100, 1)
    outside = f" Outside the chart: {below} below {lowest}, {beside} of other sizes; double-click to see them."
    st.caption(
        "Accuracies as the authors report them: of the final epoch or, if it is not given, of the best. They are "
        "optimistic: nearly all are of one seed, and network and epochs were chosen by the test images. "
        f"{summary}.{outside if below or beside else ''}"
    )
    # The same for those who use a keyboard or a finger.
    st.selectbox(
        "Load a public network",
        _networks(results),
        index=None,
        key="public_network",
        placeholder="Or load a network from this list",
        on_change=_load_chosen,
        args=(results,),
        label_visibility="collapsed",
    )


def _meets_all_limits(result: PublicResult) -> bool:
    return (
        charts.meets_other_limits(result) and result.params < PARAMS_LIMIT and result.accuracy >= 100 * TARGET_ACCURACY
    )


def _load_network(results: tuple[PublicResult, ...], params: int, accuracy: float) -> None:
    """Load the network at a point. Of several, the one after the present network, so that each click loads another."""
    texts = notations_at(results, params, accuracy)
    if not texts:
        return
    present = st.session_state.net
    chosen = texts[(texts.index(present) + 1) % len(texts)] if present in texts else texts[0]
    if chosen != present:
        set_network(chosen)


def _load_chosen(results: tuple[PublicResult, ...]) -> None:
    text = _networks(results).get(st.session_state.public_network)
    # The network may be changed afterwards: a choice that stays would name another one.
    st.session_state.public_network = None
    if text and text != st.session_state.net:
        set_network(text)


@lru_cache(maxsize=2)
def _networks(results: tuple[PublicResult, ...]) -> dict[str, str]:
    """Description -> notation of each network that the notation can write."""
    return {
        f"{result.params:,} parameters, {percent(result.accuracy / 100, 2)}"
        + (f" in {result.epochs_text}" if result.epochs_text else ""): result.notation
        for result in results
        if result.notation
    }
