"""Checkpoints as safetensors files: weights, architecture, recipe, and the state of a training.

- Files are written atomically.
- Reading executes nothing. Any problem with a file is a `CheckpointError` with a message of one sentence.
- A file contains the sha256 of its content, so that later changes are detected.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lib import ROOT
from lib.design.layers import Architecture, ArchitectureError
from lib.design.notation import notation, parse
from lib.design.recipe import MAX_EPOCHS, Recipe, RecipeError, from_json, to_json
from lib.files import atomic_file, regular_file
from lib.nn.network import Network, assembled, build
from lib.text.untrusted_text import cleaned_name, visible

FOLDER = ROOT / "checkpoints"
SAVED_FOLDER = FOLDER / "saved"
SUFFIX = ".safetensors"
# Trained for drawings, including images that are not digits.
DEFAULT = "drawings-39706"
# The first format had only weights, and no digest.
FORMAT, FIRST_FORMAT = "receptive-2", "receptive-1"
EXTRA = "extra/"
_NAMES = "names of the tensors"
# The header of the longest network, with the epochs of its curves, takes a fifth of MAX_HEADER_BYTES.
MAX_BYTES, MAX_HEADER_BYTES = 256 * 2**20, 2**20
MAX_TITLE, MAX_DATE = 60, 40
# The longest title in a file; it is cleaned and cut to MAX_TITLE.
MAX_STORED_TITLE = 200


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written. The message names the file and the remedy."""


@dataclass(frozen=True)
class Summary:
    """The description of a checkpoint. `test_accuracy` is a fraction, measured at the end of epoch `epochs_done`.

    A title from a file is valid for `untrusted_text.name`, with at most MAX_TITLE characters.
    A checkpoint without weights is a run that has not been trained yet.
    """

    title: str
    architecture: Architecture
    recipe: Recipe
    epochs_done: int
    test_accuracy: float | None
    created: str
    has_weights: bool = True


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A summary with its data: `weights` are the network's state, empty if it has not been trained yet; `extra` and
    `details`, which must be JSON, belong to the code that writes the file.
    """

    summary: Summary
    weights: Mapping[str, Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` atomically and create its folder. Raises CheckpointError; the previous file is then unchanged."""
    summary = checkpoint.summary
    metadata = {
        "format": FORMAT,
        "title": summary.title,
        "architecture": notation(summary.architecture),
        "recipe": to_json(summary.recipe),
        "epochs_done": str(summary.epochs_done),
        "test_accuracy": "" if summary.test_accuracy is None else repr(summary.test_accuracy),
        "created": summary.created,
        "details": json.dumps(dict(checkpoint.details), sort_keys=True),
    }
    named = {**checkpoint.weights, **{EXTRA + name: tensor for name, tensor in checkpoint.extra.items()}}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    metadata["sha256"] = _digest(metadata, tensors)
    try:
        content = save_tensors(tensors, metadata)
    except ValueError as error:
        raise CheckpointError(f"The checkpoint {path.name} could not be saved: its title is not text.") from error
    try:
        atomic_file.write(path, content)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path.name} could not be saved ({error.strerror}). Free some disk space and try again."
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check its format, its digest, and the names, shapes and values of its weights.

    Raises CheckpointError.
    """
    try:
        content = regular_file.read(path, MAX_BYTES)
    except regular_file.TooLargeError as error:
        raise CheckpointError(f"The checkpoint {path.name} is larger than any network here. Delete it.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise CheckpointError(f"There is not enough memory to read the checkpoint {path.name}.") from error
    header = _header(path, content)
    summary = _summary(path, header)
    try:
        tensors = load_tensors(content)
        details = dict(json.loads(header.get("details", "{}")))
        digest = _digest(header, tensors)
    except MemoryError as error:
        raise CheckpointError(f"There is not enough memory to read the checkpoint {path.name}.") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint {path.name} is damaged. Restore it or delete it.") from error
    if (header["format"] != FIRST_FORMAT or "sha256" in header) and header.get("sha256") != digest:
        raise CheckpointError(
            f"The checkpoint {path.name} is damaged: its content is not what was saved. Restore it or delete it."
        )
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}
    extra = {name.removeprefix(EXTRA): tensor for name, tensor in tensors.items() if name.startswith(EXTRA)}
    if not weights:
        return Checkpoint(summary, weights, extra, details)
    # The meta device allocates no memory: a file may name a network that does not fit this machine.
    with torch.device("meta"):
        expected = build(summary.architecture).state_dict()
    if {k: (v.shape, v.dtype) for k, v in weights.items()} != {k: (v.shape, v.dtype) for k, v in expected.items()}:
        raise CheckpointError(f"The weights in {path.name} do not fit the network it names. Restore it or delete it.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise CheckpointError(f"The weights in {path.name} are not all numbers. Restore it or delete it.")
    return Checkpoint(summary, weights, extra, details)


def load_summary(path: Path) -> Summary:
    """Read only the summary. The digest is not checked. Raises CheckpointError."""
    try:
        with regular_file.opened(path) as file:
            # For a regular file, `read` returns all requested bytes, or all that there are.
            content = file.read(8 + MAX_HEADER_BYTES) or b""
    except OSError as error:
        raise _unreadable(path, error) from error
    return _summary(path, _header(path, content))


def shipped() -> list[Path]:
    """Return the shipped checkpoints: the default first, then the others by name."""
    found = [path for path, _ in regular_file.listing(FOLDER, SUFFIX).files]
    return sorted(found, key=lambda path: (path.stem != DEFAULT, path.name))


def paths() -> list[Path]:
    """Return the shipped checkpoints, then the saved ones, newest first. A file may be deleted before it is opened."""
    saved = sorted(regular_file.listing(SAVED_FOLDER, SUFFIX).files, key=lambda found: (-found[1], found[0].name))
    return shipped() + [path for path, _ in saved]


def passed_over(*folders: Path) -> list[str]:
    """Return a sentence for each entry with the suffix of a checkpoint that is not a regular file."""
    return [sentence for folder in folders for sentence in regular_file.listing(folder, SUFFIX).passed_over]


def quarantine(path: Path, folder: Path) -> Path:
    """Move a file, unread and unchanged, to another folder, under a free name; return its path. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number, target = 1, folder / path.name
    while os.path.lexists(target):
        number, target = number + 1, folder / f"{path.stem}-{number}{path.suffix}"
    path.rename(target)
    return target


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a network's state: of every tensor with its name, type and shape."""
    digest = hashlib.sha256()
    _add_tensors(digest, weights)
    return digest.hexdigest()


def network(checkpoint: Checkpoint) -> Network:
    """Return the network in eval mode; it shares the checkpoint's weights. Raises CheckpointError if there are none."""
    if not checkpoint.weights:
        raise CheckpointError(f"The run {checkpoint.summary.title} has no weights: it ended before its first batch.")
    return assembled(checkpoint.summary.architecture, checkpoint.weights)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"The checkpoint {path.name} cannot be read ({error.strerror}). Restore it.")


def header(content: bytes) -> dict[str, Any]:
    """Parse the header of a safetensors file: 8 bytes of length, little endian, then JSON. Raises ValueError."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        return dict(json.loads(content[8 : 8 + length]))
    except (struct.error, TypeError, RecursionError) as error:
        raise ValueError("no header") from error


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """The string metadata of a safetensors file, and the names of its tensors."""
    try:
        found = header(content)
        metadata = dict(found.pop("__metadata__"))
        metadata[_NAMES] = [str(name) for name in found]
        return metadata
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint of Receptive, or it is damaged. Delete it.") from error


def text(value: object, limit: int) -> str:
    """Return a text of at most `limit` characters, with codes for invisible characters. Raises ValueError."""
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"not a text of at most {limit} characters")
    return visible(value)


def _title(value: object, otherwise: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_STORED_TITLE:
        raise ValueError(f"not a title of at most {MAX_STORED_TITLE} characters")
    return cleaned_name(value, MAX_TITLE, otherwise)


def date(value: object) -> str:
    """Return a time in UTC as `isoformat` writes it, so that texts sort like times. Raises ValueError."""
    found = text(value, MAX_DATE)
    time = datetime.fromisoformat(found)
    if time.utcoffset() != timedelta(0) or found not in (time.isoformat(), time.isoformat(timespec="microseconds")):
        raise ValueError("not a time in UTC")
    return found


def _accuracy(value: object) -> float | None:
    """Parse an accuracy; an empty text means that none was measured. Raises ValueError."""
    if value == "":
        return None
    accuracy = float(text(value, 30))
    if not math.isfinite(accuracy) or not 0 <= accuracy <= 1:
        raise ValueError("not an accuracy")
    return accuracy


def _epochs(value: object) -> int:
    epochs = int(text(value, 3))
    if not 0 <= epochs <= MAX_EPOCHS:
        raise ValueError("not a number of epochs")
    return epochs


def _summary(path: Path, header: Mapping[str, Any]) -> Summary:
    if header.get("format") not in (FORMAT, FIRST_FORMAT):
        raise CheckpointError(f"{path.name} was not written by this version of Receptive. Save the network again.")
    try:
        return Summary(
            title=_title(header["title"], path.stem),
            architecture=parse(header["architecture"]),
            recipe=from_json(header["recipe"]),
            epochs_done=_epochs(header["epochs_done"]),
            test_accuracy=_accuracy(header["test_accuracy"]),
            created=date(header["created"]),
            has_weights=any(not name.startswith(EXTRA) for name in header[_NAMES]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, ArchitectureError, RecipeError) as error:
        raise CheckpointError(f"The description in {path.name} is damaged. Restore it or delete it.") from error


def _digest(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of all metadata except itself, and of every tensor with its name, type and shape."""
    stated = {key: value for key, value in metadata.items() if key not in ("sha256", _NAMES)}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _add_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # hashlib reads a one-dimensional array without a copy.
        digest.update(tensor.numpy().reshape(-1).data)
