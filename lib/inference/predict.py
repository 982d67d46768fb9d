"""Predictions of a network for 28×28 images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.data.dataset import normalise
from lib.evaluation.ood import ClassGaussians, features, ood_percentile
from lib.nn.memory import MEASURING_WORK, require_work
from lib.nn.network import Network, torch_threads

# A prediction is uncertain if its calibrated probability is lower, or if its OOD percentile is higher.
CONFIDENCE_THRESHOLD, OOD_THRESHOLD = 0.9, 0.98


@dataclass(frozen=True)
class Prediction:
    """Ten probabilities that sum to 1, and the OOD percentile (`lib/evaluation/ood.py`), None if it is not known.

    The OOD percentile is the fraction of real digits, 0 to 1, that are closer to the predicted class than this image.
    """

    probabilities: tuple[float, ...]
    ood_percentile: float | None = None

    @property
    def digit(self) -> int:
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        return self.probabilities[self.digit]

    @property
    def entropy(self) -> float:
        """In bits: 0 if one digit has all the probability, log2 10 = 3.32 if all digits have the same."""
        return max(0.0, -sum(p * math.log2(p) for p in self.probabilities if p > 0))

    @property
    def is_ood(self) -> bool:
        """Out of distribution: not like any digit, whatever the probabilities."""
        return self.ood_percentile is not None and self.ood_percentile > OOD_THRESHOLD

    @property
    def is_confident(self) -> bool:
        return self.confidence >= CONFIDENCE_THRESHOLD and not self.is_ood


@torch_threads(1)
def predict(
    network: Network, image: Tensor, temperature: float = 1.0, known: ClassGaussians | None = None
) -> Prediction:
    """The prediction for a uint8 (28, 28) image; see `predict_all`."""
    return predict_all(network, image[None], temperature, known)[0]


def predict_all(
    network: Network, images: Tensor, temperature: float = 1.0, known: ClassGaussians | None = None
) -> list[Prediction]:
    """The predictions for uint8 (N, 28, 28) images. `network` must be in eval mode.

    The logits are divided by `temperature`. Raises TooLargeError if the network is too large.
    """
    if not len(images):
        return []
    require_work(network.architecture, len(images), MEASURING_WORK)
    logits, answers = features(network, normalise(images))
    percentiles = [None] * len(images) if known is None else ood_percentile(known, answers, logits.argmax(1)).tolist()
    probabilities = torch.softmax(logits / temperature, 1).tolist()
    return [Prediction(tuple(row), percentile) for row, percentile in zip(probabilities, percentiles, strict=True)]
