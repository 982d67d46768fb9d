"""Formulas of a layer's numbers, with the layer's own values filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS, formula
from lib.design.operations import IMAGE, Operation, operations
from lib.design.receptive_field import Axis, ReceptiveField, axes_differ, receptive_fields


@dataclass(frozen=True)
class LayerFormulas:
    """The numbers of one layer, each as "calculation = result", or only the result if nothing is calculated.

    Of a network with different axes, each has the formula of the height and that of the width, separated by "; ".
    """

    size: str
    params: str
    macs: str
    receptive_field: str
    jump: str
    center: str


def layer_formulas(architecture: Architecture) -> tuple[LayerFormulas, ...]:
    """One for each row of `per_layer`. Raises ArchitectureError as `operations`."""
    all_steps = operations(architecture)
    axes: tuple[Axis, ...] = (0, 1) if axes_differ(all_steps) else (0,)
    fields = [receptive_fields(all_steps, axis) for axis in axes]
    found: list[LayerFormulas] = []
    for _, group in groupby(enumerate(all_steps), key=lambda pair: pair[1].layer):
        indexes, steps = zip(*group, strict=True)
        specs = [(SPECS[step.kind], step) for step in steps]
        # A flattening of its own has no row.
        if all(spec.is_view for spec, _ in specs):
            continue
        params = [spec.params_label + formula(spec.params(step)) for spec, step in specs if spec.params(step)]
        macs = [formula(spec.macs(step)) for spec, step in specs if spec.macs(step)]
        # All others in the layer work on single positions. A fully connected layer moves by its Flatten.
        mover = max(steps, key=lambda step: step.kernel_size)
        texts = [
            _move(mover, axis, [ReceptiveField() if i == IMAGE else of_axis[i] for i in steps[0].inputs], of_axis[last])
            for axis, of_axis, last in zip(axes, fields, [indexes[-1]] * len(axes), strict=True)
        ]
        size, receptive_field, jump, center = ("; ".join(dict.fromkeys(parts)) for parts in zip(*texts, strict=True))
        found.append(
            LayerFormulas(
                size=size,
                params="; ".join(params) or "0",
                macs="; ".join(macs) or "0",
                receptive_field=receptive_field,
                jump=jump,
                center=center,
            )
        )
    return tuple(found)


def _move(
    mover: Operation, axis: Axis, before: Sequence[ReceptiveField], after: ReceptiveField
) -> tuple[str, str, str, str]:
    """Size, receptive field, jump and center along one axis; `before` has the field of each input."""
    if SPECS[mover.kind].is_join:
        return (
            f"{mover.output_shape[1 + axis]}",
            f"the union of {' and '.join(f'{field.size}' for field in before)} = {after.size}",
            f"{after.jump}",
            f"the middle of the union = {_signed(after.center)}",
        )
    (field,) = before
    reach = f"{mover.dilation} · " * (mover.dilation != 1) + f"({mover.kernel_size[axis]} − 1)"
    return (
        _size(mover, reach, axis),
        f"{field.size} + {reach} · {field.jump} = {after.size}",
        f"{field.jump} · {mover.stride[axis]} = {after.jump}",
        f"{_signed(field.center)} + ({reach} / 2 − {mover.padding[axis]}) · {field.jump} = {_signed(after.center)}",
    )


def _size(mover: Operation, reach: str, axis: Axis) -> str:
    before, after = mover.input_shape[1 + axis], mover.output_shape[1 + axis]
    if SPECS[mover.kind].is_global:
        return f"{after}"
    padding = mover.padding[axis]
    padded = f"{before} + 2 · {padding}" if padding else f"{before}"
    left, right = "⌈⌉" if _is_rounded_up(mover, axis) else "⌊⌋"
    return f"{left}({padded} − {reach} − 1) / {mover.stride[axis]}{right} + 1 = {after}"


def _is_rounded_up(mover: Operation, axis: Axis) -> bool:
    """Whether ceil_mode has kept a window that is cut off."""
    reach = mover.dilation * (mover.kernel_size[axis] - 1)
    floor = (mover.input_shape[1 + axis] + 2 * mover.padding[axis] - reach - 1) // mover.stride[axis] + 1
    return mover.output_shape[1 + axis] > floor


def _signed(number: float) -> str:
    return f"{number:g}".replace("-", "−")
