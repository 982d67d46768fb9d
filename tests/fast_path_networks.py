"""A hypothesis strategy for networks of every feature of the fast path, in any order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from lib.design.layers import (
    CLASSES,
    Activation,
    Architecture,
    AveragePool,
    Branch,
    Convolution,
    Dropout,
    Flatten,
    Fork,
    FullyConnected,
    GlobalAveragePool,
    GlobalMaxPool,
    Join,
    Layer,
    MaxPool,
    Normalization,
)
from tests.architectures import buildable

Layers = list[Layer]
_RELU = Activation()
_norms = st.one_of(
    st.just(Normalization()),
    st.builds(Normalization, st.sampled_from(["gbn", "gbn", "gn"]), st.integers(1, 3)),
    st.builds(Normalization, st.sampled_from(["in", "ln", "ln2d"])),
)
_activations = st.sampled_from(
    [_RELU, _RELU, _RELU, _RELU, Activation("gelu"), Activation("prelu"), Activation("tanh")]
)
_dropouts = st.builds(Dropout, st.sampled_from([0.0, 0.1, 0.3, 0.5]), st.booleans())
# What the kernels apply where a tensor is read, and activations that torch computes.
_pointwise: st.SearchStrategy[Layer] = st.one_of(_norms, _activations, _dropouts)
_convolutions = st.builds(
    Convolution,
    channels=st.integers(1, 7),
    kernel_size=st.sampled_from([1, 2, 3, 3, 3, 4, 5, 6, 7, (3, 1), (1, 3), (2, 5), (7, 1)]),
    stride=st.sampled_from([1, 1, 1, 2, 3, (2, 1)]),
    dilation=st.sampled_from([1, 1, 1, 2, 3]),
    padding=st.sampled_from([None, None, None, 0, 1, 3, 5, (1, 0), (0, 4)]),
    norm=st.sampled_from(["after", "before", "none"]),
    activation=st.one_of(st.none(), _activations),
    normalization=_norms,
    bias=st.booleans(),
    groups=st.sampled_from([1, 1, 1, 2, 3]),
)
_pools = st.builds(
    lambda kind, **fields: kind(**fields),
    st.sampled_from([MaxPool, AveragePool]),
    kernel_size=st.sampled_from([1, 2, 2, 3, 4, (2, 3)]),
    stride=st.sampled_from([1, 2, 2, 3, (1, 2)]),
    padding=st.sampled_from([0, 0, 1, (1, 0)]),
    ceil_mode=st.booleans(),
)
# Layers that keep height and width.
_same_convolutions = st.builds(
    lambda layer, size: replace(layer, kernel_size=size, stride=1, padding=None),
    _convolutions,
    st.sampled_from([1, 3, 5, 7, (3, 1)]),
)
_same_pools = st.sampled_from([MaxPool, AveragePool]).map(lambda kind: kind(kernel_size=3, stride=1, padding=1))

_same_layers: st.SearchStrategy[Layer] = st.one_of(_same_convolutions, _same_convolutions, _same_pools)


@st.composite
def _depthwise(draw: st.DrawFn) -> Layers:
    layer, factor = draw(_convolutions), draw(st.integers(1, 2))
    before = replace(layer, groups=1, kernel_size=1, padding=0)
    return [before, replace(layer, channels=factor * layer.channels, groups=layer.channels)]


@st.composite
def _branches(draw: st.DrawFn) -> Layers:
    """Branches that begin and end with pointwise layers, and may have nothing else."""
    channels = draw(st.integers(1, 5))

    def branch() -> Layers:
        layers = draw(st.lists(_pointwise, max_size=2))
        for _ in range(draw(st.integers(0, 2))):
            layer = draw(_same_layers)
            if isinstance(layer, Convolution):
                layer = replace(layer, channels=channels, groups=1)
            layers.append(layer)
            layers += draw(st.lists(_pointwise, max_size=2))
        return layers

    found: Layers = [Fork(draw(st.sampled_from(["add", "cat"]))), *branch()]
    for _ in range(draw(st.integers(0, 2))):
        found += [Branch(), *branch()]
    return [*found, Join()]


@st.composite
def _flat_branches(draw: st.DrawFn) -> Layers:
    """Branches of a sum without an image."""
    features = draw(st.integers(1, 9))

    def branch() -> Layers:
        layers = draw(st.lists(_pointwise, max_size=2))
        layers.insert(0, Flatten())
        if draw(st.booleans()):
            layers += [FullyConnected(features, bias=draw(st.booleans())), *draw(st.lists(_pointwise, max_size=1))]
        return layers

    return [Fork("add"), *branch(), Branch(), *branch(), Join()]


_layer = st.one_of(_convolutions, _convolutions, _pools, _pointwise, _pointwise).map(lambda layer: [layer])
_parts: st.SearchStrategy[Layers] = st.one_of(_layer, _layer, _layer, _depthwise(), _branches())


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    """Parts in any order, then a head that ends in ten numbers, with pointwise layers at its end."""
    logits = draw(_convolutions)
    match draw(st.sampled_from(["convolution", "convolution", "linear", "hidden"])):
        case "convolution":
            head: Layers = [replace(logits, channels=CLASSES, groups=1, kernel_size=draw(st.sampled_from([1, 3])))]
            head += draw(st.lists(_pointwise, max_size=2))
            head += draw(st.sampled_from([[GlobalAveragePool()], [GlobalMaxPool()]]))
        case "linear":
            head = [FullyConnected(CLASSES, bias=draw(st.booleans()))]
        case _:
            head = draw(st.sampled_from([[], [Flatten(), draw(_pointwise), draw(_pointwise)], draw(_flat_branches())]))
            head = [*head, FullyConnected(draw(st.integers(1, 20)), draw(st.sampled_from([None, _RELU])))]
            head += [*draw(st.lists(_pointwise, max_size=2)), FullyConnected(CLASSES)]
    last = draw(st.lists(_pointwise, max_size=2))
    if buildable(head + last):
        head += last
    elif not buildable(head):
        head = [FullyConnected(CLASSES)]
    body: Layers = []
    for part in draw(st.lists(_parts, max_size=7)):
        # A part that does not fit is left out.
        if buildable(body + part + head):
            body += part
    return Architecture(tuple(body + head))
