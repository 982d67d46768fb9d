"""Temperature scaling: probabilities that are as often right as they say; and what digits look like to a network.

C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017: the logits are divided by
one number, the temperature, that makes the loss on images kept for it the lowest (section 4.2). It never changes which
digit is read. What is like no digit is told by `lib/novelty.py`, to which the same images show what digits are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.augmentation import augment
from lib.dataset import Dataset, normalise
from lib.handwriting import handwriting
from lib.insight import Evaluation
from lib.novelty import Known, features, learn
from lib.recipe import Augmentation
from lib.training import held_out_places

LEAST, MOST = 0.05, 20.0
SEARCH_STEPS = 40
# Drawings are slanted, small and thick as MNIST's digits are not: the images are moved about as much.
AS_DRAWN = Augmentation(10, 0.04, 0.1, 10, 0.3)
# What digits look like is told by so many more as they are in MNIST, and as many as a pen writes them in other hands.
UNMOVED = WRITTEN = 2_500
BATCH = 250


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error on the same images, a fraction, before and after. `known` is what
    digits look like to the network, where it knows them.
    """

    temperature: float
    images: int
    error_before: float
    error_after: float
    known: Known | None = None


NONE = Calibration(1.0, 0, math.nan, math.nan)


def calibrate(network: nn.Sequential, data: Dataset) -> Calibration:
    """Fit the temperature on the 5,000 training images that a recipe may hold out, moved about a little, and learn from
    them and others what digits look like. Raises DatasetError.

    `network` must be in eval mode. Where it was trained on these images too it has not seen them moved like this; a
    network this small does not know them by heart.
    """
    places, _ = held_out_places(len(data.train_images))
    images, labels = data.train_images[places], data.train_labels[places]
    chance = torch.Generator().manual_seed(0)
    moved = torch.cat([augment(normalise(some), AS_DRAWN, chance) for some in torch.split(images, BATCH)])
    logits, answers = features(network, moved)
    best = temperature(logits, labels)
    before, after = (Evaluation(scaled.softmax(1), labels).calibration_error for scaled in (logits, logits / best))
    written, digits = _written()
    more_logits, more = features(network, torch.cat([normalise(images[:UNMOVED]), normalise(written)]))
    shown = torch.cat([labels, labels[:UNMOVED], digits])
    known = learn(torch.cat([logits, more_logits]), torch.cat([answers, more]), shown)
    return Calibration(best, len(labels), before, after, known)


@lru_cache(maxsize=1)
def _written() -> tuple[Tensor, Tensor]:
    """Digits in other hands, uint8 (WRITTEN, 28, 28), and which they are."""
    digits, labels = handwriting(WRITTEN, torch.Generator().manual_seed(0))
    return (digits[:, 0] * 255).round().to(torch.uint8), labels


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The number by which logits (N, 10) must be divided for the lowest mean cross entropy, within LEAST and MOST.

    The loss has one lowest point in 1 / T, being convex there: ternary search.
    """
    low, high = 1 / MOST, 1 / LEAST
    for _ in range(SEARCH_STEPS):
        third = (high - low) / 3
        left, right = low + third, high - third
        if F.cross_entropy(logits * left, labels) < F.cross_entropy(logits * right, labels):
            high = right
        else:
            low = left
    return 2 / (low + high)
