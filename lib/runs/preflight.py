"""Checks before a training: memory, disk space, and batches that are too small for batch norm."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import psutil

from lib.data.outliers import DRAWN_AT_ONCE
from lib.design.analysis import NetworkAnalysis, analyze, per_layer
from lib.design.fast_path_eligibility import has_fast_path
from lib.design.layers import INPUT_SHAPE, Architecture, MaxPool
from lib.design.operations import operations
from lib.design.recipe import Recipe
from lib.evaluation.attribution import affordable
from lib.evaluation.calibration import LIVE_IMAGES
from lib.nn.kernels import LANES
from lib.nn.memory import batch_size, forward_bytes, workspace
from lib.nn.network import uses_im2col
from lib.storage.checkpoints import MAX_BYTES
from lib.text.formatting import gigabytes
from lib.training.time_estimate import TRAIN_IMAGES
from lib.training.trainer import held_out

# Copies of an image of float32 that are made at once, measured: by the maps and strokes that move it, by a digit that
# is written or a mark, and while it is drawn.
IMAGE_BYTES = 4 * math.prod(INPUT_SHAPE)
AUGMENTED, WRITTEN, DRAWN = 13, 12, 125
# Compiled kernels, the order of the images, and what the allocator does not give back.
OVERHEAD = 80 * 10**6
# From here on a kernel is wide: oneDNN unfolds its input.
WIDE = 5


def trained_images(recipe: Recipe) -> int:
    """How many of MNIST's training images it trains on: all but those that it holds out."""
    return TRAIN_IMAGES - (held_out(TRAIN_IMAGES) if recipe.validation == "held-out" else 0)


def preflight_error(architecture: Architecture, recipe: Recipe, folder: Path, images: int = 60_000) -> str | None:
    """Why the network cannot be trained here and now, in words; None where it can, or where the system does not say.

    `folder` is where its checkpoint will be written, `images` the number it is trained on.
    """
    analysis = analyze(architecture)
    parts, available = needed(architecture, recipe), _available_memory()
    if available is not None and sum(parts.values()) >= available:
        largest = max(parts, key=parts.__getitem__)
        return (
            f"Training this network with a batch of {recipe.batch_size:,} takes about "
            f"{gigabytes(sum(parts.values()))} of memory, {gigabytes(parts[largest])} of them for {largest}, and "
            f"{gigabytes(available)} are available. Use fewer channels or a smaller batch."
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
            "layer of one pixel cannot normalize a single value. Choose another batch size, or leave that norm out."
        )
    return None


def needed(architecture: Architecture, recipe: Recipe) -> dict[str, int]:
    """What a training takes at its peak, in bytes above what a process with MNIST in it has, part by part.

    WeightsCopy; a step; what comes beside it: the making of its batch, or the measuring after an epoch, whichever takes
    more; calibrating, which goes on while it trains; and what any training takes.
    """
    weights = 4 * analyze(architecture).num_params
    kept = (2 if recipe.optimizer == "SGD" else 3) * weights
    written, unknown = (
        round(recipe.synthetic_ratio * recipe.batch_size),
        round(recipe.outlier_ratio * recipe.batch_size),
    )
    shown, batch, in_fused = (
        recipe.batch_size + written + unknown,
        batch_size(architecture),
        has_fast_path(architecture),
    )
    step = _fused_bytes(architecture, shown) if in_fused else _module_bytes(architecture, shown)
    augmented = AUGMENTED * recipe.augmentation.active
    making = IMAGE_BYTES * max(augmented * shown, _drawing(written), _drawing(unknown), 2 * shown)
    measuring = forward_bytes(architecture, batch)
    beside = max(making, measuring)
    calibrates = affordable(architecture, LIVE_IMAGES) == LIVE_IMAGES
    return {
        # Besides network, gradients and moments: a state that is kept, two copies of it while it is written, and the
        # weights published last and before.
        "its weights, with gradients, moments and copies": weights + 4 * kept + 2 * weights,
        "what a batch puts out, and its gradients": step,
        # The fused kernels keep their room from step to step; torch's modules give it back.
        "making its batches" if making > measuring else "measuring it": beside if in_fused else max(0, beside - step),
        "calibrating it": calibrates * (measuring + IMAGE_BYTES * AUGMENTED * batch),
        "what every training takes": OVERHEAD,
    }


def _drawing(count: int) -> int:
    """Copies of an image that so many digits or marks take."""
    return WRITTEN * count + DRAWN * min(count, DRAWN_AT_ONCE)


def _fused_bytes(architecture: Architecture, images: int) -> int:
    """The room of `lib.nn.fast_path`, which takes images in blocks of LANES."""
    rows, blocks = per_layer(analyze(architecture), architecture).rows, -(-images // LANES)
    sizes = [math.prod(row.output_shape) for row in rows]
    chosen = sum(size for size, layer in zip(sizes, architecture.layers, strict=True) if isinstance(layer, MaxPool))
    numbers = math.prod(INPUT_SHAPE) + sum(sizes) + chosen + 2 * max(sizes)
    return 4 * blocks * (LANES * numbers + sum(row.num_params for row in rows))


def _module_bytes(architecture: Architecture, images: int) -> int:
    """A step through torch's modules: what autograd keeps, and the most that the way back through one of them takes."""
    kept = passing = 0
    for step in operations(architecture):
        inputs, outputs = math.prod(step.input_shape), math.prod(step.output_shape)
        match step.kind:
            case "Conv2d":
                # Both gradients, the layouts that it works in, and for a wide kernel one image unfolded.
                wide = step.kernel_size**2 * step.input_shape[0] * step.output_shape[1] ** 2
                copied = workspace(step, images, uses_im2col()) + wide * (step.kernel_size > WIDE)
                passing = max(passing, images * (inputs + outputs) + copied)
            case "BatchNorm2d":
                # What is centred, and what is put out.
                kept += 2 * images * outputs
                passing = max(passing, 2 * images * outputs)
            case "MaxPool2d":
                kept += 3 * images * outputs
            case "Flatten":
                pass
            case _:
                kept += images * outputs
    return 4 * (kept + passing)


def _checkpoint_bytes(analysis: NetworkAnalysis, recipe: Recipe, images: int) -> int:
    """WeightsCopy and two moments, three curves, and room for the rest."""
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return 4 * 3 * analysis.num_params + 8 * 3 * steps + 100_000


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _available_memory() -> int:
    """Bytes that this process may still allocate: the least of what machine, control groups and process limit leave."""
    limits = (psutil.virtual_memory().available, cgroup_room(), _address_room())
    return min(limit for limit in limits if limit is not None)


def _address_room() -> int | None:
    """Bytes that `ulimit -v` leaves; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit - psutil.Process().memory_info().vms


def cgroup_room(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control groups of this process leave (version 2 or 1, as in a container); None without a limit.

    File caches count as free, because the kernel drops them first. psutil does not know control groups.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    rooms = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Every group above limits too. In a container the path may be that outside of it: then its root is the group.
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(base):
                break
            limit, taken = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and taken is not None:
                rooms.append(max(0, limit - taken + (_field(folder / "memory.stat", names[2]) or 0)))
    return min(rooms) if rooms else None


def _number(file: Path) -> int | None:
    """The number that a file holds; None where it holds none, as "max"."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _field(file: Path, name: str) -> int | None:
    """The number behind `name` on a line of a file."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return None
