"""The metrics of a run: columns, copies, and the check of saved values."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.training.history import COLUMNS, History, ImpossibleValueError, restore
from lib.training.trainer import EpochMetrics, StepMetrics

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


def test_until_copies_the_first_steps_and_epochs(history: History) -> None:
    until = history.until(4, 1)
    history.add(step(6))
    until.add(step(9))
    assert list(until.curves().train_loss) == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 9]
    assert history.steps == 6
    assert history.until(3, 0).epochs == []
    assert history.until(99, 99).steps == 6


def test_a_history_is_restored_from_its_saved_values(history: History) -> None:
    epochs = json.loads(json.dumps(history.epoch_values()))
    restored = restore(history.tensors(), epochs)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(restored.curves(), column), getattr(history.curves(), column))
    assert restored.epochs == history.epochs
    restored.add(step(6))
    assert (restored.steps, history.steps) == (6, 5)
    assert restore(History().tensors(), []).steps == 0


def test_a_loss_of_nan_is_restored(history: History) -> None:
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
def test_invalid_columns_are_refused(tensors: dict[str, Tensor]) -> None:
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
def test_invalid_epochs_are_refused(history: History, epochs: list[dict[str, float | int | None]]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        restore(history.tensors(), epochs)


INF, NAN = float("inf"), float("nan")
# Values that no run produces. Pages would divide by 0 or take the root of a negative number.
IMPOSSIBLE: dict[str, list[Any]] = {
    "epoch": [0, -1, 1.0, True, None, 10**400],
    "step": [0, -1, 4.0, True, None, 10**400],
    "train_loss": [-1.0, None, "0.5", 1, [0.5]],
    "train_accuracy": [-0.01, 1.01, NAN, INF, None, "0.5", True, 10**400],
    "validation_loss": [-1.0, -INF, None, "0.5"],
    "validation_accuracy": [-1.0, 2.0, NAN, INF, None, [0.5]],
    "validation_images": [0, -1, 60_001, 500.0, True, None, 10**400],
    "test_accuracy": [-1.0, 2.0, NAN, INF, -INF, "0.9", True, 1e308],
    "seconds": [0, 0.0, -1.5, NAN, INF, -INF, 1e300, None, "1", 10**400],
    "images_per_second": [0, 0.0, -1.0, NAN, INF, 1e300, 60_001.0, None, "1", 10**400],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
def test_an_impossible_value_of_an_epoch_is_named(history: History, name: str, value: Any) -> None:
    with pytest.raises(ImpossibleValueError, match=r"^no epoch 1 has such") as caught:
        restore(history.tensors(), [{**asdict(EPOCH), name: value}])
    assert len(str(caught.value)) < 60


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("train_loss", -1.0, "a loss"),
        ("train_loss", -INF, "a loss"),
        ("train_accuracy", 1.01, "an accuracy"),
        ("train_accuracy", -0.01, "an accuracy"),
        ("train_accuracy", NAN, "an accuracy"),
        ("learning_rate", -0.1, "a learning rate"),
        ("learning_rate", NAN, "a learning rate"),
        ("learning_rate", INF, "a learning rate"),
    ],
)
def test_an_impossible_value_of_a_step_is_named(history: History, name: str, value: float, words: str) -> None:
    tensors = history.tensors()
    tensors[name][2] = value
    with pytest.raises(ImpossibleValueError, match=f"^no step 3 has such {words}$"):
        restore(tensors, [])


def test_epochs_that_do_not_follow_one_another_are_named(history: History) -> None:
    for epochs in ([replace(EPOCH, epoch=2)], [EPOCH, replace(EPOCH, epoch=2)], [replace(EPOCH, step=6)]):
        with pytest.raises(ImpossibleValueError, match="do not follow"):
            restore(history.tensors(), [asdict(epoch) for epoch in epochs])


ODD: list[Any] = [0, 1, 4, -1, 0.5, 2.0, -0.5, 1e300, 10**400, NAN, INF, -INF, None, True, "0.5", [], {}]
NUMBER = st.sampled_from([0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e300, NAN, INF, -INF]) | st.floats()


@settings(max_examples=300)
@given(
    st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=3) | st.just([(0.5, 0.5, 0.1)] * 4),
    st.lists(
        st.dictionaries(st.sampled_from(sorted(IMPOSSIBLE)), st.sampled_from(ODD) | NUMBER, max_size=2), max_size=2
    ),
)
def test_a_restored_history_has_only_values_that_pages_can_show(
    steps: list[tuple[float, float, float]], changes: list[dict[str, Any]]
) -> None:
    """The assertions repeat what pages compute from a history."""
    tensors = {
        name: torch.tensor([values[index] for values in steps], dtype=torch.float64)
        for index, name in enumerate(COLUMNS)
    }
    epochs = [{**asdict(EPOCH), "epoch": n, "step": 2 * n, **change} for n, change in enumerate(changes, 1)]
    try:
        history = restore(tensors, epochs)
    except (ValueError, TypeError, KeyError):
        return
    assert history.steps == len(steps)
    for loss, accuracy, rate in steps:
        assert math.isnan(loss) or loss >= -0.001
        assert 0 <= accuracy <= 1
        assert 0 <= rate < math.inf
    previous_step = 0
    for epoch in history.epochs:
        assert previous_step < epoch.step <= history.steps
        previous_step = epoch.step
        measured = [(epoch.train_accuracy, round(epoch.images_per_second * epoch.seconds))]
        measured.append((epoch.validation_accuracy, epoch.validation_images))
        if epoch.test_accuracy is not None:
            measured.append((epoch.test_accuracy, 10_000))
        for accuracy, images in measured:
            assert 1 <= images <= 60_000
            assert math.sqrt(accuracy * (1 - accuracy) / images) <= 0.5
        assert len(f"{epoch.images_per_second:,.0f}") <= len("1,000,000,000")
        assert images / epoch.images_per_second < math.inf
        assert all(math.isnan(loss) or loss >= -0.001 for loss in (epoch.train_loss, epoch.validation_loss))
