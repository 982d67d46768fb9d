"""Python evaluates every formula that is shown; the results must be the numbers of the table."""

from __future__ import annotations

import re
from math import ceil  # noqa: F401 - for the formulas

import pytest
from hypothesis import given

from lib.design.analysis import analyze, per_layer
from lib.design.formulas import layer_formulas
from lib.design.layers import Architecture
from lib.design.notation import parse
from tests.architectures import architectures


def value(text: str) -> float:
    """Evaluate the parts of a formula, compare each with the result that it states, and return their sum."""
    total = 0.0
    for part in text.split("; "):
        *calculation, result = re.sub(r"(ghost |batch |group |layer )*norm |,", "", part).replace("−", "-").split(" = ")
        for left in calculation:
            if "the union" in left:
                continue
            python = left.replace("·", "*").replace("²", "**2").replace("⌊", "int(").replace("⌈", "ceil(")
            python = python.replace("⌋", ")").replace("⌉", ")")
            assert set(python) <= set("0123456789 .+-*/()intceil")
            assert eval(python) == float(result), part
        total += float(result)
    return total


def both_axes(text: str) -> tuple[float, float]:
    """The results for height and width; one formula holds for both."""
    vertical, *horizontal = map(value, text.split("; "))
    return vertical, *(horizontal or [vertical])  # type: ignore[return-value]


@given(architectures())
def test_formulas_give_the_numbers_of_the_table(architecture: Architecture) -> None:
    rows = per_layer(analyze(architecture), architecture).rows
    for row, formulas in zip(rows, layer_formulas(architecture), strict=True):
        assert value(formulas.params) == row.num_params
        assert value(formulas.macs) == row.macs
        other = row.horizontal or row
        assert both_axes(formulas.size) == row.output_shape[1:]
        assert both_axes(formulas.receptive_field) == (row.receptive_field, other.receptive_field)
        assert both_axes(formulas.jump) == (row.jump, other.jump)
        assert both_axes(formulas.center) == (row.center, other.center)


def test_formulas_are_written_as_in_a_textbook() -> None:
    third = layer_formulas(parse("4 4 8d2p1 M 10 A"))[2]
    assert third.size == "⌊(28 + 2 · 1 − 2 · (3 − 1) − 1) / 1⌋ + 1 = 26"
    assert third.params == "8 · 4 · 3² + 8 = 296; batch norm 2 · 8 = 16"
    assert third.receptive_field == "5 + 2 · (3 − 1) · 1 = 9"
    assert third.macs == "8 · 26 · 26 · 4 · 3² = 194,688"


@pytest.mark.parametrize(("text", "dense"), [("16 M 10f", "10 · 3136 + 10 = 31,370")])
def test_a_dense_layer_has_a_weight_for_every_input_value(text: str, dense: str) -> None:
    assert layer_formulas(parse(text))[-1].params == dense
