"""Estimate training time: a cost model of this machine, measured once, times the needs of a network.

A batch takes as long as its multiply-accumulates, the numbers that its layers put out, its images, the weights to
update and itself ask for. `measure` finds the prices by training a few small networks for a moment; `epoch_seconds`
adds them up and needs no torch.
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
STEPS = 8
_PLAIN, _AUGMENTED = Augmentation(), Augmentation(10, 0.07, 0.1)
# Little and much to multiply, few and many numbers kept, small and large batches: what tells the prices apart.
_FUSED = (
    ("2 10 A", 32, _PLAIN),
    ("2 10 A", 512, _PLAIN),
    ("2 10 A", 128, _AUGMENTED),
    (PRESETS[0].text, 32, _PLAIN),
    (PRESETS[0].text, 128, _PLAIN),
    ("8 M 32 64 M 64 10 A", 32, _PLAIN),
    ("16 16 16 10 A", 64, _PLAIN),
)
_OTHERS = (
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
    """Seconds of training for each: a step, an image, augmenting it, a number put out, a multiply-accumulate.

    `parameter` is the price of updating one in a step.
    """

    step: float
    parameter: float
    image: float
    augmented_image: float
    activation: float
    mac: float


@dataclass(frozen=True)
class MachineProfile:
    """What training costs on this machine: a network that `lib.nn.fast_path` trains, and any other."""

    fused: StepCost
    other: StepCost


def epoch_seconds(
    rate: MachineProfile, architecture: Architecture, recipe: Recipe, images: int = TRAIN_IMAGES
) -> float:
    """Estimated seconds of training an epoch of `images`, the measuring on the test images left out."""
    prices = astuple(rate.fused if has_fast_path(architecture) else rate.other)
    more = 1 + recipe.outlier_ratio + recipe.synthetic_ratio
    batch_size, shown = round(recipe.batch_size * more), round(images * more)
    needs = _needs(architecture, batch_size, recipe.augmentation, shown)
    return float(sum(price * need for price, need in zip(prices, needs, strict=True)))


def estimate_text(rate: MachineProfile, architecture: Architecture, recipe: Recipe) -> str:
    """Seconds an epoch, of the recipe's epochs, and of all the epochs that the assignment allows."""
    seconds = epoch_seconds(rate, architecture, recipe)
    most = EPOCHS_LIMIT - 1
    return (
        f"On this machine about {duration(seconds)} of training an epoch: {duration(recipe.epochs * seconds)} for the "
        f"recipe's {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, {duration(most * seconds)} for the {most} that "
        "the budget allows."
    )


def estimate_error_text(estimated: float, measured: float) -> str:
    """How far the estimate was off, both in seconds an epoch."""
    off = measured / estimated - 1
    word = "as estimated" if abs(off) < 0.005 else f"{100 * abs(off):.0f} % {'more' if off > 0 else 'less'}"
    return f"Estimated at {duration(estimated)} of training an epoch, it took {duration(measured)}: {word}."


def duration(seconds: float) -> str:
    """Two figures: "0.8 s", "24 s", "3.5 min", "2.1 h"."""
    for size, unit in ((3600, "h"), (90, "min")):
        if seconds >= size:
            number = seconds / (3600 if unit == "h" else 60)
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def measure() -> MachineProfile:
    """Train a few networks on noise for about three seconds; the prices that explain their times best."""
    # The first training of a process is slower than all that follow.
    for text in (_FUSED[0][0], _OTHERS[0][0]):
        _batch_seconds(parse(text), 128, _PLAIN)
    return MachineProfile(_measured(_FUSED), _measured(_OTHERS))


def _measured(trainings: Sequence[tuple[str, int, Augmentation]]) -> StepCost:
    needs, times = [], []
    for text, batch_size, augmentation in trainings:
        architecture = parse(text)
        needs.append(_needs(architecture, batch_size, augmentation, batch_size))
        times.append(_batch_seconds(architecture, batch_size, augmentation))
    # Imported here: the first page does not wait for it.
    from scipy.optimize import nnls

    # Non-negative least squares of the relative errors (Lawson and Hanson, "Solving Least Squares Problems", 1974).
    prices, _ = nnls(np.array(needs) / np.array(times)[:, None], np.ones(len(times)))
    return StepCost(*prices.tolist())


def _needs(architecture: Architecture, batch_size: int, augmentation: Augmentation, images: int) -> tuple[float, ...]:
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
    """Seconds of a batch, the engine's own way, after two that warm up.

    The lower quartile of eight: what else the machine does, such as opening a page, makes batches slower, never faster.
    """
    import torch

    from lib.data.dataset import Dataset
    from lib.training.trainer import Trainer, recommended_threads

    torch.set_num_threads(recommended_threads(architecture))
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, ((STEPS + 3) * batch_size, 28, 28), generator=chance, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=chance)
    data = Dataset(images, labels, images[:1], labels[:1])
    recipe = Recipe(epochs=1, batch_size=batch_size, augmentation=augmentation)
    ends = []
    for _ in Trainer(architecture, recipe, data):
        ends.append(time.perf_counter())
        if len(ends) == STEPS + 2:
            break
    return statistics.quantiles((after - before for before, after in itertools.pairwise(ends[1:])), n=4)[0]
