"""A recipe is refused before the run where that is known, and survives a file."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.design.recipe import (
    FIELDS,
    OPTIMIZERS,
    RECIPES,
    SCHEDULES,
    VALIDATIONS,
    Augmentation,
    Recipe,
    RecipeError,
    differences,
    from_json,
    learning_rate,
    recipe_from_values,
    recipe_values,
    to_json,
)

recipes = st.builds(
    Recipe,
    optimizer=st.sampled_from(OPTIMIZERS),
    learning_rate=st.floats(1e-6, 10),
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 100),
    batch_size=st.integers(1, 4096),
    weight_decay=st.floats(0, 1),
    augmentation=st.builds(Augmentation, st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 45)),
    seed=st.integers(0, 2**31 - 1),
    label_smoothing=st.floats(0, 0.9),
    gamma=st.floats(0.001, 1),
    patience=st.integers(1, 100),
    validation=st.sampled_from(VALIDATIONS),
)


@given(recipes)
def test_json_round_trips(recipe: Recipe) -> None:
    assert from_json(to_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"batch_size": 0}, "batch size must be from 1 to 4,096; 0 is outside"),
        ({"learning_rate": 1e9}, "learning rate must be from 0.000001 to 10; 1,000,000,000 is outside"),
        ({"learning_rate": math.nan}, "learning rate must be a number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "whole number"),
        ({"optimizer": "Lion"}, "one of SGD, Adam, AdamW"),
        ({"augmentation": Augmentation(rotation=181)}, "rotation"),
        ({"seed": -1}, "seed"),
        ({"label_smoothing": 1.0}, "label smoothing must be from 0 to 0.9"),
        ({"gamma": 0}, "decay factor must be from 0.001 to 1"),
        ({"patience": 0}, "patience must be from 1"),
        ({"validation": "training"}, "validation must be one of test, held-out"),
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


def torch_rates(recipe: Recipe, steps_per_epoch: int, losses: list[float]) -> list[float]:
    """What torch's own schedulers do, stepped as their manual says: by batch or by epoch."""
    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.learning_rate)
    per_step = per_epoch = None
    if recipe.schedule == "one-cycle":
        per_step = schedulers.OneCycleLR(optimizer, recipe.learning_rate, steps_per_epoch * recipe.epochs + 1)
    elif recipe.schedule == "step":
        per_epoch = schedulers.StepLR(optimizer, recipe.patience, recipe.gamma)
    elif recipe.schedule == "plateau":
        plateau = schedulers.ReduceLROnPlateau(optimizer, factor=recipe.gamma, patience=recipe.patience, eps=0)
    rates = []
    for loss in losses:
        for _ in range(steps_per_epoch):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if per_step:
                per_step.step()
        if per_epoch:
            per_epoch.step()
        elif recipe.schedule == "plateau":
            plateau.step(loss)
    return rates


@settings(max_examples=60)
@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 9),
    st.integers(2, 30),
    st.integers(1, 4),
    st.floats(0.05, 0.9),
    st.data(),
)
def test_schedules_are_those_of_torch(
    schedule: Any, epochs: int, steps_per_epoch: int, patience: int, drop: float, data: st.DataObject
) -> None:
    recipe = Recipe(schedule=schedule, epochs=epochs, patience=patience, gamma=drop)
    losses = data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.20001, 0.3]), min_size=epochs, max_size=epochs))
    ours = [
        learning_rate(recipe, step, steps_per_epoch, losses[: step // steps_per_epoch])
        for step in range(epochs * steps_per_epoch)
    ]
    assert ours == pytest.approx(torch_rates(recipe, steps_per_epoch, losses), rel=1e-9)


def test_preset_titles_differ() -> None:
    assert len({preset.title for preset in RECIPES}) == len(RECIPES)
    assert len({(preset.recipe, preset.network) for preset in RECIPES}) == len(RECIPES)


def test_differences_are_named_as_a_reader_would() -> None:
    recipe = Recipe(learning_rate=0.1, augmentation=Augmentation(rotation=7.5), schedule="step")
    assert differences(Recipe(), Recipe()) == []
    assert differences(Recipe(), recipe) == [
        "learning rate 0.02 → 0.1",
        "schedule one-cycle → step",
        "rotation 0 → 7.5",
    ]


def test_a_field_is_one_row_of_the_table() -> None:
    """Validation, JSON, URL and form go over the same rows; each row says all that they need."""
    names = {f.name for f in dataclasses.fields(Recipe)} - {"augmentation"}
    nested = {f.name for f in dataclasses.fields(Augmentation)}
    assert {spec.name for spec in FIELDS if not spec.in_augmentation} == names
    assert {spec.name for spec in FIELDS if spec.in_augmentation} == nested
    for attribute in ("key", "json_key", "noun", "label"):
        assert len({getattr(spec, attribute) for spec in FIELDS}) == len(FIELDS)
    assert set(json.loads(to_json(Recipe()))) - {"augmentation"} == {
        spec.json_key for spec in FIELDS if not spec.in_augmentation
    }


@given(recipes)
def test_values_by_key_make_the_same_recipe(recipe: Recipe) -> None:
    assert recipe_from_values(recipe_values(recipe)) == recipe
