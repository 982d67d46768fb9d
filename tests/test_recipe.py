"""A recipe is refused before the run where that is known, and survives a file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.recipe import OPTIMISERS, RECIPES, SCHEDULES, Augmentation, Recipe, RecipeError, from_json, to_json

recipes = st.builds(
    Recipe,
    optimiser=st.sampled_from(OPTIMISERS),
    learning_rate=st.floats(1e-6, 10),
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 100),
    batch_size=st.integers(1, 4096),
    weight_decay=st.floats(0, 1),
    augmentation=st.builds(Augmentation, st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(0, 2**31 - 1),
)


@given(recipes)
def test_json_round_trips(recipe: Recipe) -> None:
    assert from_json(to_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"batch_size": 0}, "batch size must be from 1 to 4096; 0 is outside"),
        ({"learning_rate": 1e9}, "learning rate must be from 0.000001 to 10; 1,000,000,000 is outside"),
        ({"learning_rate": math.nan}, "learning rate must be a number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "whole number"),
        ({"optimiser": "Lion"}, "one of SGD, Adam, AdamW"),
        ({"augmentation": Augmentation(rotation=181)}, "rotation"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_impossible_recipe_gets_a_sentence(values: dict[str, object], names: str) -> None:
    with pytest.raises(RecipeError, match=names):
        Recipe(**values)  # type: ignore[arg-type]


@given(st.one_of(st.text(), st.from_regex(r'\{"(epochs|seed|x|augmentation)": ?(1e999|"a"|\[\]|null|\{"y": 1\})\}')))
def test_junk_in_a_file_is_refused_in_words(text: str) -> None:
    try:
        from_json(text)
    except RecipeError as error:
        assert str(error).endswith(".")


def test_preset_titles_differ() -> None:
    assert len({preset.title for preset in RECIPES}) == len({preset.recipe for preset in RECIPES}) == len(RECIPES)
