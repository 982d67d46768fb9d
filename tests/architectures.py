"""Hypothesis strategies for valid architectures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from lib.design.canonical_form import canonical
from lib.design.layers import (
    ACTIVATIONS,
    CLASSES,
    NORMALIZATIONS,
    Activation,
    Architecture,
    ArchitectureError,
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
    JoinKind,
    Layer,
    MaxPool,
    Normalization,
)
from lib.design.operations import validate

_activations = st.one_of(
    st.just(Activation()),
    st.sampled_from(sorted(ACTIVATIONS)).map(lambda name: Activation(name, ACTIVATIONS[name].default)),
    st.builds(Activation, st.just("leaky"), st.sampled_from([0.01, 0.1, 0.25])),
)
_normalizations = st.one_of(
    st.just(Normalization()),
    st.builds(
        lambda name, groups: Normalization(name, groups if NORMALIZATIONS[name].is_grouped else None),
        st.sampled_from(sorted(NORMALIZATIONS)),
        st.integers(1, 3),
    ),
)
_kernel_sizes = st.one_of(st.integers(1, 6), st.sampled_from([(3, 1), (1, 3), (2, 5)]))
_strides = st.sampled_from([1, 1, 1, 2, 3, (2, 1)])
_pool_fields = {
    "kernel_size": st.one_of(st.integers(1, 4), st.just((2, 3))),
    "stride": st.sampled_from([1, 2, 2, 3, (1, 2)]),
    "padding": st.sampled_from([0, 0, 0, 1, (1, 0)]),
    "ceil_mode": st.booleans(),
}
# Values of every field of every layer. A test compares the keys with the dataclasses, so that no new field is left out.
FIELDS: dict[type[Layer], dict[str, st.SearchStrategy[Any]]] = {
    Convolution: {
        "channels": st.integers(1, 6),
        "kernel_size": _kernel_sizes,
        "stride": _strides,
        "dilation": st.sampled_from([1, 1, 1, 2, 3]),
        "padding": st.sampled_from([None, None, 0, 0, 1, 3, (1, 0)]),
        "norm": st.sampled_from(["after", "before", "none"]),
        "activation": st.one_of(st.none(), _activations),
        "normalization": _normalizations,
        "bias": st.booleans(),
        "groups": st.sampled_from([1, 1, 1, 2, 3]),
    },
    MaxPool: _pool_fields,
    AveragePool: _pool_fields,
    GlobalAveragePool: {},
    GlobalMaxPool: {},
    Flatten: {},
    Dropout: {"p": st.sampled_from([0.0, 0.005, 0.029, 0.1, 0.9]), "whole_channels": st.booleans()},
    FullyConnected: {
        "features": st.integers(1, 16),
        "activation": st.one_of(st.none(), _activations),
        "bias": st.booleans(),
    },
    Activation: {"name": st.just("relu"), "parameter": st.none()},
    Normalization: {"name": st.just("bn"), "groups": st.none()},
    Fork: {"join": st.sampled_from(["add", "cat"])},
    Branch: {},
    Join: {},
}
_convolutions = st.builds(Convolution, **FIELDS[Convolution])
_dropouts = st.builds(Dropout, **FIELDS[Dropout])
_pools = st.one_of(st.builds(MaxPool, **FIELDS[MaxPool]), st.builds(AveragePool, **FIELDS[AveragePool]))
_layers: st.SearchStrategy[Layer] = st.one_of(
    _convolutions, _convolutions, _convolutions, _pools, _dropouts, _activations, _normalizations
)


@st.composite
def _branches(draw: st.DrawFn) -> list[Layer]:
    """A fork with branches that keep the size, one of which may be empty."""
    join: JoinKind = draw(st.sampled_from(["add", "cat"]))
    channels = draw(st.integers(1, 6))

    def branch() -> list[Layer]:
        layers: list[Layer] = []
        for _ in range(draw(st.integers(0, 2))):
            layer = draw(_convolutions)
            kernel_size = draw(st.sampled_from([1, 3, 5]))
            layers.append(replace(layer, channels=channels, kernel_size=kernel_size, stride=1, padding=None, groups=1))
            if draw(st.booleans()):
                layers.append(draw(st.one_of(_activations, _normalizations, _dropouts)))
        return layers

    found: list[Layer] = [Fork(join), *branch()]
    for _ in range(draw(st.integers(0, 2))):
        found += [Branch(), *branch()]
    return [*found, Join()]


_bodies: st.SearchStrategy[list[list[Layer]]] = st.lists(
    st.one_of(_layers.map(lambda layer: [layer]), _layers.map(lambda layer: [layer]), _branches()), max_size=7
)


def buildable(layers: list[Layer]) -> bool:
    """Whether they fit together and end in ten numbers."""
    try:
        validate(Architecture(tuple(layers)))
    except ArchitectureError:
        return False
    return True


@st.composite
def architectures(draw: st.DrawFn, dense: bool = True) -> Architecture:
    """A few layers of any kind, some in branches, then a head that ends in ten numbers; in the canonical form."""
    parts: list[list[Layer]] = draw(_bodies)
    bias = draw(st.booleans())
    heads: list[list[Layer]] = [
        [Convolution(CLASSES, bias=bias), GlobalAveragePool()],
        [Convolution(CLASSES), GlobalMaxPool()],
        [Convolution(CLASSES, bias=bias), Activation(), Normalization(), GlobalAveragePool()],
    ]
    if dense:
        hidden = draw(st.builds(FullyConnected, **FIELDS[FullyConnected]))
        norm = draw(st.sampled_from([Normalization(), Normalization("ln")]))
        heads += [[FullyConnected(CLASSES)], [hidden, FullyConnected(CLASSES)]]
        heads += [[Flatten(), norm, Dropout(0.25), hidden, FullyConnected(CLASSES)]]
        heads += [[hidden, norm, Activation("tanh"), draw(_dropouts), FullyConnected(CLASSES, bias=bias), norm]]
    head = draw(st.sampled_from(heads))
    # A part that does not fit is left out.
    body: list[Layer] = []
    for part in parts:
        if buildable(body + part + head):
            body += part
    return canonical(Architecture(tuple(body + head)))
