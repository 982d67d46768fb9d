"""Recipes compared on what is left out of training: each image once, and never on what was trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.folds import advantage, final_accuracy, folds, main
from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.training.trainer import Trainer
from tests.measure import accuracy_on


def numbered(count: int) -> Dataset:
    """Training images that can be told apart by their label."""
    labels = torch.arange(count)
    images = labels.to(torch.uint8).view(-1, 1, 1).expand(-1, 28, 28).clone()
    return Dataset(images, labels, images[:0], labels[:0])


@pytest.mark.parametrize("count", [60, 100])
def test_every_image_is_left_out_once_and_trained_on_otherwise(count: int) -> None:
    left_out = []
    for fold in folds(numbered(count), 6):
        assert sorted([*fold.train_labels.tolist(), *fold.test_labels.tolist()]) == list(range(count))
        for images, labels in ((fold.train_images, fold.train_labels), (fold.test_images, fold.test_labels)):
            assert torch.equal(images[:, 0, 0].long(), labels)
        left_out += fold.test_labels.tolist()
    assert sorted(left_out) == list(range(count))
    assert left_out != list(range(count))


def test_a_recipe_is_measured_on_what_was_left_out_after_the_final_epoch(small: Dataset) -> None:
    data = next(iter(folds(small, 2)))
    architecture, recipe = parse("4 M 10 A"), Recipe(epochs=2, batch_size=50)
    training = Trainer(architecture, recipe, data)
    for _ in training:
        pass
    assert final_accuracy(architecture, recipe, data) == accuracy_on(
        training.network, data.test_images, data.test_labels
    )
    assert final_accuracy(architecture, replace(recipe, epochs=1), data) != accuracy_on(
        training.network, data.test_images, data.test_labels
    )


def test_the_advantage_is_of_pairs() -> None:
    """However much the folds differ: differences 1, 2 and 6 have mean 3, deviation sqrt(7), error sqrt(7 / 3)."""
    mean, error = advantage([11, 102, 1006], [10, 100, 1000])
    assert mean == 3
    assert error == pytest.approx((7 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name a network and its recipes"),
        (("4 10 A",), "Name a network and its recipes"),
        (("4 oops", "Quick"), "Token 2, “oops”, is not a layer."),
        (("4 10 A", "Quicker"), "There is no recipe “Quicker”"),
        (("4 10 A", '{"batch_size": 0}'), "The batch size must be from 1"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert str(end.value).startswith(sentence)
