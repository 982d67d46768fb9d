"""The prediction on the Draw page: digit, probabilities, and what the numbers mean."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from lib.evaluation.calibration import Calibration
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import (
    CONFIDENCE_THRESHOLD,
    OOD_THRESHOLD,
    Prediction,
    prediction_caption,
    prediction_heading,
)
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped
from lib.ui.charts.draw import probability_bars
from lib.ui.model_picker import NO_WEIGHTS, poll_model
from lib.ui.widgets import live_figure

# The entropy of ten equal probabilities: log2 10.
MAX_ENTROPY = 3.32


def prediction_panel(name: str, image: Tensor | None, ticking: bool) -> None:
    """Show what a network predicts for a uint8 (28, 28) image, None if nothing is drawn.

    A fragment that ticks while the network is in training.
    """
    model = poll_model(name, ticking)
    if model is None:
        return
    prediction = None
    if image is not None and model.network is not None:
        [prediction] = model.predict(image[None])
    _heading(prediction, image)
    live_figure(
        probability_bars(prediction),
        key="bars",
        height=330,
        tools=False,
        at_once=True,
        alt="No digit drawn yet" if prediction is None else _probabilities_text(prediction),
    )
    _calibration_caption(model)
    if model.calibration.images:
        with st.expander("What these numbers mean"):
            _explanation(model.calibration)


def _heading(prediction: Prediction | None, image: Tensor | None) -> None:
    if prediction:
        st.markdown(f"## {prediction_heading(prediction)}")
        st.caption(f"{prediction_caption(prediction)} · entropy {prediction.entropy:.2f} of {MAX_ENTROPY} bits")
    elif image is None:
        st.markdown("## Nothing drawn yet")
        st.caption("Draw a digit, 0 to 9, in the black square. The prediction appears as soon as you lift the pen.")
    else:
        st.markdown("## No prediction yet")
        st.caption(NO_WEIGHTS)


def _probabilities_text(prediction: Prediction) -> str:
    return "Probabilities: " + ", ".join(f"{digit}: {percent(p)}" for digit, p in enumerate(prediction.probabilities))


def _calibration_caption(model: LoadedModel) -> None:
    """The state of the calibration, if it is not that of a saved network."""
    calibration = model.calibration
    if model.in_training:
        state = calibration.problem or "Not calibrated yet."
        if calibration.images:
            state = f"Calibrated after step {model.calibrated_step:,}."
        st.caption(escaped(f"In training: weights after {model.step:,} steps. {state}"))
    elif not calibration.images:
        st.caption(escaped(calibration.problem or "Not calibrated: the MNIST images for this could not be read."))


def _explanation(calibration: Calibration) -> None:
    st.markdown(
        f"**Probability.** Calibrated by temperature scaling: the logits are divided by {calibration.temperature:.2f}, "
        f"the temperature at which {calibration.images:,} augmented training images are most probable. On these images "
        f"the expected calibration error was {percent(calibration.error_before)} before and is "
        f"{percent(calibration.error_after)} after. Below {percent(CONFIDENCE_THRESHOLD, 0)} the prediction is "
        "uncertain."
    )
    if calibration.gaussians:
        st.markdown(
            "**OOD percentile.** Probabilities only compare ten digits with each other, even for a scribble. So the "
            "means of all feature maps are compared with those of real digits. The OOD (out-of-distribution) "
            f"percentile says how many of {len(calibration.gaussians.distances):,} real digits, in percent, are closer "
            f"to their class. Above {100 * OOD_THRESHOLD:.0f} the prediction is uncertain."
        )
    st.markdown(f"**Entropy.** 0 bits if one digit has all the probability, {MAX_ENTROPY} if all ten have the same.")
