"""Python evaluates every formula that is shown; the results must be the numbers of the table."""

from __future__ import annotations

import re

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
        *calculation, result = re.sub(r"batch norm |,", "", part).replace("−", "-").split(" = ")
        for left in calculation:
            python = left.replace("·", "*").replace("²", "**2").replace("⌊", "int(").replace("⌋", ")")
            assert set(python) <= set("0123456789 .+-*/()int")
            assert eval(python) == float(result), part
        total += float(result)
    return total


@given(architectures())
def test_formulas_give_the_numbers_of_the_table(architecture: Architecture) -> None:
    rows = per_layer(analyze(architecture), architecture).rows
    for row, formulas in zip(rows, layer_formulas(architecture), strict=True):
        assert value(formulas.size) == row.output_shape[1]
        assert value(formulas.params) == row.num_params
        assert value(formulas.macs) == row.macs
        assert value(formulas.receptive_field) == row.receptive_field
        assert value(formulas.jump) == row.jump
        assert value(formulas.center) == row.center


def test_formulas_are_written_as_in_a_textbook() -> None:
    third = layer_formulas(parse("4 4 8d2p1 M 10 A"))[2]
    assert third.size == "⌊(28 + 2 · 1 − 2 · (3 − 1) − 1) / 1⌋ + 1 = 26"
    assert third.params == "8 · 4 · 3² + 8 = 296; batch norm 2 · 8 = 16"
    assert third.receptive_field == "5 + 2 · (3 − 1) · 1 = 9"
    assert third.macs == "8 · 26 · 26 · 4 · 3² = 194,688"


@pytest.mark.parametrize(("text", "dense"), [("16 M 10f", "10 · 3136 + 10 = 31,370")])
def test_a_dense_layer_has_a_weight_for_every_input_value(text: str, dense: str) -> None:
    assert layer_formulas(parse(text))[-1].params == dense
