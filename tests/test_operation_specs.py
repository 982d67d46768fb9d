"""The table of operations, compared with torch; and no field of a layer may be ignored."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from lib.design.analysis import analyze, per_layer
from lib.design.layers import (
    CLASSES,
    Activation,
    Architecture,
    AveragePool,
    Branch,
    Convolution,
    Dropout,
    Flatten,
    Fork,
    FullyConnected,
    GlobalAveragePool,
    GlobalMaxPool,
    Join,
    Layer,
    MaxPool,
    Normalization,
)
from lib.design.notation import notation, parse
from lib.design.operation_specs import SPECS, Square, formula, num_params, value
from lib.design.operations import OperationKind, operations
from lib.export.onnx_file import onnx_bytes
from lib.export.pytorch_source import pytorch_source
from lib.nn import modules
from lib.nn.network import build
from tests.architectures import FIELDS, architectures
from tests.fast_path_reference import Comparison
from tests.measure import count_params, load_in_order
from tests.test_onnx_file import logits

# For each field of each layer a usual and another value.
VALUES: dict[type[Layer], dict[str, tuple[Any, Any]]] = {
    Convolution: {
        "channels": (4, 6),
        "kernel_size": (3, (5, 3)),
        "stride": (1, 2),
        "dilation": (1, 2),
        "padding": (None, 0),
        "norm": ("after", "before"),
        "activation": (Activation(), Activation("gelu")),
        "normalization": (Normalization(), Normalization("gn", 2)),
        "bias": (True, False),
        "groups": (1, 2),
    },
    MaxPool: {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 1), "ceil_mode": (False, True)},
    AveragePool: {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 1), "ceil_mode": (False, True)},
    GlobalAveragePool: {},
    GlobalMaxPool: {},
    Flatten: {},
    FullyConnected: {"features": (12, 13), "activation": (Activation(), None), "bias": (True, False)},
    Dropout: {"p": (0.1, 0.2), "whole_channels": (False, True)},
    Activation: {"name": ("leaky", "elu"), "parameter": (0.1, 0.2)},
    Normalization: {"name": ("gn", "gbn"), "groups": (2, 4)},
    Fork: {"join": ("add", "cat")},
    Branch: {},
    Join: {},
}
# What comes before a layer; the dropout keeps an activation from becoming part of the convolution.
BEFORE: tuple[Layer, ...] = (Convolution(4), Dropout(0.1))


@pytest.mark.parametrize("known", [VALUES, FIELDS], ids=["these tests", "the property tests"])
def test_every_field_of_every_layer_is_tested(known: dict[type[Layer], dict[str, object]]) -> None:
    assert set(known) == set(get_args(Layer))
    for layer, values in known.items():
        assert [field.name for field in fields(layer)] == list(values)


@pytest.mark.parametrize(("layer", "field"), [(layer, field) for layer, values in VALUES.items() for field in values])
def test_no_field_of_a_layer_is_ignored(layer: type[Layer], field: str) -> None:
    """Notation, analysis, torch, source, ONNX and the fast path see the other value, and agree on what it means."""
    usual = layer(**{name: values[0] for name, values in VALUES[layer].items()})
    changed = replace(usual, **{field: VALUES[layer][field][1]})
    head: tuple[Layer, ...] = (Convolution(CLASSES), GlobalAveragePool())
    if layer is FullyConnected:
        head = (FullyConnected(CLASSES),)
    if layer is Fork:
        head = (Convolution(4, 5), Join(), *head)
    before, after = (Architecture((*BEFORE, some, *head)) for some in (usual, changed))
    place = len(BEFORE)

    assert parse(notation(after)) == after
    assert notation(before) != notation(after)
    described = [
        (design.layers[place].description, per_layer(analyze(design), design).rows) for design in (before, after)
    ]
    assert described[0] != described[1]
    assert list(map(arguments, build(before))) != list(map(arguments, build(after)))

    network = build(after, seed=1)
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = network.eval()(x).detach()
    scope: dict[str, Any] = {}
    exec(pytorch_source(after), scope)
    load_in_order(scope["network"], network)
    torch.testing.assert_close(scope["network"].eval()(x), expected)
    # The ONNX file normalizes the pixels itself.
    pixels = (x * 0.3081 + 0.1307).numpy()
    np.testing.assert_allclose(logits(onnx_bytes(after, network.state_dict()), pixels), expected, rtol=1e-3, atol=1e-4)
    comparison = Comparison(network.train())
    computed, _, reference = comparison.outputs(x)
    torch.testing.assert_close(computed, reference.float(), rtol=1e-3, atol=1e-4)


def arguments(module: nn.Module) -> tuple[object, ...]:
    # The text of an average pool does not have all of its arguments.
    return type(module), repr(module), getattr(module, "ceil_mode", None)


def test_there_is_one_row_for_each_kind_of_operation() -> None:
    assert list(SPECS) == list(get_args(OperationKind))


@given(architectures())
def test_rows_agree_with_torchs_modules(architecture: Architecture) -> None:
    for operation, module in zip(operations(architecture), build(architecture), strict=True):
        spec = SPECS[operation.kind]
        assert isinstance(module, getattr(nn, operation.kind, None) or getattr(modules, operation.kind))
        assert num_params(operation) == count_params(module)
        assert [name for name in module.state_dict() if name != "num_batches_tracked"] == list(spec.tensors(operation))
        assert not (spec.is_view and spec.params(operation))
        assert not spec.is_global or operation.output_shape[1:] == (1, 1)


def test_expressions() -> None:
    expression = ((16, 8, Square(3)), (16,))
    assert value(expression) == 16 * 8 * 9 + 16
    assert formula(expression) == "16 · 8 · 3² + 16 = 1,168"
    assert (value(()), formula(())) == (0, "")
