"""The notation: reading, writing, and errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.design.layers import (
    Architecture,
    ArchitectureError,
    AveragePool,
    Convolution,
    Dropout,
    FullyConnected,
    GlobalAveragePool,
    MaxPool,
)
from lib.design.notation import notation, parse
from lib.design.operations import operations
from lib.design.presets import PRESETS
from tests.architectures import architectures


@given(architectures())
def test_notation_round_trips(architecture: Architecture) -> None:
    assert parse(notation(architecture)) == architecture


def test_every_suffix_is_parsed() -> None:
    assert parse("16k5s2vn 8d2p1b D25 M3s2 A3s1 M 32f 10f").layers == (
        Convolution(16, kernel_size=5, stride=2, padding=0, norm="none"),
        Convolution(8, dilation=2, padding=1, norm="before"),
        Dropout(0.25),
        MaxPool(3, 2),
        AveragePool(3, 1),
        MaxPool(),
        FullyConnected(32),
        FullyConnected(10),
    )
    assert parse("10 A").layers[-1] == GlobalAveragePool()


@pytest.mark.parametrize(
    ("layer", "size"),
    [("4", 28), ("4k5", 28), ("4k1", 28), ("4k4", 27), ("4k2", 27), ("4v", 26), ("4k4v", 25), ("4s2", 14)],
)
def test_an_odd_kernel_keeps_the_size_and_an_even_one_loses_a_pixel(layer: str, size: int) -> None:
    first = operations(parse(f"{layer} 10 A"))[0]
    assert first.output_shape == (4, size, size)


def test_any_spelling_is_parsed_and_written_in_the_canonical_form() -> None:
    assert notation(parse("  4,8 m 16S2k3\t10 a ")) == "4 8 M 16s2 10 A"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_presets_are_in_the_canonical_form(preset: object) -> None:
    assert notation(parse(preset.text)) == preset.text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty"),
        ("4 8 x 10 A", "Token 3, “x”"),
        ("4 0 10 A", "Token 2, “0”"),
        ("99999 10 A", "1 to 2048"),
        ("4k99 10 A", "kernel"),
        ("4vv 10 A", "twice"),
        ("4vp1 10 A", "v and p exclude"),
        ("4nb 10 A", "n and b exclude"),
        ("4k15d3v 10 A", "needs 43×43 pixels"),
        ("D99 10 A", "from 0 to 90"),
        ("As2 10 A", "M3s2"),
        ("M M M M M 10 A", "Layer 5"),
        ("4 M", "4 × 14 × 14"),
        ("16 A", "16 × 1 × 1"),
        ("A", "1 × 1 × 1"),
        ("8f 10 A", "fully connected"),
        ("4 " * 300, "300 layers"),
        ("__import__('os')", "Token 1"),
        ("٤ 10 A", "Token 1"),
    ],
)
def test_an_error_is_a_sentence_that_names_the_problem(text: str, names: str) -> None:
    with pytest.raises(ArchitectureError, match=re.escape(names)) as caught:
        parse(text)
    assert str(caught.value).endswith(".")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_a_sentence(text: str) -> None:
    try:
        parse(text)
    except ArchitectureError as error:
        assert str(error).endswith(".")
