"""Counts, shapes and receptive fields, compared with torch and with the assignment's table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from torch import nn

from lib.design.analysis import analyze, per_layer
from lib.design.exercise import requirements
from lib.design.layers import Architecture, Branch, Flatten, Fork
from lib.design.notation import parse
from lib.design.operations import operations
from lib.design.presets import PRESETS
from lib.nn.network import build
from tests.architectures import architectures
from tests.measure import called_modules, count_params
from tests.positive_network import outputs, unbounded_module

CODE, TABLE, START, SMALL, DENSE, SHALLOW, GROWING, PLAIN = (parse(preset.text) for preset in PRESETS)

# The summary in the assignment: for each module the output shape and the number of parameters.
ASSIGNMENT_SUMMARY = """
Conv2d 4 28 28 40 | ReLU 4 28 28 0 | BatchNorm2d 4 28 28 8 | Conv2d 4 28 28 148 | ReLU 4 28 28 0 | BatchNorm2d 4 28 28 8
Conv2d 8 28 28 296 | ReLU 8 28 28 0 | BatchNorm2d 8 28 28 16 | MaxPool2d 8 14 14 0
Conv2d 12 14 14 876 | ReLU 12 14 14 0 | BatchNorm2d 12 14 14 24 | Conv2d 12 14 14 1308 | ReLU 12 14 14 0
BatchNorm2d 12 14 14 24 | Conv2d 16 12 12 1744 | ReLU 16 12 12 0 | BatchNorm2d 16 12 12 32 | MaxPool2d 16 6 6 0
Conv2d 20 6 6 2900 | ReLU 20 6 6 0 | BatchNorm2d 20 6 6 40 | Conv2d 10 4 4 1810 | AvgPool2d 10 1 1 0
"""


def test_the_table_of_the_assignment_is_reproduced_row_by_row() -> None:
    expected = [row.split() for line in ASSIGNMENT_SUMMARY.strip().splitlines() for row in line.split(" | ")]
    rows = analyze(TABLE).rows
    assert len(rows) == len(expected) == 25
    for number, (row, (kind, *numbers)) in enumerate(zip(rows, expected, strict=True), start=1):
        assert row.name == f"{kind}-{number}"
        assert (*row.output_shape, row.num_params) == tuple(int(n) for n in numbers)


def test_true_receptive_fields_of_the_answer() -> None:
    fields = [row.receptive_field for row in per_layer(analyze(CODE), CODE).rows]
    assert fields == [3, 5, 7, 8, 12, 16, 20, 22, 30, 38, 46]
    assert analyze(TABLE).receptive_field == 46
    assert analyze(parse("4 4 8 M 12 12 16v M 20 10v A")).receptive_field == 50


def test_parameters_of_the_presets() -> None:
    assert [analyze(a).num_params for a in (CODE, TABLE, START, SMALL)] == [9274, 9274, 6_379_786, 3646]
    assert [analyze(a).num_params for a in (SHALLOW, GROWING, PLAIN)] == [319_498, 11_682, 6374]


@given(architectures())
def test_shapes_and_counts_are_those_of_torch(architecture: Architecture) -> None:
    analysis = analyze(architecture)
    network = build(architecture).eval()
    rows = iter(analysis.rows)
    for module, x in called_modules(network, torch.zeros(1, 1, 28, 28)):
        if isinstance(module, nn.Flatten):
            continue
        row = next(rows)
        assert row.kind in (type(module).__name__, *(base.__name__ for base in type(module).__bases__))
        assert row.num_params == count_params(module)
        assert row.output_shape[0] * row.output_shape[1] * row.output_shape[2] == x.numel()
        assert tuple(x.shape[1:]) == row.output_shape[: x.dim() - 1]
    assert next(rows, None) is None
    assert analysis.num_params == count_params(network)


@given(architectures())
def test_columns_add_up_to_the_totals(architecture: Architecture) -> None:
    analysis = analyze(architecture)
    for rows in (analysis.rows, per_layer(analysis, architecture).rows):
        assert sum(row.num_params for row in rows) == analysis.num_params
        assert sum(row.macs for row in rows) == analysis.macs
        assert sum(row.share for row in rows) == pytest.approx(1)
    structure = sum(isinstance(layer, Fork | Branch | Flatten) for layer in architecture.layers)
    assert len(per_layer(analysis, architecture).rows) == len(architecture.layers) - structure


@given(architectures(dense=False))
def test_macs_are_the_multiplications_of_torch(architecture: Architecture) -> None:
    """Every output value of a convolution takes one multiplication for each weight of its channel."""
    counted = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(module, nn.Conv2d)
        counted += output.numel() * module.weight[0].numel()

    network = build(architecture).eval()
    for module in network:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.zeros(1, 1, 28, 28))
    assert analyze(architecture).macs == counted


@settings(max_examples=300, deadline=None)
@given(architectures(dense=False))
def test_receptive_field_is_the_extent_of_the_gradient(architecture: Architecture) -> None:
    """On a large image, the gradient of one output is nonzero on a rectangle with the sides of the receptive field."""
    steps = operations(architecture)
    row = analyze(architecture).rows[-1]
    height, width = row.receptive_field, row.horizontal.receptive_field if row.horizontal else row.receptive_field
    assume(height * width < 200_000)
    image = torch.ones(1, 1, 2 * height + 40, 2 * width + 40, dtype=torch.float64, requires_grad=True)
    output = outputs(steps, image, unbounded_module)[-1]
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    rows, columns = image.grad[0, 0].nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == height
    assert int(columns.max() - columns.min()) + 1 == width


def test_requirements_of_the_exercise() -> None:
    before = requirements(analyze(CODE), CODE, epochs=19, test_accuracy=None)
    assert [requirement.status for requirement in before] == ["met", "met", "met", "unknown"]
    after = requirements(analyze(DENSE), DENSE, epochs=20, test_accuracy=0.9939)
    assert [requirement.status for requirement in after] == ["missed", "missed", "missed", "missed"]
    assert requirements(analyze(CODE), CODE, 19, 0.994)[3].status == "met"
