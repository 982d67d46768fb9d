"""The metrics of a run: one column for each metric of a step, and a list of epochs.

A run may have a million steps, so the columns are arrays of float64 instead of a list of objects. Step n is at index
n - 1.
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

# Limits for a valid epoch: the images of MNIST, seconds (three years) and images per second.
MAX_IMAGES, MAX_SECONDS, MAX_RATE = 60_000, 1e8, 1e9
# Rounding can make a mean cross-entropy of 0 slightly negative.
MIN_LOSS = -1e-3
COLUMNS = ("train_loss", "train_accuracy", "learning_rate")


class ImpossibleValueError(ValueError):
    """A value is outside the range that a run can produce. The message names the value, but not the file."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Metrics of consecutive steps: float64 arrays (N,). `first` is the number of the first step, counted from 1."""

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
    """The steps and epochs of a run, in order. Not thread-safe: callers need a lock."""

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
        """Copy the curves of the steps after step `since`."""
        return Curves(since + 1, *(np.array(self._columns[name][since:]) for name in COLUMNS))

    def tensors(self) -> dict[str, Tensor]:
        """Copy the steps to float64 tensors (N,), one for each column. `restore` reads them with `epoch_values`."""
        return {name: torch.from_numpy(np.array(column)) for name, column in self._columns.items()}

    def until(self, steps: int, epochs: int) -> History:
        """Copy the first `steps` steps and the first `epochs` epochs."""
        copy = History()
        copy._columns = {name: column[:steps] for name, column in self._columns.items()}
        copy.epochs = self.epochs[:epochs]
        return copy

    def epoch_values(self) -> list[dict[str, float | int | None]]:
        """Return the fields of each epoch, ready for JSON."""
        return [asdict(epoch) for epoch in self.epochs]


def restore(tensors: Mapping[str, Tensor], epochs: list[dict[str, float | int | None]]) -> History:
    """Restore a history from its `tensors` and `epoch_values`.

    Raises ImpossibleValueError, a ValueError, if a value is outside its range; ValueError, TypeError or KeyError for
    other columns or fields.
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
    # All comparisons with NaN are false, so only a loss may be NaN.
    valid = {
        "a loss": ~(curves.train_loss < MIN_LOSS),
        "an accuracy": (curves.train_accuracy >= 0) & (curves.train_accuracy <= 1),
        "a learning rate": (curves.learning_rate >= 0) & np.isfinite(curves.learning_rate),
    }
    for name, steps_valid in valid.items():
        if not steps_valid.all():
            raise ImpossibleValueError(f"no step {int(steps_valid.argmin()) + 1} has such {name}")
    history.epochs = [EpochMetrics(**epoch) for epoch in epochs]  # type: ignore[arg-type]
    previous_step = 0
    for number, epoch in enumerate(history.epochs, 1):
        invalid = _invalid_field(epoch)
        if invalid:
            raise ImpossibleValueError(f"no epoch {number} has such {invalid}")
        if epoch.epoch != number or not previous_step < epoch.step <= history.steps:
            raise ImpossibleValueError(f"the epochs do not follow one another at epoch {number}")
        previous_step = epoch.step
    return history


def _invalid_field(epoch: EpochMetrics) -> str | None:
    """Name the first field outside its range, or return None. A loss may be NaN or infinite after divergence."""
    valid = {
        "a number": _is_count(epoch.epoch, MAX_EPOCHS),
        "a step": _is_count(epoch.step, MAX_EPOCHS * MAX_IMAGES),
        "a training loss": _is_loss(epoch.train_loss),
        "a training accuracy": _is_number(epoch.train_accuracy, 0, 1),
        "a validation loss": _is_loss(epoch.validation_loss),
        "a validation accuracy": _is_number(epoch.validation_accuracy, 0, 1),
        "validation images": _is_count(epoch.validation_images, MAX_IMAGES),
        "a test accuracy": epoch.test_accuracy is None or _is_number(epoch.test_accuracy, 0, 1),
        "a time": _is_number(epoch.seconds, 0, MAX_SECONDS),
        "a rate": _is_number(epoch.images_per_second, 0, MAX_RATE),
    }
    invalid = next((name for name, is_valid in valid.items() if not is_valid), None)
    # The product is the number of training images, from which pages compute a confidence interval.
    if invalid is None and not 0.5 < epoch.seconds * epoch.images_per_second < MAX_IMAGES + 0.5:
        return "a number of images"
    return invalid


def _is_count(value: object, high: int) -> bool:
    return type(value) is int and 1 <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    # isinstance would accept a bool. NaN fails the comparison.
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def _is_loss(value: object) -> bool:
    # `not <` instead of `>=`, to accept NaN.
    return type(value) is float and not value < MIN_LOSS
