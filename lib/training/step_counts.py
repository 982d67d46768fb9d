"""Count what the time of a training step depends on, without torch.

The compiled kernels (`lib.nn.kernels`) do nearly all of the work of most networks. They compute convolutions and linear
layers in tiles, whose time depends on their shape; all other operations take a time for each value that they read and
write. Kinds of operations that no kernel has, and linear layers with many weights, are left to torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib.design.layers import Architecture, Shape
from lib.design.operation_specs import num_macs, num_params
from lib.design.operations import Operation, operations
from lib.design.recipe import Recipe

# Linear layers with more weights are faster in torch.
MAX_LINEAR_WEIGHTS = 100_000
# Cycles in which a multiply-add must end before the next one of the same sum begins.
LATENCY = 4
# Cycles around a tile of a convolution, and for each number of a tile of weights.
TILE, WEIGHT = 20, 12
COMPILED = frozenset(
    {
        "Conv2d", "Linear", "ReLU", "BatchNorm2d", "BatchNorm1d", "GhostBatchNorm2d", "GroupNorm", "InstanceNorm2d",
        "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Dropout", "Dropout2d", "Flatten", "Add",
        "Concat",
    }
)  # fmt: skip


@dataclass(frozen=True)
class TileSizes:
    """The largest tiles: positions and channels of a convolution, channels and weights of a gradient.

    `lanes` is the number of images that the kernels compute at once.
    """

    positions: int
    channels: int
    grad_channels: int
    weights: int
    lanes: int


@dataclass(frozen=True)
class StepCounts:
    """What a number of training steps do.

    - `steps`; `operations`: operations of the network in each step; `parameters`: parameters in each step.
    - `images`, `augmented_images`.
    - `cycles`: of the tiles of convolutions and linear layers, for the blocks of images of one thread.
    - `values`: inputs and outputs of convolutions, and inputs of pools and joins, likewise.
    - `dropped_values`: outputs of dropouts, likewise.
    - `external_values`, `external_macs`: outputs and multiply-accumulates of operations that torch computes.
    """

    steps: float
    operations: float
    parameters: float
    images: float
    augmented_images: float
    cycles: float
    values: float
    dropped_values: float
    external_values: float
    external_macs: float


def step_counts(
    architecture: Architecture, recipe: Recipe, steps: float, batch_size: int, threads: int, sizes: TileSizes
) -> StepCounts:
    """Count what `steps` steps with `batch_size` images do, outliers and synthetic digits included.

    `threads` is the number of threads of the kernels, which share the blocks of a batch.
    """
    blocks = -(-batch_size // sizes.lanes)
    # Those of the thread with the most of them; the others wait for it.
    thread_blocks = steps * -(-blocks // threads)
    cycles = values = dropped = external_values = external_macs = 0.0
    needs_grad = False
    kernels = operations(architecture)
    for operation in kernels:
        count = math.prod(operation.output_shape)
        match operation.kind:
            case "Conv2d" | "Linear" if not _is_external(operation):
                cycles += _cycles(operation, needs_grad, sizes)
                values += count + math.prod(operation.input_shape)
                needs_grad = True
            case "MaxPool2d" | "AvgPool2d" | "AdaptiveAvgPool2d" | "AdaptiveMaxPool2d" | "Add" | "Concat":
                values += math.prod(operation.input_shape)
            case "Dropout":
                dropped += count
            case kind if _is_external(operation) and kind != "Flatten":
                external_values += count + math.prod(operation.input_shape)
                external_macs += num_macs(operation)
                needs_grad = True
            case _:
                pass
    images = steps * batch_size
    return StepCounts(
        steps,
        steps * len(kernels),
        steps * sum(map(num_params, kernels)),
        images,
        images * recipe.augmentation.active,
        thread_blocks * cycles,
        thread_blocks * sizes.lanes * values,
        thread_blocks * sizes.lanes * dropped,
        images * external_values,
        images * external_macs,
    )


def _is_external(operation: Operation) -> bool:
    is_wide = operation.kind == "Linear" and num_params(operation) > MAX_LINEAR_WEIGHTS
    return is_wide or operation.kind not in COMPILED


def _cycles(operation: Operation, needs_grad: bool, sizes: TileSizes) -> float:
    """Cycles of the tiles of a convolution or linear layer, for a block of images: forward and backward pass."""
    inputs, outputs = operation.input_shape, operation.output_shape
    kernel = operation.kernel_size
    if operation.kind == "Linear":
        inputs, kernel = (math.prod(inputs), 1, 1), (1, 1)
    groups = operation.groups
    ins, outs, taps = inputs[0] // groups, outputs[0] // groups, math.prod(kernel)
    total = _tile_cycles(outputs, outs, ins * taps, sizes)
    total += _grad_cycles(outs, ins * taps, outputs[1] * outputs[2], sizes)
    if needs_grad:
        # With a stride, each position of the input has one tap in so many.
        total += _tile_cycles(inputs, ins, max(1, outs * taps // math.prod(operation.stride)), sizes)
    return groups * total


def _tile_cycles(shape: Shape, channels: int, count: int, sizes: TileSizes) -> float:
    _, rows, columns = shape
    return rows * sum(
        count * _multiply_adds(width, height) + TILE
        for width in _parts(columns, sizes.positions)
        for height in _parts(channels, sizes.channels)
    )


def _grad_cycles(channels: int, count: int, positions: int, sizes: TileSizes) -> float:
    return sum(
        positions * _multiply_adds(width, height) + WEIGHT * width * height
        for width in _parts(count, sizes.weights)
        for height in _parts(channels, sizes.grad_channels)
    )


def _multiply_adds(width: int, height: int) -> int:
    """Cycles of a loop with width * height multiply-adds, which loads width + height numbers."""
    return max(width * height, width + height, LATENCY)


def _parts(count: int, largest: int) -> list[int]:
    """The sizes of the tiles along one side, see `lib.nn.tiles.bounds`."""
    parts = -(-count // largest)
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]
