"""What may be done to one layer of a network by a click, and the network that results."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from lib.architecture import (
    Architecture,
    ArchitectureError,
    Convolution,
    FullyConnected,
    Layer,
    MaxPool,
    logits_layer,
    validate,
)

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
FIRST_WIDTH = 8


def possible(architecture: Architecture, index: int) -> list[str]:
    """The actions on layer `index`, from 0, that change the network and leave one that can be built."""
    return list(_possible(architecture, index))


# Of 64 layers it takes a third of a second: not again at every rerun of the page.
@lru_cache(maxsize=512)
def _possible(architecture: Architecture, index: int) -> tuple[str, ...]:
    return tuple(action for action in ACTIONS if _buildable(apply(architecture, index, action), architecture))


def apply(architecture: Architecture, index: int, action: str) -> Architecture:
    """The network after one of ACTIONS on layer `index`; the same network where the action means nothing there."""
    layers = list(architecture.layers)
    layer = layers[index]
    match action, layer:
        case "Move up", _:
            layers.insert(max(index - 1, 0), layers.pop(index))
        case "Move down", _:
            layers.insert(index + 1, layers.pop(index))
        case "Add a convolution above", _:
            layers.insert(index, Convolution(_width_before(layers, index)))
        case "Add a max-pool above", _:
            layers.insert(index, MaxPool())
        case "Remove", _:
            layers.pop(index)
        case "No padding", Convolution():
            layers[index] = replace(layer, padding=0)
        case "Pad to keep the size", Convolution():
            layers[index] = replace(layer, padding=None)
        case "Kernel 1×1", Convolution():
            layers[index] = replace(layer, kernel_size=1)
        case "Kernel 3×3", Convolution():
            layers[index] = replace(layer, kernel_size=3)
        case "Kernel 5×5", Convolution():
            layers[index] = replace(layer, kernel_size=5)
        case "Without batch norm", Convolution() if index != logits_layer(architecture):
            layers[index] = replace(layer, norm="none")
        case "With batch norm", Convolution() if index != logits_layer(architecture):
            layers[index] = replace(layer, norm="after")
        case "Norm before the activation", Convolution() if index != logits_layer(architecture):
            layers[index] = replace(layer, norm="before")
    return Architecture(tuple(layers))


def widen(architecture: Architecture, index: int, width: int) -> Architecture:
    """The network with `width` channels or features in layer `index`, which must have some."""
    layers = list(architecture.layers)
    layer: Layer = layers[index]
    match layer:
        case Convolution():
            layers[index] = replace(layer, channels=width)
        case FullyConnected():
            layers[index] = replace(layer, features=width)
        case _:
            raise ValueError(f"layer {index} has no width")
    return Architecture(tuple(layers))


def _width_before(layers: list[Layer], index: int) -> int:
    """A new convolution starts as wide as the one before it."""
    widths = [layer.channels for layer in layers[:index] if isinstance(layer, Convolution)]
    return widths[-1] if widths else FIRST_WIDTH


def _buildable(changed: Architecture, before: Architecture) -> bool:
    if changed == before or not changed.layers:
        return False
    try:
        validate(changed)
    except ArchitectureError:
        return False
    return True
