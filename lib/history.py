"""What a run has measured so far: columns that only grow.

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

from lib.training import EpochMetrics, StepMetrics

COLUMNS = ("train_loss", "train_accuracy", "learning_rate")


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
    """What `tensors` and `epoch_values` gave. Raises ValueError, TypeError or KeyError for anything else."""
    history = History()
    lengths = set()
    if set(tensors) != set(COLUMNS):
        raise ValueError(f"columns {sorted(tensors)}")
    for name in COLUMNS:
        if tensors[name].dtype != torch.float64 or tensors[name].dim() != 1:
            raise ValueError(name)
        history._columns[name].frombytes(tensors[name].numpy().tobytes())
        lengths.add(len(tensors[name]))
    if len(lengths) != 1:
        raise ValueError("columns of different lengths")
    history.epochs = [EpochMetrics(**epoch) for epoch in epochs]  # type: ignore[arg-type]
    for number, epoch in enumerate(history.epochs, 1):
        if not _is_measured(epoch) or epoch.epoch != number or epoch.step > history.steps:
            raise ValueError(f"epoch {number}")
    return history


def _is_measured(epoch: EpochMetrics) -> bool:
    """Whether all its values are numbers of their kind; what a loss that is none leaves behind, NaN, is one here."""
    counts = (epoch.epoch, epoch.step, epoch.validation_images)
    measured = (
        epoch.train_loss,
        epoch.train_accuracy,
        epoch.validation_loss,
        epoch.validation_accuracy,
        epoch.seconds,
        epoch.images_per_second,
    )
    return (
        all(type(value) is int and value > 0 for value in counts)
        and all(type(value) in (int, float) for value in measured)
        and (epoch.test_accuracy is None or type(epoch.test_accuracy) in (int, float))
    )
