"""Receptive fields that comments state: how they are read, and why they are wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.importing.module_graph import ModuleNode
from lib.importing.stated_fields import CARRIED, DOUBLED, POOL_IGNORED, checked, stated_by_nodes, stated_in
from tests.architectures import architectures


@pytest.mark.parametrize(
    ("comment", "stated"),
    [
        ("28x28x1 > 28x28x4 : RF: 3x3", 3),
        ("28x28x4 >  28x28x8 RF: 7x7", 7),
        ("RF = 7", 7),
        ("receptive field: 7x7", 7),
        ("Receptive Field - 3, out 26", 3),
        ("receptive_field=28*28", 28),
        ("R.F 3", 3),
        ("output_size = 26 RF 3", 3),
        ("28 -> 26 | Jin = 1 | RF : 3", 3),
        ("Input: 28x28x1 | Output 26x26x16 | RF: 3x3", 3),
        ("output - 28x28x8, RF -3", 3),
        ("RF: 3 -> 5", 5),
        ("RF: 3x3 > 5x5", 5),
        ("r_in:1, n_in:28, j_in:1, s:1, r_out:3, n_out:26, j_out:1", 3),
        ("RF_out: 12", 12),
        ("RF=14 (jump 2)", 14),
        ("26 x 26 x 8 | RF(3)", 3),
        ("rf=3 jin=1 jout=1", 3),
        ("output 26x26x8", None),
        ("the surf 3 is high", None),
        ("RF grows here", None),
        ("", None),
    ],
)
def test_comments_are_read(comment: str, stated: int | None) -> None:
    assert stated_in(comment) == stated


@given(st.text(max_size=200))
def test_any_comment_is_read(comment: str) -> None:
    assert stated_in(comment) is None or stated_in(comment) >= 0  # type: ignore[operator]


@given(architectures())
def test_correct_fields_are_right(architecture: Architecture) -> None:
    rows = per_layer(analyze(architecture), architecture).rows
    for field in checked(architecture, [row.receptive_field for row in rows]):
        assert field.is_right
        assert field.reason is None
    wrong = checked(architecture, [row.receptive_field + 1 for row in rows])
    assert not any(field.is_right for field in wrong)
    # From the second row on the steps are right.
    joins = [row.kind in ("Add", "Concat") for row in rows]
    assert all(field.reason == CARRIED or is_join for field, is_join in zip(wrong[1:], joins[1:], strict=True))


def test_the_comments_of_the_assignment_double_the_field_at_the_pools() -> None:
    architecture = parse("4 4 8 M 12 12 16 M 20v 10v A3s2")
    fields = checked(architecture, (3, 5, 7, None, 14, 16, 18, None, 36, 38, 77))
    assert [field.correct for field in fields] == [3, 5, 7, 8, 12, 16, 20, 22, 30, 38, 46]
    assert [field.is_right for field in fields] == [
        True, True, True, None, False, True, False, None, False, True, False,
    ]  # fmt: skip
    assert fields[4].reason == DOUBLED
    assert fields[6].reason is not None
    assert fields[6].reason.startswith(
        "The strides before this layer are not counted. After them, one step on the map is 2"
    )
    assert fields[8].reason == fields[10].reason == DOUBLED


@pytest.mark.parametrize(
    ("network", "stated", "reason"),
    [
        ("8 8 M 8 10 A", (3, 5, 10, 12, 14, None), [None, None, DOUBLED, "strides", None, None]),
        ("8 8 M 8 10 A", (3, 5, 6, 8, 10, None), [None, None, None, "strides", "strides", None]),
        ("8 8 M 8 10 A", (3, 5, 5, 9, 13, None), [None, None, POOL_IGNORED, CARRIED, CARRIED, None]),
        ("8 8s2 8 10 A", (3, 5, 7, 9, None), [None, None, "strides", "strides", None]),
        ("8 8d2 10 A", (3, 5, 7, None), [None, "A kernel of 3 with dilation 2 spans 5", CARRIED, None]),
        ("8 add( 8 8x ) 10 A", (3, 5, 11, 30, None, None), [None, None, None, None, None, None]),
    ],
)
def test_known_mistakes_are_named(network: str, stated: tuple[int | None, ...], reason: list[str | None]) -> None:
    found = [field.reason for field in checked(parse(network), stated)]
    assert len(found) == len(reason)
    for text, expected in zip(found, reason, strict=True):
        assert (text is None) == (expected is None)
        assert expected is None or expected in str(text)


def test_the_last_comment_of_a_layer_counts() -> None:
    architecture = parse("8 10 A")
    comments = ["RF: 3", "", "RF: 4", "", "average"]
    nodes = [ModuleNode("any", (0,), {}, 1, comment) for comment in comments]
    assert stated_by_nodes(architecture, nodes) == (4, None, None)
