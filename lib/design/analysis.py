"""Output shape, cost and receptive field of every layer, without torch.

`analyze` returns one row for each nn module, numbered as torchsummary numbers them. `per_layer` merges them into one
row for each layer. Column sums equal the totals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from lib.design.layers import Architecture, Shape
from lib.design.operation_specs import SPECS, num_macs, num_params
from lib.design.operations import operations
from lib.design.receptive_field import ReceptiveField, used_positions


@dataclass(frozen=True)
class LayerAnalysis:
    """One row of the table.

    - `output_shape`: (channels, height, width).
    - `share`: fraction of all parameters, 0 to 1.
    - `macs`: multiply-accumulates of the forward pass of one image.
    - `activations`: number of values that its modules output for one image.
    - `receptive_field`, `jump`, `center`: in input pixels, see `lib.design.receptive_field.ReceptiveField`.
    - `used`: number of outputs along one axis that the logits depend on.
    """

    name: str
    layer: int
    output_shape: Shape
    num_params: int
    share: float
    macs: int
    activations: int
    receptive_field: int
    jump: int
    center: float
    used: int

    @property
    def label(self) -> str:
        """The name with the layer's number, counted from 1."""
        return f"{self.layer + 1} · {self.name}"

    @property
    def unused_note(self) -> str | None:
        """Return how many output positions the logits depend on, or None if it is all of them."""
        side = self.output_shape[1]
        return f"{self.used**2} of {side**2} positions used" if self.used < side else None


@dataclass(frozen=True)
class NetworkAnalysis:
    """The rows with their sums; `receptive_field` is that of the last row."""

    rows: tuple[LayerAnalysis, ...]
    num_params: int
    macs: int
    activations: int
    receptive_field: int


def analyze(architecture: Architecture) -> NetworkAnalysis:
    """One row for each nn module. Flatten, a view, has no row. Raises ArchitectureError as `operations`."""
    steps = list(operations(architecture))
    total = sum(map(num_params, steps))
    rows: list[LayerAnalysis] = []
    field = ReceptiveField()
    for step, used in zip(steps, used_positions(steps), strict=True):
        field = field.after(step)
        if SPECS[step.kind].is_view:
            continue
        params = num_params(step)
        rows.append(
            LayerAnalysis(
                name=f"{step.kind}-{len(rows) + 1}",
                layer=step.layer,
                output_shape=step.output_shape,
                num_params=params,
                share=params / total if total else 0.0,
                macs=num_macs(step),
                activations=math.prod(step.output_shape),
                receptive_field=field.size,
                jump=field.jump,
                center=field.center,
                used=used.bit_count(),
            )
        )
    return _summed(rows)


def per_layer(analysis: NetworkAnalysis, architecture: Architecture) -> NetworkAnalysis:
    """The same network with one row for each layer: costs are summed, shape and field are those of its last module."""
    rows = []
    for layer, modules in groupby(analysis.rows, key=lambda row: row.layer):
        group = list(modules)
        last = group[-1]
        rows.append(
            LayerAnalysis(
                name=architecture.layers[layer].description,
                layer=layer,
                output_shape=last.output_shape,
                num_params=sum(row.num_params for row in group),
                share=sum(row.share for row in group),
                macs=sum(row.macs for row in group),
                activations=sum(row.activations for row in group),
                receptive_field=last.receptive_field,
                jump=last.jump,
                center=last.center,
                used=last.used,
            )
        )
    return _summed(rows)


def activation_bytes(row: LayerAnalysis | NetworkAnalysis, batch_size: int) -> int:
    """Bytes of the outputs of a forward pass, as float32; training keeps them for the backward pass."""
    return 4 * batch_size * row.activations


def _summed(rows: list[LayerAnalysis]) -> NetworkAnalysis:
    return NetworkAnalysis(
        rows=tuple(rows),
        num_params=sum(row.num_params for row in rows),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        receptive_field=rows[-1].receptive_field,
    )
