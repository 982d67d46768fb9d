"""A network as data: its layers, in order, as frozen dataclasses.

Each class has the fields of one kind of layer, its `token` in the notation (`lib.design.notation`) and its
`description` in words. `lib.design.operations` has the torch modules of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# The ten digits.
CLASSES = 10
# (channels, height, width) of an image.
INPUT_SHAPE = (1, 28, 28)
MAX_CHANNELS = 2048
MAX_LAYERS = 64
# Limit of kernel sizes, strides, dilations and paddings.
MAX_KERNEL = 28
# Percent.
MAX_DROPOUT = 90

Shape: TypeAlias = tuple[int, int, int]
Norm: TypeAlias = Literal["after", "before", "none"]


class ArchitectureError(ValueError):
    """A network that cannot be built. The message is a sentence that names the problem and a remedy."""


@dataclass(frozen=True)
class Convolution:
    """A square convolution with bias, followed by ReLU and batch norm in the order given by `norm`.

    `padding` is the number of pixels on each side. None means dilation * (kernel_size - 1) // 2, which keeps the size
    for odd kernels with stride 1. The exercise puts its batch norm after the activation.
    """

    channels: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    norm: Norm = "after"

    @property
    def padding_pixels(self) -> int:
        """Padding on each side, also if `padding` is None."""
        return self.dilation * (self.kernel_size - 1) // 2 if self.padding is None else self.padding

    @property
    def extent(self) -> int:
        """Side of the square covered by the dilated kernel, in input pixels."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def token(self) -> str:
        return (
            f"{self.channels}"
            + (f"k{self.kernel_size}" if self.kernel_size != 3 else "")
            + (f"s{self.stride}" if self.stride != 1 else "")
            + (f"d{self.dilation}" if self.dilation != 1 else "")
            + ("" if self.padding is None else f"p{self.padding}" if self.padding else "v")
            + {"after": "", "before": "b", "none": "n"}[self.norm]
        )

    @property
    def description(self) -> str:
        notes = []
        if self.stride != 1:
            notes.append(f"stride {self.stride}")
        if self.dilation != 1:
            notes.append(f"dilation {self.dilation}")
        if self.padding is not None:
            notes.append(f"padding {self.padding}" if self.padding else "no padding")
        if self.norm != "after":
            notes.append("norm first" if self.norm == "before" else "no norm")
        return ", ".join([f"{self.kernel_size}×{self.kernel_size} convolution", *notes])


@dataclass(frozen=True)
class MaxPool:
    """Maximum over square windows, without padding. A window that does not fit at the edge is left out."""

    kernel_size: int = 2
    stride: int = 2

    @property
    def token(self) -> str:
        return "M" if self == MaxPool() else f"M{self.kernel_size}s{self.stride}"

    @property
    def description(self) -> str:
        return _pool_description("max-pool", self)


@dataclass(frozen=True)
class AveragePool:
    """Mean over square windows, without padding. A window that does not fit at the edge is left out."""

    kernel_size: int = 2
    stride: int = 2

    @property
    def token(self) -> str:
        return f"A{self.kernel_size}s{self.stride}"

    @property
    def description(self) -> str:
        return _pool_description("average pool", self)


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean of each channel over all positions."""

    @property
    def token(self) -> str:
        return "A"

    @property
    def description(self) -> str:
        return "Global average pool"


@dataclass(frozen=True)
class FullyConnected:
    """A linear layer with bias over all values of its input. ReLU follows unless its outputs are the logits."""

    features: int

    @property
    def token(self) -> str:
        return f"{self.features}f"

    @property
    def description(self) -> str:
        return "Fully connected"


@dataclass(frozen=True)
class Dropout:
    """Zeroes each value with a probability of `percent` percent in training; does nothing in evaluation."""

    percent: int

    @property
    def token(self) -> str:
        return f"D{self.percent}"

    @property
    def description(self) -> str:
        return f"Dropout {self.percent} %"


Layer: TypeAlias = Convolution | MaxPool | AveragePool | GlobalAveragePool | Dropout | FullyConnected


@dataclass(frozen=True)
class Architecture:
    """The layers, first to last. `parse` and `validate` check that they fit together."""

    layers: tuple[Layer, ...]


def logits_layer(architecture: Architecture) -> int:
    """Index of the last layer with weights, whose outputs are the logits; -1 if no layer has weights."""
    return max(
        (i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution | FullyConnected)),
        default=-1,
    )


def _pool_description(kind: str, pool: MaxPool | AveragePool) -> str:
    size = f"{pool.kernel_size}×{pool.kernel_size} {kind}"
    return size if pool.stride == pool.kernel_size else f"{size}, stride {pool.stride}"
