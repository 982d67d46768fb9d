"""Actions on one layer of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias, get_args

from lib.design.canonical_form import canonical, takes_dropout
from lib.design.layers import (
    MAX_LAYERS,
    Activation,
    Architecture,
    Branch,
    Convolution,
    Dropout,
    Fork,
    FullyConnected,
    Join,
    Layer,
    MaxPool,
    Normalization,
    last_weights,
    logits_layer,
)
from lib.design.operations import OUTPUT_SHAPE, State, advance

# Actions on all layers at once.
NETWORK_ACTIONS = (
    "Norm after the activation",
    "Norm before the activation",
    "No norm",
    "Batch norm",
    "Group norm",
    "ReLU",
    "GELU",
    "With bias",
    "Without bias",
    "Dropout after each convolution",
    "No dropout",
)
DEFAULT_CHANNELS = 8
DEFAULT_DROPOUT = Dropout(0.05)

_MOVES = ("Move up", "Move down")
_ADDITIONS = ("Add a convolution above", "Add a max-pool above", "Add a dropout above")
# The actions on a layer itself that may give it another shape, and those that do not.
_RESHAPING = (
    "Make it a residual block",
    "No padding",
    "Pad to keep the size",
    "Kernel 1×1",
    "Kernel 3×3",
    "Kernel 5×5",
)
_KEEPING_SHAPE: dict[type[Layer], tuple[str, ...]] = {
    Convolution: ("Without norm", "With batch norm", "With ReLU and batch norm", "Neither activation nor norm"),
    Normalization: ("Batch norm", "Group norm"),
    FullyConnected: ("No activation", "ReLU", "GELU"),
    Activation: ("ReLU", "GELU"),
    Dropout: ("Whole channels", "Single values"),
}
_KEEP_FIRST = "Keep only the first branch"
# How a part of branches moves.
_BRANCH_MOVES: dict[type[Layer], tuple[str, ...]] = {
    Fork: ("Begin one layer earlier", "Begin one layer later"),
    Branch: _MOVES,
    Join: ("End one layer earlier", "End one layer later"),
}


def _candidates(kind: type[Layer]) -> tuple[str, ...]:
    """The actions that layers of this class may have, in the order of the menu."""
    if kind in _BRANCH_MOVES:
        return (*_BRANCH_MOVES[kind], *_ADDITIONS, _KEEP_FIRST)
    reshaping = _RESHAPING if kind is Convolution else ()
    return (*_MOVES, *_ADDITIONS, *reshaping, *_KEEPING_SHAPE.get(kind, ()), "Remove")


_CANDIDATES = {kind: _candidates(kind) for kind in get_args(Layer)}
# All actions on a layer, each once.
ACTIONS = tuple(dict.fromkeys(action for actions in _CANDIDATES.values() for action in actions))


# (start, stop, replacement): the action replaces layers[start:stop].
_Splice: TypeAlias = tuple[int, int, tuple[Layer, ...]]


def available_actions(architecture: Architecture) -> list[list[str]]:
    """For each layer, the actions that change a valid network into another valid one."""
    layers = architecture.layers
    logits = logits_layer(architecture)
    before: list[State | None] = [State()]
    for index, layer in enumerate(layers):
        before.append(_advanced(before[-1], layer, index == logits))
    known: dict[tuple[int, State], bool] = {}

    def fits(index: int, state: State | None) -> bool:
        """Whether layers[index:] can follow and end in the logits."""
        # As in the network itself, which is valid.
        if state is None or state == before[index]:
            return state is not None
        if index == len(layers):
            return not state.forks and state.values.shape == OUTPUT_SHAPE
        key = (index, state)
        if key not in known:
            known[key] = fits(index + 1, _advanced(state, layers[index], index == logits))
        return known[key]

    def is_available(index: int, action: str) -> bool:
        state = before[index]
        channels = state.values.shape[0] if state else 0
        start, stop, replacement = _splice(layers, index, action, channels, is_logits=index == logits)
        if action in _KEEPING_SHAPE.get(type(layers[index]), ()):
            return replacement[0] != layers[index]
        count = len(layers) + len(replacement) - (stop - start)
        if replacement == layers[start:stop] or not 1 <= count <= MAX_LAYERS:
            return False
        # Two texts of branches may mean the same network.
        is_structure = any(isinstance(layer, Branch) for layer in replacement)
        if is_structure and canonical(_spliced(layers, start, stop, replacement)) == architecture:
            return False
        state = before[start]
        # The last layer with weights outputs the logits, and it may be another one now.
        last = -1 if logits >= stop else last_weights(replacement)
        for place, layer in enumerate(replacement):
            state = _advanced(state, layer, place == last)
        return fits(stop, state)

    return [
        [action for action in _CANDIDATES[type(layer)] if is_available(index, action)]
        for index, layer in enumerate(layers)
    ]


def _spliced(layers: tuple[Layer, ...], start: int, stop: int, replacement: tuple[Layer, ...]) -> Architecture:
    return Architecture(layers[:start] + replacement + layers[stop:])


def apply(architecture: Architecture, index: int, action: str) -> Architecture:
    """The network after one of ACTIONS on layer `index`; the same network if the action does not apply to the layer."""
    layers = architecture.layers
    state: State | None = State()
    logits = logits_layer(architecture)
    for place, layer in enumerate(layers[:index]):
        state = _advanced(state, layer, place == logits)
    channels = state.values.shape[0] if state else 0
    start, stop, replacement = _splice(layers, index, action, channels, is_logits=index == logits)
    return canonical(_spliced(layers, start, stop, replacement))


def set_width(architecture: Architecture, index: int, width: int) -> Architecture:
    """The network with `width` channels or features in layer `index`. Raises ValueError if the layer has no width.

    Depthwise convolutions that follow keep one group for each channel.
    """
    layers = list(architecture.layers)
    layer = layers[index]
    match layer:
        case Convolution():
            layers[index] = replace(layer, channels=width, groups=_fitting_groups(layer, width))
        case FullyConnected():
            layers[index] = replace(layer, features=width)
        case _:
            raise ValueError(f"layer {index} has no width")
    before = layer.channels if isinstance(layer, Convolution) else 0
    for place in range(index + 1, len(layers)):
        following = layers[place]
        if isinstance(following, Convolution):
            if following.groups == following.channels == before > 1:
                layers[place] = replace(following, channels=width, groups=width)
                continue
            break
    return Architecture(tuple(layers))


def _fitting_groups(layer: Convolution, width: int) -> int:
    """The largest number of groups up to that of the layer that divides both numbers of channels."""
    return next(groups for groups in range(layer.groups, 0, -1) if not width % groups and not layer.groups % groups)


def _splice(layers: tuple[Layer, ...], index: int, action: str, channels: int, is_logits: bool) -> _Splice:
    """The layers that an action on layer `index` replaces. If it does not apply, it replaces the layer by itself.

    `channels` are those that reach the layer.
    """
    layer = layers[index]
    if action not in _CANDIDATES[type(layer)]:
        return index, index + 1, (layer,)
    match action:
        case "Move up" | "Begin one layer earlier" | "End one layer earlier" if index > 0:
            return index - 1, index + 1, (layer, layers[index - 1])
        case "Move down" | "Begin one layer later" | "End one layer later" if index < len(layers) - 1:
            return index, index + 2, (layers[index + 1], layer)
        case "Add a convolution above":
            return index, index, (Convolution(_channels_before(layers[:index])),)
        case "Add a max-pool above":
            return index, index, (MaxPool(),)
        case "Add a dropout above":
            return index, index, (DEFAULT_DROPOUT,)
        case "Make it a residual block":
            return index, index + 1, (Fork("add"), layer, Join())
        case "Remove":
            return index, index + 1, ()
        case _ if action == _KEEP_FIRST:
            return _without_branches(layers, index)
    return index, index + 1, (_changed(layer, action, channels, is_logits),)


# A menu asks for the same changes again and again: a network often has equal layers, and one edit changes one of them.
@lru_cache(maxsize=1024)
def _changed(layer: Layer, action: str, channels: int, is_logits: bool) -> Layer:
    """The layer after an action on it alone; itself if the action does not apply."""
    match action, layer:
        case "No padding", Convolution() if layer.padding_pixels != (0, 0):
            return replace(layer, padding=0)
        case "Pad to keep the size", Convolution():
            padded = replace(layer, padding=None)
            return layer if padded.padding_pixels == layer.padding_pixels else padded
        case "Kernel 1×1" | "Kernel 3×3" | "Kernel 5×5", Convolution():
            return replace(layer, kernel_size=int(action[-1]))
        case "Whole channels" | "Single values", Dropout():
            return replace(layer, whole_channels=action == "Whole channels")
        case "ReLU" | "GELU", Activation():
            return _ACTIVATION_ACTIONS[action]
        case "Batch norm", Normalization():
            return Normalization()
        case "Group norm", Normalization():
            return _group_norm(channels)
    # Neither norm nor activation follows the logits.
    if is_logits:
        return layer
    match action, layer:
        case "No activation", FullyConnected():
            return replace(layer, activation=None)
        case "ReLU" | "GELU", FullyConnected():
            return replace(layer, activation=_ACTIVATION_ACTIONS[action])
        case "Neither activation nor norm", Convolution():
            return replace(layer, activation=None, norm="after", normalization=Normalization())
        case "With ReLU and batch norm", Convolution(activation=None):
            return replace(layer, activation=Activation())
        case "Without norm", Convolution(activation=Activation()):
            return replace(layer, norm="none", normalization=Normalization())
        case "With batch norm", Convolution(activation=Activation(), norm="none"):
            return replace(layer, norm="after")
    return layer


_ACTIVATION_ACTIONS = {"ReLU": Activation(), "GELU": Activation("gelu")}


def _group_norm(channels: int) -> Normalization:
    return Normalization("gn", next(groups for groups in (4, 2, 3, 5, 1) if not channels % groups))


def available_network_actions(architecture: Architecture) -> list[str]:
    """The actions on all layers that change a valid network into another valid one."""
    found = {action: _changed_layers(architecture, action) for action in NETWORK_ACTIONS}
    return [action for action, layers in found.items() if layers != architecture.layers and len(layers) <= MAX_LAYERS]


def apply_to_network(architecture: Architecture, action: str) -> Architecture:
    """The network after one of NETWORK_ACTIONS, on all layers that it applies to."""
    return canonical(Architecture(_changed_layers(architecture, action)))


def _changed_layers(architecture: Architecture, action: str) -> tuple[Layer, ...]:
    logits = logits_layer(architecture)
    found: list[Layer] = []
    for index, layer in enumerate(architecture.layers):
        if isinstance(layer, Convolution | FullyConnected) and action in ("With bias", "Without bias"):
            found.append(replace(layer, bias=action == "With bias"))
        elif isinstance(layer, Dropout) and action in ("No dropout", "Dropout after each convolution"):
            continue
        elif index == logits:
            found.append(layer)
        else:
            found.append(_restyled(layer, action))
            if action == "Dropout after each convolution" and takes_dropout(layer, is_logits=False):
                found.append(DEFAULT_DROPOUT)
    return tuple(found)


def _restyled(layer: Layer, action: str) -> Layer:
    """The layer with another norm or activation, if it has one."""
    match action, layer:
        case "ReLU" | "GELU", Convolution(activation=Activation()) | FullyConnected(activation=Activation()):
            return replace(layer, activation=_ACTIVATION_ACTIONS[action])
        case "ReLU" | "GELU", Activation():
            return _ACTIVATION_ACTIONS[action]
        case "No norm", Convolution(activation=Activation()):
            return replace(layer, norm="none", normalization=Normalization())
        case "Norm after the activation", Convolution(activation=Activation()):
            return replace(layer, norm="after")
        case "Norm before the activation", Convolution(activation=Activation()):
            return replace(layer, norm="before")
        case "Batch norm", Convolution(activation=Activation(), norm=norm) if norm != "none":
            return replace(layer, normalization=Normalization())
        case "Group norm", Convolution(activation=Activation(), norm=norm) if norm != "none":
            return replace(layer, normalization=_group_norm(layer.channels))
    return layer


def _without_branches(layers: tuple[Layer, ...], index: int) -> _Splice:
    """Replace the branches that begin, separate or end at `index` by the layers of the first branch that has any."""
    depth, start = 0, index
    if not isinstance(layers[index], Fork):
        # Back to the fork that is open here.
        for start in range(index - 1, -1, -1):
            depth += isinstance(layers[start], Join) - isinstance(layers[start], Fork)
            if depth < 0:
                break
    branches: list[list[Layer]] = [[]]
    depth = 0
    for stop in range(start + 1, len(layers)):
        layer = layers[stop]
        if depth == 0 and isinstance(layer, Join):
            kept = next((branch for branch in branches if branch), [])
            return start, stop + 1, tuple(kept)
        if depth == 0 and isinstance(layer, Branch):
            branches.append([])
            continue
        depth += isinstance(layer, Fork) - isinstance(layer, Join)
        branches[-1].append(layer)
    return index, index + 1, (layers[index],)


def _advanced(state: State | None, layer: Layer, is_logits: bool) -> State | None:
    return None if state is None else advance(state, layer, is_logits=is_logits)


def _channels_before(layers: Sequence[Layer]) -> int:
    """Channels for a new convolution: those of the last convolution before it."""
    return next((layer.channels for layer in reversed(layers) if isinstance(layer, Convolution)), DEFAULT_CHANNELS)
