"""Classes and functions of torch.nn: their arguments, output shapes and numbers of parameters.

Shapes are of one image, without the batch: (channels, height, width), or (features,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from lib.design.operations import output_size
from lib.importing.module_graph import Argument

Shape = tuple[int, ...]


class ArgumentsError(ValueError):
    """Arguments that torch would refuse. The message is a sentence without the line."""


class ShapeMismatchError(ArgumentsError):
    """A layer that does not fit the shape that reaches it. The message is a sentence without the line."""


REQUIRED: Final = object()

_NORM: dict[str, object] = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
_CONVOLUTION: dict[str, object] = {
    "in_channels": REQUIRED,
    "out_channels": REQUIRED,
    "kernel_size": REQUIRED,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "bias": True,
    "padding_mode": "zeros",
}
_DROPOUT: dict[str, object] = {"p": 0.5, "inplace": False}

# Arguments of each class in torch's order, with their defaults. `device` and `dtype` are accepted and dropped.
SIGNATURES: dict[str, dict[str, object]] = {
    "Conv2d": _CONVOLUTION,
    "Linear": {"in_features": REQUIRED, "out_features": REQUIRED, "bias": True},
    "BatchNorm1d": {"num_features": REQUIRED, **_NORM},
    "BatchNorm2d": {"num_features": REQUIRED, **_NORM},
    "InstanceNorm2d": {"num_features": REQUIRED, **_NORM, "affine": False, "track_running_stats": False},
    "GroupNorm": {"num_groups": REQUIRED, "num_channels": REQUIRED, "eps": 1e-5, "affine": True},
    "LayerNorm": {"normalized_shape": REQUIRED, "eps": 1e-5, "elementwise_affine": True, "bias": True},
    # A class of torchvision, which is not in torch.nn.
    "LayerNorm2d": {"normalized_shape": REQUIRED, "eps": 1e-5, "elementwise_affine": True, "bias": True},
    "LocalResponseNorm": {"size": REQUIRED, "alpha": 1e-4, "beta": 0.75, "k": 1.0},
    "MaxPool2d": {
        "kernel_size": REQUIRED,
        "stride": None,
        "padding": 0,
        "dilation": 1,
        "return_indices": False,
        "ceil_mode": False,
    },
    "AvgPool2d": {
        "kernel_size": REQUIRED,
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    },
    "AdaptiveAvgPool2d": {"output_size": REQUIRED},
    "AdaptiveMaxPool2d": {"output_size": REQUIRED, "return_indices": False},
    "Flatten": {"start_dim": 1, "end_dim": -1},
    "Dropout": _DROPOUT,
    "Dropout1d": _DROPOUT,
    "Dropout2d": _DROPOUT,
    "AlphaDropout": _DROPOUT,
    "FeatureAlphaDropout": _DROPOUT,
    "ReLU": {"inplace": False},
    "ReLU6": {"inplace": False},
    "LeakyReLU": {"negative_slope": 0.01, "inplace": False},
    "PReLU": {"num_parameters": 1, "init": 0.25},
    "ELU": {"alpha": 1.0, "inplace": False},
    "CELU": {"alpha": 1.0, "inplace": False},
    "SELU": {"inplace": False},
    "GELU": {"approximate": "none"},
    "SiLU": {"inplace": False},
    "Mish": {"inplace": False},
    "Hardswish": {"inplace": False},
    "Hardsigmoid": {"inplace": False},
    "Hardtanh": {"min_val": -1.0, "max_val": 1.0, "inplace": False},
    "Tanh": {},
    "Sigmoid": {},
    "LogSigmoid": {},
    "Softsign": {},
    "Tanhshrink": {},
    "Hardshrink": {"lambd": 0.5},
    "Softshrink": {"lambd": 0.5},
    "Softplus": {"beta": 1.0, "threshold": 20.0},
    "Softmax": {"dim": None},
    "LogSoftmax": {"dim": None},
    "Softmax2d": {},
    "Identity": {},
    "ZeroPad2d": {"padding": REQUIRED},
}
LAZY: Final = {"LazyConv2d": "Conv2d", "LazyLinear": "Linear", "LazyBatchNorm2d": "BatchNorm2d",
               "LazyBatchNorm1d": "BatchNorm1d", "LazyInstanceNorm2d": "InstanceNorm2d"}  # fmt: skip
CONTAINERS: Final = frozenset({"Sequential", "ModuleList", "ModuleDict"})
POOLS: Final = frozenset({"MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d"})
BATCH_NORMS: Final = frozenset({"BatchNorm1d", "BatchNorm2d", "GhostBatchNorm2d"})

_POOL_2D = ("kernel_size", "stride", "padding")
# Functions and methods that do what a class does: the class, and the names of the arguments after the input.
FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "max_pool2d": ("MaxPool2d", (*_POOL_2D, "dilation", "ceil_mode", "return_indices")),
    "avg_pool2d": ("AvgPool2d", (*_POOL_2D, "ceil_mode", "count_include_pad", "divisor_override")),
    "adaptive_avg_pool2d": ("AdaptiveAvgPool2d", ("output_size",)),
    "adaptive_max_pool2d": ("AdaptiveMaxPool2d", ("output_size", "return_indices")),
    "dropout": ("Dropout", ("p", "training", "inplace")),
    "dropout1d": ("Dropout1d", ("p", "training", "inplace")),
    "dropout2d": ("Dropout2d", ("p", "training", "inplace")),
    "feature_dropout": ("Dropout2d", ("p", "training", "inplace")),
    "alpha_dropout": ("AlphaDropout", ("p", "training", "inplace")),
    "relu": ("ReLU", ("inplace",)),
    "relu6": ("ReLU6", ("inplace",)),
    "leaky_relu": ("LeakyReLU", ("negative_slope", "inplace")),
    "elu": ("ELU", ("alpha", "inplace")),
    "celu": ("CELU", ("alpha", "inplace")),
    "selu": ("SELU", ("inplace",)),
    "gelu": ("GELU", ("approximate",)),
    "silu": ("SiLU", ("inplace",)),
    "mish": ("Mish", ("inplace",)),
    "hardswish": ("Hardswish", ("inplace",)),
    "hardsigmoid": ("Hardsigmoid", ("inplace",)),
    "hardtanh": ("Hardtanh", ("min_val", "max_val", "inplace")),
    "tanh": ("Tanh", ()),
    "sigmoid": ("Sigmoid", ()),
    "logsigmoid": ("LogSigmoid", ()),
    "softsign": ("Softsign", ()),
    "tanhshrink": ("Tanhshrink", ()),
    "hardshrink": ("Hardshrink", ("lambd",)),
    "softshrink": ("Softshrink", ("lambd",)),
    "softplus": ("Softplus", ("beta", "threshold")),
    "softmax": ("Softmax", ("dim", "_stacklevel", "dtype")),
    "log_softmax": ("LogSoftmax", ("dim", "_stacklevel", "dtype")),
    "layer_norm": ("LayerNorm", ("normalized_shape", "weight", "bias", "eps")),
    "group_norm": ("GroupNorm", ("num_groups", "weight", "bias", "eps")),
    "instance_norm": (
        "InstanceNorm2d",
        ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    ),
    "local_response_norm": ("LocalResponseNorm", ("size", "alpha", "beta", "k")),
}
_SIZES = frozenset({"kernel_size", "stride", "padding", "dilation", "output_size"})
_COUNTS = frozenset({"in_channels", "out_channels", "groups", "in_features", "out_features", "num_features",
                     "num_groups", "num_channels", "num_parameters", "size"})  # fmt: skip
_LARGEST = 1_000_000


def bound_arguments(kind: str, given: Sequence[object], named: Mapping[str, object]) -> dict[str, Argument]:
    """All arguments of a class by torch's names, defaults filled in. Raises ArgumentsError."""
    signature = SIGNATURES[kind]
    names = list(signature)
    if len(given) > len(names):
        raise ArgumentsError(f"nn.{kind} takes at most {len(names)} arguments and gets {len(given)}. Remove some.")
    merged = dict(signature)
    merged.update(zip(names, given, strict=False))
    for name, value in named.items():
        if name in ("device", "dtype", "_stacklevel"):
            continue
        if name not in signature or name in names[: len(given)]:
            fault = "gets twice" if name in signature else "does not know"
            raise ArgumentsError(f"nn.{kind} {fault} the argument {name}. Remove it.")
        merged[name] = value
    arguments: dict[str, Argument] = {}
    for name, value in merged.items():
        if value is REQUIRED:
            raise ArgumentsError(f"nn.{kind} needs the argument {name}. Add it.")
        arguments[name] = _argument(kind, name, value)
    if "stride" in arguments and arguments["stride"] is None:
        arguments["stride"] = arguments["kernel_size"]
    if kind == "Conv2d":
        _resolve_padding(arguments)
    return arguments


def _argument(kind: str, name: str, value: object) -> Argument:
    if isinstance(value, list | tuple):
        sizes = tuple(value)
        if name == "normalized_shape":
            return tuple(_count(kind, name, size) for size in sizes)
        if name in _SIZES and len(sizes) == 1:
            sizes *= 2
        if name not in _SIZES or len(sizes) not in (2, 4):
            raise ArgumentsError(f"nn.{kind} cannot have {len(sizes)} values of {name}. Give one number, or two.")
        if name == "output_size" and None in sizes:
            raise ArgumentsError(f"nn.{kind} with an output size of None is not supported. Give numbers.")
        numbers = tuple(_count(kind, name, size) for size in sizes)
        return numbers[0] if len(set(numbers)) == 1 else numbers
    if name == "normalized_shape":
        return (_count(kind, name, value),)
    if name == "padding" and isinstance(value, str):
        return value
    if name in _SIZES and value is None and name == "stride":
        return None
    if name in _SIZES or name in _COUNTS:
        return _count(kind, name, value)
    if isinstance(SIGNATURES[kind][name], bool) and isinstance(value, int | None):
        return bool(value)
    if isinstance(value, bool | int | float | str | None):
        return value
    raise ArgumentsError(f"nn.{kind}: the value of {name} is not known from the source. Write it as a number.")


def _count(kind: str, name: str, value: object) -> int:
    least = 0 if name == "padding" else 1
    if isinstance(value, bool) and name == "padding":
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentsError(f"nn.{kind}: {name} is not a whole number that the source tells. Write it as a number.")
    if not least <= value <= _LARGEST:
        raise ArgumentsError(f"nn.{kind}: {name} is {value}; it must be from {least} to {_LARGEST:,}.")
    return value


def _resolve_padding(arguments: dict[str, Argument]) -> None:
    """Replace the paddings "same" and "valid" by numbers."""
    text = arguments["padding"]
    if not isinstance(text, str):
        return
    if text == "valid":
        arguments["padding"] = 0
        return
    if text != "same":
        raise ArgumentsError(f"nn.Conv2d does not know the padding {text!r}. Give a number.")
    if pair(arguments["stride"]) != (1, 1):
        raise ArgumentsError("nn.Conv2d cannot have padding='same' with a stride. Give the padding as a number.")
    totals = [d * (k - 1) for k, d in zip(pair(arguments["kernel_size"]), pair(arguments["dilation"]), strict=True)]
    if any(total % 2 for total in totals):
        raise ArgumentsError("padding='same' with an even kernel pads one side more than the other. Use an odd kernel.")
    height, width = (total // 2 for total in totals)
    arguments["padding"] = height if height == width else (height, width)


def pair(size: Argument) -> tuple[int, int]:
    """Return a size as (height, width)."""
    if isinstance(size, tuple):
        return size[0], size[1]
    assert isinstance(size, int)
    return size, size


def num_parameters(kind: str, arguments: Mapping[str, Argument]) -> int:
    """Number of trainable parameters."""

    def number(name: str) -> int:
        value = arguments[name]
        return value if isinstance(value, int) else 0

    if kind == "Conv2d":
        height, width = pair(arguments["kernel_size"])
        fan_in = number("in_channels") // max(number("groups"), 1) * height * width
        return number("out_channels") * (fan_in + bool(arguments["bias"]))
    if kind == "Linear":
        return number("out_features") * (number("in_features") + bool(arguments["bias"]))
    if kind in BATCH_NORMS or kind == "InstanceNorm2d":
        return 2 * number("num_features") if arguments["affine"] else 0
    if kind == "GroupNorm":
        return 2 * number("num_channels") if arguments["affine"] else 0
    if kind in ("LayerNorm", "LayerNorm2d"):
        sizes = arguments["normalized_shape"]
        assert isinstance(sizes, tuple)
        weights = math.prod(sizes) if arguments["elementwise_affine"] else 0
        return weights * (1 + bool(arguments["bias"]))
    return number("num_parameters") if kind == "PReLU" else 0


def _needs_map(kind: str, shape: Shape) -> None:
    if len(shape) != 3:
        raise ShapeMismatchError(
            f"nn.{kind} takes channels, height and width, and {shape_words(shape)} reach it. "
            "Call it before the flattening."
        )


def shape_words(shape: Shape) -> str:
    """A shape in words."""
    return f"{shape[0]} features" if len(shape) == 1 else "x".join(map(str, shape))


def output_shape(kind: str, arguments: Mapping[str, Argument], shape: Shape) -> Shape:
    """Shape of a module's output. Raises ShapeMismatchError if it does not fit its input."""
    if kind in ("Conv2d", "MaxPool2d", "AvgPool2d"):
        _needs_map(kind, shape)
        return _windowed(kind, arguments, shape)
    if kind in ("AdaptiveAvgPool2d", "AdaptiveMaxPool2d"):
        _needs_map(kind, shape)
        return (shape[0], *pair(arguments["output_size"]))
    if kind == "Linear":
        if len(shape) != 1:
            raise ShapeMismatchError(
                f"nn.Linear takes features, and {shape_words(shape)} reach it. Flatten them, as by torch.flatten(x, 1)."
            )
        _equal(kind, arguments["in_features"], shape[0], "features")
        features = arguments["out_features"]
        assert isinstance(features, int)
        return (features,)
    if kind == "Flatten":
        return (math.prod(shape),)
    _check_norm(kind, arguments, shape)
    return shape


def _check_norm(kind: str, arguments: Mapping[str, Argument], shape: Shape) -> None:
    if kind in ("BatchNorm2d", "GhostBatchNorm2d", "InstanceNorm2d"):
        _needs_map(kind, shape)
        _equal(kind, arguments["num_features"], shape[0], "channels")
    elif kind == "BatchNorm1d":
        if len(shape) != 1:
            raise ShapeMismatchError(f"nn.BatchNorm1d gets {shape_words(shape)}. Use nn.BatchNorm2d before flattening.")
        _equal(kind, arguments["num_features"], shape[0], "features")
    elif kind == "GroupNorm":
        groups, channels = arguments["num_groups"], arguments["num_channels"]
        _equal(kind, channels, shape[0], "channels")
        if isinstance(groups, int) and shape[0] % groups:
            raise ArgumentsError(f"nn.GroupNorm cannot divide {shape[0]} channels into {groups} groups.")
    elif kind == "LayerNorm2d":
        _needs_map(kind, shape)
        if arguments["normalized_shape"] != shape[:1]:
            raise ShapeMismatchError(
                f"LayerNorm2d is made for {arguments['normalized_shape']} channels, and {shape[0]} reach it. Make the "
                "two equal."
            )
    elif kind == "LayerNorm":
        sizes = arguments["normalized_shape"]
        if not isinstance(sizes, tuple) or shape[-len(sizes) :] != sizes:
            raise ShapeMismatchError(
                f"nn.LayerNorm is made for {sizes}, and {shape_words(shape)} reach it. Make the two equal."
            )
    elif kind == "PReLU" and arguments["num_parameters"] not in (1, shape[0]):
        raise ShapeMismatchError(f"nn.PReLU has another number of slopes than the {shape[0]} channels that reach it.")


def _equal(kind: str, expected: Argument, reaching: int, what: str) -> None:
    if expected != reaching:
        raise ShapeMismatchError(
            f"nn.{kind} is made for {expected} {what}, and {reaching} reach it. Make the two equal."
        )


def _windowed(kind: str, arguments: Mapping[str, Argument], shape: Shape) -> Shape:
    channels, *lengths = shape
    if kind == "Conv2d":
        _equal(kind, arguments["in_channels"], channels, "channels")
        inputs, outputs, groups = (arguments[name] for name in ("in_channels", "out_channels", "groups"))
        assert isinstance(inputs, int)
        assert isinstance(outputs, int)
        assert isinstance(groups, int)
        if inputs % groups or outputs % groups:
            raise ArgumentsError(f"nn.Conv2d cannot divide {inputs} and {outputs} channels into {groups} groups.")
        channels = outputs
    results = []
    for axis, length in enumerate(lengths):
        kernel, stride, padding = (pair(arguments[name])[axis] for name in ("kernel_size", "stride", "padding"))
        dilation = pair(arguments.get("dilation", 1))[axis]
        if kind != "Conv2d" and 2 * padding > kernel:
            raise ArgumentsError(f"nn.{kind}: the padding must be at most half of the kernel.")
        extent = dilation * (kernel - 1) + 1
        result = output_size(length, extent, stride, padding, bool(arguments.get("ceil_mode")))
        if not result:
            raise ShapeMismatchError(
                f"nn.{kind} with a kernel of {kernel} does not fit into {shape_words(shape)}. "
                "Make the kernel smaller, or pool less before it."
            )
        results.append(result)
    return (channels, *results)
