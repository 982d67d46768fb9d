"""One row for each kind of operation: its parameters, its cost, and how torch and ONNX call it.

A new kind of operation is a row of `SPECS`. Counts and formulas come from the same expressions. From these rows
`lib.nn.network` builds the modules, `lib.export` writes them, and `lib.nn.memory` estimates their memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lib.design.layers import ACTIVATIONS, Pair, Size, size
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

    args: tuple[float | tuple[int, ...], ...] = ()
    kwargs: tuple[tuple[str, object], ...] = ()

    def source(self, name: str) -> str:
        """The call in Python, such as "nn.Conv2d(1, 8, 3, padding=1)" for the name "nn.Conv2d"."""
        written = [str(argument) for argument in self.args] + [f"{key}={value}" for key, value in self.kwargs]
        return f"{name}({', '.join(written)})"


@dataclass(frozen=True)
class OnnxNode:
    """An operator of ONNX with its attributes.

    `inputs` are names: "x" is the input of the operation, "" the output of the node before, and others are tensors of
    the module or of `constants`. By default, these are "x" (or "", after the first node) and all tensors of the module.
    """

    operator: str
    attributes: Mapping[str, float | str | list[int]] = field(default_factory=dict)
    inputs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class OperationSpec:
    """The description of one kind of operation.

    - `module`: arguments of the torch.nn class of the same name, or of the class in `lib.nn.modules` if torch has none.
    - `onnx`: the operators that do the same in a trained network, one after the other. `opset`: ONNX's operator set
      that has them.
    - `constants`: additional inputs of the operators, by name: numbers as float32, or lists of ints as int64.
    - `params`, `macs`: parameters, and multiply-accumulates for one image. As usual, only convolutions and linear
      layers have MACs.
    - `params_label`: written before the formula of `params`.
    - `tensors`: names of its tensors in a state_dict, in the order of ONNX's inputs.
    - `index_bytes`: bytes that autograd keeps for each output in addition to its value.
    - `is_view`: whether its output shares the memory of its input. Such an operation costs nothing.
    - `is_global`: whether each output depends on the whole input, so that the output has one position.
    - `is_join`: whether it has several inputs.
    - `is_over_positions`: whether it normalizes with a mean over all positions, so that each output depends a little on
      the whole image. Receptive fields leave this out, as is usual.
    """

    module: Callable[[Operation], ModuleCall]
    onnx: Callable[[Operation], tuple[OnnxNode, ...]]
    opset: int = 17
    constants: Callable[[Operation], Mapping[str, float | list[float] | list[int]]] = lambda _: {}
    params: Callable[[Operation], Expression] = _no_cost
    macs: Callable[[Operation], Expression] = _no_cost
    params_label: str = ""
    tensors: Callable[[Operation], tuple[str, ...]] = lambda _: ()
    index_bytes: int = 0
    is_view: bool = False
    is_global: bool = False
    is_join: bool = False
    is_over_positions: bool = False


def _short(sizes: Pair) -> Size:
    return size(*sizes)


def _area(kernel_size: Pair) -> tuple[int | Square, ...]:
    height, width = kernel_size
    return (Square(height),) if height == width else (height, width)


def _given(*options: tuple[str, object, object]) -> tuple[tuple[str, object], ...]:
    """The keyword arguments (name, value, default) that do not have their default."""
    return tuple((name, chosen) for name, chosen, default in options if chosen != default)


def _conv_call(op: Operation) -> ModuleCall:
    return ModuleCall(
        (op.input_shape[0], op.output_shape[0], _short(op.kernel_size)),
        _given(
            ("stride", _short(op.stride), 1),
            ("padding", _short(op.padding), 0),
            ("dilation", op.dilation, 1),
            ("groups", op.groups, 1),
            ("bias", op.bias, True),
        ),
    )


def _pool_call(op: Operation) -> ModuleCall:
    sizes = (op.kernel_size,) if op.stride == op.kernel_size else (op.kernel_size, op.stride)
    return ModuleCall(
        tuple(map(_short, sizes)),
        _given(("padding", _short(op.padding), 0), ("ceil_mode", op.ceil_mode, False)),
    )


def _overhang(op: Operation) -> Pair:
    """By how many pixels the last window reaches beyond the input and its padding, as with ceil_mode it may."""
    rows, columns = (
        max(
            0,
            (op.output_shape[1 + axis] - 1) * op.stride[axis]
            + op.kernel_size[axis]
            - op.input_shape[1 + axis]
            - 2 * op.padding[axis],
        )
        for axis in (0, 1)
    )
    return rows, columns


def _pool_attributes(op: Operation, begin: Pair, end: Pair) -> dict[str, float | str | list[int]]:
    # Not ONNX's own ceil_mode, which may add a window that torch leaves out.
    return {"kernel_shape": list(op.kernel_size), "strides": list(op.stride), "pads": [*begin, *end]}


def _max_pool_nodes(op: Operation) -> tuple[OnnxNode, ...]:
    rows, columns = _overhang(op)
    return (OnnxNode("MaxPool", _pool_attributes(op, op.padding, (op.padding[0] + rows, op.padding[1] + columns))),)


def _average_pool_nodes(op: Operation) -> tuple[OnnxNode, ...]:
    overhang = _overhang(op)
    if overhang == (0, 0):
        return (OnnxNode("AveragePool", {**_pool_attributes(op, op.padding, op.padding), "count_include_pad": 1}),)
    # Padding counts in the mean, but what a window has beyond it does not.
    return (
        OnnxNode("Pad", {}, ("x", "pads")),
        OnnxNode("AveragePool", {**_pool_attributes(op, (0, 0), overhang), "count_include_pad": 0}, ("",)),
    )


def _average_pool_constants(op: Operation) -> Mapping[str, float | list[float] | list[int]]:
    rows, columns = op.padding
    return {"pads": [0, 0, rows, columns, 0, 0, rows, columns]} if _overhang(op) != (0, 0) else {}


def _node(operator: str, **attributes: float) -> Callable[[Operation], tuple[OnnxNode, ...]]:
    return lambda _: (OnnxNode(operator, attributes),)


def _channels_call(op: Operation) -> ModuleCall:
    return ModuleCall((op.output_shape[0],))


def _weight_and_bias(op: Operation) -> tuple[str, ...]:
    return ("weight", "bias") if op.bias else ("weight",)


def _running_statistics(_: Operation) -> tuple[str, ...]:
    return ("weight", "bias", "running_mean", "running_var")


def _bias_params(op: Operation) -> Expression:
    return ((op.output_shape[0],),) if op.bias else ()


def _norm_params(op: Operation) -> Expression:
    return ((2, op.output_shape[0]),)


def _normalized_shape(op: Operation) -> tuple[int, ...]:
    return op.output_shape[:1] if op.is_flat else op.output_shape


_MOVE_CHANNELS_LAST = OnnxNode("Transpose", {"perm": [0, 2, 3, 1]}, ("x",))
_MOVE_CHANNELS_BACK = OnnxNode("Transpose", {"perm": [0, 3, 1, 2]}, ("",))

_NORMS: dict[OperationKind, OperationSpec] = {
    "BatchNorm2d": OperationSpec(
        module=_channels_call,
        onnx=_node("BatchNormalization"),
        params=_norm_params,
        params_label="batch norm ",
        tensors=_running_statistics,
    ),
    "BatchNorm1d": OperationSpec(
        module=_channels_call,
        onnx=_node("BatchNormalization"),
        params=_norm_params,
        params_label="batch norm ",
        tensors=_running_statistics,
    ),
    "GhostBatchNorm2d": OperationSpec(
        module=lambda op: ModuleCall((op.output_shape[0], op.groups)),
        onnx=_node("BatchNormalization"),
        params=_norm_params,
        params_label="ghost batch norm ",
        tensors=_running_statistics,
    ),
    "GroupNorm": OperationSpec(
        module=lambda op: ModuleCall((op.groups, op.output_shape[0])),
        onnx=lambda op: (OnnxNode("GroupNormalization", {"num_groups": op.groups, "epsilon": 1e-5}),),
        opset=21,
        params=_norm_params,
        params_label="group norm ",
        tensors=_weight_and_bias,
        is_over_positions=True,
    ),
    "LayerNorm": OperationSpec(
        module=lambda op: ModuleCall((_normalized_shape(op),)),
        onnx=lambda op: (OnnxNode("LayerNormalization", {"axis": 1, "epsilon": 1e-5}),),
        params=lambda op: ((2, *_normalized_shape(op)),),
        params_label="layer norm ",
        tensors=_weight_and_bias,
        is_over_positions=True,
    ),
    "LayerNorm2d": OperationSpec(
        module=_channels_call,
        onnx=lambda _: (
            _MOVE_CHANNELS_LAST,
            OnnxNode("LayerNormalization", {"axis": -1, "epsilon": 1e-5}, ("", "weight", "bias")),
            _MOVE_CHANNELS_BACK,
        ),
        params=_norm_params,
        params_label="layer norm ",
        tensors=_weight_and_bias,
    ),
    "InstanceNorm2d": OperationSpec(
        module=_channels_call,
        onnx=lambda _: (OnnxNode("InstanceNormalization", {"epsilon": 1e-5}, ("x", "ones", "zeros")),),
        constants=lambda op: {"ones": [1.0] * op.output_shape[0], "zeros": [0.0] * op.output_shape[0]},
        is_over_positions=True,
    ),
}

# How ONNX computes each activation.
_ACTIVATION_NODES: dict[str, Callable[[Operation], tuple[OnnxNode, ...]]] = {
    "ReLU": _node("Relu"),
    "ReLU6": lambda _: (OnnxNode("Clip", {}, ("x", "lowest", "highest")),),
    "LeakyReLU": lambda op: (OnnxNode("LeakyRelu", {"alpha": op.parameter}),),
    "PReLU": _node("PRelu"),
    "ELU": lambda op: (OnnxNode("Elu", {"alpha": op.parameter}),),
    "CELU": lambda op: (OnnxNode("Celu", {"alpha": op.parameter}),),
    # Klambauer et al., "Self-Normalizing Neural Networks", 2017; ONNX's own defaults have fewer digits.
    "SELU": _node("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "GELU": _node("Gelu"),
    "SiLU": lambda _: (OnnxNode("Sigmoid"), OnnxNode("Mul", {}, ("x", ""))),
    "Mish": _node("Mish"),
    "Hardswish": _node("HardSwish"),
    "Softplus": _node("Softplus"),
    "Tanh": _node("Tanh"),
    "Sigmoid": _node("Sigmoid"),
}


def _activation(module: str, parameter: str | None) -> OperationSpec:
    return OperationSpec(
        module=lambda op: ModuleCall((), ((parameter, op.parameter),) if parameter else ()),
        onnx=_ACTIVATION_NODES[module],
        opset={"GELU": 20, "Mish": 18}.get(module, 17),
        constants=(lambda _: {"lowest": 0.0, "highest": 6.0}) if module == "ReLU6" else lambda _: {},
        params=(lambda _: ((1,),)) if module == "PReLU" else _no_cost,
        tensors=lambda _: ("weight",) if module == "PReLU" else (),
    )


def _dropout() -> OperationSpec:
    return OperationSpec(
        module=lambda op: ModuleCall((op.parameter,)),
        # Without the input `training_mode` it does nothing, but says what p is.
        onnx=lambda _: (OnnxNode("Dropout", {}, ("x", "ratio")),),
        constants=lambda op: {"ratio": op.parameter},
    )


SPECS: Mapping[OperationKind, OperationSpec] = {
    "Conv2d": OperationSpec(
        module=_conv_call,
        onnx=lambda op: (
            OnnxNode(
                "Conv",
                {
                    "kernel_shape": list(op.kernel_size),
                    "strides": list(op.stride),
                    "pads": [*op.padding, *op.padding],
                    "dilations": [op.dilation] * 2,
                    "group": op.groups,
                },
            ),
        ),
        params=lambda op: (
            (op.output_shape[0], op.input_shape[0] // op.groups, *_area(op.kernel_size)),
            *_bias_params(op),
        ),
        macs=lambda op: ((*op.output_shape, op.input_shape[0] // op.groups, *_area(op.kernel_size)),),
        tensors=_weight_and_bias,
    ),
    **_NORMS,
    **{
        spec.module: _activation(spec.module, spec.parameter)  # type: ignore[misc]
        for spec in ACTIVATIONS.values()
    },
    # torch keeps the index of each maximum as an int64.
    "MaxPool2d": OperationSpec(module=_pool_call, onnx=_max_pool_nodes, index_bytes=8),
    "AvgPool2d": OperationSpec(module=_pool_call, onnx=_average_pool_nodes, constants=_average_pool_constants),
    "AdaptiveAvgPool2d": OperationSpec(
        module=lambda _: ModuleCall((1,)), onnx=_node("GlobalAveragePool"), is_global=True
    ),
    "AdaptiveMaxPool2d": OperationSpec(
        module=lambda _: ModuleCall((1,)), onnx=_node("GlobalMaxPool"), index_bytes=8, is_global=True
    ),
    "Dropout": _dropout(),
    "Dropout2d": _dropout(),
    "Flatten": OperationSpec(module=lambda _: ModuleCall(), onnx=_node("Flatten"), is_view=True, is_global=True),
    "Linear": OperationSpec(
        module=lambda op: ModuleCall((op.input_shape[0], op.output_shape[0]), _given(("bias", op.bias, True))),
        onnx=_node("Gemm", transB=1),
        params=lambda op: ((op.output_shape[0], op.input_shape[0]), *_bias_params(op)),
        macs=lambda op: ((op.output_shape[0], op.input_shape[0]),),
        tensors=_weight_and_bias,
        is_global=True,
    ),
    "Add": OperationSpec(module=lambda _: ModuleCall(), onnx=_node("Sum"), is_join=True),
    "Concat": OperationSpec(module=lambda _: ModuleCall(), onnx=_node("Concat", axis=1), is_join=True),
}


def num_params(operation: Operation) -> int:
    """Number of its parameters."""
    return value(SPECS[operation.kind].params(operation))


def num_macs(operation: Operation) -> int:
    """Multiply-accumulates of its forward pass for one image."""
    return value(SPECS[operation.kind].macs(operation))
