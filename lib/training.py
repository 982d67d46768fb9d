"""`fit`: a generator that trains a network and yields frozen events. No threads, no screen.

- The caller paces it: between two events nothing runs, so whoever stops iterating has stopped the training.
- The whole data set is two tensors and a batch is an index; there is no DataLoader.
- Two generators of its own, one for the order and one for the augmentation: same seed, same run, in any thread.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.analysis import analyse
from lib.architecture import Architecture
from lib.dataset import Dataset, normalise
from lib.recipe import Augmentation, Recipe

TEST_BATCH_SIZE = 250
MOMENTUM = 0.9
LARGE_MACS = 10_000_000


class DivergenceError(RuntimeError):
    """The loss is no longer a number. The message says at which step and what to change."""


@dataclass(frozen=True)
class StepMetrics:
    """One batch, measured before its update. `step` counts from 1 over the whole run, `epoch` from 1."""

    step: int
    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    images: int


@dataclass(frozen=True)
class MeasuringProgress:
    """`seen` of `total` test images measured; lets a caller stop within the measuring too."""

    epoch: int
    seen: int
    total: int


@dataclass(frozen=True)
class EpochMetrics:
    """The network at the end of an epoch. Accuracies are fractions; `seconds` and the rate count training alone."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float


Event: TypeAlias = StepMetrics | MeasuringProgress | EpochMetrics


def fit(network: nn.Module, recipe: Recipe, data: Dataset, device: str = "cpu") -> Generator[Event, None, None]:
    """Train `network` in place, a StepMetrics a batch and an EpochMetrics an epoch.

    The incomplete last batch is used too. Raises DivergenceError when the loss is not finite.
    """
    network.to(device).to(memory_format=torch.channels_last)
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    count = len(images)
    steps_per_epoch = math.ceil(count / recipe.batch_size)
    optimiser = _optimiser(network, recipe)
    schedule = _schedule(optimiser, recipe, steps_per_epoch * recipe.epochs)
    order = torch.Generator().manual_seed(recipe.seed)
    chance = torch.Generator().manual_seed(recipe.seed + 1)
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        loss_sum, correct, seconds = 0.0, 0, 0.0
        for batch in torch.split(torch.randperm(count, generator=order), recipe.batch_size):
            started = time.perf_counter()
            step += 1
            x, y = augment(normalise(images[batch]), recipe.augmentation, chance), labels[batch]
            learning_rate = float(optimiser.param_groups[0]["lr"])
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            train_loss = loss.item()
            hits = int((logits.argmax(1) == y).sum())
            loss_sum += train_loss * len(batch)
            correct += hits
            seconds += time.perf_counter() - started
            yield StepMetrics(step, epoch, train_loss, hits / len(batch), learning_rate, len(batch))
            if not math.isfinite(train_loss):
                raise DivergenceError(
                    f"The loss was no longer a number at step {step} of epoch {epoch}. "
                    f"The learning rate of {recipe.learning_rate:g} is too high for this network: try a tenth of it."
                )
        test_loss, test_accuracy = yield from _measure(network, data, epoch, device)
        yield EpochMetrics(
            epoch, step, loss_sum / count, correct / count, test_loss, test_accuracy, seconds, count / seconds
        )


def threads(architecture: Architecture) -> int:
    """Threads to train with: all cores for a large network, all but one for a small one.

    On two cores a second thread makes a small network 1.2 times faster on its own, but slower than one thread while a
    browser on the same machine draws the curves: the two threads wait for each other at every operation.
    """
    cores = os.cpu_count() or 1
    return cores if analyse(architecture).macs > LARGE_MACS else max(1, cores - 1)


def evaluate(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy, a fraction, of `network` on uint8 images (N, 28, 28); the network is left in eval mode."""
    network.eval()
    with torch.inference_mode():
        correct = sum(int((network(normalise(x)).argmax(1) == y).sum()) for x, y in _batches(images, labels))
    return correct / len(images)


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """A random affine map an image of x (N, 1, 28, 28), bilinear, filled with the background's value."""
    if not augmentation.active:
        return x
    count = len(x)
    turn, across, down, zoom = (2 * torch.rand(4, count, generator=generator) - 1).to(x.device)
    angle = turn * math.radians(augmentation.rotation)
    scale = 1 / (1 + zoom * augmentation.zoom)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid counts from -1 to 1 over the image: a shift by its whole width is 2.
    across, down = 2 * augmentation.shift * across, 2 * augmentation.shift * down
    maps = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    # grid_sample fills with 0; the background is the darkest pixel of the image.
    background = x.amin((1, 2, 3), keepdim=True)
    return F.grid_sample(x - background, grid, align_corners=False) + background


def _measure(
    network: nn.Module, data: Dataset, epoch: int, device: str
) -> Generator[MeasuringProgress, None, tuple[float, float]]:
    """Yields progress, returns (mean loss, accuracy) over the test images."""
    network.eval()
    loss_sum, correct, seen, total = 0.0, 0, 0, len(data.test_images)
    for images, labels in _batches(data.test_images, data.test_labels):
        # A generator must not stay inside inference_mode while it is suspended: the mode is the thread's.
        with torch.inference_mode():
            labels = labels.to(device)
            logits = network(normalise(images.to(device)))
            loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
        seen += len(images)
        yield MeasuringProgress(epoch, seen, total)
    return loss_sum / total, correct / total


def _batches(images: Tensor, labels: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(images, TEST_BATCH_SIZE), torch.split(labels, TEST_BATCH_SIZE), strict=True)


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), recipe.learning_rate, recipe.weight_decay
    match recipe.optimiser:
        case "SGD":
            return torch.optim.SGD(parameters, rate, MOMENTUM, weight_decay=decay, nesterov=True, fused=True)
        case "Adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "AdamW":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)


def _schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    match recipe.schedule:
        case "constant":
            return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
        case "one-cycle":
            # One step more than there are: the schedule is also stepped after the last batch.
            return torch.optim.lr_scheduler.OneCycleLR(
                optimiser, recipe.learning_rate, total_steps=steps + 1, cycle_momentum=False
            )
