"""The notation: reading, writing, and errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.design.layers import (
    Activation,
    Architecture,
    ArchitectureError,
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
    MaxPool,
    Normalization,
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


def test_all_of_the_notation_is_parsed() -> None:
    assert parse("bias=off norm=before.gn2 act=silu | 8k3x1s2x1p2x0g1 8xw 8a.bn.leaky0.2 64fxw N 10fw R").layers == (
        Convolution(8, (3, 1), (2, 1), 1, (2, 0), "before", Activation("silu"), Normalization("gn", 2), bias=False),
        Convolution(8, activation=None),
        Convolution(8, activation=Activation("leaky", 0.2), bias=False),
        FullyConnected(64, activation=None),
        Normalization(),
        FullyConnected(10),
        Activation(),
    )
    assert parse("M3s2p1c A2s1c D0.5 D2.9c 8g1 cat( G / 4 A / A ) F ln D5 32f.tanh 10fu N").layers == (
        MaxPool(3, 2, 1, ceil_mode=True),
        AveragePool(2, 1, ceil_mode=True),
        Dropout(0.005),
        Dropout(0.029, whole_channels=True),
        Convolution(8),
        Fork("cat"),
        GlobalMaxPool(),
        Branch(),
        Convolution(4),
        GlobalAveragePool(),
        Branch(),
        GlobalAveragePool(),
        Join(),
        Flatten(),
        Normalization("ln"),
        Dropout(0.05),
        FullyConnected(32, Activation("tanh")),
        FullyConnected(10, bias=False),
        Normalization(),
    )


@pytest.mark.parametrize(
    ("layer", "size"),
    [("4", 28), ("4k5", 28), ("4k1", 28), ("4k4", 27), ("4k2", 27), ("4v", 26), ("4k4v", 25), ("4s2", 14)],
)
def test_an_odd_kernel_keeps_the_size_and_an_even_one_loses_a_pixel(layer: str, size: int) -> None:
    first = operations(parse(f"{layer} 10 A"))[0]
    assert first.output_shape == (4, size, size)


def test_any_spelling_is_parsed_and_written_in_the_canonical_form() -> None:
    assert notation(parse("  4,8 m 16S2k3\t10 a ")) == "4 8 M 16s2 10 A"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("16k1v 16p1 10 A", "16k1 16 10 A"),
        ("16x R 16x R N 16x N R 16x N 16n N 16fx R 10f", "16n 16 16b 16x N 16 16f 10f"),
        ("16xR", None),
        ("10b A", "10 A"),
        ("16 10nu A", "16 10u A"),
        ("16u 16 10u A", "bias=off | 16 16w 10 A"),
        ("16u 16u 10 A", "bias=off | 16 16 10w A"),
        ("16b 16b 10 A", "norm=before | 16 16 10 A"),
        ("norm=none | 16 16.gn4 10 A", "16n 16.gn4 10 A"),
        ("16.gn4 16.gn4 16 10 A", "norm=gn4 | 16 16 16.bn 10 A"),
        ("act=gelu | 16 16.relu 10 A", "16.gelu 16 10 A"),
        ("16.gelu.gn4 16.gelu.gn4b 10 A", None),
        ("16.gelu.gn4 16b.gn4.gelu 10 A", "norm=gn4 act=gelu | 16 16b 10 A"),
        ("dropout=5 | 16 16 D10 M 8k1x 10 A", "16 D5 16 D10 M 8k1x 10 A"),
        ("16 D5c 16 D5c M 8k1x 10 A", "dropout=5c | 16 16 M 8k1x 10 A"),
        ("norm=before.gn4 bias=off | 16 16a 10w R A", "bias=off norm=gn4 | 16b 16 10w R A"),
        ("add(16x/)16 cat(/8)cat(8/)add(/ 8)10 A", None),
        ("1 add( / 1 ) cat( / 1 ) cat( 1 / ) 10 A", "1 add( 1 ) cat( / 1 ) cat( 1 ) 10 A"),
        ("1 add( / 1 / 1k5 ) cat( / 1 / 1k5 ) 10 A", "1 add( 1 / 1k5 / ) cat( / 1 / 1k5 ) 10 A"),
        ("8 F 10f", "8 10f"),
        ("8 F D10 10f F", "8 F D10 10f"),
        ("16K3X1 RELU gELU a 10F", "16k3x1 R gelu A 10f"),
        ("leaky0.010 leaky leaky0.2 8.LEAKY0.3 10 A", "leaky leaky leaky0.2 8.leaky0.3 10 A"),
    ],
)
def test_one_network_has_one_text(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(ArchitectureError):
            parse(text)
    else:
        assert notation(parse(text)) == canonical
        assert parse(canonical) == parse(text)


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
        ("8 ) 10 A", "none are open"),
        ("8 / 10 A", "none are open"),
        ("8 add( 8 ) add( 8 cat( 8 / 8 ) 10 A", "layer 5, “add(”, have no end"),
        ("8 add( 16 ) 10 A", "cannot add 16 × 28 × 28 and 8 × 28 × 28"),
        ("8 cat( 8 / 8s2 ) 10 A", "positions are 1 and 2 pixels apart"),
        ("8 add( 8s2 / 8k2v M ) 10 A", "cannot add"),
        ("8 cat( 8v / 8 ) 10 A", "cannot concatenate 8 × 26 × 26 and 8 × 28 × 28"),
        ("8 cat( 8s3p2 / 8k19v ) 10 A", "positions are 3 and 1 pixels apart"),
        ("8 add( ) 10 A", "more than one empty branch"),
        ("8 cat( / 8 / ) 10 A", "more than one empty branch"),
        ("8 cat( 10f / A ) 10f", "joins an image with the output of a fully connected layer"),
        ("6g4 10 A", "1 channel cannot be divided into 4 groups"),
        ("8 6g4 10 A", "6 channels cannot be divided into 4 groups"),
        ("6.gn4 10 A", "6 channels cannot be divided into 4 groups"),
        ("8f gn3 10f", "8 channels cannot be divided into 3 groups"),
        ("8 A in 10 A", "more than one position"),
        ("8f in 10f", "N, a batch norm"),
        ("M2s2p2 10 A", "at most half its size"),
        ("8ux 8uw 10 A", "u and w exclude"),
        ("8xn 10 A", "x and n exclude"),
        ("8x.gelu 10 A", "x means neither activation nor norm"),
        ("8n.gn4 10 A", "n means no norm"),
        ("8fx.gelu 10f", "x means no activation"),
        ("8fn 10f", "a fully connected layer takes x, u, w"),
        ("8f.gn4 10f", "a layer of its own"),
        ("8.gelu.tanh 10 A", "not one activation and one norm"),
        ("8.gelo 10 A", "not one activation and one norm"),
        ("8.gn 10 A", "not one activation and one norm"),
        ("8.relu3 10 A", "not one activation and one norm"),
        ("gn0 8 10 A", "Token 1, “gn0”"),
        ("8k3x 10 A 4", "ends in 4"),
        ("bias=of | 8 10 A", "bias=on or bias=off"),
        ("norm=none.before | 8 10 A", "norm=none.before"),
        ("norm=gn | 8 10 A", "norm=gn is unknown"),
        ("act=rel | 8 10 A", "act=rel is unknown"),
        ("dropout=95 | 8 10 A", "percentage from 0 to 90"),
        ("dropout=x | 8 10 A", "dropout=x is unknown"),
        ("bias=off bias=on | 8 10 A", "appears twice"),
        ("colour=red | 8 10 A", "is not a setting"),
        ("8 | | 8 10 A", "is not a setting"),
        ("4 " * 300, "300 layers"),
        ("add( " * 9 + "1 " + ") " * 9 + "10 A", "more than 8 other branches"),
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
