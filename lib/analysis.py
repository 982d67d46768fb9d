"""What every layer outputs, costs and sees; no torch, so that a slider answers in milliseconds.

- `analyse` gives one row a module, numbered as torchsummary numbers them; `fold` one row a layer.
- Receptive field r, jump j and the centre c of the first output's field: r' = r + d (k - 1) j, j' = j s,
  c' = c + (d (k - 1) / 2 - p) j, from r = j = 1, c = 0 (Araujo, Norris and Sim, "Computing Receptive Fields of
  Convolutional Neural Networks", Distill 2019).
- Column sums equal the totals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from lib import footprint
from lib.architecture import (
    Architecture,
    AveragePool,
    Convolution,
    Dropout,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Operation,
    Shape,
    operations,
)

MAX_PARAMS = 20_000
MAX_EPOCHS = 20
TARGET_ACCURACY = 0.994
# Beyond these many MACs an image a network is wide enough for the kernels of torch.
FUSABLE_MACS = 10_000_000
PARAMETER_LIMIT = "Under 20,000 parameters"


@dataclass(frozen=True)
class LayerAnalysis:
    """One row: shapes are (channels, height, width), `macs` those of one image's forward pass.

    `receptive_field`, `jump` and `center` are in input pixels; the field may be larger than the image. Output i along
    an axis has its field around `center` + i `jump`: 0 is the middle of the image's first pixel, padding sets it back.
    `share` is this row's fraction of all parameters, 0 to 1. `activations` counts the numbers that its modules put out
    for one image. Of the outputs along an axis, the logits depend on `read`.
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
    read: int

    @property
    def label(self) -> str:
        """The name with its layer's number, counted from 1 as people do."""
        return f"{self.layer + 1} · {self.name}"

    @property
    def unread(self) -> str | None:
        """Says how many positions of the output the logits depend on, where it is not all of them."""
        side = self.output_shape[1]
        return f"{self.read**2} of {side**2} positions read" if self.read < side else None


@dataclass(frozen=True)
class NetworkAnalysis:
    rows: tuple[LayerAnalysis, ...]
    num_params: int
    macs: int
    activations: int
    receptive_field: int


Status: TypeAlias = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """One limit of the assignment: what it asks, what this network has, and whether that is enough."""

    limit: str
    value: str
    status: Status


def fusable(architecture: Architecture) -> bool:
    """Whether `lib.fused_network` has a faster training pass for it.

    Small, of nothing but pools and 3x3 convolutions of stride 1, their norm after the activation or none, and one pixel
    at its end.
    """
    plain = all(
        isinstance(layer, MaxPool | AveragePool | GlobalAveragePool)
        or (
            isinstance(layer, Convolution)
            and (layer.kernel_size, layer.stride, layer.dilation) == (3, 1, 1)
            and layer.pixels_padded <= 2
            and layer.norm != "before"
        )
        for layer in architecture.layers
    )
    return plain and analyse(architecture).macs <= FUSABLE_MACS


def analyse(architecture: Architecture) -> NetworkAnalysis:
    """One row a module. Flatten costs nothing and has no row; raises ArchitectureError as `operations` does."""
    steps = list(operations(architecture))
    num_params = sum(_num_params(step) for step in steps)
    rows: list[LayerAnalysis] = []
    field, jump, center = 1, 1, 0.0
    for step, read in zip(steps, footprint.read(steps), strict=True):
        field += step.dilation * (step.kernel_size - 1) * jump
        center += (step.dilation * (step.kernel_size - 1) / 2 - step.padding) * jump
        jump *= step.stride
        if step.kind == "Flatten":
            continue
        params = _num_params(step)
        share = params / num_params if num_params else 0.0
        rows.append(
            LayerAnalysis(
                name=f"{step.kind}-{len(rows) + 1}",
                layer=step.layer,
                output_shape=step.output_shape,
                num_params=params,
                share=share,
                macs=_macs(step),
                activations=math.prod(step.output_shape),
                receptive_field=field,
                jump=jump,
                center=center,
                read=read.bit_count(),
            )
        )
    return _network(rows)


def fold(analysis: NetworkAnalysis, architecture: Architecture) -> NetworkAnalysis:
    """The same network with one row a layer: costs added up, shape and field those after its last module."""
    rows = []
    for layer, modules in groupby(analysis.rows, key=lambda row: row.layer):
        group = list(modules)
        last = group[-1]
        rows.append(
            LayerAnalysis(
                name=describe(architecture.layers[layer]),
                layer=layer,
                output_shape=last.output_shape,
                num_params=sum(row.num_params for row in group),
                share=sum(row.share for row in group),
                macs=sum(row.macs for row in group),
                activations=sum(row.activations for row in group),
                receptive_field=last.receptive_field,
                jump=last.jump,
                center=last.center,
                read=last.read,
            )
        )
    return _network(rows)


def describe(layer: Layer) -> str:
    """A layer in words: "3×3 convolution", "2×2 max-pool"."""
    match layer:
        case Convolution(_, k, stride, dilation, padding, norm):
            notes = [f"stride {stride}"] * (stride != 1) + [f"dilation {dilation}"] * (dilation != 1)
            if padding is not None:
                notes.append(f"padding {padding}" if padding else "no padding")
            if norm != "after":
                notes.append("norm first" if norm == "before" else "no norm")
            return f"{k}×{k} convolution" + (f", {', '.join(notes)}" if notes else "")
        case MaxPool(k, s) | AveragePool(k, s):
            kind = "max-pool" if isinstance(layer, MaxPool) else "average pool"
            return f"{k}×{k} {kind}" + (f", stride {s}" if s != k else "")
        case GlobalAveragePool():
            return "Global average pool"
        case Dropout(percent):
            return f"Dropout {percent} %"
        case FullyConnected():
            return "Fully connected"


def activation_bytes(row: LayerAnalysis | NetworkAnalysis, batch_size: int) -> int:
    """What the outputs of a forward pass take, in bytes at 4 a number; training keeps them for the way back."""
    return 4 * batch_size * row.activations


def megabytes(count: int) -> str:
    """2_400_000 -> "2.4 MB"."""
    return f"{count / 1e6:,.1f} MB"


def verdicts(
    analysis: NetworkAnalysis, architecture: Architecture, epochs: int, test_accuracy: float | None
) -> tuple[Verdict, Verdict, Verdict, Verdict]:
    """The assignment's four limits. `test_accuracy` is a fraction at the final epoch, None before training."""
    dense = sum(isinstance(layer, FullyConnected) for layer in architecture.layers)
    return (
        Verdict(PARAMETER_LIMIT, f"{analysis.num_params:,}", _met(analysis.num_params < MAX_PARAMS)),
        Verdict("Under 20 epochs", f"{epochs}", _met(epochs < MAX_EPOCHS)),
        Verdict("No fully connected layer", f"{dense}" if dense else "None", _met(dense == 0)),
        Verdict(
            "99.4 % on the test set",
            "Not trained yet" if test_accuracy is None else percent(test_accuracy, 2),
            "unknown" if test_accuracy is None else _met(test_accuracy >= TARGET_ACCURACY),
        ),
    )


def percent(fraction: float, decimals: int = 1) -> str:
    """0.9954 -> "99.5 %"."""
    return f"{100 * fraction:.{decimals}f} %"


def interval95(accuracy: float, count: int) -> float:
    """Half the width of the 95 % interval of an accuracy (a fraction) measured on `count` images.

    The normal approximation of the binomial, 1.96 sqrt(p (1 - p) / n); at p = 0 or 1 the rule of three, 3 / n.
    """
    if accuracy in (0.0, 1.0):
        return 3 / count
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / count)


def _network(rows: list[LayerAnalysis]) -> NetworkAnalysis:
    return NetworkAnalysis(
        rows=tuple(rows),
        num_params=sum(row.num_params for row in rows),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        receptive_field=rows[-1].receptive_field,
    )


def _met(condition: bool) -> Status:
    return "met" if condition else "missed"


def _num_params(step: Operation) -> int:
    inputs, outputs = step.input_shape[0], step.output_shape[0]
    match step.kind:
        case "Conv2d":
            return outputs * inputs * step.kernel_size**2 + outputs
        case "BatchNorm2d":
            return 2 * outputs
        case "Linear":
            return outputs * inputs + outputs
    return 0


def _macs(step: Operation) -> int:
    """Multiply-accumulates of the convolutions and dense layers; the rest is not counted, as is usual."""
    inputs, (outputs, height, width) = step.input_shape[0], step.output_shape
    match step.kind:
        case "Conv2d":
            return outputs * height * width * inputs * step.kernel_size**2
        case "Linear":
            return inputs * outputs
    return 0
