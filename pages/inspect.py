"""Inspect a network: feature maps, filters, attribution and receptive fields for one image."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from lib.data.dataset import DatasetError
from lib.design.analysis import LARGE_MACS, analyze
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import Prediction, prediction_caption, prediction_heading
from lib.text.untrusted_text import escaped
from lib.ui import guard, rendering
from lib.ui.inspect_panels import View, attribution_panel, feature_maps_panel, filters_panel, receptive_fields_panel
from lib.ui.model_picker import (
    NO_WEIGHTS,
    Source,
    choose_model,
    choose_source,
    choose_test_image,
    poll_model,
    run_in_training,
)
from lib.ui.page import INSPECT, setup_page

setup_page(INSPECT)

# The computation competes with the training for the processor: the more expensive it is, the rarer.
TICK_SECONDS = {View.FEATURE_MAPS: 3.0, View.FILTERS: 3.0, View.ATTRIBUTION: 5.0, View.RECEPTIVE_FIELDS: 5.0}
LARGE_NETWORK_TICK_SECONDS = 10.0


def choose_image() -> tuple[Tensor, str]:
    """Return the image to inspect, uint8 (28, 28), and its description. Raises DatasetError."""
    drawn: Tensor | None = st.session_state.get("drawn")
    if drawn is not None:
        # The Errors page may have asked for a test image.
        st.session_state.setdefault("source", Source.DRAWING)
        if choose_source() == Source.DRAWING:
            return drawn, "your drawing"
    image, label = choose_test_image()
    if drawn is None:
        st.caption("You can inspect your drawing from the Draw page here, too.")
    return image, f"test image {st.session_state.image}, label {label}"


def inspect_panel(name: str, image: Tensor, description: str, view: View, ticking: bool) -> None:
    """Show the prediction and one view of the network. A fragment that ticks while the network is in training."""
    model = poll_model(name, ticking)
    if model is None:
        return
    if model.network is None:
        st.markdown("## No prediction yet")
        st.caption(NO_WEIGHTS)
        return
    [prediction] = model.predict(image[None])
    prediction_row(model, prediction, image, description)
    match view:
        case View.FEATURE_MAPS:
            feature_maps_panel(model.network, model, image)
        case View.FILTERS:
            filters_panel(model.network, model)
        case View.ATTRIBUTION:
            attribution_panel(model.network, model, image, prediction)
        case View.RECEPTIVE_FIELDS:
            receptive_fields_panel(model.network, model)


def prediction_row(model: LoadedModel, prediction: Prediction, image: Tensor, description: str) -> None:
    """Show the image beside its prediction."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.image(rendering.enlarge(image, 84), alt=f"The image: {description}")
        with st.container(width="stretch"):
            st.markdown(f"## {prediction_heading(prediction)}")
            training = f" · in training, weights after {model.step:,} steps" if model.in_training else ""
            st.caption(f"{prediction_caption(prediction)} · {description}{training}")


name = choose_model()
try:
    image, description = choose_image()
except DatasetError as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
view = View(
    str(
        st.segmented_control(
            "View",
            list(View),
            key="section",
            required=True,
            default=View.FEATURE_MAPS,
            persist_state="session",
            format_func=":gray[{}]".format,
        )
    )
)
run = run_in_training(name)
seconds = None
if run:
    is_large = analyze(run.architecture).macs > LARGE_MACS
    seconds = LARGE_NETWORK_TICK_SECONDS if is_large else TICK_SECONDS[view]
guard.fragment(inspect_panel, seconds)(name, image, description, view, run is not None)
