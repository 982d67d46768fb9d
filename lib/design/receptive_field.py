"""Receptive fields: by formula, and as exact sets of positions.

The formula (`ReceptiveField`) gives the span of the field on an unbounded image. The sets also account for padding, for
dilation and for outputs that no later layer uses. Rows and columns are treated alike, so one axis is enough: a set of
positions along it is an int, with bit i for position i, and the set on the image is the product of rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib.design.layers import INPUT_SHAPE
from lib.design.operations import Operation


@dataclass(frozen=True)
class ReceptiveField:
    """Field of an output along one axis, in pixels of the image; the field may be larger than the image.

    `jump` is the distance between the fields of neighbouring outputs. `center` is the center of the first output's
    field, with 0 as the middle of the image's first pixel; padding moves it to the left. The defaults are those of a
    pixel of the image itself.
    """

    size: int = 1
    jump: int = 1
    center: float = 0.0

    def after(self, operation: Operation) -> ReceptiveField:
        """The field of the operation's outputs, given that of its inputs.

        r' = r + d (k - 1) j, j' = j s, c' = c + (d (k - 1) / 2 - p) j (Araujo, Norris and Sim, "Computing Receptive
        Fields of Convolutional Neural Networks", Distill 2019).
        """
        reach = operation.dilation * (operation.kernel_size - 1)
        return ReceptiveField(
            size=self.size + reach * self.jump,
            jump=self.jump * operation.stride,
            center=self.center + (reach / 2 - operation.padding) * self.jump,
        )


def input_masks(operations: Iterable[Operation]) -> list[tuple[int, ...]]:
    """For each operation and each position of its output: the set of image pixels that the output depends on."""
    masks: tuple[int, ...] = tuple(1 << pixel for pixel in range(INPUT_SHAPE[1]))
    found = []
    for operation in operations:
        if _moves(operation):
            masks = _masks_after(operation, masks)
        found.append(masks)
    return found


def used_positions(operations: Sequence[Operation]) -> list[int]:
    """For each operation: the set of positions of its output that the network's outputs depend on."""
    used = (1 << operations[-1].output_shape[1]) - 1
    found = [used]
    for operation in reversed(operations[1:]):
        if _moves(operation):
            used = _used_inputs(operation, used)
        found.append(used)
    return found[::-1]


def set_bits(positions: int) -> list[int]:
    """The members of a set, ascending."""
    return [position for position, bit in enumerate(reversed(f"{positions:b}")) if bit == "1"]


def _moves(operation: Operation) -> bool:
    return operation.kernel_size > 1 or operation.stride > 1 or operation.padding > 0


def _masks_after(operation: Operation, masks: Sequence[int]) -> tuple[int, ...]:
    """For each position of the output, the union of the masks of the inputs in its window."""
    edge = [0] * operation.padding
    # Unions over windows of 1, 2, 4, ... taps that start at each input, until they have kernel_size taps.
    unions, taps = [*edge, *masks, *edge], 1
    while taps < operation.kernel_size:
        more = min(taps, operation.kernel_size - taps)
        unions = [left | right for left, right in zip(unions, unions[operation.dilation * more :], strict=False)]
        taps += more
    return tuple(unions[:: operation.stride][: operation.output_shape[1]])


def _used_inputs(operation: Operation, used: int) -> int:
    """The inputs, without padding, that a set of outputs depends on."""
    # Output i starts at input i * stride: in binary, stride - 1 zeros go between the bits.
    starts = int(("0" * (operation.stride - 1)).join(f"{used:b}"), 2)
    inputs = 0
    for tap in range(operation.kernel_size):
        inputs |= starts << operation.dilation * tap
    return (inputs >> operation.padding) & ((1 << operation.input_shape[1]) - 1)
