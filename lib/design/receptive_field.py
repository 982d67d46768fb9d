"""Receptive fields: by formula, and as exact sets of positions.

The formula (`ReceptiveField`) gives the span of the field on an unbounded image. The sets also account for padding, for
dilation and for outputs that no later layer uses. Each axis is treated by itself: a set of positions along it is an
int, with bit i for position i, and the set on the image is the product of the sets of both axes. Where branches join,
this product contains all pixels of the field, and sometimes more.

A norm over all positions of a map, such as a group norm, makes every output depend on the whole image. This is left
out, as is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Literal, TypeAlias

from lib.design.layers import INPUT_SHAPE
from lib.design.operation_specs import SPECS
from lib.design.operations import IMAGE, Operation

# 0 is the vertical axis, 1 the horizontal one, like the places in a pair (height, width).
Axis: TypeAlias = Literal[0, 1]


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

    def after(self, operation: Operation, axis: Axis = 0) -> ReceptiveField:
        """The field of the operation's outputs, given that of its inputs.

        r' = r + d (k - 1) j, j' = j s, c' = c + (d (k - 1) / 2 - p) j (Araujo, Norris and Sim, "Computing Receptive
        Fields of Convolutional Neural Networks", Distill 2019).
        """
        reach = operation.dilation * (operation.kernel_size[axis] - 1)
        return ReceptiveField(
            size=self.size + reach * self.jump,
            jump=self.jump * operation.stride[axis],
            center=self.center + (reach / 2 - operation.padding[axis]) * self.jump,
        )


def union(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The smallest field that contains all of them; the largest jump."""
    first = min(field.center - (field.size - 1) / 2 for field in fields)
    last = max(field.center + (field.size - 1) / 2 for field in fields)
    return ReceptiveField(
        size=round(last - first) + 1, jump=max(field.jump for field in fields), center=(first + last) / 2
    )


def receptive_fields(operations: Sequence[Operation], axis: Axis = 0) -> list[ReceptiveField]:
    """The field of each operation's outputs. Where branches join, it is the union of their fields."""
    found: list[ReceptiveField] = []
    for operation in operations:
        fields = [ReceptiveField() if source == IMAGE else found[source] for source in operation.inputs]
        found.append(fields[0].after(operation, axis) if len(fields) == 1 else union(fields))
    return found


def input_masks(operations: Sequence[Operation], axis: Axis = 0) -> list[tuple[int, ...]]:
    """For each operation and each position of its output: the set of image pixels that the output depends on."""
    image = tuple(1 << pixel for pixel in range(INPUT_SHAPE[1 + axis]))
    found: list[tuple[int, ...]] = []
    for operation in operations:
        inputs = [image if source == IMAGE else found[source] for source in operation.inputs]
        masks = inputs[0] if len(inputs) == 1 else tuple(reduce(or_, sets) for sets in zip(*inputs, strict=True))
        found.append(_masks_after(operation, masks, axis) if _moves(operation, axis) else masks)
    return found


def used_positions(operations: Sequence[Operation], axis: Axis = 0) -> list[int]:
    """For each operation: the set of positions of its output that the network's outputs depend on."""
    found = [0] * len(operations)
    found[-1] = (1 << operations[-1].output_shape[1 + axis]) - 1
    for index in range(len(operations) - 1, 0, -1):
        operation = operations[index]
        used = _used_inputs(operation, found[index], axis) if _moves(operation, axis) else found[index]
        for source in operation.inputs:
            if source != IMAGE:
                found[source] |= used
    return found


def set_bits(positions: int) -> list[int]:
    """The members of a set, ascending."""
    return [position for position, bit in enumerate(reversed(f"{positions:b}")) if bit == "1"]


def normalizes_over_positions(operations: Sequence[Operation]) -> bool:
    """Whether a norm takes a mean over all positions of a map, which the fields here leave out."""
    return any(SPECS[step.kind].is_over_positions and step.output_shape[1:] != (1, 1) for step in operations)


def axes_differ(operations: Sequence[Operation]) -> bool:
    """Whether an operation moves differently along the two axes, as one with a kernel of 3×1 does."""
    return any(
        step.kernel_size[0] != step.kernel_size[1]
        or step.stride[0] != step.stride[1]
        or step.padding[0] != step.padding[1]
        for step in operations
    )


def _moves(operation: Operation, axis: Axis) -> bool:
    return operation.kernel_size[axis] > 1 or operation.stride[axis] > 1 or operation.padding[axis] > 0


def _masks_after(operation: Operation, masks: Sequence[int], axis: Axis) -> tuple[int, ...]:
    """For each position of the output, the union of the masks of the inputs in its window."""
    kernel_size, stride, padding = operation.kernel_size[axis], operation.stride[axis], operation.padding[axis]
    count = operation.output_shape[1 + axis]
    reach = operation.dilation * (kernel_size - 1)
    # With ceil_mode the last window may be cut off at the end.
    missing = max(0, (count - 1) * stride + reach + 1 - len(masks) - 2 * padding)
    # Unions over windows of 1, 2, 4, ... taps that start at each input, until they have kernel_size taps.
    unions, taps = [*[0] * padding, *masks, *[0] * (padding + missing)], 1
    while taps < kernel_size:
        more = min(taps, kernel_size - taps)
        unions = [left | right for left, right in zip(unions, unions[operation.dilation * more :], strict=False)]
        taps += more
    return tuple(unions[::stride][:count])


def _used_inputs(operation: Operation, used: int, axis: Axis) -> int:
    """The inputs, without padding, that a set of outputs depends on."""
    # Output i starts at input i * stride: in binary, stride - 1 zeros go between the bits.
    starts = int(("0" * (operation.stride[axis] - 1)).join(f"{used:b}"), 2)
    inputs = 0
    for tap in range(operation.kernel_size[axis]):
        inputs |= starts << operation.dilation * tap
    return (inputs >> operation.padding[axis]) & ((1 << operation.input_shape[1 + axis]) - 1)
