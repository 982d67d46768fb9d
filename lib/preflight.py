"""What must be there before a training begins: memory, room on the disk, and batches that its norms can take."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from lib.analysis import NetworkAnalysis, analyse, training_bytes
from lib.architecture import Architecture, operations
from lib.checkpoints import MAX_BYTES
from lib.cost import TRAIN_IMAGES
from lib.recipe import Recipe
from lib.training import held_out


def trained_images(recipe: Recipe) -> int:
    """How many of MNIST's training images it trains on: all but those that it holds out."""
    return TRAIN_IMAGES - (held_out(TRAIN_IMAGES) if recipe.validation == "held-out" else 0)


def refusal(architecture: Architecture, recipe: Recipe, folder: Path, images: int = 60_000) -> str | None:
    """Why the network cannot be trained here and now, in words; None where it can, or where the system does not say.

    `folder` is where its checkpoint will be written, `images` the number it is trained on.
    """
    analysis = analyse(architecture)
    needed, available = training_bytes(analysis, recipe.batch_size), _available_memory()
    if available is not None and needed >= available:
        return (
            f"Training this network with a batch of {recipe.batch_size:,} takes about {needed / 1e9:.0f} GB of memory, "
            f"and {available / 1e9:.0f} GB are available. Use fewer channels or a smaller batch."
        )
    size, free = _checkpoint_bytes(analysis, recipe, images), _free_bytes(folder)
    if size > MAX_BYTES:
        return (
            f"A checkpoint of this run takes up to {size / 1e6:,.0f} MB, and at most {MAX_BYTES / 1e6:.0f} MB can be "
            "read again. Use fewer channels, a larger batch or fewer epochs."
        )
    # A checkpoint is written beside the one that it replaces.
    if free is not None and free < 2 * size:
        return (
            f"Checkpoints of this run take up to {2 * size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free where "
            "runs are kept. Free some disk space, or delete runs."
        )
    smallest = min(recipe.batch_size, images % recipe.batch_size or recipe.batch_size)
    if smallest == 1 and any(
        o.kind == "BatchNorm2d" and o.output_shape[1:] == (1, 1) for o in operations(architecture)
    ):
        return (
            f"With a batch size of {recipe.batch_size:,} a batch of a single image comes up, and the batch norm of a "
            "layer of one pixel cannot normalise a single value. Choose another batch size, or leave that norm out."
        )
    return None


def _checkpoint_bytes(analysis: NetworkAnalysis, recipe: Recipe, images: int) -> int:
    """Weights and two moments, three curves, and room for the rest."""
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return 4 * 3 * analysis.num_params + 8 * 3 * steps + 100_000


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _available_memory() -> int | None:
    """Bytes that a program may take: on Linux what the kernel would give, its caches included; else all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
