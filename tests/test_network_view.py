"""What the drawing of a network is given: read positions of any width, and nothing for a map too wide to be drawn."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from hypothesis import given, settings

from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.operations import operations
from lib.design.receptive_field import set_bits, used_positions
from lib.ui.network_view import MAX_DRAWN_SIDE, views
from tests.architectures import architectures

LARGEST = "16p28 " * 62 + "10 A"


@settings(max_examples=100, deadline=None)
@given(architectures())
def test_the_text_has_a_one_where_the_set_has_a_member(architecture: Architecture) -> None:
    steps = operations(architecture)
    sets = dict(zip((step.layer for step in steps), used_positions(steps), strict=True))
    layers = [row.layer for row in per_layer(analyze(architecture), architecture).rows]
    for layer, view in zip(layers, views(architecture)[1:], strict=True):
        if view.shape[1] <= MAX_DRAWN_SIDE:
            assert len(view.used) == len(view.input_masks) == view.shape[1]
            assert [i for i, bit in enumerate(view.used) if bit == "1"] == set_bits(sets[layer])


def test_a_map_wider_than_can_be_drawn_is_not_sent_and_says_so() -> None:
    wide, narrow = views(parse("8p28 8p28 8s28 10 A"))[2:4]
    assert (wide.input_masks, wide.used) == ((), "")
    assert wide.note.startswith("The output of layer 2 · 3×3 convolution, padding 28 is 136 × 136 positions: too many")
    assert narrow.input_masks
    assert "too many" not in narrow.note


def test_the_widest_network_is_ready_at_once_and_is_small() -> None:
    """F11: it took 11 to 13 s, and 0.9 MB. The bound is generous: many tests may run beside this one."""
    for text in (LARGEST, "16k28p28 " * 62 + "10 A", "2048 " * 62 + "10 A"):
        started = time.process_time()
        found = views(parse(text))
        assert time.process_time() - started < 1.5
        assert len(json.dumps([asdict(view) for view in found])) < 200_000
