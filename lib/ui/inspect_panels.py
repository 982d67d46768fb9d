"""The views of the Inspect page: feature maps, filters, attribution and receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import streamlit as st
from torch import Tensor

from lib.data import dataset
from lib.design.analysis import LayerAnalysis, analyze, per_layer
from lib.design.layers import ACTIVATIONS, Architecture, Convolution, FullyConnected
from lib.design.operations import operations
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
from lib.export.tables import receptive_field_text
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import Prediction
from lib.nn.network import Network
from lib.text.formatting import percent, shape_text
from lib.ui import rendering
from lib.ui.network_view import row_tokens

# While a network is in training, fewer images decide whether a channel is dead.
TRAINING_IMAGES = 100
# A sentence names at most this many channels.
MAX_NAMED = 24


class View(StrEnum):
    """The views of the page."""

    FEATURE_MAPS = "Feature maps"
    FILTERS = "Filters"
    ATTRIBUTION = "Attribution"
    RECEPTIVE_FIELDS = "Receptive fields"


def feature_maps_panel(network: Network, model: LoadedModel, image: Tensor) -> None:
    """Show the output of every layer for a uint8 (28, 28) image, with dead and silent channels."""
    architecture = model.architecture
    images = affordable(architecture, TRAINING_IMAGES if model.in_training else REFERENCE_IMAGES)
    st.caption(
        "In each picture, black is the layer's lowest value and white its highest. Channels are numbered from 1, left "
        f"to right, row by row. {_dead_text(architecture, images)}"
    )
    dead = _dead_channels(model.version, images, network, architecture)
    maps_of_layers = activations(network, architecture, image, max_side=rendering.tile_side)
    if any(max(layer.maps.shape[-2:]) < layer.side for layer in maps_of_layers):
        st.caption("Maps wider than their tile are shown smaller: each pixel is the mean of an area.")
    for row, layer in zip(_rows(model), maps_of_layers, strict=True):
        dead_here = dead.get(row.layer, ())
        silent = [channel for channel in layer.silent if channel not in dead_here]
        text_place, picture_place = st.columns([1, 3], gap="medium")
        with text_place:
            st.markdown(_layer_heading(model, row))
            lines = [
                shape_text(row.output_shape).replace(" ", "\u00a0"),
                f"from {layer.lowest:.2f} to {layer.highest:.2f}".replace("-", "−"),
            ]
            if row.layer in dead:
                count = f"({len(dead_here)} of {len(layer.maps)})"
                lines.append(f"**dead: {_channels_text(dead_here)}** {count}" if dead_here else "none dead")
            if silent:
                lines.append(f"silent: {_channels_text(silent)}")
            st.markdown("  \n".join(lines))
        picture_place.image(
            rendering.feature_maps(layer.maps, dead_here, silent),
            alt=f"The {len(layer.maps)} feature maps of layer {row.label}",
        )


def filters_panel(network: Network, model: LoadedModel) -> None:
    """Show the weights of every convolution."""
    st.caption(
        "Each row is an output channel and each column an input channel; the filters of a layer with one input channel "
        "are in one row. Gray is a weight of 0, white the layer's largest absolute weight and black its negative: a "
        "filter responds to inputs that are high where it is white and low where it is black."
    )
    weights = filters(network, model.architecture)
    for row in _rows(model):
        if row.layer not in weights:
            continue
        outputs, inputs, height, width = weights[row.layer].shape
        text_place, picture_place = st.columns([1, 3], gap="medium")
        with text_place:
            st.markdown(_layer_heading(model, row))
            largest = float(weights[row.layer].abs().max())
            lines = [f"{outputs}\u00a0×\u00a0{inputs} filters of {height}\u00a0×\u00a0{width}", f"±{largest:.2f}"]
            layer = model.architecture.layers[row.layer]
            if isinstance(layer, Convolution) and layer.groups > 1:
                lines.append(f"{layer.groups} groups: a row has the {inputs} input channels of its own group")
            if max(outputs, inputs) > rendering.MAX_FILTERS:
                lines.append(f"shown: the first {rendering.MAX_FILTERS} of each side")
            st.markdown("  \n".join(lines))
        picture_place.image(
            rendering.filter_grid(weights[row.layer]), alt=f"The {outputs} by {inputs} filters of layer {row.label}"
        )
    if any(isinstance(layer, FullyConnected) for layer in model.architecture.layers):
        st.caption("A fully connected layer has a weight for every input value, and no filters.")


def attribution_panel(network: Network, model: LoadedModel, image: Tensor, prediction: Prediction) -> None:
    """Show which pixels of a uint8 (28, 28) image decide its prediction, by saliency and by occlusion."""
    digit, confidence = prediction.digit, prediction.confidence
    gradient = saliency(network, model.architecture, image)
    drop = occlusion(network, model.architecture, image, temperature=model.calibration.temperature)
    with st.grid(3, min_column_width=224):
        with st.container():
            st.markdown("**Image**")
            st.image(rendering.enlarge(image), alt="The network's input")
            st.caption(f"28 × 28 pixels. Prediction: {digit}, with a probability of {percent(confidence)}.")
        with st.container():
            st.markdown("**Saliency**")
            st.image(rendering.heat_map(image, gradient), alt=f"Saliency: which pixels change the score of the {digit}")
            st.caption(
                f"The absolute gradient of the logit of the {digit}: the brighter the orange, the more a small change "
                "of that pixel changes the score."
            )
        with st.container():
            st.markdown("**Occlusion**")
            st.image(rendering.heat_map(image, drop), alt=f"Occlusion: where covering changes the score of the {digit}")
            st.caption(
                f"How far the probability of the {digit} drops if a black square of {PATCH} × {PATCH} pixels covers "
                f"the place. {_largest_drop_text(drop, confidence)}"
            )


def receptive_fields_panel(network: Network, model: LoadedModel) -> None:
    """Show the theoretical and the effective receptive field of every layer."""
    architecture = model.architecture
    st.caption(
        "Left of each pair, in white: the pixels that can affect the unit at the center of the layer's output. Right: "
        f"how strongly each of them does, measured on {_field_images(architecture)} test images; white is strongest. "
        "The effective size is the side of a square with as many pixels as have more than 4.55 % of the strongest "
        "effect. (Luo et al. 2016)"
    )
    effective = _effective_fields(model.version, network, architecture)
    with st.grid(4, min_column_width=240):
        for row, theory, effect in zip(_rows(model), theoretical_fields(architecture), effective, strict=True):
            with st.container():
                st.markdown(_layer_heading(model, row))
                st.image(
                    rendering.receptive_fields(theory, effect),
                    alt=f"Theoretical and effective receptive field of layer {row.label}",
                )
                st.caption(f"theoretical {receptive_field_text(row)} px, effective {field_size(effect):.1f} px")


@st.cache_resource(max_entries=16, show_spinner=False)
def _dead_channels(
    version: tuple[str, int], images: int, _network: Network, _architecture: Architecture
) -> dict[int, tuple[int, ...]]:
    return dead_channels(_network, _architecture, dataset.load_test().images[:images])


@st.cache_resource(max_entries=16, show_spinner=False)
def _effective_fields(version: tuple[str, int], _network: Network, _architecture: Architecture) -> list[Tensor]:
    return effective_fields(_network, _architecture, dataset.load_test().images[: _field_images(_architecture)])


def _field_images(architecture: Architecture) -> int:
    return affordable(architecture, FIELD_IMAGES, passes=len(architecture.layers))


def _rows(model: LoadedModel) -> tuple[LayerAnalysis, ...]:
    return per_layer(analyze(model.architecture), model.architecture).rows


def _layer_heading(model: LoadedModel, row: LayerAnalysis) -> str:
    return f"**{row.label}** `{row_tokens(model.architecture)[row.layer]}`"


def _dead_text(architecture: Architecture, images: int) -> str:
    """Say what the strokes in feature maps mean, for the activations of this network."""
    used = {step.kind for step in operations(architecture)}
    found = [spec for spec in ACTIVATIONS.values() if spec.module in used]
    can_be_dead = [spec.title for spec in found if spec.can_be_dead]
    if can_be_dead:
        return (
            f"A cross marks a dead channel: its {' or '.join(can_be_dead)} gives 0 everywhere for the first {images} "
            "test images, so that it learns nothing from them. One stroke marks a channel that is 0 everywhere for "
            "this image."
        )
    if found:
        titles = ", ".join(spec.title for spec in found)
        return f"No channel can be dead: every activation here ({titles}) has a gradient at almost every input."
    return "The network has no activation, so that no channel can be dead."


def _channels_text(channels: Sequence[int]) -> str:
    """Numbers of channels, counted from 1."""
    named = ", ".join(str(channel + 1) for channel in channels[:MAX_NAMED])
    more = len(channels) - MAX_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _largest_drop_text(drop: Tensor, confidence: float) -> str:
    largest = float(drop.max())
    if largest <= 0:
        return "It drops nowhere."
    row, column = divmod(int(drop.argmax()), drop.shape[1])
    return (
        f"Largest drop: at row {row + 1}, column {column + 1}, from {percent(confidence)} to "
        f"{percent(max(0.0, confidence - largest))}."
    )
