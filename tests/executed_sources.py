"""What a network does when torch runs it: an oracle for the importer that shares no code with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

# Kind, output shape and parameters of a call, and the indexes of the calls whose outputs it takes, -1 for the image.
Call = tuple[str, tuple[int, ...], int, tuple[int, ...]]

_KINDS = {
    "conv2d": "Conv2d", "linear": "Linear", "batch_norm": "BatchNorm", "group_norm": "GroupNorm",
    "layer_norm": "LayerNorm", "instance_norm": "InstanceNorm2d", "relu": "ReLU", "relu_": "ReLU",
    "max_pool2d": "MaxPool2d", "boolean_dispatch": "MaxPool2d", "_max_pool2d": "MaxPool2d", "avg_pool2d": "AvgPool2d",
    "adaptive_avg_pool2d": "AdaptiveAvgPool2d", "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "_adaptive_max_pool2d": "AdaptiveMaxPool2d", "dropout": "Dropout", "dropout2d": "Dropout2d",
    "leaky_relu": "LeakyReLU", "prelu": "PReLU", "elu": "ELU", "celu": "CELU", "selu": "SELU", "gelu": "GELU",
    "silu": "SiLU", "mish": "Mish", "hardswish": "Hardswish", "hardtanh": "Hardtanh", "relu6": "ReLU6", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "softplus": "Softplus", "softmax": "Softmax", "log_softmax": "LogSoftmax", "add": "Add",
    "add_": "Add", "cat": "Concat", "amax": "AdaptiveMaxPool2d", "mean": "AdaptiveAvgPool2d",
}  # fmt: skip
_SHAPES = {"view", "reshape", "flatten", "squeeze", "__getitem__"}
_UNCHANGED = {"float", "to", "permute", "contiguous", "pad", "__get__", "clamp", "repeat"}


class Recorder(TorchFunctionMode):
    """Records each outermost call of a function of torch that changes numbers, or flattens."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.calls: list[Call] = []
        # Which call a tensor is the output of. The tensors are kept, so that no other gets the identity of one.
        self.makers = {id(images): -1}
        self.kept = [images]

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = [*args, *(kwargs or {}).values()]
        before = args[0].shape if args and isinstance(args[0], torch.Tensor) else ()
        given = values[0] if values and isinstance(values[0], tuple | list) else values
        taken = tuple(self.makers[id(one)] for one in given if isinstance(one, torch.Tensor) and id(one) in self.makers)
        result = function(*args, **(kwargs or {}))
        if not isinstance(result, torch.Tensor):
            return result
        name = getattr(function, "__name__", "")
        shape = tuple(result.shape[1:])
        weights = sum(value.numel() for value in values if isinstance(value, nn.Parameter))
        if name == "mul" and self.calls and self.calls[-1][0] == "Sigmoid":
            self.calls[-1] = ("SiLU", shape, 0, self.calls[-1][3])
        elif name == "mean" and taken and len(before) == 4 and result.numel() > result.shape[0] * result.shape[1]:
            # Half of a mean over height and width.
            self.keep(result, taken[0])
            return result
        elif name in ("mean", "amax") and taken and len(before) - 1 > len(shape):
            # A mean over height and width is a pool, and flattens.
            self.calls.append((_KINDS[name], (*shape, 1, 1), 0, taken))
            self.calls.append(("Flatten", shape, 0, (len(self.calls) - 1,)))
        elif name == "add" and len(taken) == 1:
            # sum() begins with zero.
            self.keep(result, taken[0])
            return result
        elif name in _KINDS:
            kind = f"BatchNorm{1 if len(before) == 2 else 2}d" if name == "batch_norm" else _KINDS[name]
            # torch's ReLU6 is a Hardtanh.
            kind = "ReLU6" if kind == "Hardtanh" and values[1:3] == [0.0, 6.0] else kind
            self.calls.append((kind, shape, weights, taken))
        elif name in _SHAPES and len(shape) == 1 < len(before) - 1:
            self.calls.append(("Flatten", shape, 0, taken))
        elif name in _SHAPES or name in _UNCHANGED:
            if taken:
                self.keep(result, taken[0])
            return result
        else:
            raise AssertionError(f"{name} is not known: {resolve_name(function)}")
        self.keep(result, len(self.calls) - 1)
        return result

    def keep(self, tensor: torch.Tensor, maker: int) -> None:
        self.makers[id(tensor)] = maker
        self.kept.append(tensor)


def executed_calls(network: nn.Module, image: int = 28) -> list[Call]:
    """The calls of one pass of two random images in evaluation mode."""
    images = torch.rand(2, 1, image, image)
    network.eval()
    with torch.no_grad():
        # The first pass gives lazy modules their weights.
        network(images)
        recorder = Recorder(images)
        with recorder:
            network(images)
    return recorder.calls
