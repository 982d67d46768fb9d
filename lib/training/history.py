"""The curves and epochs of a run: columns that only grow.

A run may have a million batches, so a step is three numbers in three arrays and no object of its own; its number is its
place.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.design.recipe import MAX_EPOCHS
from lib.training.trainer import EpochMetrics, StepMetrics

# What an epoch can be: MNIST has no more images, and no epoch takes three years.
MAX_IMAGES, MAX_SECONDS, MAX_RATE = 60_000, 1e8, 1e9
# A mean of cross-entropies that are all 0 may be rounded to a little less.
MIN_LOSS = -1e-3
COLUMNS = ("train_loss", "train_accuracy", "learning_rate")


class ImpossibleValueError(ValueError):
    """A value that no run has; the message names it, to stand in brackets after the name of its file."""


@dataclass(frozen=True, eq=False)
class Curves:
    """float64 arrays with a number a batch; the first is that of batch `first`, counted from 1."""

    first: int
    train_loss: NDArray[np.float64]
    train_accuracy: NDArray[np.float64]
    learning_rate: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.train_loss)

    @property
    def steps(self) -> NDArray[np.int64]:
        return np.arange(self.first, self.first + len(self))


class History:
    """Steps and epochs; not locked, whoever shares it between threads does that."""

    def __init__(self) -> None:
        self._columns = {name: array("d") for name in COLUMNS}
        self.epochs: list[EpochMetrics] = []

    @property
    def steps(self) -> int:
        return len(self._columns["train_loss"])

    def add(self, event: StepMetrics | EpochMetrics) -> None:
        if isinstance(event, EpochMetrics):
            self.epochs.append(event)
            return
        for name, column in self._columns.items():
            column.append(getattr(event, name))

    def curves(self, since: int = 0) -> Curves:
        """A copy of the steps after the first `since`."""
        return Curves(since + 1, *(np.array(self._columns[name][since:]) for name in COLUMNS))

    def tensors(self) -> dict[str, Tensor]:
        """The steps as float64 tensors by column, to be saved beside `epoch_values`."""
        return {name: torch.from_numpy(np.array(column)) for name, column in self._columns.items()}

    def until(self, steps: int, epochs: int) -> History:
        """A copy of the first so many steps and epochs."""
        copy = History()
        copy._columns = {name: column[:steps] for name, column in self._columns.items()}
        copy.epochs = self.epochs[:epochs]
        return copy

    def epoch_values(self) -> list[dict[str, float | int | None]]:
        return [asdict(epoch) for epoch in self.epochs]


def restore(tensors: Mapping[str, Tensor], epochs: list[dict[str, float | int | None]]) -> History:
    """What `tensors` and `epoch_values` gave. Raises ValueError, TypeError or KeyError for anything else,
    ImpossibleValueError among them where a value is none that can be measured.
    """
    history = History()
    lengths = set()
    if set(tensors) != set(COLUMNS):
        raise ValueError(f"columns {sorted(tensors)}")
    for name in COLUMNS:
        if tensors[name].dtype != torch.float64 or tensors[name].dim() != 1:
            raise ValueError(name)
        history._columns[name].frombytes(tensors[name].numpy().view(np.uint8).data)
        lengths.add(len(tensors[name]))
    if len(lengths) != 1:
        raise ValueError("columns of different lengths")
    curves = history.curves()
    # Each is false for NaN, which only a loss may be.
    sound = {
        "a loss": ~(curves.train_loss < MIN_LOSS),
        "an accuracy": (curves.train_accuracy >= 0) & (curves.train_accuracy <= 1),
        "a learning rate": (curves.learning_rate >= 0) & np.isfinite(curves.learning_rate),
    }
    for name, each in sound.items():
        if not each.all():
            raise ImpossibleValueError(f"no step {int(each.argmin()) + 1} has such {name}")
    history.epochs = [EpochMetrics(**epoch) for epoch in epochs]  # type: ignore[arg-type]
    before = 0
    for number, epoch in enumerate(history.epochs, 1):
        wrong = _not_measured(epoch)
        if wrong:
            raise ImpossibleValueError(f"no epoch {number} has such {wrong}")
        if epoch.epoch != number or not before < epoch.step <= history.steps:
            raise ImpossibleValueError(f"the epochs do not follow one another at epoch {number}")
        before = epoch.step
    return history


def _not_measured(epoch: EpochMetrics) -> str | None:
    """Which value cannot be what its name says; a loss may be NaN or infinite, as divergence leaves it."""
    right = {
        "a number": _is_whole(epoch.epoch, MAX_EPOCHS),
        "a step": _is_whole(epoch.step, MAX_EPOCHS * MAX_IMAGES),
        "a training loss": _is_loss(epoch.train_loss),
        "a training accuracy": _is_number(epoch.train_accuracy, 0, 1),
        "a validation loss": _is_loss(epoch.validation_loss),
        "a validation accuracy": _is_number(epoch.validation_accuracy, 0, 1),
        "validation images": _is_whole(epoch.validation_images, MAX_IMAGES),
        "a test accuracy": epoch.test_accuracy is None or _is_number(epoch.test_accuracy, 0, 1),
        "a time": _is_number(epoch.seconds, 0, MAX_SECONDS),
        "a rate": _is_number(epoch.images_per_second, 0, MAX_RATE),
    }
    wrong = next((name for name, each in right.items() if not each), None)
    # The images that were trained on: the interval of the training accuracy is that of so many.
    if wrong is None and not 0.5 < epoch.seconds * epoch.images_per_second < MAX_IMAGES + 0.5:
        return "a number of images"
    return wrong


def _is_whole(value: object, high: int) -> bool:
    return type(value) is int and 1 <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    # NaN is outside, and a bool is none.
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def _is_loss(value: object) -> bool:
    # Of NaN no comparison is true.
    return type(value) is float and not value < MIN_LOSS
