"""The canonical form of a network: one architecture, and one set of settings, for each network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from lib.design.layers import (
    Activation,
    Architecture,
    Branch,
    Convolution,
    Defaults,
    Dropout,
    Flatten,
    Fork,
    FullyConnected,
    Join,
    Layer,
    Normalization,
    last_weights,
)

_T = TypeVar("_T", bound=Hashable)


def canonical(architecture: Architecture) -> Architecture:
    """The same network in the form that `parse` returns.

    A padding that keeps the size has its default. An activation and a normalization that directly follow a convolution
    without them become part of it. What means nothing has its default. The input itself is the last branch of an
    addition, and is not written as the second of two branches.
    """
    layers = list(architecture.layers)
    logits = last_weights(architecture.layers)
    found: list[Layer] = []
    index = 0
    while index < len(layers):
        layer = _with_default_padding(layers[index])
        if isinstance(layer, Convolution | FullyConnected):
            if index == logits:
                layer = _plain_logits(layer)
            else:
                layer, taken = _merged(layer, layers[index + 1 : index + 3])
                index += taken
        # A fully connected layer, and the end of a network, flatten a map themselves.
        follows = layers[index + 1] if index + 1 < len(layers) else None
        if not (isinstance(layer, Flatten) and (follows is None or isinstance(follows, FullyConnected))):
            found.append(layer)
        index += 1
    return Architecture(tuple(_canonical_branches(found)))


def _with_default_padding(layer: Layer) -> Layer:
    if not isinstance(layer, Convolution) or layer.padding is None:
        return layer
    unpadded = replace(layer, padding=None)
    return unpadded if unpadded.padding_pixels == layer.padding_pixels else layer


def _plain_logits(layer: Convolution | FullyConnected) -> Layer:
    if isinstance(layer, FullyConnected):
        return replace(layer, activation=Activation())
    return replace(layer, norm="after", activation=Activation(), normalization=Normalization())


def _merged(layer: Convolution | FullyConnected, following: Sequence[Layer]) -> tuple[Layer, int]:
    """The layer with what follows it and can become part of it, and the number of layers that it has taken."""
    first, second = (*following, None, None)[:2]
    if isinstance(layer, FullyConnected):
        if layer.activation is None and isinstance(first, Activation):
            return replace(layer, activation=first), 1
        return layer, 0
    if layer.activation is None:
        if isinstance(first, Activation):
            if isinstance(second, Normalization):
                return replace(layer, activation=first, norm="after", normalization=second), 2
            return replace(layer, activation=first, norm="none", normalization=Normalization()), 1
        if isinstance(first, Normalization) and isinstance(second, Activation):
            return replace(layer, activation=second, norm="before", normalization=first), 2
        return replace(layer, norm="after", normalization=Normalization()), 0
    if layer.norm == "none":
        if isinstance(first, Normalization):
            return replace(layer, norm="after", normalization=first), 1
        return replace(layer, normalization=Normalization()), 0
    return layer, 0


def _canonical_branches(layers: list[Layer]) -> list[Layer]:
    """Move the empty branch of an addition to its end, and leave out the empty last branch of two."""
    # For each open fork: its place, and the places of its separators.
    open_forks: list[tuple[int, list[int]]] = []
    dropped: set[int] = set()
    # Joins that an empty branch is moved to.
    extended: set[int] = set()
    for index, layer in enumerate(layers):
        match layer:
            case Fork():
                open_forks.append((index, []))
            case Branch() if open_forks:
                open_forks[-1][1].append(index)
            case Join() if open_forks:
                begin, separators = open_forks.pop()
                bounds = [begin, *separators, index]
                empty = [place for place, (one, other) in enumerate(pairwise(bounds)) if other == one + 1]
                last = len(separators)
                if len(empty) != 1 or not separators:
                    continue
                if empty[0] == last == 1:
                    dropped.add(separators[0])
                elif empty[0] < last and layers[begin] == Fork("add"):
                    dropped.add(separators[empty[0]])
                    if last > 1:
                        extended.add(index)
    found: list[Layer] = []
    for index, layer in enumerate(layers):
        found += [Branch()] if index in extended else []
        found += [layer] if index not in dropped else []
    return found


def takes_dropout(layer: Layer, is_logits: bool) -> bool:
    return isinstance(layer, Convolution) and layer.activation is not None and not is_logits


def common_defaults(layers: tuple[Layer, ...]) -> Defaults:
    """The settings that more than half of the layers concerned, and at least two of them, agree on.

    A dropout is a setting only if it follows every convolution that it would follow as one.
    """
    logits = last_weights(layers)
    weighted = [layer for layer in layers if isinstance(layer, Convolution | FullyConnected)]
    hidden = [
        layer for i, layer in enumerate(layers) if isinstance(layer, Convolution | FullyConnected) and i != logits
    ]
    normed = [layer for layer in hidden if isinstance(layer, Convolution) and layer.activation and layer.norm != "none"]
    followers = [
        layers[index + 1]
        for index, layer in enumerate(layers)
        if takes_dropout(layer, index == logits) and index + 1 < len(layers)
    ]
    common = followers[0] if len(followers) > 1 and len(set(followers)) == 1 else None
    return Defaults(
        bias=_common((layer.bias for layer in weighted), True),
        norm=_common((layer.norm for layer in normed), "after"),
        normalization=_common((layer.normalization for layer in normed), Normalization()),
        activation=_common((layer.activation for layer in hidden if layer.activation), Activation()),
        dropout=common if isinstance(common, Dropout) else None,
    )


def _common(values: Iterable[_T], default: _T) -> _T:
    counts = Counter(values)
    value, count = max(counts.items(), key=lambda item: item[1], default=(default, 0))
    return value if count > 1 and 2 * count > counts.total() else default
