"""Trained networks as safetensors files, architecture and recipe inside, and whatever a training needs to go on.

- Written whole or not at all.
- Read without executing anything; whatever is wrong with a file is a `CheckpointError` in one sentence.
- A file carries the sha256 of all it holds: what a disk or a person has changed is found.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lib import atomic_file
from lib.architecture import Architecture, ArchitectureError, notation, parse
from lib.network import Network, assembled, build
from lib.recipe import Recipe, RecipeError, from_json, to_json
from lib.untrusted_text import cleaned_name

FOLDER = Path(__file__).resolve().parent.parent / "checkpoints"
SAVED_FOLDER = FOLDER / "saved"
SUFFIX = ".safetensors"
# Trained for drawings: it has learnt that not every mark is a digit.
DEFAULT = "drawings-39706"
# The first format had no digest and no more than the weights.
FORMAT, FIRST_FORMAT = "receptive-2", "receptive-1"
EXTRA = "extra/"
_NAMES = "names of the tensors"
MAX_BYTES = 256 * 2**20
MAX_TITLE = 60


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written. The message names it and says what to do."""


@dataclass(frozen=True)
class Summary:
    """What a checkpoint says of itself. `test_accuracy` is a fraction, measured at the end of epoch `epochs_done`.

    A title that was read is one that `untrusted_text.name` accepts, of at most MAX_TITLE characters.
    Without weights it is a run that has learnt nothing yet.
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
    """`weights` are the network's state, or none where it has learnt nothing; `extra` and `details`, which must be
    JSON, are the writer's own.
    """

    summary: Summary
    weights: Mapping[str, Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `path` atomically, making its folder. Raises CheckpointError; what stood at `path` then still stands."""
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
        atomic_file.write(path, save_tensors(tensors, metadata))
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path.name} could not be saved ({error.strerror}). Free some disk space and try again."
        ) from error


def load(path: Path) -> Checkpoint:
    """Read and check a checkpoint: known format, its digest, the architecture's own tensors, finite.

    Raises CheckpointError.
    """
    content = _content(path)
    header = _header(path, content)
    summary = _summary(path, header)
    try:
        tensors = load_tensors(content)
        details = dict(json.loads(header.get("details", "{}")))
        digest = _digest(header, tensors)
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
    # Without memory: a file may name a network that is larger than the machine.
    with torch.device("meta"):
        expected = build(summary.architecture).state_dict()
    if {k: (v.shape, v.dtype) for k, v in weights.items()} != {k: (v.shape, v.dtype) for k, v in expected.items()}:
        raise CheckpointError(f"The weights in {path.name} do not fit the network it names. Restore it or delete it.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise CheckpointError(f"The weights in {path.name} are not all numbers. Restore it or delete it.")
    return Checkpoint(summary, weights, extra, details)


def load_summary(path: Path) -> Summary:
    """The summary alone. Raises CheckpointError."""
    return _summary(path, _header(path, _content(path)))


def shipped() -> list[Path]:
    """The checkpoints that are shipped: first the one that reads where none is chosen, then the others by name."""
    return sorted(FOLDER.glob(f"*{SUFFIX}"), key=lambda path: (path.stem != DEFAULT, path.name))


def paths() -> list[Path]:
    """The shipped checkpoints, then the saved ones, newest first."""
    newest_first = sorted(SAVED_FOLDER.glob(f"*{SUFFIX}"), key=lambda path: (-path.stat().st_mtime, path.name))
    return shipped() + newest_first


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file that cannot be read out of the way, unread and unchanged; returns where it is. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number, target = 1, folder / path.name
    while target.exists():
        number, target = number + 1, folder / f"{path.stem}-{number}{path.suffix}"
    path.rename(target)
    return target


def network(checkpoint: Checkpoint) -> Network:
    """The trained network in eval mode, with the checkpoint's own weights. Raises CheckpointError for a checkpoint of a
    run that has learnt nothing.
    """
    if not checkpoint.weights:
        raise CheckpointError(f"The run {checkpoint.summary.title} has no weights: it ended before it had learnt.")
    return assembled(checkpoint.summary.architecture, checkpoint.weights)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"The checkpoint {path.name} is larger than any network here. Delete it.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path.name} cannot be read ({error.strerror}). Restore it.") from error


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """The string metadata of a safetensors file, and the names of its tensors: 8 bytes of length, little endian, then
    JSON.
    """
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        metadata = dict(header.pop("__metadata__"))
        metadata[_NAMES] = [str(name) for name in header]
        return metadata
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint of Receptive, or it is damaged. Delete it.") from error


def _summary(path: Path, header: Mapping[str, Any]) -> Summary:
    if header.get("format") not in (FORMAT, FIRST_FORMAT):
        raise CheckpointError(f"{path.name} was not written by this version of Receptive. Save the network again.")
    try:
        accuracy = header["test_accuracy"]
        return Summary(
            title=cleaned_name(str(header["title"]), MAX_TITLE, path.stem),
            architecture=parse(header["architecture"]),
            recipe=from_json(header["recipe"]),
            epochs_done=int(header["epochs_done"]),
            test_accuracy=float(accuracy) if accuracy else None,
            created=str(header["created"]),
            has_weights=any(not name.startswith(EXTRA) for name in header[_NAMES]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, ArchitectureError, RecipeError) as error:
        raise CheckpointError(f"The description in {path.name} is damaged. Restore it or delete it.") from error


def _digest(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over all metadata but itself, and every tensor with its name, type and shape."""
    stated = {key: value for key, value in metadata.items() if key not in ("sha256", _NAMES)}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
