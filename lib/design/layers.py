"""A network as data: its layers, in order, as frozen dataclasses.

Each class has the fields of one kind of layer, its text in the notation (`lib.design.notation`) and its `description`
in words. `lib.design.operations` has the torch modules of a layer.

Branches are layers too, so that a network is one flat tuple: `Fork` begins them, `Branch` separates them, and `Join`
adds or concatenates their outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

# The ten digits.
CLASSES = 10
# (channels, height, width) of an image.
INPUT_SHAPE = (1, 28, 28)
# Of the pixels of the training images, scaled to 0 to 1. Every image is normalized by them.
MEAN, STD = 0.1307, 0.3081
MAX_CHANNELS = 2048
# A ResNet-50 has 127 layers in the notation.
MAX_LAYERS = 160
# Branches within branches.
MAX_NESTED = 8
# Limit of kernel sizes, strides, dilations and paddings.
MAX_KERNEL = 28
# Percent.
MAX_DROPOUT = 90

Shape: TypeAlias = tuple[int, int, int]
# (height, width).
Pair: TypeAlias = tuple[int, int]
# A number for both axes, or (height, width) if they differ.
Size: TypeAlias = int | Pair
NormPlacement: TypeAlias = Literal["after", "before", "none"]
JoinKind: TypeAlias = Literal["add", "cat"]


# What the end of branches is called: it does not know its kind, the fork does.
JOIN_NAMES: Mapping[JoinKind, str] = {"add": "Sum of the branches", "cat": "Concatenation of the branches"}


class ArchitectureError(ValueError):
    """A network that cannot be built. The message is a sentence that names the problem and a remedy."""


@dataclass(frozen=True)
class ActivationSpec:
    """What is known of an activation function.

    - `module`: the class in torch.nn. `title`: its usual name.
    - `parameter`: the name of its number, with `default`, torch's default; None if it has none.
    - `can_be_dead`: whether it has an output of 0 with a gradient of 0, so that a channel may stop learning.
    """

    module: str
    title: str
    parameter: str | None = None
    default: float | None = None
    can_be_dead: bool = False


ACTIVATIONS: Mapping[str, ActivationSpec] = {
    "relu": ActivationSpec("ReLU", "ReLU", can_be_dead=True),
    "relu6": ActivationSpec("ReLU6", "ReLU6", can_be_dead=True),
    "leaky": ActivationSpec("LeakyReLU", "Leaky ReLU", "negative_slope", 0.01),
    "prelu": ActivationSpec("PReLU", "PReLU"),
    "elu": ActivationSpec("ELU", "ELU", "alpha", 1.0),
    "celu": ActivationSpec("CELU", "CELU", "alpha", 1.0),
    "selu": ActivationSpec("SELU", "SELU"),
    "gelu": ActivationSpec("GELU", "GELU"),
    "silu": ActivationSpec("SiLU", "SiLU"),
    "mish": ActivationSpec("Mish", "Mish"),
    "hardswish": ActivationSpec("Hardswish", "Hardswish", can_be_dead=True),
    "softplus": ActivationSpec("Softplus", "Softplus"),
    "tanh": ActivationSpec("Tanh", "Tanh"),
    "sigmoid": ActivationSpec("Sigmoid", "Sigmoid"),
}


@dataclass(frozen=True)
class NormalizationSpec:
    """What is known of a normalization; `is_grouped` says that its name is followed by a number of groups."""

    title: str
    is_grouped: bool = False


NORMALIZATIONS: Mapping[str, NormalizationSpec] = {
    "bn": NormalizationSpec("batch norm"),
    "gbn": NormalizationSpec("ghost batch norm", is_grouped=True),
    "gn": NormalizationSpec("group norm", is_grouped=True),
    # Over channels, height and width; and over the channels of each position (Liu et al., "A ConvNet for the 2020s").
    "ln": NormalizationSpec("layer norm"),
    "ln2d": NormalizationSpec("layer norm over channels"),
    "in": NormalizationSpec("instance norm"),
}


@dataclass(frozen=True)
class Activation:
    """An activation function: a key of ACTIVATIONS, and its number if it has one (see `ActivationSpec.parameter`)."""

    name: str = "relu"
    parameter: float | None = None

    @property
    def spec(self) -> ActivationSpec:
        return ACTIVATIONS[self.name]

    @property
    def word(self) -> str:
        """Its name with its number, such as "leaky0.1"; torch's default number is not written."""
        return self.name + ("" if self.parameter == self.spec.default else f"{self.parameter:g}")

    @property
    def token(self) -> str:
        return "R" if self == Activation() else self.word

    @property
    def description(self) -> str:
        number = "" if self.parameter == self.spec.default else f" {self.parameter:g}"
        return self.spec.title + number


@dataclass(frozen=True)
class Normalization:
    """A normalization: a key of NORMALIZATIONS, and a number of groups if it has one.

    `groups` are the groups of channels of a group norm, and the parts of a batch of a ghost batch norm. All have a
    weight and a bias, except instance norm, as in torch.
    """

    name: str = "bn"
    groups: int | None = None

    @property
    def spec(self) -> NormalizationSpec:
        return NORMALIZATIONS[self.name]

    @property
    def word(self) -> str:
        """Its name with its groups, such as "gn4"."""
        return self.name + ("" if self.groups is None else f"{self.groups}")

    @property
    def token(self) -> str:
        return "N" if self == Normalization() else self.word

    @property
    def description(self) -> str:
        text = self.spec.title.capitalize()
        return text if self.groups is None else f"{text} of {self.groups} groups"


@dataclass(frozen=True)
class Convolution:
    """A convolution, by default followed by ReLU and batch norm.

    - `padding`: number of pixels on each side. None means dilation * (kernel_size - 1) // 2, which keeps the size for
      odd kernels with stride 1.
    - `norm`: place of the normalization. The exercise puts it after the activation.
    - `activation`: None means that neither activation nor normalization follows.
    - `groups`: each group of output channels sees its own group of input channels.

    For the logits `norm`, `normalization` and `activation` mean nothing; `lib.design.notation.canonical` gives them
    their defaults. A normalization that is absent has its default, too.
    """

    channels: int
    kernel_size: Size = 3
    stride: Size = 1
    dilation: int = 1
    padding: Size | None = None
    norm: NormPlacement = "after"
    activation: Activation | None = Activation()
    normalization: Normalization = Normalization()
    bias: bool = True
    groups: int = 1

    @property
    def padding_pixels(self) -> Pair:
        """Padding on each side, also if `padding` is None."""
        if self.padding is not None:
            return pair(self.padding)
        height, width = pair(self.kernel_size)
        return self.dilation * (height - 1) // 2, self.dilation * (width - 1) // 2

    @property
    def extent(self) -> Pair:
        """Height and width of the rectangle covered by the dilated kernel, in input pixels."""
        height, width = pair(self.kernel_size)
        return self.dilation * (height - 1) + 1, self.dilation * (width - 1) + 1

    @property
    def token(self) -> str:
        return self.written(Defaults())

    def written(self, defaults: Defaults, *, is_logits: bool = False) -> str:
        """Its text in the notation, where `defaults` hold for the whole network."""
        text = (
            f"{self.channels}"
            + (f"k{size_text(self.kernel_size)}" if self.kernel_size != 3 else "")
            + (f"s{size_text(self.stride)}" if self.stride != 1 else "")
            + (f"d{self.dilation}" if self.dilation != 1 else "")
            + ("" if self.padding is None else f"p{size_text(self.padding)}" if self.padding else "v")
            + (f"g{self.groups}" if self.groups != 1 else "")
        )
        words = ""
        if not is_logits and self.activation is None:
            text += "x"
        elif not is_logits and self.activation is not None:
            if self.norm != defaults.norm:
                text += {"after": "a", "before": "b", "none": "n"}[self.norm]
            if self.norm != "none" and self.normalization != defaults.normalization:
                words += f".{self.normalization.word}"
            if self.activation != defaults.activation:
                words += f".{self.activation.word}"
        return text + _bias_suffix(self.bias, defaults) + words

    @property
    def description(self) -> str:
        height, width = pair(self.kernel_size)
        notes = []
        if self.stride != 1:
            notes.append(f"stride {size_text(self.stride, '×')}")
        if self.dilation != 1:
            notes.append(f"dilation {self.dilation}")
        if self.padding is not None:
            notes.append(f"padding {size_text(self.padding, '×')}" if self.padding else "no padding")
        if self.groups != 1:
            notes.append(f"{self.groups} groups")
        if self.activation is None:
            notes.append("no activation")
        else:
            kind = "" if self.normalization == Normalization() else self.normalization.description.lower()
            if self.norm == "before":
                notes.append(f"{kind or 'norm'} first")
            elif self.norm == "none":
                notes.append("no norm")
            elif kind:
                notes.append(kind)
            if self.activation != Activation():
                notes.append(self.activation.description)
        if not self.bias:
            notes.append("no bias")
        return ", ".join([f"{height}×{width} convolution", *notes])


@dataclass(frozen=True)
class MaxPool:
    """Maximum over windows.

    `padding` is the number of pixels on each side, which count as minus infinity. A window that does not fit at the
    edge is left out, or cut off in `ceil_mode`.
    """

    kernel_size: Size = 2
    stride: Size = 2
    padding: Size = 0
    ceil_mode: bool = False

    @property
    def token(self) -> str:
        return "M" if self == MaxPool() else f"M{_pool_text(self)}"

    @property
    def description(self) -> str:
        return _pool_description("max-pool", self)


@dataclass(frozen=True)
class AveragePool:
    """Mean over windows.

    `padding` is the number of pixels on each side, which count as 0. A window that does not fit at the edge is left
    out, or cut off in `ceil_mode`.
    """

    kernel_size: Size = 2
    stride: Size = 2
    padding: Size = 0
    ceil_mode: bool = False

    @property
    def token(self) -> str:
        return f"A{_pool_text(self)}"

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
class GlobalMaxPool:
    """Maximum of each channel over all positions."""

    @property
    def token(self) -> str:
        return "G"

    @property
    def description(self) -> str:
        return "Global max-pool"


@dataclass(frozen=True)
class Flatten:
    """All values of a map in one row, for layers between a map and a fully connected layer.

    A fully connected layer flattens its input itself: directly before it, `canonical` leaves this layer out.
    """

    @property
    def token(self) -> str:
        return "F"

    @property
    def description(self) -> str:
        return "Flatten"


@dataclass(frozen=True)
class FullyConnected:
    """A linear layer over all values of its input, followed by `activation`, if any, unless its outputs are the logits.

    For the logits `activation` means nothing, and is the default.
    """

    features: int
    activation: Activation | None = Activation()
    bias: bool = True

    @property
    def token(self) -> str:
        return self.written(Defaults())

    def written(self, defaults: Defaults, *, is_logits: bool = False) -> str:
        """Its text in the notation, where `defaults` hold for the whole network."""
        plain = "x" if self.activation is None and not is_logits else ""
        shown = self.activation is not None and self.activation != defaults.activation and not is_logits
        word = f".{self.activation.word}" if shown and self.activation is not None else ""
        return f"{self.features}f{plain}{_bias_suffix(self.bias, defaults)}{word}"

    @property
    def description(self) -> str:
        notes = []
        if self.activation is None:
            notes.append("no activation")
        elif self.activation != Activation():
            notes.append(self.activation.description)
        if not self.bias:
            notes.append("no bias")
        return ", ".join(["Fully connected", *notes])


@dataclass(frozen=True)
class Dropout:
    """Zeroes each value with probability `p` in training, 0 to MAX_DROPOUT / 100; does nothing in evaluation.

    `whole_channels` says that all values of a channel are zeroed together (Tompson et al., "Efficient Object
    Localization Using Convolutional Networks", 2015). Without an image each value is a channel.
    """

    p: float
    whole_channels: bool = False

    @property
    def token(self) -> str:
        return f"D{100 * self.p:.8g}" + ("c" if self.whole_channels else "")

    @property
    def description(self) -> str:
        return f"{'Channel dropout' if self.whole_channels else 'Dropout'} {100 * self.p:.8g} %"


@dataclass(frozen=True)
class Fork:
    """The begin of branches, which all take the same input. Their outputs are added, or concatenated ("cat").

    If there is only one branch, the other one is the input itself: `add( 8 )` is a residual block.
    """

    join: JoinKind

    @property
    def token(self) -> str:
        return f"{self.join}("

    @property
    def description(self) -> str:
        return "Branches to add" if self.join == "add" else "Branches to concatenate"


@dataclass(frozen=True)
class Branch:
    """The begin of another branch."""

    @property
    def token(self) -> str:
        return "/"

    @property
    def description(self) -> str:
        return "Next branch"


@dataclass(frozen=True)
class Join:
    """The end of the branches of the last open `Fork`."""

    @property
    def token(self) -> str:
        return ")"

    @property
    def description(self) -> str:
        return "Join of the branches"


Layer: TypeAlias = (
    Convolution
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | GlobalMaxPool
    | Dropout
    | Flatten
    | FullyConnected
    | Activation
    | Normalization
    | Fork
    | Branch
    | Join
)


@dataclass(frozen=True)
class Architecture:
    """The layers, first to last. `parse` and `validate` check that they fit together."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Defaults:
    """What holds for all layers of a network, where a layer does not say otherwise: the settings of the notation.

    `dropout` follows every convolution with an activation, except that of the logits.
    """

    bias: bool = True
    norm: NormPlacement = "after"
    normalization: Normalization = Normalization()
    activation: Activation = Activation()
    dropout: Dropout | None = None


def logits_layer(architecture: Architecture) -> int:
    """Index of the last layer with weights, whose outputs are the logits; -1 if no layer has weights.

    A normalization does not count.
    """
    return last_weights(architecture.layers)


def last_weights(layers: tuple[Layer, ...]) -> int:
    """Index of the last convolution or fully connected layer, or -1."""
    for index in range(len(layers) - 1, -1, -1):
        if isinstance(layers[index], Convolution | FullyConnected):
            return index
    return -1


def pair(size: Size) -> Pair:
    """(height, width) of a size: 3 -> (3, 3)."""
    return (size, size) if isinstance(size, int) else size


def size(height: int, width: int) -> Size:
    """The shortest form of a size: (3, 3) -> 3."""
    return height if height == width else (height, width)


def size_text(number: Size, separator: str = "x") -> str:
    """3 -> "3", (3, 1) -> "3x1"."""
    return f"{number}" if isinstance(number, int) else separator.join(map(str, number))


def _bias_suffix(bias: bool, defaults: Defaults) -> str:
    return "" if bias == defaults.bias else "w" if bias else "u"


def _pool_text(pool: MaxPool | AveragePool) -> str:
    return (
        f"{size_text(pool.kernel_size)}s{size_text(pool.stride)}"
        + (f"p{size_text(pool.padding)}" if pool.padding else "")
        + ("c" if pool.ceil_mode else "")
    )


def _pool_description(kind: str, pool: MaxPool | AveragePool) -> str:
    height, width = pair(pool.kernel_size)
    notes = [f"{height}×{width} {kind}"]
    if pool.stride != pool.kernel_size:
        notes.append(f"stride {size_text(pool.stride, '×')}")
    if pool.padding:
        notes.append(f"padding {size_text(pool.padding, '×')}")
    if pool.ceil_mode:
        notes.append("cut-off windows kept")
    return ", ".join(notes)
