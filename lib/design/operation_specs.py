"""One row for each kind of operation: its parameters, its cost, and how torch and ONNX call it.

A new kind of operation is a row of `SPECS`. Counts and formulas come from the same expressions. From these rows
`lib.nn.network` builds the modules, `lib.export` writes them, and `lib.nn.memory` estimates their memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from lib.design.operations import Operation, OperationKind


@dataclass(frozen=True)
class Square:
    """A factor that is written as a square, such as the side of a kernel."""

    base: int


Expression: TypeAlias = tuple[tuple[int | Square, ...], ...]
ZERO: Expression = ()


def value(expression: Expression) -> int:
    """Evaluate a sum of products: ((16, 8, Square(3)), (16,)) -> 1168."""
    return sum(math.prod(f.base**2 if isinstance(f, Square) else f for f in product) for product in expression)


def formula(expression: Expression) -> str:
    """Write a sum of products with its value: "16 · 8 · 3² + 16 = 1,168"; "" for an empty sum."""
    products = (
        " · ".join(f"{f.base}²" if isinstance(f, Square) else f"{f}" for f in product) for product in expression
    )
    return f"{' + '.join(products)} = {value(expression):,}" if expression else ""


def _no_cost(_: Operation) -> Expression:
    return ZERO


@dataclass(frozen=True)
class ModuleCall:
    """Arguments of a torch.nn class: positional ones in the order of its signature, and keyword arguments."""

    args: tuple[int | float, ...] = ()
    kwargs: tuple[tuple[str, int], ...] = ()

    def source(self, name: str) -> str:
        """The call in Python, such as "nn.Conv2d(1, 8, 3, padding=1)" for the name "Conv2d"."""
        written = [str(argument) for argument in self.args] + [f"{key}={number}" for key, number in self.kwargs]
        return f"nn.{name}({', '.join(written)})"


@dataclass(frozen=True)
class OnnxNode:
    """An operator of ONNX with its attributes."""

    operator: str
    attributes: Mapping[str, int | list[int]]


@dataclass(frozen=True)
class OperationSpec:
    """The description of one kind of operation.

    - `module`: arguments of the torch.nn class of the same name.
    - `onnx`: the operator that does the same in a trained network.
    - `params`, `macs`: parameters, and multiply-accumulates for one image. As usual, only convolutions and linear
      layers have MACs.
    - `params_label`: written before the formula of `params`.
    - `tensors`: names of its tensors in a state_dict, in the order of ONNX's inputs.
    - `index_bytes`: bytes that autograd keeps for each output in addition to its value.
    - `is_view`: whether its output shares the memory of its input. Such an operation costs nothing.
    - `is_global`: whether each output depends on the whole input, so that the output has one position.
    """

    module: Callable[[Operation], ModuleCall]
    onnx: Callable[[Operation], OnnxNode]
    params: Callable[[Operation], Expression] = _no_cost
    macs: Callable[[Operation], Expression] = _no_cost
    params_label: str = ""
    tensors: tuple[str, ...] = ()
    index_bytes: int = 0
    is_view: bool = False
    is_global: bool = False


def _conv_call(op: Operation) -> ModuleCall:
    options = (("stride", op.stride, 1), ("padding", op.padding, 0), ("dilation", op.dilation, 1))
    given = tuple((name, number) for name, number, default in options if number != default)
    return ModuleCall((op.input_shape[0], op.output_shape[0], op.kernel_size), given)


def _pool_call(op: Operation) -> ModuleCall:
    return ModuleCall((op.kernel_size,) if op.stride == op.kernel_size else (op.kernel_size, op.stride))


def _pool_node(operator: str) -> Callable[[Operation], OnnxNode]:
    return lambda op: OnnxNode(operator, {"kernel_shape": [op.kernel_size] * 2, "strides": [op.stride] * 2})


def _node(operator: str, **attributes: int) -> Callable[[Operation], OnnxNode]:
    return lambda _: OnnxNode(operator, attributes)


SPECS: Mapping[OperationKind, OperationSpec] = {
    "Conv2d": OperationSpec(
        module=_conv_call,
        onnx=lambda op: OnnxNode(
            "Conv",
            {
                "kernel_shape": [op.kernel_size] * 2,
                "strides": [op.stride] * 2,
                "pads": [op.padding] * 4,
                "dilations": [op.dilation] * 2,
            },
        ),
        params=lambda op: ((op.output_shape[0], op.input_shape[0], Square(op.kernel_size)), (op.output_shape[0],)),
        macs=lambda op: ((*op.output_shape, op.input_shape[0], Square(op.kernel_size)),),
        tensors=("weight", "bias"),
    ),
    "ReLU": OperationSpec(module=lambda _: ModuleCall(), onnx=_node("Relu")),
    "BatchNorm2d": OperationSpec(
        module=lambda op: ModuleCall((op.output_shape[0],)),
        onnx=_node("BatchNormalization"),
        params=lambda op: ((2, op.output_shape[0]),),
        params_label="batch norm ",
        tensors=("weight", "bias", "running_mean", "running_var"),
    ),
    # torch keeps the index of each maximum as an int64.
    "MaxPool2d": OperationSpec(module=_pool_call, onnx=_pool_node("MaxPool"), index_bytes=8),
    "AvgPool2d": OperationSpec(module=_pool_call, onnx=_pool_node("AveragePool")),
    "AdaptiveAvgPool2d": OperationSpec(
        module=lambda _: ModuleCall((1,)), onnx=_node("GlobalAveragePool"), is_global=True
    ),
    "Dropout": OperationSpec(module=lambda op: ModuleCall((op.p,)), onnx=_node("Identity")),
    "Flatten": OperationSpec(module=lambda _: ModuleCall(), onnx=_node("Flatten"), is_view=True, is_global=True),
    "Linear": OperationSpec(
        module=lambda op: ModuleCall((op.input_shape[0], op.output_shape[0])),
        onnx=_node("Gemm", transB=1),
        params=lambda op: ((op.output_shape[0], op.input_shape[0]), (op.output_shape[0],)),
        macs=lambda op: ((op.output_shape[0], op.input_shape[0]),),
        tensors=("weight", "bias"),
        is_global=True,
    ),
}


def num_params(operation: Operation) -> int:
    """Number of its parameters."""
    return value(SPECS[operation.kind].params(operation))


def num_macs(operation: Operation) -> int:
    """Multiply-accumulates of its forward pass for one image."""
    return value(SPECS[operation.kind].macs(operation))
