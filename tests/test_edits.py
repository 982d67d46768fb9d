"""Actions on a layer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from lib.design.edits import (
    ACTIONS,
    NETWORK_ACTIONS,
    apply,
    apply_to_network,
    available_actions,
    available_network_actions,
    set_width,
)
from lib.design.layers import MAX_LAYERS, Architecture, ArchitectureError, Convolution, logits_layer
from lib.design.notation import notation, parse
from lib.design.operations import validate
from tests.architectures import architectures

NETWORK = parse("4 8 M 12 10 A")


def changes_and_fits(architecture: Architecture, changed: Architecture) -> bool:
    """Whether the network has changed and is valid, by a validation of all its layers."""
    if changed == architecture or not 1 <= len(changed.layers) <= MAX_LAYERS:
        return False
    try:
        validate(changed)
    except ArchitectureError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(architectures())
def test_available_actions_are_those_that_give_another_valid_network(architecture: Architecture) -> None:
    for index, actions in enumerate(available_actions(architecture)):
        changed = {action: apply(architecture, index, action) for action in ACTIONS}
        assert sorted(actions) == sorted(a for a in ACTIONS if changes_and_fits(architecture, changed[a]))


def test_no_layer_can_be_added_to_a_network_of_maximal_length() -> None:
    full = parse("4 " * (MAX_LAYERS - 2) + "10 A")
    assert len(full.layers) == MAX_LAYERS
    for actions in available_actions(full):
        assert not [action for action in actions if action.startswith("Add")]
        assert actions


@pytest.mark.parametrize(
    ("index", "action", "expected"),
    [
        (0, "Move down", "8 4 M 12 10 A"),
        (2, "Move up", "4 M 8 12 10 A"),
        (1, "Add a convolution above", "4 4 8 M 12 10 A"),
        (0, "Add a convolution above", "8 4 8 M 12 10 A"),
        (3, "Add a max-pool above", "4 8 M M 12 10 A"),
        (2, "Remove", "4 8 12 10 A"),
        (1, "No padding", "4 8v M 12 10 A"),
        (1, "Kernel 5×5", "4 8k5 M 12 10 A"),
        (1, "Without norm", "4 8n M 12 10 A"),
        (1, "Neither activation nor norm", "4 8x M 12 10 A"),
        (1, "Add a dropout above", "4 D5 8 M 12 10 A"),
    ],
)
def test_actions(index: int, action: str, expected: str) -> None:
    assert action in available_actions(NETWORK)[index]
    assert notation(apply(NETWORK, index, action)) == expected


def test_actions_that_break_the_network_are_not_available() -> None:
    logits = logits_layer(NETWORK)
    assert "Remove" not in available_actions(NETWORK)[logits]
    assert "Without norm" not in available_actions(NETWORK)[logits]
    assert "Remove" not in available_actions(NETWORK)[5]
    assert "Move up" not in available_actions(NETWORK)[0]


@pytest.mark.parametrize(
    ("network", "index", "action", "expected"),
    [
        ("8 8 10 A", 1, "Make it a residual block", "8 add( 8 ) 10 A"),
        ("8 add( 8 ) 10 A", 1, "Keep only the first branch", "8 8 10 A"),
        ("8 cat( 4k1 / 4k5 ) 10 A", 3, "Keep only the first branch", "8 4k1 10 A"),
        ("8 add( 8 8 ) 10 A", 1, "Begin one layer later", "8 8 add( 8 ) 10 A"),
        ("8 8 add( 8 ) 10 A", 2, "Begin one layer earlier", "8 add( 8 8 ) 10 A"),
        ("8 add( 8 8 ) 10 A", 4, "End one layer earlier", "8 add( 8 ) 8 10 A"),
        ("8 add( 8 ) 8 10 A", 3, "End one layer later", "8 add( 8 8 ) 10 A"),
        ("8x 10 A", 0, "With ReLU and batch norm", "8 10 A"),
        ("8n 10 A", 0, "With batch norm", "8 10 A"),
        ("8 R 10 A", 1, "GELU", "8 gelu 10 A"),
        ("8 N 10 A", 1, "Group norm", "8 gn4 10 A"),
        ("8 D5 10 A", 1, "Whole channels", "8 D5c 10 A"),
        ("8 M 32f 10f", 2, "No activation", "8 M 32fx 10f"),
    ],
)
def test_actions_on_other_layers(network: str, index: int, action: str, expected: str) -> None:
    assert action in available_actions(parse(network))[index]
    assert notation(apply(parse(network), index, action)) == expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("Norm before the activation", "norm=before | 8 16 M D10 10 A"),
        ("No norm", "8n 16n M D10 10 A"),
        ("Group norm", "norm=gn4 | 8 16 M D10 10 A"),
        ("GELU", "act=gelu | 8 16 M D10 10 A"),
        ("Without bias", "bias=off | 8 16 M D10 10 A"),
        ("Dropout after each convolution", "dropout=5 | 8 16 M 10 A"),
        ("No dropout", "8 16 M 10 A"),
    ],
)
def test_actions_on_all_layers(action: str, expected: str) -> None:
    network = parse("8 16 M D10 10 A")
    assert action in available_network_actions(network)
    changed = apply_to_network(network, action)
    assert notation(changed) == expected
    assert action not in available_network_actions(changed)


@settings(max_examples=200, deadline=None)
@given(architectures())
def test_available_actions_on_all_layers_give_another_valid_network(architecture: Architecture) -> None:
    available = available_network_actions(architecture)
    for action in NETWORK_ACTIONS:
        assert (action in available) == changes_and_fits(architecture, apply_to_network(architecture, action))


def test_a_menu_is_short_enough_for_a_class() -> None:
    for text in ("4 8 8 M 8k1 8k5 10 A", "8 add( 8b 8x N ) M 10v A", "norm=gn4 bias=off dropout=5 | 8 8g8 8k1 M 10 G"):
        assert max(map(len, available_actions(parse(text)))) <= 12


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_a_menu_is_never_long(architecture: Architecture) -> None:
    assert max(map(len, available_actions(architecture))) <= 14


def test_set_width() -> None:
    assert notation(set_width(NETWORK, 1, 20)) == "4 20 M 12 10 A"
    assert set_width(NETWORK, 0, 5).layers[0] == Convolution(5)
    with pytest.raises(ValueError, match="no width"):
        set_width(NETWORK, 2, 20)
