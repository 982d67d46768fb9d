"""Which values a layer's output depends on, exactly: padding, gaps and what no later layer reads included.

Along one axis a set of positions is an int, bit i for position i; every layer treats rows and columns alike, so the set
on the image is that of the rows times that of the columns. The formula for the receptive field gives the span of these
sets on an image without an edge; the sets say what is left of it on the real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lib.architecture import INPUT_SHAPE, Operation


def pixels(steps: Iterable[Operation]) -> list[tuple[int, ...]]:
    """For each step, for each position of its output along an axis: the pixels of the image that it depends on."""
    below: tuple[int, ...] = tuple(1 << pixel for pixel in range(INPUT_SHAPE[1]))
    found = []
    for step in steps:
        if _moves(step):
            below = tuple(_union(below, _window(step, position)) for position in range(step.output_shape[1]))
        found.append(below)
    return found


def read(steps: Sequence[Operation]) -> list[int]:
    """For each step: the positions of its output, along an axis, that the network's outputs depend on."""
    wanted = (1 << steps[-1].output_shape[1]) - 1
    found = [wanted]
    for step in reversed(steps[1:]):
        if _moves(step):
            asked, wanted = wanted, 0
            for position in positions(asked):
                wanted |= _window(step, position)
        found.append(wanted)
    return found[::-1]


def positions(found: int) -> list[int]:
    """The members of a set, ascending."""
    return [position for position in range(found.bit_length()) if found >> position & 1]


def _moves(step: Operation) -> bool:
    return step.kernel_size > 1 or step.stride > 1 or step.padding > 0


def _window(step: Operation, position: int) -> int:
    """What one output reads of the layer's input, the padding left out."""
    kernel = 0
    for tap in range(step.kernel_size):
        kernel |= 1 << step.dilation * tap
    return (kernel << position * step.stride >> step.padding) & ((1 << step.input_shape[1]) - 1)


def _union(below: tuple[int, ...], window: int) -> int:
    union = 0
    for position in positions(window):
        union |= below[position]
    return union
