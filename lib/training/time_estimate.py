"""Estimate training time with a linear cost model of this machine.

The time of a batch is modeled as a linear function of its multiply-accumulates, activations, images and parameters,
plus a constant. `measure` fits the coefficients to short trainings of a few small networks; `epoch_seconds` applies
them and needs no torch.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from lib.design.analysis import analyze
from lib.design.exercise import EPOCHS_LIMIT
from lib.design.fast_path_eligibility import has_fast_path
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Augmentation, Recipe

TRAIN_IMAGES = 60_000
# Steps measured for each network.
STEPS = 8
_PLAIN, _AUGMENTED = Augmentation(), Augmentation(10, 0.07, 0.1)
# Network, batch size and augmentation of the trainings measured. They vary in multiply-accumulates, activations,
# parameters and batch size, so that the coefficients can be told apart.
_FAST_PATH_CASES = (
    ("2 10 A", 32, _PLAIN),
    ("2 10 A", 512, _PLAIN),
    ("2 10 A", 128, _AUGMENTED),
    (PRESETS[0].text, 32, _PLAIN),
    (PRESETS[0].text, 128, _PLAIN),
    ("8 M 32 64 M 64 10 A", 32, _PLAIN),
    ("16 16 16 10 A", 64, _PLAIN),
)
_OTHER_CASES = (
    ("2b 10 A", 32, _PLAIN),
    ("2b 10 A", 512, _PLAIN),
    ("2b 10 A", 128, _AUGMENTED),
    (PRESETS[0].text.replace("4 4", "4b 4"), 32, _PLAIN),
    (PRESETS[0].text.replace("4 4", "4b 4"), 128, _PLAIN),
    (PRESETS[5].text, 32, _PLAIN),
    ("32n 64n M 128n 10 A", 64, _PLAIN),
    ("1024f 1024f 10f", 16, _PLAIN),
)


@dataclass(frozen=True)
class StepCost:
    """Coefficients of the cost model, in seconds.

    - `step`: each step.
    - `parameter`: each parameter in each step.
    - `image`, `augmented_image`: each image, and in addition each augmented image.
    - `activation`, `mac`: each activation and each multiply-accumulate, for each image.
    """

    step: float
    parameter: float
    image: float
    augmented_image: float
    activation: float
    mac: float


@dataclass(frozen=True)
class MachineProfile:
    """The cost model of this machine: for networks with a fast path (`lib.nn.fast_path`), and for all others."""

    fused: StepCost
    other: StepCost


def epoch_seconds(
    profile: MachineProfile, architecture: Architecture, recipe: Recipe, images: int = TRAIN_IMAGES
) -> float:
    """Estimate the seconds of training for one epoch of `images` images, without the evaluation."""
    costs = astuple(profile.fused if has_fast_path(architecture) else profile.other)
    # Outliers and synthetic digits are added to each batch.
    factor = 1 + recipe.outlier_ratio + recipe.synthetic_ratio
    batch_size, total_images = round(recipe.batch_size * factor), round(images * factor)
    counts = _counts(architecture, batch_size, recipe.augmentation, total_images)
    return float(sum(cost * count for cost, count in zip(costs, counts, strict=True)))


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
    """Fit the cost model to trainings of a few small networks on noise, which take about three seconds."""
    # Warm up: the first training of a process is slower.
    for text in (_FAST_PATH_CASES[0][0], _OTHER_CASES[0][0]):
        _batch_seconds(parse(text), 128, _PLAIN)
    return MachineProfile(_fit(_FAST_PATH_CASES), _fit(_OTHER_CASES))


def _fit(cases: Sequence[tuple[str, int, Augmentation]]) -> StepCost:
    """Train each case (network, batch size, augmentation) and fit the coefficients to the times."""
    counts, times = [], []
    for text, batch_size, augmentation in cases:
        architecture = parse(text)
        counts.append(_counts(architecture, batch_size, augmentation, batch_size))
        times.append(_batch_seconds(architecture, batch_size, augmentation))
    # A slow import that the first page does not need.
    from scipy.optimize import nnls

    # Non-negative least squares of the relative errors (Lawson and Hanson, "Solving Least Squares Problems", 1974).
    costs, _ = nnls(np.array(counts) / np.array(times)[:, None], np.ones(len(times)))
    return StepCost(*costs.tolist())


def _counts(architecture: Architecture, batch_size: int, augmentation: Augmentation, images: int) -> tuple[float, ...]:
    """Return what the cost model multiplies, in the order of the fields of StepCost."""
    analysis = analyze(architecture)
    steps = math.ceil(images / batch_size)
    return (
        steps,
        steps * analysis.num_params,
        images,
        images * augmentation.active,
        images * analysis.activations,
        images * analysis.macs,
    )


def _batch_seconds(architecture: Architecture, batch_size: int, augmentation: Augmentation) -> float:
    """Measure the seconds of a training step: the lower quartile of STEPS steps, after two to warm up.

    The lower quartile, because other work of the machine, such as opening a page, only ever makes a step slower.
    """
    import torch

    from lib.data.dataset import Dataset
    from lib.training.trainer import Trainer, recommended_threads

    torch.set_num_threads(recommended_threads(architecture))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, ((STEPS + 3) * batch_size, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    data = Dataset(images, labels, images[:1], labels[:1])
    recipe = Recipe(epochs=1, batch_size=batch_size, augmentation=augmentation)
    ends = []
    for _ in Trainer(architecture, recipe, data):
        ends.append(time.perf_counter())
        if len(ends) == STEPS + 2:
            break
    return statistics.quantiles((end - start for start, end in itertools.pairwise(ends[1:])), n=4)[0]
