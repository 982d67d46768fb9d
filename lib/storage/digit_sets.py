"""Sets of labeled digits that users collect, one file for each set in `data/own`.

A file is safetensors, so that reading it executes nothing, and is written whole or not at all. It carries the sha256 of
what it holds. Its name is the set's.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from lib.data import dataset
from lib.design.layers import INPUT_SHAPE
from lib.files import atomic_file, regular_file
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX
from lib.text import untrusted_text
from lib.text.untrusted_text import NameRefusedError

FOLDER = dataset.FOLDER / "own"
FORMAT = "receptive-digits-1"
SIZE = INPUT_SHAPE[1]
MAX_DIGITS, MAX_SETS, MAX_NAME = 2_000, 50, 40
# The size of a full set, with room for the header.
MAX_BYTES = MAX_DIGITS * (SIZE * SIZE + 1) + 100_000
# The exceptions that reading a damaged file may raise.
_DAMAGES = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError)
# Several tabs may change the same set.
_lock = threading.RLock()
_cleaned: set[Path] = set()


class DigitSetError(ValueError):
    """An operation that failed. The message is one sentence with the remedy."""


@dataclass(frozen=True, eq=False)
class DigitSet:
    """Images, uint8 (N, 28, 28), and labels, uint8 (N,), 0 to 9, in the order of addition. N may be 0."""

    name: str
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def names() -> list[str]:
    """Return the names of all sets, sorted."""
    _clean()
    return sorted(_listed()[0], key=str.casefold)


def passed_over() -> list[str]:
    """Return a sentence for each entry of the folder with the suffix of a set that is not a set."""
    return _listed()[1]


def create(name: str) -> str:
    """Create an empty set; return its name with normalized spaces. Raises DigitSetError."""
    try:
        name = untrusted_text.name(name, MAX_NAME)
    except NameRefusedError as error:
        raise DigitSetError(str(error)) from error
    with _lock:
        path = _path(name)
        if _is_taken(name):
            raise DigitSetError(f"There is a set “{name}” already: choose another name.")
        if len(names()) >= MAX_SETS:
            raise DigitSetError(f"There are {MAX_SETS} sets already, the most there may be: delete one first.")
        empty = torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)
        _write(path, DigitSet(name, empty, torch.zeros(0, dtype=torch.uint8)))
    return name


def load(name: str) -> DigitSet:
    """Read a set. Raises DigitSetError; a damaged file is moved, unchanged, to the folder "set-aside"."""
    path = _path(name)
    try:
        return _read(path)
    except DigitSetError:
        raise
    except _DAMAGES:
        pass
    # Read again under the lock: another thread may have replaced the file by a sound one.
    with _lock:
        try:
            return _read(path)
        except DigitSetError:
            raise
        except _DAMAGES as error:
            sentence = f"The set “{name}” is damaged and cannot be read."
            try:
                target = checkpoints.quarantine(path, FOLDER / "set-aside")
            except OSError:
                raise DigitSetError(f"{sentence} Move {path} away.") from error
            raise DigitSetError(f"{sentence} Its file was set aside as {target}, unchanged.") from error


def add(name: str, images: Tensor, labels: Tensor) -> DigitSet:
    """Append uint8 images (N, 28, 28) and labels (N,); return the new set. Raises DigitSetError if none was added."""
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
    """Remove the digit that was added last; return the new set. Raises DigitSetError."""
    with _lock:
        before = load(name)
        after = DigitSet(name, before.images[:-1], before.labels[:-1])
        _write(_path(name), after)
    return after


def delete(name: str) -> Path:
    """Move the set to the folder "deleted"; return its path for `undelete`. Raises DigitSetError."""
    with _lock:
        try:
            return checkpoints.quarantine(_path(name), FOLDER / "deleted")
        except OSError as error:
            raise DigitSetError(f"The set “{name}” could not be deleted ({error.strerror}).") from error


def undelete(name: str, moved: Path) -> None:
    """Restore a set that `delete` has moved. Raises DigitSetError."""
    with _lock:
        path = _path(name)
        if _is_taken(name):
            raise DigitSetError(f"There is now another set “{name}”: delete that first, then undo again.")
        try:
            moved.rename(path)
        except OSError as error:
            raise DigitSetError(f"The set “{name}” could not be brought back ({error.strerror}).") from error


def _path(name: str) -> Path:
    """Return the path of a set. Raises DigitSetError for an invalid name, which might lead out of the folder."""
    if not re.fullmatch(r"[^\W_][\w -]*", name) or len(name) > MAX_NAME or name != name.strip():
        raise DigitSetError(
            f"A set's name has 1 to {MAX_NAME} letters, digits, spaces, hyphens and underscores, a letter or a digit "
            "first: choose another one."
        )
    return FOLDER / f"{name}{SUFFIX}"


def _listed() -> tuple[list[str], list[str]]:
    """The names of the sets, and a sentence for each other entry with their suffix."""
    found = regular_file.listing(FOLDER, SUFFIX)
    sets, sentences = [], list(found.passed_over)
    for path, _ in found.files:
        try:
            _path(path.stem)
            sets.append(path.stem)
        except DigitSetError:
            sentences.append(f"{FOLDER.name}/{path.name} was passed over: a set has another name. Rename it.")
    return sets, sentences


def _is_taken(name: str) -> bool:
    """Whether the name exists in any case: on some systems, names that differ only in case are one file."""
    try:
        there = os.listdir(FOLDER)
    except OSError:
        return False
    return f"{name}{SUFFIX}".casefold() in map(str.casefold, there)


def _clean() -> None:
    """Remove, once per process, the temporary files of killed processes."""
    if FOLDER not in _cleaned:
        with _lock:
            _cleaned.add(FOLDER)
            atomic_file.remove_remains(FOLDER)


def _read(path: Path) -> DigitSet:
    """Read a set. Raises DigitSetError if the file cannot be read, one of _DAMAGES if its content is invalid."""
    try:
        content = regular_file.read(path, MAX_BYTES)
    except regular_file.TooLargeError as error:
        raise ValueError("larger than any set") from error
    except OSError as error:
        raise DigitSetError(f"The set “{path.stem}” cannot be read ({error.strerror}). Choose another one.") from error
    metadata, tensors = checkpoints.header(content).get("__metadata__", {}), load_tensors(content)
    found = DigitSet(path.stem, tensors["images"], tensors["labels"])
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
    digest = hashlib.sha256()
    for tensor in (digits.images, digits.labels):
        digest.update(tensor.contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()
