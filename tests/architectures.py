"""Hypothesis strategies for valid architectures."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lib.design.layers import (
    CLASSES,
    Architecture,
    ArchitectureError,
    AveragePool,
    Convolution,
    Dropout,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    MaxPool,
)
from lib.design.operations import validate

# Values of every field of every layer. A test compares the keys with the dataclasses, so that no new field is left out.
FIELDS: dict[type[Layer], dict[str, st.SearchStrategy[Any]]] = {
    Convolution: {
        "channels": st.integers(1, 6),
        "kernel_size": st.integers(1, 6),
        "stride": st.sampled_from([1, 1, 1, 2, 3]),
        "dilation": st.sampled_from([1, 1, 1, 2, 3]),
        "padding": st.sampled_from([None, None, 0, 0, 1, 3]),
        "norm": st.sampled_from(["after", "before", "none"]),
    },
    MaxPool: {"kernel_size": st.integers(1, 4), "stride": st.integers(1, 3)},
    AveragePool: {"kernel_size": st.integers(1, 4), "stride": st.integers(1, 3)},
    GlobalAveragePool: {},
    FullyConnected: {"features": st.integers(1, 16)},
    Dropout: {"percent": st.integers(1, 90)},
}
_convolutions, _max_pools, _average_pools, _dropouts = (
    st.builds(layer, **FIELDS[layer]) for layer in (Convolution, MaxPool, AveragePool, Dropout)
)
_bodies: st.SearchStrategy[list[Layer]] = st.lists(
    st.one_of(_convolutions, _convolutions, _max_pools | _average_pools, _dropouts), max_size=7
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
    """A few convolutions, pools and dropouts, then a head that ends in ten numbers."""
    body: list[Layer] = draw(_bodies)
    heads: list[list[Layer]] = [[Convolution(CLASSES), GlobalAveragePool()]]
    if dense:
        hidden = draw(st.builds(FullyConnected, **FIELDS[FullyConnected]))
        heads += [[FullyConnected(CLASSES)], [hidden, FullyConnected(CLASSES)]]
    head = draw(st.sampled_from(heads))
    while not buildable(body + head):
        body.pop()
    return Architecture(tuple(body + head))
