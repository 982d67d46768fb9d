"""Digits of one's own with their labels, one file a set in `data/own`, to test a network on.

A file is safetensors, so that reading it executes nothing, and is written whole or not at all. It carries the sha256 of
what it holds. Its name is the set's.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lib import atomic_file, checkpoints, dataset, untrusted_text
from lib.checkpoints import SUFFIX
from lib.digits import SIZE
from lib.untrusted_text import NameRefusedError

FOLDER = dataset.FOLDER / "own"
FORMAT = "receptive-digits-1"
MAX_DIGITS, MAX_SETS, MAX_NAME = 2_000, 50, 40
# The digits of a full set, and a header.
MAX_BYTES = MAX_DIGITS * (SIZE * SIZE + 1) + 100_000
# Two tabs add to one set.
_lock = threading.RLock()


class DigitSetError(ValueError):
    """What cannot be done with a set, in one sentence with the remedy."""


@dataclass(frozen=True, eq=False)
class DigitSet:
    """Images uint8 (N, 28, 28), 0 to 255; labels uint8 (N,), 0 to 9; in the order they came. N may be 0."""

    name: str
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def names() -> list[str]:
    """All sets by name."""
    return sorted((path.stem for path in FOLDER.glob(f"*{SUFFIX}")), key=str.casefold)


def create(name: str) -> str:
    """A new empty set; returns its name with its spaces put in order. Raises DigitSetError."""
    try:
        name = untrusted_text.name(name, MAX_NAME)
    except NameRefusedError as error:
        raise DigitSetError(str(error)) from error
    with _lock:
        path, there = _path(name), names()
        # Files whose names differ by case alone are one file on some systems.
        if name.casefold() in map(str.casefold, there):
            raise DigitSetError(f"There is a set “{name}” already: choose another name.")
        if len(there) >= MAX_SETS:
            raise DigitSetError(f"There are {MAX_SETS} sets already, the most there may be: delete one first.")
        empty = torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)
        _write(path, DigitSet(name, empty, torch.zeros(0, dtype=torch.uint8)))
    return name


def load(name: str) -> DigitSet:
    """Raises DigitSetError; a file that is damaged is moved to the folder "set-aside" then, unchanged."""
    with _lock:
        path = _path(name)
        try:
            return _read(path)
        except OSError as error:
            raise DigitSetError(f"The set “{name}” cannot be read ({error.strerror}). Choose another one.") from error
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            sentence = f"The set “{name}” is damaged and cannot be read."
            try:
                target = checkpoints.set_aside(path, FOLDER / "set-aside")
            except OSError:
                raise DigitSetError(f"{sentence} Move {path} away.") from error
            raise DigitSetError(f"{sentence} Its file was set aside as {target}, unchanged.") from error


def add(name: str, images: Tensor, labels: Tensor) -> DigitSet:
    """The set with uint8 images (N, 28, 28) and labels (N,) at its end. Raises DigitSetError; then none is added."""
    if images.shape[1:] != (SIZE, SIZE) or images.dtype != torch.uint8 or labels.shape != images.shape[:1]:
        raise ValueError("images must be uint8 (N, 28, 28), labels (N,)")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        raise DigitSetError("A label must be a digit from 0 to 9: correct it and add again.")
    with _lock:
        before = load(name)
        if len(before) + len(labels) > MAX_DIGITS:
            raise DigitSetError(
                f"“{name}” has {len(before):,} digits, and a set holds at most {MAX_DIGITS:,}: begin another set."
            )
        after = DigitSet(name, torch.cat([before.images, images]), torch.cat([before.labels, labels.to(torch.uint8)]))
        _write(_path(name), after)
    return after


def remove_last(name: str) -> DigitSet:
    """The set without the digit that came last. Raises DigitSetError."""
    with _lock:
        before = load(name)
        after = DigitSet(name, before.images[:-1], before.labels[:-1])
        _write(_path(name), after)
    return after


def delete(name: str) -> Path:
    """Move the set's file away; returns where `undelete` finds it. Raises DigitSetError."""
    with _lock:
        try:
            return checkpoints.set_aside(_path(name), FOLDER / "deleted")
        except OSError as error:
            raise DigitSetError(f"The set “{name}” could not be deleted ({error.strerror}).") from error


def undelete(name: str, moved: Path) -> None:
    """Bring back what `delete` moved. Raises DigitSetError."""
    with _lock:
        path = _path(name)
        if name.casefold() in map(str.casefold, names()):
            raise DigitSetError(f"There is another set “{name}” by now: delete that first, then undo again.")
        try:
            moved.rename(path)
        except OSError as error:
            raise DigitSetError(f"The set “{name}” could not be brought back ({error.strerror}).") from error


def _path(name: str) -> Path:
    """Raises DigitSetError for a name that is none: it might lead out of the folder."""
    if not re.fullmatch(r"[^\W_][\w -]*", name) or len(name) > MAX_NAME or name != name.strip():
        raise DigitSetError(
            f"A set's name has 1 to {MAX_NAME} letters, digits, spaces, hyphens and underscores, a letter or a digit "
            "first: choose such a one."
        )
    return FOLDER / f"{name}{SUFFIX}"


def _read(path: Path) -> DigitSet:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("larger than any set")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copies: the file may change under a view of it.
        found = DigitSet(path.stem, file.get_tensor("images").clone(), file.get_tensor("labels").clone())
    fits = found.images.shape == (len(found), SIZE, SIZE) and found.labels.shape == (len(found),)
    plain = found.images.dtype == found.labels.dtype == torch.uint8
    if not fits or not plain or len(found) > MAX_DIGITS or bool((found.labels > 9).any()):
        raise ValueError("not digits with labels")
    if metadata.get("format") != FORMAT or metadata.get("sha256") != _digest(found):
        raise ValueError("not what was saved")
    return found


def _write(path: Path, digits: DigitSet) -> None:
    metadata = {"format": FORMAT, "sha256": _digest(digits)}
    content = save({"images": digits.images.contiguous(), "labels": digits.labels.contiguous()}, metadata)
    try:
        atomic_file.write(path, content)
    except OSError as error:
        raise DigitSetError(
            f"The set “{digits.name}” could not be saved ({error.strerror}). Free some disk space and try again."
        ) from error


def _digest(digits: DigitSet) -> str:
    return hashlib.sha256(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes()).hexdigest()
