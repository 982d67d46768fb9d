"""Checks before a training: memory, disk space, and batches that are too small for batch norm."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import psutil
import torch

from lib.data.outliers import DRAWN_AT_ONCE
from lib.design.analysis import NetworkAnalysis, analyze
from lib.design.layers import INPUT_SHAPE, Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import operations
from lib.design.recipe import Recipe
from lib.evaluation.attribution import affordable
from lib.evaluation.calibration import LIVE_IMAGES
from lib.nn.memory import batch_size, forward_bytes, workspace
from lib.nn.network import build, uses_im2col
from lib.storage.checkpoints import MAX_BYTES
from lib.text.formatting import gigabytes
from lib.training.optimizers import OPTIMIZER_SPECS
from lib.training.time_estimate import TRAIN_IMAGES
from lib.training.trainer import best_device, held_out

IMAGE_BYTES = 4 * math.prod(INPUT_SHAPE)
# Measured peak memory, in float32 images: for each augmented image, for each synthetic digit or outlier, and in
# addition for each of those that are drawn at the same time.
AUGMENTED, GENERATED, DRAWN = 13, 12, 125
# In bytes: numba with the compiled kernels, the order of the images, and memory that the allocator keeps.
OVERHEAD = 200 * 10**6
# For kernels larger than this, oneDNN unfolds its input (im2col).
MAX_DIRECT_KERNEL = 5
# Measured: unfolded images at the same time, and how much more than is counted here torch holds for a network with
# branches or with other norms than batch norm.
UNFOLDED, UNCOUNTED = 1.5, 1.8
# Norms over a batch: they need more than one value of each channel.
BATCH_NORMS = ("BatchNorm2d", "BatchNorm1d", "GhostBatchNorm2d")


def trained_images(recipe: Recipe) -> int:
    """Return the number of MNIST's training images without those held out for validation."""
    return TRAIN_IMAGES - (held_out(TRAIN_IMAGES) if recipe.validation == "held-out" else 0)


def preflight_error(architecture: Architecture, recipe: Recipe, folder: Path, images: int = 60_000) -> str | None:
    """Return a sentence with the reason why the network cannot be trained on this machine now, or None if it can.

    `folder` is the folder of its checkpoint, `images` the number of training images.
    """
    analysis = analyze(architecture)
    parts, available = training_memory(architecture, recipe), _available_memory()
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
            "read. Use fewer channels, a larger batch or fewer epochs."
        )
    # The old checkpoint is deleted only after the new one is written.
    if free is not None and free < 2 * size:
        return (
            f"Checkpoints of this run take up to {2 * size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free where "
            "runs are kept. Free some disk space, or delete runs."
        )
    smallest = min(recipe.batch_size, images % recipe.batch_size or recipe.batch_size)
    if smallest == 1 and any(o.kind in BATCH_NORMS and o.output_shape[1:] == (1, 1) for o in operations(architecture)):
        return (
            f"With a batch size of {recipe.batch_size:,} the last batch has a single image, and the batch norm of a "
            "layer of one pixel cannot normalize a single value. Choose another batch size, or remove that norm."
        )
    return None


def training_memory(architecture: Architecture, recipe: Recipe) -> dict[str, int]:
    """Return the peak memory of a training by purpose, in bytes, without that of the process and of MNIST.

    The purposes are weights and their copies, one training step, making a batch or evaluating an epoch (whichever needs
    more), the calibration that runs beside the training, and a constant.
    """
    weights = 4 * analyze(architecture).num_params
    kept = (1 + len(OPTIMIZER_SPECS[recipe.optimizer].moments)) * weights
    synthetic = round(recipe.synthetic_ratio * recipe.batch_size)
    outliers = round(recipe.outlier_ratio * recipe.batch_size)
    images, eval_images = recipe.batch_size + synthetic + outliers, batch_size(architecture)
    is_fast = best_device() == "cpu"
    step = (_fast_path_bytes if is_fast else _module_bytes)(architecture, images)
    augmented = AUGMENTED * recipe.augmentation.active * images
    batch = IMAGE_BYTES * max(augmented, _generated(synthetic), _generated(outliers), 2 * images)
    evaluation = forward_bytes(architecture, eval_images)
    other = max(batch, evaluation)
    calibrates = affordable(architecture, LIVE_IMAGES) == LIVE_IMAGES
    return {
        # Gradients; network and moments four times: in training, in the kept state, and two copies while that is
        # written; and the weights published last and before.
        "its weights, with gradients, moments and copies": weights + 4 * kept + 2 * weights,
        "the outputs of a batch and their gradients": step,
        # The fast path keeps its workspace between steps; torch's modules free it.
        "making its batches" if batch > evaluation else "evaluating it": other if is_fast else max(0, other - step),
        "calibrating it": calibrates * (evaluation + IMAGE_BYTES * AUGMENTED * eval_images),
        "what every training needs": OVERHEAD,
    }


def _generated(count: int) -> int:
    """Return the memory to generate `count` synthetic digits or outliers, in float32 images."""
    return GENERATED * count + DRAWN * min(count, DRAWN_AT_ONCE)


def _fast_path_bytes(architecture: Architecture, images: int) -> int:
    """Return the memory of a step of `lib.nn.fast_path`, in bytes."""
    # They import numba, which only a training needs.
    from lib.nn.fast_path import workspace_bytes
    from lib.nn.layer_measurement import is_too_large
    from lib.nn.plan import build_plan

    with torch.device("meta"):
        network = build(architecture)
    return workspace_bytes(build_plan(network.train(), lambda layer, _: is_too_large(layer)), images)


def _module_bytes(architecture: Architecture, images: int) -> int:
    """Return the memory of a step with torch's modules, in bytes: autograd's tensors and the largest backward pass."""
    kept = backward = 0
    for step in operations(architecture):
        inputs, outputs = math.prod(step.input_shape), math.prod(step.output_shape)
        match step.kind:
            case "Conv2d":
                # Both gradients, copies in another memory layout, and for a large kernel one unfolded image.
                unfolded = math.prod(step.kernel_size) * step.input_shape[0] * math.prod(step.output_shape[1:])
                is_large = max(step.kernel_size) > MAX_DIRECT_KERNEL
                copied = workspace(step, images, uses_im2col()) + round(UNFOLDED * unfolded) * is_large
                backward = max(backward, images * (inputs + outputs) + copied)
            case "BatchNorm2d" | "GhostBatchNorm2d" | "InstanceNorm2d":
                # The normalized input and the output.
                kept += 2 * images * outputs
                backward = max(backward, 2 * images * outputs)
            case "MaxPool2d" | "AdaptiveMaxPool2d":
                kept += 3 * images * outputs
            case "Flatten":
                pass
            case _:
                kept += images * outputs
    kinds = {step.kind for step in operations(architecture)}
    is_uncounted = any(SPECS[kind].is_join for kind in kinds) or any("Norm" in kind for kind in kinds - {"BatchNorm2d"})
    return round(4 * (kept + backward) * (UNCOUNTED if is_uncounted else 1))


def _checkpoint_bytes(analysis: NetworkAnalysis, recipe: Recipe, images: int) -> int:
    """Return the size of a run's file: weights, moments, three curves, and a reserve for metadata."""
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    moments = len(OPTIMIZER_SPECS[recipe.optimizer].moments)
    return 4 * (1 + moments) * analysis.num_params + 8 * 3 * steps + 100_000


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _available_memory() -> int:
    """Return how many bytes this process may still allocate: the smallest limit of machine, groups and process."""
    limits = (psutil.virtual_memory().available, cgroup_room(), _address_room())
    return min(limit for limit in limits if limit is not None)


def _address_room() -> int | None:
    """Return how many bytes `ulimit -v` leaves, or None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit - psutil.Process().memory_info().vms


def cgroup_room(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many bytes the control groups of this process leave, or None if there is no limit.

    Containers are limited by control groups, version 1 or 2, which psutil does not read. File caches count as free
    because the kernel drops them first.
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
        # Parent groups limit too. In a container the path may be that of the host: then the root is the group.
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(base):
                break
            limit, taken = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and taken is not None:
                rooms.append(max(0, limit - taken + (_field(folder / "memory.stat", names[2]) or 0)))
    return min(rooms) if rooms else None


def _number(file: Path) -> int | None:
    """Return the number in a file, or None if it holds another text, such as "max"."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _field(file: Path, name: str) -> int | None:
    """Return the number that follows `name` on a line of a file, or None."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return None
