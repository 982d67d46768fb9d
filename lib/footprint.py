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
            below = _looked_at(step, below)
        found.append(below)
    return found


def read(steps: Sequence[Operation]) -> list[int]:
    """For each step: the positions of its output, along an axis, that the network's outputs depend on."""
    wanted = (1 << steps[-1].output_shape[1]) - 1
    found = [wanted]
    for step in reversed(steps[1:]):
        if _moves(step):
            wanted = _asked_for(step, wanted)
        found.append(wanted)
    return found[::-1]


def positions(found: int) -> list[int]:
    """The members of a set, ascending."""
    return [position for position, member in enumerate(reversed(f"{found:b}")) if member == "1"]


def _moves(step: Operation) -> bool:
    return step.kernel_size > 1 or step.stride > 1 or step.padding > 0


def _looked_at(step: Operation, below: Sequence[int]) -> tuple[int, ...]:
    """For each position of the output, the union of what the inputs in its window depend on."""
    edge = [0] * step.padding
    # The union over a window, begun at every input: windows of one tap, of two, of four, joined two by two.
    unions, taps = [*edge, *below, *edge], 1
    while taps < step.kernel_size:
        more = min(taps, step.kernel_size - taps)
        unions = [one | other for one, other in zip(unions, unions[step.dilation * more :], strict=False)]
        taps += more
    return tuple(unions[:: step.stride][: step.output_shape[1]])


def _asked_for(step: Operation, asked: int) -> int:
    """The inputs that a set of outputs reads, the padding left out."""
    # Output i begins at input i * stride: as text, the bits are set apart by zeros.
    starts = int(("0" * (step.stride - 1)).join(f"{asked:b}"), 2)
    wanted = 0
    for tap in range(step.kernel_size):
        wanted |= starts << step.dilation * tap
    return (wanted >> step.padding) & ((1 << step.input_shape[1]) - 1)
