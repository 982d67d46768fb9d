"""Output shape, cost and receptive field of every layer, without torch.

`analyze` returns one row for each nn module, numbered as torchsummary numbers them. `per_layer` merges them into one
row for each layer. Column sums equal the totals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby

from lib.design.layers import JOIN_NAMES, Architecture, Shape
from lib.design.operation_specs import SPECS, num_macs, num_params
from lib.design.operations import operations
from lib.design.receptive_field import axes_differ, normalizes_over_positions, receptive_fields, used_positions

# Networks with more MACs per image keep all cores busy, and one image takes some time.
LARGE_MACS = 10_000_000
_JOIN_NAMES = {"Add": JOIN_NAMES["add"], "Concat": JOIN_NAMES["cat"]}


@dataclass(frozen=True)
class AxisAnalysis:
    """What a row says of one axis; the fields are those of `LayerAnalysis`."""

    receptive_field: int
    jump: int
    center: float
    used: int


@dataclass(frozen=True)
class LayerAnalysis:
    """One row of the table.

    - `kind`: the class of the module in torch.nn; for a layer, that of its first module.
    - `output_shape`: (channels, height, width).
    - `share`: fraction of all parameters, 0 to 1.
    - `macs`: multiply-accumulates of the forward pass of one image.
    - `activations`: number of values that its modules output for one image.
    - `receptive_field`, `jump`, `center`: in input pixels, see `lib.design.receptive_field.ReceptiveField`.
    - `used`: number of outputs along one axis that the logits depend on.
    - `horizontal`: these four along the horizontal axis if they differ from those along the vertical one, else None.
    """

    name: str
    kind: str
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
    horizontal: AxisAnalysis | None = None

    @property
    def label(self) -> str:
        """The name with the layer's number, counted from 1."""
        return f"{self.layer + 1} · {self.name}"

    @property
    def num_used(self) -> int:
        """Number of output positions that the logits depend on."""
        return self.used * (self.horizontal.used if self.horizontal else self.used)

    @property
    def unused_note(self) -> str | None:
        """Return how many output positions the logits depend on, or None if it is all of them."""
        _, height, width = self.output_shape
        return f"{self.num_used} of {height * width} positions used" if self.num_used < height * width else None

    @property
    def largest_field(self) -> int:
        """The receptive field along the axis where it is larger."""
        return max(self.receptive_field, self.horizontal.receptive_field if self.horizontal else 0)


@dataclass(frozen=True)
class NetworkAnalysis:
    """The rows with their sums; `receptive_field` is that of the last row.

    `normalizes_over_positions`: see `lib.design.receptive_field`.
    """

    rows: tuple[LayerAnalysis, ...]
    num_params: int
    macs: int
    activations: int
    receptive_field: int
    normalizes_over_positions: bool


def analyze(architecture: Architecture) -> NetworkAnalysis:
    """One row for each nn module. Flatten, a view, has no row. Raises ArchitectureError as `operations`."""
    steps = operations(architecture)
    total = sum(map(num_params, steps))
    fields, used = receptive_fields(steps), used_positions(steps)
    differ = axes_differ(steps)
    other_fields, other_used = (receptive_fields(steps, 1), used_positions(steps, 1)) if differ else (fields, used)
    rows: list[LayerAnalysis] = []
    for index, step in enumerate(steps):
        if SPECS[step.kind].is_view:
            continue
        params = num_params(step)
        vertical, horizontal = (
            AxisAnalysis(field.size, field.jump, field.center, positions.bit_count())
            for field, positions in (
                (fields[index], used[index]),
                (other_fields[index], other_used[index]),
            )
        )
        rows.append(
            LayerAnalysis(
                name=f"{step.kind}-{len(rows) + 1}",
                kind=step.kind,
                layer=step.layer,
                output_shape=step.output_shape,
                num_params=params,
                share=params / total if total else 0.0,
                macs=num_macs(step),
                activations=math.prod(step.output_shape),
                receptive_field=vertical.receptive_field,
                jump=vertical.jump,
                center=vertical.center,
                used=vertical.used,
                horizontal=None if horizontal == vertical else horizontal,
            )
        )
    return _summed(rows, normalizes_over_positions(steps))


def per_layer(analysis: NetworkAnalysis, architecture: Architecture) -> NetworkAnalysis:
    """The same network with one row for each layer: costs are summed, shape and field are those of its last module.

    Layers that compute nothing, as the begin of a branch, have no row.
    """
    rows = []
    for layer, modules in groupby(analysis.rows, key=lambda row: row.layer):
        group = list(modules)
        rows.append(
            replace(
                group[-1],
                name=_JOIN_NAMES.get(group[0].kind) or architecture.layers[layer].description,
                kind=group[0].kind,
                num_params=sum(row.num_params for row in group),
                share=sum(row.share for row in group),
                macs=sum(row.macs for row in group),
                activations=sum(row.activations for row in group),
            )
        )
    return _summed(rows, analysis.normalizes_over_positions)


def layers_with_rows(architecture: Architecture) -> frozenset[int]:
    """Indexes of the layers that `per_layer` has a row for: all that compute something."""
    return frozenset(step.layer for step in operations(architecture) if not SPECS[step.kind].is_view)


def activation_bytes(row: LayerAnalysis | NetworkAnalysis, batch_size: int) -> int:
    """Bytes of the outputs of a forward pass, as float32; training keeps them for the backward pass."""
    return 4 * batch_size * row.activations


def _summed(rows: list[LayerAnalysis], normalizes_over_positions: bool) -> NetworkAnalysis:
    return NetworkAnalysis(
        rows=tuple(rows),
        num_params=sum(row.num_params for row in rows),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        receptive_field=rows[-1].receptive_field,
        normalizes_over_positions=normalizes_over_positions,
    )
