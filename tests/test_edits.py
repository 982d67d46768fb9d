"""A click on a layer: what it may do, and what comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import edits
from lib.architecture import Architecture, Convolution, logits_layer, notation, parse, validate
from tests.architectures import architectures

NETWORK = parse("4 8 M 12 10 A")


@given(architectures(), st.data())
def test_every_offered_action_changes_the_network_into_one_that_can_be_built(
    architecture: Architecture, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(architecture.layers) - 1))
    for action in edits.possible(architecture, index):
        changed = edits.apply(architecture, index, action)
        assert changed != architecture
        validate(changed)


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
    assert action in edits.possible(NETWORK, index)
    assert notation(edits.apply(NETWORK, index, action)) == expected


def test_what_would_break_the_network_is_not_offered() -> None:
    logits = logits_layer(NETWORK)
    assert "Remove" not in edits.possible(NETWORK, logits)
    assert "Without batch norm" not in edits.possible(NETWORK, logits)
    assert "Remove" not in edits.possible(NETWORK, 5)
    assert "Move up" not in edits.possible(NETWORK, 0)


def test_widen() -> None:
    assert notation(edits.widen(NETWORK, 1, 20)) == "4 20 M 12 10 A"
    assert edits.widen(NETWORK, 0, 5).layers[0] == Convolution(5)
    with pytest.raises(ValueError, match="no width"):
        edits.widen(NETWORK, 2, 20)
