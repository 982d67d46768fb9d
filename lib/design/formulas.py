"""Formulas of a layer's numbers, with the layer's own values filled in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS, formula
from lib.design.operations import Operation, operations
from lib.design.receptive_field import ReceptiveField


@dataclass(frozen=True)
class LayerFormulas:
    """The numbers of one layer, each as "calculation = result", or only the result if nothing is calculated."""

    size: str
    params: str
    macs: str
    receptive_field: str
    jump: str
    center: str


def layer_formulas(architecture: Architecture) -> tuple[LayerFormulas, ...]:
    """One for each layer, like the rows of `per_layer`. Raises ArchitectureError as `operations`."""
    found = []
    field = ReceptiveField()
    for _, group in groupby(operations(architecture), key=lambda operation: operation.layer):
        steps = list(group)
        # All others in the layer work on single positions. A fully connected layer moves by its Flatten.
        mover = max(steps, key=lambda operation: operation.kernel_size)
        after = field.after(mover)
        reach = f"{mover.dilation} · " * (mover.dilation != 1) + f"({mover.kernel_size} − 1)"
        specs = [(SPECS[step.kind], step) for step in steps]
        params = [spec.params_label + formula(spec.params(step)) for spec, step in specs if spec.params(step)]
        macs = [formula(spec.macs(step)) for spec, step in specs if spec.macs(step)]
        found.append(
            LayerFormulas(
                size=_size(mover, reach),
                params="; ".join(params) or "0",
                macs="; ".join(macs) or "0",
                receptive_field=f"{field.size} + {reach} · {field.jump} = {after.size}",
                jump=f"{field.jump} · {mover.stride} = {after.jump}",
                center=f"{_signed(field.center)} + ({reach} / 2 − {mover.padding}) · {field.jump} = "
                f"{_signed(after.center)}",
            )
        )
        field = after
    return tuple(found)


def _size(mover: Operation, reach: str) -> str:
    (_, before, _), (_, after, _) = mover.input_shape, mover.output_shape
    if SPECS[mover.kind].is_global:
        return f"{after}"
    padded = f"{before} + 2 · {mover.padding}" if mover.padding else f"{before}"
    return f"⌊({padded} − {reach} − 1) / {mover.stride}⌋ + 1 = {after}"


def _signed(number: float) -> str:
    return f"{number:g}".replace("-", "−")
