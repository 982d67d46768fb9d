"""Calibration of a network: temperature scaling, and the reference distribution of the OOD score.

C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017, section 4.2: the logits
are divided by a temperature that minimizes the loss on held-out images. It never changes the predicted digit. The same
images are used to fit the OOD score (`lib/evaluation/ood.py`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data.augmentation import augment
from lib.data.dataset import Dataset, DatasetError, normalize
from lib.data.handwriting import sample_handwriting
from lib.design.recipe import Augmentation
from lib.evaluation.metrics import Evaluation
from lib.evaluation.ood import ClassGaussians, features, fit
from lib.nn.memory import TooLargeError, require_inference_fits, work
from lib.nn.network import Network, torch_threads, uses_im2col
from lib.training.trainer import held_out_indices

log = logging.getLogger(__name__)

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
SEARCH_STEPS = 40
# Drawings are more slanted, smaller and thicker than MNIST's digits; the images are augmented to match.
CALIBRATION_AUGMENTATION = Augmentation(10, 0.04, 0.1, 10, 0.3)
# The OOD score is also fitted to half as many unaugmented MNIST images, and to as many synthetic digits.
IMAGES, SYNTHETIC = 5_000, 2_500
# Networks in training: number of images, minimum seconds between two calibrations, number of networks kept.
LIVE_IMAGES, LIVE_SECONDS, MAX_LIVE = 2_000, 10.0, 8
BATCH = 250
# Limit in units of `lib.nn.memory.work`: about ten seconds. Larger networks get fewer images. With fewer than
# MIN_OOD_IMAGES the OOD score is not fitted, because its covariance needs many; with fewer than MIN_IMAGES there is no
# calibration.
MAX_WORK = 4 * 10**11
MIN_IMAGES, MIN_OOD_IMAGES = 300, 2_000


@dataclass(frozen=True)
class Calibration:
    """A temperature, fitted on `images` images, and the OOD reference.

    `error_before` and `error_after` are the expected calibration error on the same images, 0 to 1, without and with the
    temperature. `gaussians` is None if the OOD score was not fitted. `problem` says why there is no calibration.
    """

    temperature: float
    images: int
    error_before: float
    error_after: float
    gaussians: ClassGaussians | None = None
    problem: str | None = None


UNCALIBRATED = Calibration(1.0, 0, math.nan, math.nan)


def calibrate(
    network: Network,
    data: Dataset,
    count: int = IMAGES,
    fit_ood: bool = True,
    check: Callable[[], object] | None = None,
) -> Calibration:
    """Fit the temperature and, if `fit_ood`, the OOD reference. Raises DatasetError.

    The images are the first of the 5,000 training images that a recipe may hold out, augmented. A network trained on
    them too has not seen them augmented like this, and is too small to memorize them. Large networks get fewer images;
    if too few are possible, `problem` says so and there is no calibration. `network` must be in eval mode. `check` is
    called before each batch and may raise an exception to end the work.

    A change of its results needs a new version in `lib/evaluation/stored_calibration.py`.
    """
    try:
        require_inference_fits(network.architecture, uses_im2col())
    except TooLargeError as error:
        return replace(UNCALIBRATED, problem=str(error))
    affordable = MAX_WORK // work(network.architecture)
    if affordable < min(count, MIN_IMAGES):
        return replace(
            UNCALIBRATED,
            problem="The network is too large to be calibrated here: there is time for "
            f"{affordable:,} images, and it takes at least {MIN_IMAGES}.",
        )
    # The OOD reference takes twice the images.
    if fit_ood and affordable < 2 * count:
        count, fit_ood = (affordable // 2, True) if affordable >= 2 * MIN_OOD_IMAGES else (count, False)
    count = min(count, affordable)
    indices = held_out_indices(len(data.train_images))[0][:count]
    images, labels = data.train_images[indices], data.train_labels[indices]
    generator = torch.Generator().manual_seed(0)
    augmented = torch.cat(
        [augment(normalize(batch), CALIBRATION_AUGMENTATION, generator) for batch in torch.split(images, BATCH)]
    )
    logits, found = features(network, augmented, check)
    best = temperature(logits, labels)
    before, after = (Evaluation(scaled.softmax(1), labels).calibration_error for scaled in (logits, logits / best))
    if not fit_ood:
        return Calibration(best, len(labels), before, after)
    half = count // 2
    synthetic, synthetic_labels = (each[:half] for each in _synthetic())
    more_logits, more = features(network, torch.cat([normalize(images[:half]), normalize(synthetic)]), check)
    all_labels = torch.cat([labels, labels[:half], synthetic_labels])
    gaussians = fit(torch.cat([logits, more_logits]), torch.cat([found, more]), all_labels)
    return Calibration(best, len(labels), before, after, gaussians)


class LiveCalibrator:
    """Calibrates networks in training in the background; `get` returns the latest result without blocking.

    One thread calibrates one network at a time, each at most once in LIVE_SECONDS. Only the temperature is fitted: the
    OOD score would be out of date after a few hundred steps.
    """

    def __init__(self, load: Callable[[], Dataset]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, tuple[int, Calibration]] = OrderedDict()
        self._begun: tuple[str, float] | None = None
        self._thread: threading.Thread | None = None

    def get(self, name: str, step: int, network: Network) -> tuple[int, Calibration]:
        """The last calibration of the named network, with the step it was made at; (0, UNCALIBRATED) before the first.

        `network` has the weights after `step`; it must be in eval mode and must not change.
        """
        with self._lock:
            last, found = self._latest.get(name, (0, UNCALIBRATED))
            idle = self._thread is None or not self._thread.is_alive()
            rested = self._begun is None or self._begun[0] != name or time.monotonic() - self._begun[1] > LIVE_SECONDS
            if step > last and idle and rested:
                self._begun = (name, time.monotonic())
                # No daemon: torch aborts a process that ends within one of its operations.
                self._thread = threading.Thread(target=self._make, args=(name, step, network))
                self._thread.start()
        return last, found

    def wait(self) -> None:
        """Wait until no calibration is running."""
        if self._thread:
            self._thread.join()

    def _make(self, name: str, step: int, network: Network) -> None:
        try:
            with torch_threads(1):
                found = calibrate(network, self._load(), LIVE_IMAGES, fit_ood=False)
        except (DatasetError, MemoryError, RuntimeError):
            # The network still predicts, without calibrated probabilities.
            log.warning("%s could not be calibrated", name, exc_info=True)
        else:
            with self._lock:
                self._latest[name] = (step, found)
                self._latest.move_to_end(name)
                if len(self._latest) > MAX_LIVE:
                    self._latest.popitem(last=False)


@lru_cache(maxsize=1)
def _synthetic() -> tuple[Tensor, Tensor]:
    """Synthetic digits, uint8 (SYNTHETIC, 28, 28), with their labels."""
    digits, labels = sample_handwriting(SYNTHETIC, torch.Generator().manual_seed(0))
    return (digits[:, 0] * 255).round().to(torch.uint8), labels


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimizes the mean cross entropy of logits (N, 10) with labels (N,).

    It is between MIN_TEMPERATURE and MAX_TEMPERATURE. The loss is convex in 1 / T, so a ternary search finds it.
    """
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(SEARCH_STEPS):
        third = (high - low) / 3
        left, right = low + third, high - third
        if F.cross_entropy(logits * left, labels) < F.cross_entropy(logits * right, labels):
            high = right
        else:
            low = left
    return 2 / (low + high)
