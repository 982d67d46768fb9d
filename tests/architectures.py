"""Hypothesis strategies for valid architectures."""

from __future__ import annotations

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

convolutions = st.builds(
    Convolution,
    channels=st.integers(1, 6),
    kernel_size=st.integers(1, 6),
    stride=st.sampled_from([1, 1, 1, 2, 3]),
    dilation=st.sampled_from([1, 1, 1, 2, 3]),
    padding=st.sampled_from([None, None, 0, 0, 1, 3]),
    norm=st.sampled_from(["after", "before", "none"]),
)
pools = st.builds(
    lambda kind, kernel_size, stride: kind(kernel_size, stride),
    st.sampled_from([MaxPool, AveragePool]),
    st.integers(1, 4),
    st.integers(1, 3),
)

dropouts = st.builds(Dropout, st.integers(1, 90))


def buildable(layers: list[Layer]) -> bool:
    """Whether they fit together and end in ten numbers."""
    try:
        validate(Architecture(tuple(layers)))
    except ArchitectureError:
        return False
    return True


@st.composite
def architectures(draw: st.DrawFn, dense: bool = True) -> Architecture:
    """A few convolutions and pools, then a head that ends in ten numbers."""
    body: list[Layer] = draw(st.lists(st.one_of(convolutions, convolutions, pools, dropouts), min_size=0, max_size=7))
    heads: list[list[Layer]] = [[Convolution(CLASSES), GlobalAveragePool()]]
    if dense:
        heads += [[FullyConnected(CLASSES)], [FullyConnected(12), FullyConnected(CLASSES)]]
    head = draw(st.sampled_from(heads))
    while not buildable(body + head):
        body.pop()
    return Architecture(tuple(body + head))
