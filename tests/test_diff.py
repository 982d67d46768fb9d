"""Two designs compared layer by layer."""

from __future__ import annotations

from hypothesis import given

from lib.design.analysis import analyze, per_layer
from lib.design.diff import diff_layers
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from tests.architectures import architectures


@given(architectures(), architectures())
def test_every_layer_of_both_occurs_once_and_the_differences_add_up(left: Architecture, right: Architecture) -> None:
    found = diff_layers(left, right)
    assert [diff.left for diff in found if diff.left] == list(per_layer(analyze(left), left).rows)
    assert [diff.right for diff in found if diff.right] == list(per_layer(analyze(right), right).rows)
    assert all(diff.left or diff.right for diff in found)
    assert sum(diff.num_params for diff in found) == analyze(right).num_params - analyze(left).num_params
    assert sum(diff.macs for diff in found) == analyze(right).macs - analyze(left).macs


@given(architectures())
def test_a_design_compared_with_itself_is_the_same_in_every_row(architecture: Architecture) -> None:
    found = diff_layers(architecture, architecture)
    assert found
    assert all(diff.left == diff.right for diff in found)


def test_an_added_layer_has_no_counterpart() -> None:
    found = diff_layers(parse("4 4 M 8 10 A"), parse("4 4 6 M 8 10 A"))
    assert [diff.left is None for diff in found] == [False, False, True, False, False, False, False]


def test_the_assignments_two_networks_differ_in_three_layers_and_in_no_parameter() -> None:
    found = diff_layers(*(parse(preset.text) for preset in PRESETS[:2]))
    assert sum(diff.num_params for diff in found) == 0
    assert len(found) == 11
    assert [diff.left.output_shape[1] for diff in found if diff.left][6:10] == [14, 7, 5, 3]
    assert [diff.right.output_shape[1] for diff in found if diff.right][6:10] == [12, 6, 6, 4]
