"""The probabilities of one image over the steps of a training, on the Draw page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import streamlit as st
from torch import Tensor

from lib.evaluation.attribution import affordable
from lib.inference.predict import Prediction, predict
from lib.nn.network import assembled
from lib.runs.training_run import Run, WeightsCopy
from lib.ui.cache import run_manager
from lib.ui.charts.draw import probability_curves
from lib.ui.widgets import live_figure

_OF, _PREDICTIONS = "probability_history_of", "probability_history"


def probability_history_panel(name: str, image: Tensor | None) -> None:
    """Show the curves for a uint8 (28, 28) image, None if nothing is drawn; nothing if no run has this name.

    A fragment that ticks while the network is in training.
    """
    run = run_manager().get(name)
    if run is None or not run.weight_history:
        return
    st.subheader("Probabilities during training")
    if image is None:
        st.caption("Draw a digit to see its ten probabilities over the steps of the training.")
        return
    history = _predictions_by_step(run, image)
    if len(history) < 2:
        st.caption(
            "The curves begin with the second batch."
            if len(run.weight_history) < 2
            else "This network is too large to be evaluated for every copy of its weights."
        )
        return
    digits = {step: prediction.digit for step, prediction in history.items()}
    last = list(digits.values())[-1]
    since = min(step for step in digits if all(digit == last for later, digit in digits.items() if later >= step))
    st.caption(f"Predicted {last} since step {since:,}. Each point is a copy of the weights, without calibration.")
    live_figure(
        probability_curves(list(history), list(history.values())),
        key="learning",
        height=320,
        revision=name,
        tools=False,
        alt=f"Probabilities of the ten digits over the steps; {last} leads since step {since:,}",
    )


def _predictions_by_step(run: Run, image: Tensor) -> dict[int, Prediction]:
    """The predictions of the copies of the run's weights, cached in the session."""
    key = (run.identity, image.numpy().tobytes())
    if st.session_state.get(_OF) != key:
        st.session_state[_OF], st.session_state[_PREDICTIONS] = key, {}
    known = cast("dict[int, Prediction]", st.session_state[_PREDICTIONS])
    copies = _evenly_spaced(run.weight_history, affordable(run.architecture, len(run.weight_history)))
    for weights in copies:
        if weights.step not in known:
            known[weights.step] = predict(assembled(run.architecture, weights.tensors), image)
    st.session_state[_PREDICTIONS] = {weights.step: known[weights.step] for weights in copies}
    return dict(st.session_state[_PREDICTIONS])


def _evenly_spaced(copies: Sequence[WeightsCopy], count: int) -> list[WeightsCopy]:
    """At most `count` of the copies, including the last."""
    if count >= len(copies):
        return list(copies)
    return [copies[round((number + 1) * len(copies) / count) - 1] for number in range(count)]
