"""Inspect: feature maps, filters, attribution and receptive fields for one image."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from torch import Tensor, nn

from lib.data import dataset
from lib.data.dataset import DatasetError
from lib.design.analysis import LayerAnalysis, analyze, per_layer
from lib.design.fast_path_eligibility import FAST_PATH_MACS
from lib.design.layers import Architecture, FullyConnected
from lib.evaluation.attribution import (
    FIELD_IMAGES,
    PATCH,
    REFERENCE_IMAGES,
    activations,
    affordable,
    dead_channels,
    effective_fields,
    field_size,
    filters,
    occlusion,
    saliency,
    theoretical_fields,
)
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import prediction_caption, prediction_heading
from lib.text.formatting import percent, shape_text
from lib.text.untrusted_text import escaped
from lib.ui import guard, rendering
from lib.ui.model_picker import (
    Source,
    choose_model,
    choose_source,
    choose_test_image,
    poll_model,
    run_in_training,
)
from lib.ui.page import INSPECT, setup_page

setup_page(INSPECT)

MAPS, FILTERS, DECIDES, URL_FIELDS = SECTIONS = ("Feature maps", "Filters", "What decides", "Receptive fields")
# What a look takes it takes from the training: the dearer it is, the rarer.
TICK_SECONDS = {MAPS: 3.0, FILTERS: 3.0, DECIDES: 5.0, URL_FIELDS: 5.0}
WIDE_TICK_SECONDS = 10.0
# While the network is learning, a dead channel is one that is so for fewer images.
LEARNING_IMAGES = 100
# More numbers than these in a sentence are only counted.
MOST_NAMED = 24


def choose_image() -> tuple[Tensor, str]:
    """The image to look at, uint8 (28, 28), and what it is in words; stops the page where there is none."""
    drawn: Tensor | None = st.session_state.get("drawn")
    source: str | None = Source.TEST_IMAGE
    if drawn is not None:
        # The Errors page asks for a test image.
        if "source" not in st.session_state:
            st.session_state.source = Source.DRAWING
        source = choose_source()
    if drawn is not None and source == Source.DRAWING:
        return drawn, "your drawing"
    image, label = choose_test_image()
    if drawn is None:
        st.caption("A digit that you draw on the Draw page can be looked at here too.")
    return image, f"test image {st.session_state.image}, labelled {label}"


@st.cache_resource(max_entries=16, show_spinner=False)
def dead(
    version: tuple[str, int], images: int, _network: nn.Module, _architecture: Architecture
) -> dict[int, tuple[int, ...]]:
    return dead_channels(_network, _architecture, dataset.load().test_images[:images])


@st.cache_resource(max_entries=16, show_spinner=False)
def fields(version: tuple[str, int], _network: nn.Module, _architecture: Architecture) -> list[Tensor]:
    return effective_fields(_network, _architecture, dataset.load().test_images[: field_images(_architecture)])


def field_images(architecture: Architecture) -> int:
    return affordable(architecture, FIELD_IMAGES, passes=len(architecture.layers))


def layers(now: LoadedModel) -> tuple[LayerAnalysis, ...]:
    """One row a layer, with its name and shape."""
    return per_layer(analyze(now.architecture), now.architecture).rows


def heading(now: LoadedModel, row: LayerAnalysis) -> str:
    return f"**{row.label}** `{now.architecture.layers[row.layer].token}`"


def numbered(channels: Sequence[int]) -> str:
    """Channels in words, counted from 1."""
    named = ", ".join(str(channel + 1) for channel in channels[:MOST_NAMED])
    more = len(channels) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def feature_maps(network: nn.Module, now: LoadedModel, image: Tensor) -> None:
    images = affordable(now.architecture, LEARNING_IMAGES if now.in_training else REFERENCE_IMAGES)
    st.caption(
        "In each picture black is the layer's lowest value and white its highest. Channels are numbered from 1, from "
        "left to right, row by row. A cross marks a dead channel: its ReLU gives 0 everywhere in the first "
        f"{images} test images, so that it learns nothing from them. One stroke marks a channel that is silent for "
        "this image alone."
    )
    dead_ones = dead(now.version, images, network, now.architecture)
    found_maps = activations(network, now.architecture, image, largest=rendering.tile_side)
    if any(found.maps.shape[-1] < found.side for found in found_maps):
        st.caption("Maps wider than their tile are shown smaller: each pixel is the mean of an area.")
    for row, found in zip(layers(now), found_maps, strict=True):
        off = dead_ones.get(row.layer, ())
        silent = [channel for channel in found.silent if channel not in off]
        words, picture = st.columns([1, 3], gap="medium")
        with words:
            st.markdown(heading(now, row))
            lines = [
                shape_text(row.output_shape).replace(" ", "\u00a0"),
                f"from {found.lowest:.2f} to {found.highest:.2f}".replace("-", "−"),
            ]
            if row.layer in dead_ones:
                lines.append(f"**dead: {numbered(off)}** ({len(off)} of {len(found.maps)})" if off else "none dead")
            if silent:
                lines.append(f"silent: {numbered(silent)}")
            st.markdown("  \n".join(lines))
        picture.image(
            rendering.feature_maps(found.maps, off, silent),
            alt=f"The {len(found.maps)} feature maps of layer {row.label}",
        )


def all_filters(network: nn.Module, now: LoadedModel) -> None:
    st.caption(
        "A row is an output channel, a column one of the input channels that it adds up; of the first layer, which has "
        "one input, all filters are in one row. Mid-grey is a weight of 0, white the layer's largest and black its "
        "negative: the filter answers to white where its input is high and to black where it is low."
    )
    weights = filters(network, now.architecture)
    for row in layers(now):
        if row.layer not in weights:
            continue
        found = weights[row.layer]
        outputs, inputs, height, width = found.shape
        words, picture = st.columns([1, 3], gap="medium")
        with words:
            st.markdown(heading(now, row))
            largest = float(found.abs().max())
            lines = [f"{outputs}\u00a0×\u00a0{inputs} filters of {height}\u00a0×\u00a0{width}", f"±{largest:.2f}"]
            if max(outputs, inputs) > rendering.MAX_FILTERS:
                lines.append(f"drawn: the first {rendering.MAX_FILTERS} of a side")
            st.markdown("  \n".join(lines))
        picture.image(rendering.filter_grid(found), alt=f"The {outputs} by {inputs} filters of layer {row.label}")
    if any(isinstance(layer, FullyConnected) for layer in now.architecture.layers):
        st.caption("A fully connected layer has a weight for every value below it and no filters.")


def what_decides(network: nn.Module, now: LoadedModel, image: Tensor, digit: int, confidence: float) -> None:
    slope = saliency(network, now.architecture, image)
    drop = occlusion(network, now.architecture, image, temperature=now.calibration.temperature)
    row, column = divmod(int(drop.argmax()), drop.shape[1])
    with st.grid(3, min_column_width=224):
        with st.container():
            st.markdown("**The image**")
            st.image(rendering.enlarge(image), alt="The image as the network gets it")
            st.caption(f"28 × 28 pixels, read as {digit} with {percent(confidence)}.")
        with st.container():
            st.markdown("**Saliency**")
            st.image(rendering.heat_map(image, slope), alt=f"Saliency: which pixels move the score of the {digit}")
            st.caption(
                f"The brighter the orange, the more a small change of that pixel moves the score of the {digit}: the "
                "gradient of its logit, without its sign."
            )
        with st.container():
            st.markdown("**Occlusion**")
            st.image(rendering.heat_map(image, drop), alt=f"Occlusion: where the {digit} cannot be covered")
            if float(drop.max()) > 0:
                fall = (
                    f"Worst at row {row + 1}, column {column + 1}, full orange: from {percent(confidence)} to "
                    f"{percent(max(0.0, confidence - float(drop.max())))}."
                )
            else:
                fall = "Nowhere does it fall."
            st.caption(
                f"How far the probability of the {digit} falls when a black square of {PATCH} × {PATCH} pixels is put "
                f"there. {fall}"
            )


def receptive_fields(network: nn.Module, now: LoadedModel) -> None:
    architecture = now.architecture
    st.caption(
        "Left of each pair: the pixels that the unit at the centre of the layer could see, white. Right: how much each "
        f"of them really moves it, measured on {field_images(architecture)} test images; white moves it most. The side "
        "in effect is that of a square with as many pixels as move it more than 4.55 % as much as the strongest. "
        "(Luo et al. 2016)"
    )
    measured = fields(now.version, network, architecture)
    pairs = zip(layers(now), theoretical_fields(architecture), measured, strict=True)
    with st.grid(4, min_column_width=240):
        for row, theory, effect in pairs:
            with st.container():
                st.markdown(heading(now, row))
                st.image(
                    rendering.receptive_fields(theory, effect),
                    alt=f"Theoretical and effective receptive field of layer {row.label}",
                )
                st.caption(f"in theory {row.receptive_field} px, in effect {field_size(effect):.1f} px")


def look(name: str, image: Tensor, subject: str, section: str, ticking: bool) -> None:
    """What the chosen network makes of the image; ticks while that network is in training."""
    now = poll_model(name, ticking)
    if now is None:
        return
    network = now.network
    if network is None:
        st.markdown("## Not yet")
        st.caption("The network has not learnt from its first batch yet.")
        return
    [prediction] = now.predict(image[None])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.image(rendering.enlarge(image, 84), alt=f"The image: {subject}")
        with st.container(width="stretch"):
            st.markdown(f"## {prediction_heading(prediction)}")
            st.caption(
                f"{prediction_caption(prediction)} · {subject}"
                + (f" · still learning, weights after {now.step:,} steps" if now.in_training else "")
            )
    match section:
        case "Feature maps":
            feature_maps(network, now, image)
        case "Filters":
            all_filters(network, now)
        case "What decides":
            what_decides(network, now, image, prediction.digit, prediction.confidence)
        case "Receptive fields":
            receptive_fields(network, now)


name = choose_model()
try:
    image, subject = choose_image()
except DatasetError as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
section = st.segmented_control(
    "What to look at",
    SECTIONS,
    key="section",
    required=True,
    default=MAPS,
    persist_state="session",
    format_func=":gray[{}]".format,
)
run = run_in_training(name)
seconds = None
if run:
    seconds = TICK_SECONDS[section] if analyze(run.architecture).macs <= FAST_PATH_MACS else WIDE_TICK_SECONDS
guard.fragment(look, seconds)(name, image, subject, section, run is not None)
