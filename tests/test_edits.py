"""Actions on a layer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from lib.design.edits import ACTIONS, apply, available_actions, set_width
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
        assert actions == [action for action in ACTIONS if changes_and_fits(architecture, changed[action])]


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
        (1, "Without batch norm", "4 8n M 12 10 A"),
    ],
)
def test_actions(index: int, action: str, expected: str) -> None:
    assert action in available_actions(NETWORK)[index]
    assert notation(apply(NETWORK, index, action)) == expected


def test_actions_that_break_the_network_are_not_available() -> None:
    logits = logits_layer(NETWORK)
    assert "Remove" not in available_actions(NETWORK)[logits]
    assert "Without batch norm" not in available_actions(NETWORK)[logits]
    assert "Remove" not in available_actions(NETWORK)[5]
    assert "Move up" not in available_actions(NETWORK)[0]


def test_set_width() -> None:
    assert notation(set_width(NETWORK, 1, 20)) == "4 20 M 12 10 A"
    assert set_width(NETWORK, 0, 5).layers[0] == Convolution(5)
    with pytest.raises(ValueError, match="no width"):
        set_width(NETWORK, 2, 20)
