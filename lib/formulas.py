"""How each number of a layer comes about: the formula with the layer's own numbers in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from lib.architecture import Architecture, Operation, operations


@dataclass(frozen=True)
class Working:
    """The sums behind one layer's row, each as "calculation = result"; a result alone where nothing is calculated."""

    size: str
    parameters: str
    macs: str
    receptive_field: str
    jump: str
    center: str


def workings(architecture: Architecture) -> tuple[Working, ...]:
    """One a layer, as `lib.analysis.fold` has rows. Raises ArchitectureError as `operations` does."""
    found = []
    field, jump, center = 1, 1, 0.0
    for _, group in groupby(operations(architecture), key=lambda step: step.layer):
        steps = list(group)
        # The module that moves over the map; that of a dense layer is its Flatten, which spans it.
        mover = max(steps, key=lambda step: step.kernel_size)
        reach = mover.dilation * (mover.kernel_size - 1)
        span = f"{mover.dilation} · " * (mover.dilation != 1) + f"({mover.kernel_size} − 1)"
        wider, farther = field + reach * jump, jump * mover.stride
        moved = center + (reach / 2 - mover.padding) * jump
        found.append(
            Working(
                size=_size(mover, span),
                parameters=_parameters(steps),
                macs=_macs(steps),
                receptive_field=f"{field} + {span} · {jump} = {wider}",
                jump=f"{jump} · {mover.stride} = {farther}",
                center=f"{_signed(center)} + ({span} / 2 − {mover.padding}) · {jump} = {_signed(moved)}",
            )
        )
        field, jump, center = wider, farther, moved
    return tuple(found)


def _size(mover: Operation, span: str) -> str:
    (_, before, _), (_, after, _) = mover.input_shape, mover.output_shape
    if mover.kind in ("Flatten", "Linear", "AdaptiveAvgPool2d"):
        return f"{after}"
    padded = f"{before} + 2 · {mover.padding}" if mover.padding else f"{before}"
    return f"⌊({padded} − {span} − 1) / {mover.stride}⌋ + 1 = {after}"


def _parameters(steps: list[Operation]) -> str:
    """Weights and biases of the layer, then scale and shift of its norm."""
    parts = []
    for step in steps:
        inputs, outputs = step.input_shape[0], step.output_shape[0]
        match step.kind:
            case "Conv2d":
                total = outputs * inputs * step.kernel_size**2 + outputs
                parts.append(f"{outputs} · {inputs} · {step.kernel_size}² + {outputs} = {total:,}")
            case "Linear":
                parts.append(f"{outputs} · {inputs} + {outputs} = {outputs * inputs + outputs:,}")
            case "BatchNorm2d":
                parts.append(f"batch norm 2 · {outputs} = {2 * outputs:,}")
    return "; ".join(parts) or "0"


def _macs(steps: list[Operation]) -> str:
    """One multiplication for each weight, for each output position of a convolution."""
    parts = []
    for step in steps:
        inputs, (outputs, height, width) = step.input_shape[0], step.output_shape
        match step.kind:
            case "Conv2d":
                total = outputs * height * width * inputs * step.kernel_size**2
                parts.append(f"{outputs} · {height} · {width} · {inputs} · {step.kernel_size}² = {total:,}")
            case "Linear":
                parts.append(f"{outputs} · {inputs} = {outputs * inputs:,}")
    return "; ".join(parts) or "0"


def _signed(number: float) -> str:
    return f"{number:g}".replace("-", "−")
