"""Accuracies that the authors of public networks for this exercise report, from `data/public-results.csv`.

Needs the standard library alone, so that the Design page can use it without waiting for torch. `data/README.md` says
how the results were gathered.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from lib.data.dataset import FOLDER, RESTORE, DatasetError
from lib.files import regular_file

FILE = FOLDER / "public-results.csv"
# Far above the size of the file.
MAX_BYTES = 2**20
_WHOLE_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
_DECIMAL_NUMBER = re.compile(r"\d{1,3}(\.\d{1,4})?", re.ASCII)


@dataclass(frozen=True)
class PublicResult:
    """A public network and the accuracy on the 10,000 test images that its author reports; None is not reported.

    - `params`: trainable parameters.
    - `epochs`: epochs of its training.
    - `best_accuracy`: of the best epoch, in per cent.
    - `final_accuracy`: after the last epoch, in per cent.
    - `fully_connected`: number of fully connected layers.
    - `notation`: the network in canonical notation; empty if it cannot be written.
    """

    params: int
    epochs: int | None
    best_accuracy: float | None
    final_accuracy: float | None
    fully_connected: int
    notation: str

    @property
    def accuracy(self) -> float:
        """In per cent: the final accuracy or, if it is not reported, the best."""
        found = self.best_accuracy if self.final_accuracy is None else self.final_accuracy
        assert found is not None, "load refuses a row without an accuracy"
        return found

    @property
    def epochs_text(self) -> str:
        """20 -> "20 epochs"; empty if they are not reported."""
        return "" if self.epochs is None else f"{self.epochs} epoch{'s' * (self.epochs != 1)}"


COLUMNS = tuple(field.name for field in fields(PublicResult))


@lru_cache(maxsize=4)
def load(path: Path = FILE) -> tuple[PublicResult, ...]:
    """Return the results in the order of the file, cached for the process.

    Raises DatasetError if the file is missing or damaged.
    """
    try:
        text = regular_file.read(path, MAX_BYTES).decode()
        header, *rows = csv.reader(text.splitlines(), strict=True)
        if tuple(header) != COLUMNS or not rows:
            raise ValueError(header)
        return tuple(map(_result, rows))
    except OSError as error:
        raise DatasetError(f"data/{path.name} cannot be read ({error.strerror}). {RESTORE}") from error
    except (ValueError, csv.Error) as error:
        raise DatasetError(f"data/{path.name} is damaged. {RESTORE}") from error


def notations_at(results: Sequence[PublicResult], params: int, accuracy: float) -> list[str]:
    """Return the different networks at a point of the chart that the notation can write, in the order of `results`."""
    at_point = (result.notation for result in results if (result.params, result.accuracy) == (params, accuracy))
    return list(dict.fromkeys(text for text in at_point if text))


def _result(row: Sequence[str]) -> PublicResult:
    """Raises ValueError."""
    params, epochs, best, final, fully_connected, notation = row
    if not (best or final) or not (notation.isascii() and notation.isprintable()):
        raise ValueError(row)
    return PublicResult(
        _whole(params),
        _whole(epochs) if epochs else None,
        _percent(best) if best else None,
        _percent(final) if final else None,
        _whole(fully_connected),
        notation,
    )


def _whole(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _percent(text: str) -> float:
    if not _DECIMAL_NUMBER.fullmatch(text) or float(text) > 100:
        raise ValueError(text)
    return float(text)
