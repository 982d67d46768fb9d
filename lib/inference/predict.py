"""Predictions of a network for 28×28 images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.data.dataset import normalize
from lib.evaluation.ood import ClassGaussians, features, ood_percentile
from lib.nn.memory import MEASURING_WORK, require_work
from lib.nn.network import Network, torch_threads
from lib.text.formatting import percent

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
        """The most probable digit."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of the most probable digit, 0 to 1."""
        return self.probabilities[self.digit]

    @property
    def entropy(self) -> float:
        """The entropy in bits: 0 if one digit has all the probability, log2 10 = 3.32 if all digits have the same."""
        return max(0.0, -sum(p * math.log2(p) for p in self.probabilities if p > 0))

    @property
    def is_ood(self) -> bool:
        """Out of distribution: not like any digit, even if a probability is high."""
        return self.ood_percentile is not None and self.ood_percentile > OOD_THRESHOLD

    @property
    def is_confident(self) -> bool:
        """Whether the probability is high enough and the image is not out of distribution."""
        return self.confidence >= CONFIDENCE_THRESHOLD and not self.is_ood


@torch_threads(1)
def predict(
    network: Network, image: Tensor, temperature: float = 1.0, gaussians: ClassGaussians | None = None
) -> Prediction:
    """The prediction for a uint8 (28, 28) image; see `predict_all`."""
    return predict_all(network, image[None], temperature, gaussians)[0]


def predict_all(
    network: Network, images: Tensor, temperature: float = 1.0, gaussians: ClassGaussians | None = None
) -> list[Prediction]:
    """The predictions for uint8 (N, 28, 28) images. `network` must be in eval mode.

    The logits are divided by `temperature`; without `gaussians` the OOD percentile is None. Raises TooLargeError
    if the network is too large.
    """
    if not len(images):
        return []
    require_work(network.architecture, len(images), MEASURING_WORK)
    logits, found = features(network, normalize(images))
    percentiles: list[float | None] = [None] * len(images)
    if gaussians is not None:
        percentiles = ood_percentile(gaussians, found, logits.argmax(1)).tolist()
    probabilities = torch.softmax(logits / temperature, 1).tolist()
    return [Prediction(tuple(row), percentile) for row, percentile in zip(probabilities, percentiles, strict=True)]


def prediction_heading(prediction: Prediction) -> str:
    """The predicted digit, or that it is uncertain, as a heading."""
    return f"Prediction: {prediction.digit}" if prediction.is_confident else "Uncertain"


def prediction_caption(prediction: Prediction) -> str:
    """Probability and OOD percentile of a prediction, for the line below the heading."""
    probability = percent(prediction.confidence)
    if prediction.is_ood:
        text = f"Not recognized as a digit; closest class: {prediction.digit}, with a probability of {probability}"
    elif prediction.is_confident:
        text = f"Probability {probability}"
    else:
        text = f"Perhaps a {prediction.digit}, with a probability of {probability}, or not a digit"
    if prediction.ood_percentile is None:
        return text
    return f"{text} · OOD percentile {100 * prediction.ood_percentile:.1f}"
