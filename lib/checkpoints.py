"""Trained networks as safetensors files, architecture and recipe inside.

- Written whole or not at all: temporary file, fsync, rename, fsync of the folder.
- Read without executing anything; whatever is wrong with a file is a `CheckpointError` in one sentence.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lib.architecture import Architecture, ArchitectureError, notation, parse
from lib.network import build
from lib.recipe import Recipe, RecipeError, from_json, to_json

FOLDER = Path(__file__).resolve().parent.parent / "checkpoints"
SAVED_FOLDER = FOLDER / "saved"
SUFFIX = ".safetensors"
FORMAT = "receptive-1"
MAX_BYTES = 256 * 2**20


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written. The message names it and says what to do."""


@dataclass(frozen=True)
class Summary:
    """What a checkpoint says of itself. `test_accuracy` is a fraction, measured at the end of epoch `epochs_done`."""

    title: str
    architecture: Architecture
    recipe: Recipe
    epochs_done: int
    test_accuracy: float | None
    created: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    summary: Summary
    weights: Mapping[str, Tensor]


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
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(save_tensors(tensors, metadata))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path.name} could not be saved ({error.strerror}). Free some disk space and try again."
        ) from error


def load(path: Path) -> Checkpoint:
    """Read and check a checkpoint: known format, the architecture's own tensors, finite. Raises CheckpointError."""
    content = _content(path)
    summary = _summary(path, _header(path, content))
    try:
        weights = load_tensors(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint {path.name} is damaged. Restore it or delete it.") from error
    expected = build(summary.architecture).state_dict()
    if {k: (v.shape, v.dtype) for k, v in weights.items()} != {k: (v.shape, v.dtype) for k, v in expected.items()}:
        raise CheckpointError(f"The weights in {path.name} do not fit the network it names. Restore it or delete it.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise CheckpointError(f"The weights in {path.name} are not all numbers. Restore it or delete it.")
    return Checkpoint(summary, weights)


def load_summary(path: Path) -> Summary:
    """The summary alone. Raises CheckpointError."""
    return _summary(path, _header(path, _content(path)))


def paths() -> list[Path]:
    """The shipped checkpoints by name, then the saved ones, newest first."""
    newest_first = sorted(SAVED_FOLDER.glob(f"*{SUFFIX}"), key=lambda path: (-path.stat().st_mtime, path.name))
    return sorted(FOLDER.glob(f"*{SUFFIX}")) + newest_first


def network(checkpoint: Checkpoint) -> nn.Sequential:
    """The trained network in eval mode."""
    trained = build(checkpoint.summary.architecture)
    trained.load_state_dict(dict(checkpoint.weights))
    return trained.eval()


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"The checkpoint {path.name} is larger than any network here. Delete it.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path.name} cannot be read ({error.strerror}). Restore it.") from error


def _header(path: Path, content: bytes) -> dict[str, Any]:
    """The string metadata of a safetensors file: 8 bytes of length, little endian, then JSON."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        return dict(json.loads(content[8 : 8 + length])["__metadata__"])
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint of Receptive, or it is damaged. Delete it.") from error


def _summary(path: Path, header: Mapping[str, Any]) -> Summary:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} was not written by this version of Receptive. Save the network again.")
    try:
        accuracy = header["test_accuracy"]
        return Summary(
            title=str(header["title"]),
            architecture=parse(header["architecture"]),
            recipe=from_json(header["recipe"]),
            epochs_done=int(header["epochs_done"]),
            test_accuracy=float(accuracy) if accuracy else None,
            created=str(header["created"]),
        )
    except (KeyError, ValueError, AttributeError, ArchitectureError, RecipeError) as error:
        raise CheckpointError(f"The description in {path.name} is damaged. Restore it or delete it.") from error


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is; Windows can't open a folder and needs no sync."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
