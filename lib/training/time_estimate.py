"""Estimate training time with a linear cost model of this machine.

The time of a step is modeled as a linear function of what it does, see `lib.training.step_counts`. `measure` fits the
coefficients to short trainings of a few small networks; `epoch_seconds` applies them and needs no torch.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from lib.design.exercise import EPOCHS_LIMIT
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Augmentation, Recipe
from lib.training.step_counts import StepCounts, TileSizes, step_counts

TRAIN_IMAGES = 60_000
# Turns of each network, and the steps measured in each.
ROUNDS, STEPS = 3, 4
_PLAIN, _AUGMENTED = Augmentation(), Augmentation(10, 0.07, 0.1)
# Network, batch size and augmentation of the trainings measured. They vary in everything that is counted, so that the
# coefficients can be told apart.
CASES = (
    ("2 10 A", 32, _PLAIN),
    ("2 10 A", 512, _PLAIN),
    ("2 10 A", 128, _AUGMENTED),
    (PRESETS[0].text, 32, _PLAIN),
    (PRESETS[0].text, 128, _PLAIN),
    ("8 M 32 64 M 64 10 A", 128, _PLAIN),
    ("16n 16n 16n 10n A", 128, _PLAIN),
    ("norm=before dropout=5 | 8v 16v M 8k1 16v 16v 10 A", 128, _PLAIN),
    ("16k1 16k1 16k1 16k1 M 16k1 10k1 A", 128, _PLAIN),
    ("8v D10 16v D10 M 16v D10 10 A", 128, _PLAIN),
    ("8.gelu 8.gelu M 16.gelu 10 A", 128, _PLAIN),
    ("8 M 16 M 32fx 10f", 128, _PLAIN),
    ("8 M 16 M 256f 10f", 128, _PLAIN),
    ("512f 10f", 128, _PLAIN),
)


@dataclass(frozen=True)
class MachineProfile:
    """The cost model of this machine: the seconds of each thing that is counted, with the number of its threads."""

    seconds: StepCounts
    threads: int
    tile_sizes: TileSizes


def epoch_seconds(
    profile: MachineProfile, architecture: Architecture, recipe: Recipe, images: int = TRAIN_IMAGES
) -> float:
    """Estimate the seconds of training for one epoch of `images` images, without the evaluation."""
    # Outliers and synthetic digits are added to each batch.
    factor = 1 + recipe.outlier_ratio + recipe.synthetic_ratio
    counts = step_counts(
        architecture,
        recipe,
        images / recipe.batch_size,
        round(recipe.batch_size * factor),
        profile.threads,
        profile.tile_sizes,
    )
    return float(sum(cost * count for cost, count in zip(astuple(profile.seconds), astuple(counts), strict=True)))


def estimate_text(profile: MachineProfile, architecture: Architecture, recipe: Recipe) -> str:
    """Describe the time of one epoch, of the recipe's epochs and of all epochs that the exercise allows."""
    seconds = epoch_seconds(profile, architecture, recipe)
    max_epochs = EPOCHS_LIMIT - 1
    return (
        f"On this machine about {duration(seconds)} of training an epoch: {duration(recipe.epochs * seconds)} for the "
        f"recipe's {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, {duration(max_epochs * seconds)} for the "
        f"{max_epochs} that the budget allows."
    )


def estimate_error_text(estimated: float, measured: float) -> str:
    """Compare the estimated with the measured time, both in seconds for each epoch."""
    error = measured / estimated - 1
    comparison = "as estimated" if abs(error) < 0.005 else f"{100 * abs(error):.0f} % {'more' if error > 0 else 'less'}"
    return f"Estimated at {duration(estimated)} of training an epoch, it took {duration(measured)}: {comparison}."


def duration(seconds: float) -> str:
    """Format a duration with two significant digits: "0.8 s", "24 s", "3.5 min", "2.1 h"."""
    for size, unit in ((3600, "h"), (90, "min")):
        if seconds >= size:
            number = seconds / (3600 if unit == "h" else 60)
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def measure() -> MachineProfile:
    """Fit the cost model to trainings of a few small networks on noise, which take some seconds."""
    from lib.nn.fast_path import default_threads
    from lib.nn.tiles import MAX_CHANNELS, MAX_GRAD_CHANNELS, MAX_POSITIONS, MAX_WEIGHTS
    from lib.nn.vectors import LANES

    threads = default_threads()
    sizes = TileSizes(MAX_POSITIONS, MAX_CHANNELS, MAX_GRAD_CHANNELS, MAX_WEIGHTS, LANES)
    return MachineProfile(_fit(CASES, threads, sizes), threads, sizes)


def _fit(cases: Sequence[tuple[str, int, Augmentation]], threads: int, sizes: TileSizes) -> StepCounts:
    """Train each case (network, batch size, augmentation) and fit the coefficients to the times."""
    counts = []
    for text, batch_size, augmentation in cases:
        recipe = Recipe(augmentation=augmentation)
        counts.append(astuple(step_counts(parse(text), recipe, 1, batch_size, threads, sizes)))
    times = _step_seconds(cases)
    # A slow import that the first page does not need.
    from scipy.optimize import nnls

    # Non-negative least squares of the relative errors (Lawson and Hanson, "Solving Least Squares Problems", 1974).
    costs, _ = nnls(np.array(counts) / np.array(times)[:, None], np.ones(len(times)))
    return StepCounts(*costs.tolist())


def _step_seconds(cases: Sequence[tuple[str, int, Augmentation]]) -> list[float]:
    """Measure the median seconds of a training step of each case.

    The cases take turns, so that other work of the machine, such as opening a page, does not fall on one of them alone.
    """
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(ROUNDS):
        for case, taken in zip(cases, seconds, strict=True):
            taken += _turn(*case)
    return [statistics.median(taken) for taken in seconds]


def _turn(text: str, batch_size: int, augmentation: Augmentation) -> list[float]:
    """Train on noise; returns the seconds of STEPS steps, after one to warm up."""
    import torch

    from lib.data.dataset import Dataset
    from lib.nn.network import torch_threads
    from lib.training.trainer import StepMetrics, Trainer

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, ((STEPS + 1) * batch_size, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    data = Dataset(images, labels, images[:1], labels[:1])
    trainer = Trainer(parse(text), Recipe(epochs=1, batch_size=batch_size, augmentation=augmentation), data)
    with torch_threads(trainer.threads):
        ends = []
        for event in trainer:
            if isinstance(event, StepMetrics):
                ends.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(ends)]
