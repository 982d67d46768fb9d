"""Actions on one layer of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from lib.design.layers import (
    INPUT_SHAPE,
    MAX_LAYERS,
    Architecture,
    Convolution,
    FullyConnected,
    Layer,
    MaxPool,
    Shape,
    logits_layer,
)
from lib.design.operations import OUTPUT_SHAPE, layer_output_shape

ACTIONS = (
    "Move up",
    "Move down",
    "Add a convolution above",
    "Add a max-pool above",
    "No padding",
    "Pad to keep the size",
    "Kernel 1×1",
    "Kernel 3×3",
    "Kernel 5×5",
    "Without batch norm",
    "With batch norm",
    "Norm before the activation",
    "Remove",
)
DEFAULT_CHANNELS = 8

# (start, stop, replacement): the action replaces layers[start:stop].
_Splice: TypeAlias = tuple[int, int, tuple[Layer, ...]]
# Shape of the input of a layer, and whether a fully connected layer precedes it; None if the layers before do not fit.
_State: TypeAlias = tuple[Shape, bool] | None


def available_actions(architecture: Architecture) -> list[list[str]]:
    """For each layer, the actions that change a valid network into another valid one."""
    layers = architecture.layers
    before: list[_State] = [(INPUT_SHAPE, False)]
    for layer in layers:
        before.append(_after(before[-1], layer))
    known: dict[tuple[int, _State], bool] = {}

    def fits(index: int, state: _State) -> bool:
        """Whether layers[index:] can follow and end in the logits."""
        if state is None or index == len(layers):
            return state is not None and state[0] == OUTPUT_SHAPE
        key = (index, state)
        if key not in known:
            known[key] = fits(index + 1, _after(state, layers[index]))
        return known[key]

    def is_available(index: int, action: str) -> bool:
        start, stop, replacement = _splice(layers, index, action, is_logits=index == logits)
        count = len(layers) + len(replacement) - (stop - start)
        if replacement == layers[start:stop] or not 1 <= count <= MAX_LAYERS:
            return False
        state = before[start]
        for layer in replacement:
            state = _after(state, layer)
        return fits(stop, state)

    logits = logits_layer(architecture)
    return [[action for action in ACTIONS if is_available(index, action)] for index in range(len(layers))]


def apply(architecture: Architecture, index: int, action: str) -> Architecture:
    """The network after one of ACTIONS on layer `index`; the same network if the action does not apply to the layer."""
    layers = architecture.layers
    start, stop, replacement = _splice(layers, index, action, is_logits=index == logits_layer(architecture))
    return Architecture(layers[:start] + replacement + layers[stop:])


def set_width(architecture: Architecture, index: int, width: int) -> Architecture:
    """The network with `width` channels or features in layer `index`. Raises ValueError if the layer has no width."""
    layer = architecture.layers[index]
    match layer:
        case Convolution():
            changed: Layer = replace(layer, channels=width)
        case FullyConnected():
            changed = replace(layer, features=width)
        case _:
            raise ValueError(f"layer {index} has no width")
    return Architecture((*architecture.layers[:index], changed, *architecture.layers[index + 1 :]))


def _splice(layers: tuple[Layer, ...], index: int, action: str, is_logits: bool) -> _Splice:
    """The layers that an action on layer `index` replaces. If it does not apply, it replaces the layer by itself."""
    layer = layers[index]
    changed: Layer = layer
    match action, layer:
        case "Move up", _ if index > 0:
            return index - 1, index + 1, (layer, layers[index - 1])
        case "Move down", _ if index < len(layers) - 1:
            return index, index + 2, (layers[index + 1], layer)
        case "Add a convolution above", _:
            return index, index, (Convolution(_channels_before(layers[:index])),)
        case "Add a max-pool above", _:
            return index, index, (MaxPool(),)
        case "Remove", _:
            return index, index + 1, ()
        case "No padding", Convolution():
            changed = replace(layer, padding=0)
        case "Pad to keep the size", Convolution():
            changed = replace(layer, padding=None)
        case "Kernel 1×1", Convolution():
            changed = replace(layer, kernel_size=1)
        case "Kernel 3×3", Convolution():
            changed = replace(layer, kernel_size=3)
        case "Kernel 5×5", Convolution():
            changed = replace(layer, kernel_size=5)
        # The logits have no norm.
        case "Without batch norm", Convolution() if not is_logits:
            changed = replace(layer, norm="none")
        case "With batch norm", Convolution() if not is_logits:
            changed = replace(layer, norm="after")
        case "Norm before the activation", Convolution() if not is_logits:
            changed = replace(layer, norm="before")
    return index, index + 1, (changed,)


def _after(state: _State, layer: Layer) -> _State:
    if state is None:
        return None
    shape, flat = state
    output_shape = layer_output_shape(layer, shape, flat)
    return None if output_shape is None else (output_shape, flat or isinstance(layer, FullyConnected))


def _channels_before(layers: Sequence[Layer]) -> int:
    """Channels for a new convolution: those of the last convolution before it."""
    return next((layer.channels for layer in reversed(layers) if isinstance(layer, Convolution)), DEFAULT_CHANNELS)
