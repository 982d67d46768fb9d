"""Curves as columns."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.history import COLUMNS, History, restore
from lib.training import EpochMetrics, StepMetrics

EPOCH = EpochMetrics(1, 4, 0.5, 0.8, 0.4, 0.9, 500, 0.9, 1.5, 2000.0)


def step(number: int) -> StepMetrics:
    return StepMetrics(number, 1, 1 / number, number / 100, 0.01 * number, 32)


@pytest.fixture
def history() -> History:
    history = History()
    for number in range(1, 6):
        history.add(step(number))
        if number == 4:
            history.add(EPOCH)
    return history


def test_a_step_is_a_number_in_each_column(history: History) -> None:
    assert history.steps == 5
    assert history.epochs == [EPOCH]
    curves = history.curves()
    assert len(curves) == 5
    assert list(curves.steps) == [1, 2, 3, 4, 5]
    assert list(curves.train_loss) == [1 / number for number in range(1, 6)]
    assert list(curves.train_accuracy) == [number / 100 for number in range(1, 6)]
    assert list(curves.learning_rate) == [0.01 * number for number in range(1, 6)]
    assert curves.train_loss.dtype == np.float64


def test_curves_since_a_step_are_those_after_it_and_a_copy(history: History) -> None:
    curves = history.curves(3)
    assert curves.first == 4
    assert list(curves.steps) == [4, 5]
    assert list(curves.train_loss) == [1 / 4, 1 / 5]
    curves.train_loss[:] = 7
    history.add(step(6))
    assert list(history.curves(3).train_loss) == [1 / 4, 1 / 5, 1 / 6]
    assert len(curves) == 2
    for since in (6, 7, 10**9):
        assert len(history.curves(since)) == len(history.curves(since).steps) == 0
    assert len(History().curves()) == 0


def test_until_is_a_copy_of_the_beginning(history: History) -> None:
    until = history.until(4, 1)
    history.add(step(6))
    until.add(step(9))
    assert list(until.curves().train_loss) == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 9]
    assert history.steps == 6
    assert history.until(3, 0).epochs == []
    assert history.until(99, 99).steps == 6


def test_it_comes_back_from_what_is_saved(history: History) -> None:
    epochs = json.loads(json.dumps(history.epoch_values()))
    back = restore(history.tensors(), epochs)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(back.curves(), column), getattr(history.curves(), column))
    assert back.epochs == history.epochs
    back.add(step(6))
    assert (back.steps, history.steps) == (6, 5)
    assert restore(History().tensors(), []).steps == 0


def test_a_loss_that_was_no_number_comes_back_too(history: History) -> None:
    history.add(StepMetrics(6, 1, float("nan"), 0.1, 0.01, 32))
    assert np.isnan(restore(history.tensors(), history.epoch_values()).curves().train_loss[-1])


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"train_loss": torch.zeros(5, dtype=torch.float64)},
        {**{name: torch.zeros(5, dtype=torch.float64) for name in COLUMNS}, "more": torch.zeros(5)},
        {name: torch.zeros(length, dtype=torch.float64) for name, length in zip(COLUMNS, (5, 5, 4), strict=True)},
        {name: torch.zeros(5) for name in COLUMNS},
        {name: torch.zeros(5, 1, dtype=torch.float64) for name in COLUMNS},
    ],
)
def test_columns_that_are_none_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises((ValueError, KeyError)):
        restore(tensors, [])


@pytest.mark.parametrize(
    "epochs",
    [
        None,
        3,
        "epochs",
        ["one"],
        [None],
        [{}],
        [{**asdict(EPOCH), "more": 1}],
        [{**asdict(EPOCH), "epoch": 2}],
        [asdict(EPOCH), asdict(EPOCH)],
        [{**asdict(EPOCH), "step": 6}],
        [{**asdict(EPOCH), "step": 4.0}],
        [{**asdict(EPOCH), "validation_images": 0}],
        [{**asdict(EPOCH), "validation_accuracy": "0.9"}],
        [{**asdict(EPOCH), "validation_accuracy": None}],
        [{**asdict(EPOCH), "test_accuracy": True}],
        [{**asdict(EPOCH), "test_accuracy": []}],
    ],
)
def test_epochs_that_are_none_are_refused(history: History, epochs: list[dict[str, float | int | None]]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        restore(history.tensors(), epochs)
