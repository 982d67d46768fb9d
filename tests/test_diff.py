"""Two designs side by side."""

from __future__ import annotations

from hypothesis import given

from lib.design.analysis import analyze, per_layer
from lib.design.diff import diff_layers
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from tests.architectures import architectures


@given(architectures(), architectures())
def test_every_layer_of_both_stands_once_and_the_differences_add_up(one: Architecture, other: Architecture) -> None:
    found = diff_layers(one, other)
    assert [pair.one for pair in found if pair.one] == list(per_layer(analyze(one), one).rows)
    assert [pair.other for pair in found if pair.other] == list(per_layer(analyze(other), other).rows)
    assert all(pair.one or pair.other for pair in found)
    assert sum(pair.num_params for pair in found) == analyze(other).num_params - analyze(one).num_params
    assert sum(pair.macs for pair in found) == analyze(other).macs - analyze(one).macs


@given(architectures())
def test_a_design_beside_itself_is_the_same_in_every_row(architecture: Architecture) -> None:
    found = diff_layers(architecture, architecture)
    assert found
    assert all(pair.one == pair.other for pair in found)


def test_an_added_layer_faces_nothing() -> None:
    found = diff_layers(parse("4 4 M 8 10 A"), parse("4 4 6 M 8 10 A"))
    assert [pair.one is None for pair in found] == [False, False, True, False, False, False, False]


def test_the_assignments_two_networks_differ_in_three_layers_and_in_no_parameter() -> None:
    found = diff_layers(*(parse(preset.text) for preset in PRESETS[:2]))
    assert sum(pair.num_params for pair in found) == 0
    assert len(found) == 11
    assert [pair.one.output_shape[1] for pair in found if pair.one][6:10] == [14, 7, 5, 3]
    assert [pair.other.output_shape[1] for pair in found if pair.other][6:10] == [12, 6, 6, 4]
