"""What the drawing of a network is given: read positions of any width, and nothing for a map too wide to be drawn."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from hypothesis import given, settings

from lib.design.analysis import analyze, layers_with_rows, per_layer
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.operations import operations
from lib.design.receptive_field import Axis, input_masks, set_bits, used_positions
from lib.ui.network_view import MAX_DRAWN_SIDE, views
from tests.architectures import architectures

LARGEST = "16p28 " * 62 + "10 A"


@settings(max_examples=100, deadline=None)
@given(architectures())
def test_each_axis_has_the_sets_and_the_numbers_of_the_analysis(architecture: Architecture) -> None:
    steps = operations(architecture)
    rows = per_layer(analyze(architecture), architecture).rows
    last = {step.layer: index for index, step in enumerate(steps) if step.kind != "Flatten"}
    axes: tuple[Axis, Axis] = (0, 1)
    for axis in axes:
        masks, used = input_masks(steps, axis), used_positions(steps, axis)
        for row, view in zip(rows, views(architecture)[1:], strict=True):
            drawn = view.horizontal or view.vertical if axis else view.vertical
            expected = row.horizontal or row if axis else row
            assert (drawn.receptive_field, drawn.jump) == (expected.receptive_field, expected.jump)
            assert drawn.center == expected.center
            if max(view.shape[1:]) <= MAX_DRAWN_SIDE:
                assert drawn.input_masks == masks[last[row.layer]]
                assert len(drawn.used) == view.shape[1 + axis]
                members = [position for position, bit in enumerate(drawn.used) if bit == "1"]
                assert members == set_bits(used[last[row.layer]])


@settings(max_examples=200, deadline=None)
@given(architectures())
def test_lines_lead_from_the_inputs_of_each_layer_and_no_two_layers_have_one_place(architecture: Architecture) -> None:
    found = views(architecture)
    assert len({(view.column, view.lane) for view in found}) == len(found)
    steps = operations(architecture)
    view_of = {-1: 0}
    by_layer: dict[int, int] = {}
    for index, step in enumerate(steps):
        # A view of the values, such as Flatten, is the layer before.
        if step.layer in layers_with_rows(architecture):
            view_of[index] = by_layer.setdefault(step.layer, len(by_layer) + 1)
        else:
            view_of[index] = view_of[step.inputs[0]]
    expected: dict[int, tuple[int, ...]] = {}
    for index, step in enumerate(steps):
        expected.setdefault(view_of[index], tuple(view_of[source] for source in step.inputs))
    for number, view in enumerate(found[1:], start=1):
        assert tuple(source for source, _ in view.links) == expected[number]
        for source, lane in view.links:
            assert found[source].column < view.column
            # The line does not run through another layer.
            between = [other for other in found if other.lane == lane and found[source].column < other.column]
            assert not [other for other in between if other.column < view.column]


def test_branches_are_in_lanes_and_a_nested_fork_is_in_those_of_its_branch() -> None:
    found = views(parse("8 add( cat( 4 / 4 4 ) / 8k1 ) add( 8 ) 10 A"))
    assert [(view.token, view.column, view.lane) for view in found] == [
        ("image", 0, 0),
        ("8", 1, 0),
        ("4", 2, 0),
        ("4", 2, 1),
        ("4", 3, 1),
        ("cat", 4, 0),
        ("8k1", 2, 2),
        ("add", 5, 0),
        ("8", 6, 0),
        ("add", 7, 0),
        ("10", 8, 0),
        ("A", 9, 0),
    ]
    assert found[7].links == ((5, 0), (6, 2))
    # The input itself has a lane without layers.
    assert found[9].links == ((8, 0), (7, 1))
    assert found[9].label == "14 · Sum of the branches"
    assert dict(found[9].formulas)["Receptive field"] == "the union of 9 and 7 = 9"


def test_kinds_and_tokens_are_those_of_the_text() -> None:
    found = views(parse("norm=before bias=off | 8 16x N gelu M D5 F N 32f 10fx N"))
    assert [(view.token, view.kind) for view in found[1:]] == [
        ("8", "convolution"),
        ("16.gelu", "convolution"),
        ("M", "pool"),
        ("D5", "dropout"),
        ("N", "norm"),
        ("32f", "dense"),
        ("10f", "dense"),
        ("N", "norm"),
    ]


def test_a_field_of_different_height_and_width_is_noted_where_it_is_wider_than_the_image() -> None:
    narrow, wide = views(parse("8k3x1 8k1x28p0x20 8k1x15p0x10 10 A"))[2:4]
    assert narrow.horizontal
    assert (narrow.vertical.receptive_field, narrow.horizontal.receptive_field) == (3, 28)
    assert "wider than the image" not in narrow.note
    assert "wider than the image" in wide.note


def test_a_rectangle_around_branches_that_see_different_pixels_is_noted() -> None:
    cross, after = views(parse("cat( 8k3x1 / 8k1x3 ) 10 A"))[3:5]
    assert cross.note.startswith("The branches see different pixels")
    assert "The branches see different pixels" in after.note
    for text in ("8 add( 8k5 ) 10 A", "cat( 8k3 / 8k5 / ) 10 A", "cat( 8k3x1 / 8k5x3 ) 10 A"):
        assert not [view for view in views(parse(text)) if "different pixels" in view.note], text


def test_a_map_wider_than_can_be_drawn_is_not_sent_and_says_so() -> None:
    wide, narrow = views(parse("8p28 8p28 8s28 10 A"))[2:4]
    assert (wide.vertical.input_masks, wide.vertical.used) == ((), "")
    assert wide.note.startswith("The output of layer 2 · 3×3 convolution, padding 28 is 136 × 136 positions: too many")
    assert narrow.vertical.input_masks
    assert "too many" not in narrow.note


def test_the_widest_network_is_ready_at_once_and_is_small() -> None:
    """F11: it took 11 to 13 s, and 0.9 MB. The bound is generous: many tests may run beside this one."""
    for text in (LARGEST, "16k28p28 " * 62 + "10 A", "2048 " * 62 + "10 A"):
        started = time.process_time()
        found = views(parse(text))
        assert time.process_time() - started < 1.5
        assert len(json.dumps([asdict(view) for view in found])) < 200_000
