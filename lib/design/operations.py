"""The nn modules that a network consists of, with every shape known before torch builds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lib.design.layers import (
    CLASSES,
    INPUT_SHAPE,
    Architecture,
    ArchitectureError,
    AveragePool,
    Convolution,
    Dropout,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Shape,
    logits_layer,
)
from lib.text.formatting import shape_text

# Ten logits, as a map of one pixel.
OUTPUT_SHAPE: Shape = (CLASSES, 1, 1)

OperationKind: TypeAlias = Literal[
    "Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Dropout", "Flatten", "Linear"
]


@dataclass(frozen=True)
class Operation:
    """One nn module. Shapes are (channels, height, width); `layer` is the index of its layer; `p` is for dropout.

    `kernel_size`, `stride`, `padding` and `dilation` also describe how a pool, or the flattening of a map, moves over
    its input, so receptive fields need no case for each kind.
    """

    kind: OperationKind
    layer: int
    input_shape: Shape
    output_shape: Shape
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    p: float = 0.0


def validate(architecture: Architecture) -> None:
    """Raise ArchitectureError if the layers do not fit together or do not end in ten numbers."""
    *_, last = operations(architecture)
    shape = last.input_shape if last.kind == "Flatten" else last.output_shape
    if shape != OUTPUT_SHAPE:
        raise ArchitectureError(
            f"The network ends in {shape_text(shape)}; ten digits need {shape_text(OUTPUT_SHAPE)}. "
            f"Make the last convolution {CLASSES} channels wide and end with A, the global average pool."
        )


def operations(architecture: Architecture) -> Iterator[Operation]:
    """The nn modules in order, starting from a 1×28×28 image; the last is always Flatten or Linear.

    Raises ArchitectureError if an image too small for its kernel reaches a layer, or none at all.
    """
    logits = logits_layer(architecture)
    shape: Shape = INPUT_SHAPE
    flat = False
    for index, layer in enumerate(architecture.layers):
        output_shape = layer_output_shape(layer, shape, flat)
        if output_shape is None:
            raise _misfit(layer, index, shape, flat)
        if isinstance(layer, FullyConnected) and not flat:
            flatten = _flatten(index, shape)
            shape, flat = flatten.output_shape, True
            yield flatten
        yield from _layer_operations(layer, index, shape, output_shape, is_logits=index == logits)
        shape = output_shape
    if not flat:
        yield _flatten(len(architecture.layers) - 1, shape)


def layer_output_shape(layer: Layer, shape: Shape, flat: bool) -> Shape | None:
    """Output shape of a layer whose input has `shape`, or None if the layer cannot follow.

    `flat` says that a fully connected layer came before: no image is left, so only such layers and dropout may follow.
    """
    channels, size, _ = shape
    if flat and not isinstance(layer, FullyConnected | Dropout):
        return None
    match layer:
        case Convolution(channels=out_channels):
            side = _output_size(size + 2 * layer.padding_pixels, layer.extent, layer.stride)
            return (out_channels, side, side) if side else None
        case MaxPool(kernel_size=kernel_size, stride=stride) | AveragePool(kernel_size=kernel_size, stride=stride):
            side = _output_size(size, kernel_size, stride)
            return (channels, side, side) if side else None
        case GlobalAveragePool():
            return (channels, 1, 1)
        case FullyConnected(features=features):
            return (features, 1, 1)
        case Dropout():
            return shape


def _layer_operations(
    layer: Layer, index: int, input_shape: Shape, output_shape: Shape, is_logits: bool
) -> Iterator[Operation]:
    """The nn modules of one layer. Neither ReLU nor norm follows the logits."""
    relu = Operation("ReLU", index, output_shape, output_shape)
    match layer:
        case Convolution(kernel_size=kernel_size, stride=stride, dilation=dilation, norm=norm):
            yield Operation(
                "Conv2d",
                index,
                input_shape,
                output_shape,
                kernel_size=kernel_size,
                stride=stride,
                padding=layer.padding_pixels,
                dilation=dilation,
            )
            if not is_logits:
                batch_norm = Operation("BatchNorm2d", index, output_shape, output_shape)
                yield from {"after": (relu, batch_norm), "before": (batch_norm, relu), "none": (relu,)}[norm]
        case MaxPool(kernel_size=kernel_size, stride=stride):
            yield Operation("MaxPool2d", index, input_shape, output_shape, kernel_size=kernel_size, stride=stride)
        case AveragePool(kernel_size=kernel_size, stride=stride):
            yield Operation("AvgPool2d", index, input_shape, output_shape, kernel_size=kernel_size, stride=stride)
        case GlobalAveragePool():
            yield Operation("AdaptiveAvgPool2d", index, input_shape, output_shape, kernel_size=input_shape[1])
        case Dropout(percent=percent):
            yield Operation("Dropout", index, input_shape, output_shape, p=percent / 100)
        case FullyConnected():
            yield Operation("Linear", index, input_shape, output_shape)
            if not is_logits:
                yield relu


def _flatten(index: int, shape: Shape) -> Operation:
    channels, height, width = shape
    return Operation("Flatten", index, shape, (channels * height * width, 1, 1), kernel_size=height)


def _output_size(size: int, extent: int, stride: int) -> int:
    """Positions of a window of `extent` on `size` pixels, padding included; 0 if it does not fit."""
    return max(0, (size - extent) // stride + 1)


def _misfit(layer: Layer, index: int, shape: Shape, flat: bool) -> ArchitectureError:
    if flat:
        return ArchitectureError(
            f"Layer {index + 1} ({layer.token}) needs an image, but layer {index} is fully connected and leaves "
            "none. Move it before the fully connected layers."
        )
    # Only windows can be too large for an image.
    assert isinstance(layer, Convolution | MaxPool | AveragePool)
    extent, size = layer.extent if isinstance(layer, Convolution) else layer.kernel_size, shape[1]
    return ArchitectureError(
        f"Layer {index + 1} ({layer.token}) needs {extent}×{extent} pixels, but only {size}×{size} "
        "reach it. Remove a pool or a v before it, or make its kernel smaller."
    )
