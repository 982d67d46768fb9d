"""The network as data, and the one line of text that names it.

- `parse` reads the notation, `notation` writes it; `parse(notation(a)) == a`.
- `operations` lays the layers out on a 28x28 image: what torch will build, with every shape known.
- Whatever can be wrong with a network is an `ArchitectureError` whose text is a sentence for the user.

The notation, one token a layer, separated by spaces or commas:

    16        convolution 3x3 with 16 output channels, padded so that a stride of 1 keeps the size, ReLU, batch norm
    16k5      kernel 5x5            16s2   stride 2            16d2   dilation 2
    16v       'valid': no padding   16p2   padding 2 on each side
    16n       no batch norm         16b    batch norm before the activation, not after it
    M  M3s2   max-pool 2x2, or 3x3 with stride 2
    A  A3s2   global average pool, or 3x3 with stride 2
    D10       dropout of 10 %
    64f       fully connected layer with 64 outputs

The last layer with weights gives the logits: neither ReLU nor norm follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

CLASSES = 10
INPUT_SHAPE = (1, 28, 28)
MAX_CHANNELS = 2048
MAX_LAYERS = 64
MAX_KERNEL = 28
MAX_DROPOUT = 90

Shape: TypeAlias = tuple[int, int, int]
OperationKind: TypeAlias = Literal[
    "Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Dropout", "Flatten", "Linear"
]
Norm: TypeAlias = Literal["after", "before", "none"]


class ArchitectureError(ValueError):
    """A network that cannot be built. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Convolution:
    """A square convolution with bias, then ReLU and batch norm, in the order that `norm` says.

    `padding` is that of each side; None stands for dilation (kernel_size - 1) // 2, which keeps the size where that is
    a whole number. The assignment puts its norm after the activation.
    """

    channels: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    norm: Norm = "after"

    @property
    def pixels_padded(self) -> int:
        return self.dilation * (self.kernel_size - 1) // 2 if self.padding is None else self.padding

    @property
    def extent(self) -> int:
        """Side of the square that the dilated kernel spans, in pixels of its input."""
        return self.dilation * (self.kernel_size - 1) + 1


@dataclass(frozen=True)
class MaxPool:
    kernel_size: int = 2
    stride: int = 2


@dataclass(frozen=True)
class AveragePool:
    kernel_size: int = 2
    stride: int = 2


@dataclass(frozen=True)
class GlobalAveragePool:
    pass


@dataclass(frozen=True)
class FullyConnected:
    """Every output reads every value of the layer below; ReLU follows unless these are the logits."""

    features: int


@dataclass(frozen=True)
class Dropout:
    """In training, each value is zero with a chance of `percent`; there is nothing of it afterwards."""

    percent: int


Layer: TypeAlias = Convolution | MaxPool | AveragePool | GlobalAveragePool | Dropout | FullyConnected


@dataclass(frozen=True)
class Architecture:
    """The layers, first to last. Use `parse` or `validate` to know that they fit together."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Operation:
    """One nn module with its shapes (channels, height, width); `layer` counts from 0, `chance` is that of a dropout."""

    kind: OperationKind
    layer: int
    input_shape: Shape
    output_shape: Shape
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    chance: float = 0.0


@dataclass(frozen=True)
class Preset:
    title: str
    text: str
    story: str


PRESETS = (
    Preset(
        "The answer, as its code reads",
        "4 4 8 M 12 12 16 M 20v 10v A",
        "9,274 parameters and 99.54 %: eight narrow convolutions beat the six wide ones the course started from.",
    ),
    Preset(
        "The answer, as its table reads",
        "4 4 8 M 12 12 16v M 20 10v A3s2",
        "The same 9,274 parameters, but convolution 6 is unpadded instead of convolution 7, and the last pool reads "
        "only 9 of the 16 positions below it.",
    ),
    Preset(
        "The starting network",
        "32n 64n M 128n 256n M 512vn 1024vn 10v",
        "6,379,786 parameters: where the course began. Most of them sit in one layer.",
    ),
    Preset(
        "A quarter of the budget",
        "4 4 8 M 8 8 8 M 8v 10v A",
        "3,646 parameters: depth kept, width cut.",
    ),
    Preset(
        "A fully connected head",
        "8 16 M 16 16 M 32f 10f",
        "What the assignment forbids: one dense layer holds most of the parameters.",
    ),
    Preset(
        "Shallow and wide",
        "128n M 256n M 10 A",
        "319,498 parameters in three convolutions: the group found that many parameters do not make up for few layers.",
    ),
    Preset(
        "1 → 8 → 16 → 32",
        "8n 8n M 16n 16n M 32n 10v A",
        "11,682 parameters: more layers, channels growing in small steps. Networks like it reached 99.4 %.",
    ),
    Preset(
        "6k without norm",
        "4n 4n 8n M 12n 12n 12n M 12vn 10v A",
        "6,374 parameters, no batch norm: at this size the group saw 99.3 % and no more. Norm and a schedule helped.",
    ),
)

# What the comments in the assignment's code say of the receptive field after each layer of its answer, the first two
# presets; none for its max-pools. They double the field at a pool, which is wrong: `lib.analysis` has the true ones.
ASSIGNMENT_FIELDS = (3, 5, 7, None, 14, 16, 18, None, 36, 38, 77)

_TOKEN = re.compile(
    r"(?P<pool>[MA])(?P<size>\d{1,2})?(?:s(?P<pool_stride>\d{1,2}))?"
    r"|(?P<features>\d{1,5})f"
    r"|D(?P<percent>\d{1,2})"
    r"|(?P<channels>\d{1,5})(?P<suffixes>(?:[ksdp]\d{1,2}|v|n|b)*)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"([ksdpvnb])(\d*)", re.IGNORECASE)


def parse(text: str) -> Architecture:
    """Read the notation. Raises ArchitectureError naming the token, its place and what was expected."""
    tokens = text.replace(",", " ").split()
    if not tokens:
        raise ArchitectureError("The network is empty. Type channel widths, for example 4 8 M 16 10 A.")
    if len(tokens) > MAX_LAYERS:
        raise ArchitectureError(f"The network has {len(tokens)} layers; the limit is {MAX_LAYERS}. Remove some.")
    architecture = Architecture(tuple(_layer(token, place) for place, token in enumerate(tokens, start=1)))
    validate(architecture)
    return architecture


def notation(architecture: Architecture) -> str:
    """The one text of an architecture; `parse` reads it back."""
    return " ".join(token(layer) for layer in architecture.layers)


def token(layer: Layer) -> str:
    """One layer in the notation, defaults left out."""
    match layer:
        case Convolution(channels, kernel_size, stride, dilation, padding, norm):
            return (
                f"{channels}"
                + (f"k{kernel_size}" if kernel_size != 3 else "")
                + (f"s{stride}" if stride != 1 else "")
                + (f"d{dilation}" if dilation != 1 else "")
                + ("" if padding is None else f"p{padding}" if padding else "v")
                + {"after": "", "before": "b", "none": "n"}[norm]
            )
        case MaxPool(2, 2):
            return "M"
        case MaxPool(kernel_size, stride):
            return f"M{kernel_size}s{stride}"
        case AveragePool(kernel_size, stride):
            return f"A{kernel_size}s{stride}"
        case GlobalAveragePool():
            return "A"
        case Dropout(percent):
            return f"D{percent}"
        case FullyConnected(features):
            return f"{features}f"


def validate(architecture: Architecture) -> None:
    """Raises ArchitectureError where the layers do not fit together or do not end in ten numbers."""
    *_, last = operations(architecture)
    shape = last.input_shape if last.kind == "Flatten" else last.output_shape
    if shape != (CLASSES, 1, 1):
        raise ArchitectureError(
            f"The network ends in {shape_text(shape)}; ten digits need {CLASSES} × 1 × 1. "
            f"Make the last convolution {CLASSES} channels wide and end with A, the global average pool."
        )


def operations(architecture: Architecture) -> Iterator[Operation]:
    """The nn modules of the network in order, shapes followed from 1x28x28; the last is always Flatten or Linear.

    Raises ArchitectureError where too few pixels reach a layer.
    """
    logits = logits_layer(architecture)
    shape: Shape = INPUT_SHAPE
    flat = False
    for index, layer in enumerate(architecture.layers):
        channels, size, _ = shape
        if flat and not isinstance(layer, FullyConnected | Dropout):
            raise ArchitectureError(
                f"Layer {index + 1} ({token(layer)}) needs an image, but layer {index} is fully connected and leaves "
                "none. Move it before the fully connected layers."
            )
        match layer:
            case Convolution(out_channels, kernel_size, stride, dilation, _, norm):
                padding = layer.pixels_padded
                out = _output_size(layer, index, size, layer.extent, stride, padding)
                before, shape = shape, (out_channels, out, out)
                yield Operation("Conv2d", index, before, shape, kernel_size, stride, padding, dilation)
                if index != logits:
                    then: list[OperationKind] = ["ReLU"]
                    if norm != "none":
                        then.insert(0 if norm == "before" else 1, "BatchNorm2d")
                    for kind in then:
                        yield Operation(kind, index, shape, shape)
            case MaxPool(kernel_size, stride) | AveragePool(kernel_size, stride):
                out = _output_size(layer, index, size, kernel_size, stride, 0)
                before, shape = shape, (channels, out, out)
                pool: OperationKind = "MaxPool2d" if isinstance(layer, MaxPool) else "AvgPool2d"
                yield Operation(pool, index, before, shape, kernel_size, stride)
            case GlobalAveragePool():
                before, shape = shape, (channels, 1, 1)
                yield Operation("AdaptiveAvgPool2d", index, before, shape, size)
            case Dropout(percent):
                yield Operation("Dropout", index, shape, shape, chance=percent / 100)
            case FullyConnected(features):
                if not flat:
                    before, shape = shape, (channels * size * size, 1, 1)
                    yield Operation("Flatten", index, before, shape, size)
                    flat = True
                before, shape = shape, (features, 1, 1)
                yield Operation("Linear", index, before, shape)
                if index != logits:
                    yield Operation("ReLU", index, shape, shape)
    if not flat:
        yield Operation(
            "Flatten", len(architecture.layers) - 1, shape, (shape[0] * shape[1] * shape[2], 1, 1), shape[1]
        )


def logits_layer(architecture: Architecture) -> int:
    """Index of the last layer with weights, whose outputs are the logits; -1 where no layer has any."""
    return max(
        (i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution | FullyConnected)),
        default=-1,
    )


def shape_text(shape: Shape) -> str:
    """16 × 7 × 7: channels, height, width."""
    return " × ".join(str(n) for n in shape)


def _output_size(layer: Layer, index: int, size: int, kernel_size: int, stride: int, padding: int) -> int:
    if size + 2 * padding < kernel_size:
        raise ArchitectureError(
            f"Layer {index + 1} ({token(layer)}) needs {kernel_size}×{kernel_size} pixels, but only {size}×{size} "
            "reach it. Remove a pool or a v before it, or make its kernel smaller."
        )
    return (size + 2 * padding - kernel_size) // stride + 1


def _layer(text: str, place: int) -> Layer:
    """Read one token; `place` counts from 1 and appears in the error."""
    match = _TOKEN.fullmatch(text)
    shown = text if len(text) <= 20 else text[:20] + "…"
    if match is None or not text.isascii():
        raise ArchitectureError(
            f"Token {place}, “{shown}”, is not a layer. Write a channel width (16, 16v, 16k5), M or A for a pool, "
            "D10 for dropout, or 10f for a fully connected layer."
        )

    def bounded(number: str | int, name: str, largest: int, least: int = 1) -> int:
        if not least <= int(number) <= largest:
            raise ArchitectureError(f"Token {place}, “{shown}”: {name} must be from {least} to {largest}.")
        return int(number)

    if match["pool"]:
        if match["size"] is None and match["pool_stride"] is not None:
            raise ArchitectureError(f"Token {place}, “{shown}”: a pool's stride follows its size, as in M3s2.")
        if match["size"] is None:
            return MaxPool() if match["pool"].upper() == "M" else GlobalAveragePool()
        size = bounded(match["size"], "a pool's size", MAX_KERNEL)
        stride = bounded(match["pool_stride"] or size, "a pool's stride", MAX_KERNEL)
        return MaxPool(size, stride) if match["pool"].upper() == "M" else AveragePool(size, stride)
    if match["percent"]:
        return Dropout(bounded(match["percent"], "a dropout's per cent", MAX_DROPOUT))
    if match["features"]:
        return FullyConnected(bounded(match["features"], "the number of outputs", MAX_CHANNELS))
    suffixes = [(letter.lower(), number) for letter, number in _SUFFIX.findall(match["suffixes"])]
    if len({letter for letter, _ in suffixes}) < len(suffixes):
        raise ArchitectureError(f"Token {place}, “{shown}”: a suffix appears twice. Write each of them once.")
    given = dict(suffixes)
    for one, other in (("v", "p"), ("n", "b")):
        if one in given and other in given:
            raise ArchitectureError(
                f"Token {place}, “{shown}”: {one} and {other} exclude each other. Write one of them."
            )
    padding = 0 if "v" in given else bounded(given["p"], "a padding", MAX_KERNEL, 0) if "p" in given else None
    return Convolution(
        channels=bounded(match["channels"], "the number of channels", MAX_CHANNELS),
        kernel_size=bounded(given.get("k", 3), "a kernel's size", MAX_KERNEL),
        stride=bounded(given.get("s", 1), "a stride", MAX_KERNEL),
        dilation=bounded(given.get("d", 1), "a dilation", MAX_KERNEL),
        padding=padding,
        norm="none" if "n" in given else "before" if "b" in given else "after",
    )
