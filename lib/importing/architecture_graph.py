"""The graph of modules that a file with an architecture would have: the inverse of `lib.importing.conversion`."""

from __future__ import annotations

from lib.design.layers import ACTIVATIONS, Architecture, Pair, size
from lib.design.operations import Operation, operations
from lib.importing.module_graph import Argument, ModuleNode
from lib.importing.torch_modules import SIGNATURES

_PARAMETERS = {spec.module: spec.parameter for spec in ACTIVATIONS.values() if spec.parameter}


def graph_nodes(architecture: Architecture) -> tuple[ModuleNode, ...]:
    """One node for each operation, with all arguments of its class. Raises ArchitectureError as `operations`."""
    return tuple(
        ModuleNode(step.kind, step.inputs, {**defaults(step.kind), **_given(step)}) for step in operations(architecture)
    )


def defaults(kind: str) -> dict[str, Argument]:
    """The arguments of a class that have defaults, also of those that torch does not have."""
    signature = SIGNATURES.get("BatchNorm2d" if kind == "GhostBatchNorm2d" else kind, {})
    return {name: value for name, value in signature.items() if value is None or isinstance(value, int | float | str)}


def _given(step: Operation) -> dict[str, Argument]:
    channels, kind = step.output_shape[0], step.kind

    def short(sides: Pair) -> Argument:
        return size(*sides)

    match kind:
        case "Conv2d":
            return {
                "in_channels": step.input_shape[0],
                "out_channels": channels,
                "kernel_size": short(step.kernel_size),
                "stride": short(step.stride),
                "padding": short(step.padding),
                "dilation": step.dilation,
                "groups": step.groups,
                "bias": step.bias,
            }
        case "MaxPool2d" | "AvgPool2d":
            return {
                "kernel_size": short(step.kernel_size),
                "stride": short(step.stride),
                "padding": short(step.padding),
                "ceil_mode": step.ceil_mode,
            }
        case "AdaptiveAvgPool2d" | "AdaptiveMaxPool2d":
            return {"output_size": 1}
        case "Linear":
            return {"in_features": step.input_shape[0], "out_features": channels, "bias": step.bias}
        case "BatchNorm1d" | "BatchNorm2d" | "InstanceNorm2d":
            return {"num_features": channels}
        case "GhostBatchNorm2d":
            return {"num_features": channels, "num_splits": step.groups}
        case "GroupNorm":
            return {"num_groups": step.groups, "num_channels": channels}
        case "LayerNorm":
            return {"normalized_shape": (channels,) if step.is_flat else step.output_shape}
        case "LayerNorm2d":
            return {"normalized_shape": (channels,)}
        case "Dropout" | "Dropout2d":
            return {"p": step.parameter}
        case _ if kind in _PARAMETERS:
            return {_PARAMETERS[kind]: step.parameter}
    return {}
