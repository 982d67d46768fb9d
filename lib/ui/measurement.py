"""The evaluation of the chosen network on the test images, and when it is due again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import streamlit as st

from lib.data import dataset
from lib.design.layers import Architecture
from lib.evaluation.metrics import Evaluation, evaluate, measurable
from lib.evaluation.prediction_cache import cached_evaluation
from lib.inference.loaded_model import LoadedModel
from lib.nn.network import Network
from lib.storage.checkpoints import CheckpointError
from lib.ui.model_picker import NO_WEIGHTS, load_model, run_in_training

_KEY = "measurement"


@dataclass(frozen=True, eq=False)
class Measurement:
    """The evaluation of a network with the weights of `version`."""

    version: tuple[str, int]
    in_training: bool
    evaluation: Evaluation


def measure(model: LoadedModel) -> Measurement | None:
    """Return the session's measurement of a network, made again if it is stale; None before the first batch of a run.

    Raises DatasetError and TooLargeError.
    """
    if model.network is None:
        return None
    if _is_stale(model):
        temperature = model.calibration.temperature
        evaluation = _evaluate(model.version, model.network, model.architecture, temperature, model.in_training)
        st.session_state[_KEY] = Measurement(model.version, model.in_training, evaluation)
    return _last()


def measurement_age_panel(name: str) -> None:
    """Show the age of the measurement of a network in training; if it is stale, run the page again.

    A fragment that ticks.
    """
    try:
        model = load_model(name)
    except (CheckpointError, OSError):
        st.rerun()
    if not model.in_training or (model.network is not None and _is_stale(model)):
        st.rerun()
    last = _last()
    if model.network is None or last is None:
        st.caption(NO_WEIGHTS)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"In training: measured after step {last.version[1]:,}, now at step {model.step:,}. The network is "
            "measured again after every epoch.",
            width="content",
        )
        st.button("Measure again", icon=":material/refresh:", on_click=_forget)


def _last() -> Measurement | None:
    return cast("Measurement | None", st.session_state.get(_KEY))


def _forget() -> None:
    st.session_state[_KEY] = None


def _is_stale(model: LoadedModel) -> bool:
    """Whether the last measurement is of other weights; in training, whether these are an epoch or more older."""
    last = _last()
    if last is None or (last.version[0], last.in_training) != (model.name, model.in_training):
        return True
    if not model.in_training:
        return last.version != model.version
    run = run_in_training(model.name)
    if run is None:
        return True
    return model.step - last.version[1] >= run.snapshot(since_step=model.step).steps_total / run.recipe.epochs


@st.cache_resource(max_entries=8, show_spinner="Evaluating on the test images…")
def _evaluate(
    version: tuple[str, int], _network: Network, _architecture: Architecture, temperature: float, in_training: bool
) -> Evaluation:
    test = dataset.load_test()
    if not in_training:
        return cached_evaluation(_network, test, temperature)
    count = measurable(_architecture, len(test.images))
    return evaluate(_network, _architecture, test.images[:count], test.labels[:count], temperature)
