"""Temperature scaling: probabilities that are as often right as they say; and what digits look like to a network.

C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017: the logits are divided by
one number, the temperature, that makes the loss on images kept for it the lowest (section 4.2). It never changes which
digit is read. What is like no digit is told by `lib/ood.py`, to which the same images show what digits are.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.augmentation import augment
from lib.dataset import Dataset, DatasetError, normalise
from lib.handwriting import handwriting
from lib.insight import Evaluation
from lib.memory import TooLargeError, require_readable, work
from lib.network import Network, torch_threads, unfolds
from lib.ood import ClassGaussians, features, fit
from lib.recipe import Augmentation
from lib.trainer import held_out_indices

LEAST, MOST = 0.05, 20.0
SEARCH_STEPS = 40
# Drawings are slanted, small and thick as MNIST's digits are not: the images are moved about as much.
CALIBRATION_AUGMENTATION = Augmentation(10, 0.04, 0.1, 10, 0.3)
# What digits look like is told by half as many more as they are in MNIST, and as many as a pen writes in other hands.
IMAGES, WRITTEN = 5_000, 2_500
# Of a network in training: on how many, how seldom in seconds, and of how many such networks the last is kept.
LIVE_IMAGES, LIVE_SECONDS, LIVE_KEPT = 2_000, 10.0, 8
BATCH = 250
# What a calibration may take, as `lib.memory.work` counts: some ten seconds. A larger network is calibrated on fewer
# images, and its features, whose covariance takes many, are then not learnt; on fewer than FEWEST it is not calibrated.
MOST_WORK = 4 * 10**11
FEWEST, FEWEST_TO_LEARN = 300, 2_000


@dataclass(frozen=True)
class Calibration:
    """`error` is the expected calibration error on the same images, a fraction, before and after. `known` is what
    digits look like to the network, where it knows them. `problem` says why there is no calibration.
    """

    temperature: float
    images: int
    error_before: float
    error_after: float
    known: ClassGaussians | None = None
    problem: str | None = None


NONE = Calibration(1.0, 0, math.nan, math.nan)


def calibrate(network: Network, data: Dataset, count: int = IMAGES, learns: bool = True) -> Calibration:
    """Fit the temperature on the first of the 5,000 training images that a recipe may hold out, moved about a little,
    and, where it `learns`, tell from them and others what digits look like. Raises DatasetError.

    A large network gets fewer images, as many as take some ten seconds; where those are too few to say anything, and
    where not even one can be read, it is not calibrated, and `problem` says so. `network` must be in eval mode. Where
    it was trained on these images too it has not seen them moved like this; a network this small does not know them by
    heart.
    """
    try:
        require_readable(network.architecture, unfolds())
    except TooLargeError as error:
        return replace(NONE, problem=str(error))
    affordable = MOST_WORK // work(network.architecture)
    if affordable < min(count, FEWEST):
        return replace(
            NONE,
            problem=f"The network is too large to be calibrated here: in the time for it only {affordable:,} images "
            f"can be read, and it takes {FEWEST} to say anything.",
        )
    # To learn takes twice the images.
    if learns and affordable < 2 * count:
        count, learns = (affordable // 2, True) if affordable >= 2 * FEWEST_TO_LEARN else (count, False)
    count = min(count, affordable)
    places = held_out_indices(len(data.train_images))[0][:count]
    images, labels = data.train_images[places], data.train_labels[places]
    chance = torch.Generator().manual_seed(0)
    moved = torch.cat(
        [augment(normalise(some), CALIBRATION_AUGMENTATION, chance) for some in torch.split(images, BATCH)]
    )
    logits, answers = features(network, moved)
    best = temperature(logits, labels)
    before, after = (Evaluation(scaled.softmax(1), labels).calibration_error for scaled in (logits, logits / best))
    if not learns:
        return Calibration(best, len(labels), before, after)
    half = count // 2
    written, digits = (some[:half] for some in _written())
    more_logits, more = features(network, torch.cat([normalise(images[:half]), normalise(written)]))
    shown = torch.cat([labels, labels[:half], digits])
    known = fit(torch.cat([logits, more_logits]), torch.cat([answers, more]), shown)
    return Calibration(best, len(labels), before, after, known)


class LiveCalibrator:
    """Of networks in training: whoever asks gets the last calibration, and never waits for another.

    That is made in a thread of its own, for one network at a time, and of each at most once in LIVE_SECONDS. It is a
    temperature alone: what digits look like to a network is another thing a few hundred steps later.
    """

    def __init__(self, load: Callable[[], Dataset]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[int, Calibration]] = OrderedDict()
        self._begun: tuple[str, float] | None = None
        self._thread: threading.Thread | None = None

    def of(self, name: str, step: int, network: Network) -> tuple[int, Calibration]:
        """The last calibration of the network of that name and after which step it was made; NONE, after step 0, where
        there is none yet. `network` is as it is after `step`, in eval mode, and stays so.
        """
        with self._lock:
            last, found = self._known.get(name, (0, NONE))
            idle = self._thread is None or not self._thread.is_alive()
            rested = self._begun is None or self._begun[0] != name or time.monotonic() - self._begun[1] > LIVE_SECONDS
            if step > last and idle and rested:
                self._begun = (name, time.monotonic())
                # No daemon: torch aborts a process that ends within one of its operations.
                self._thread = threading.Thread(target=self._make, args=(name, step, network))
                self._thread.start()
        return last, found

    def wait(self) -> None:
        """Until none is being made."""
        if self._thread:
            self._thread.join()

    def _make(self, name: str, step: int, network: Network) -> None:
        # Without MNIST, or the memory for it, a network can be asked all the same.
        with suppress(DatasetError, MemoryError, RuntimeError), torch_threads(1):
            found = calibrate(network, self._load(), LIVE_IMAGES, learns=False)
            with self._lock:
                self._known[name] = (step, found)
                self._known.move_to_end(name)
                if len(self._known) > LIVE_KEPT:
                    self._known.popitem(last=False)


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
