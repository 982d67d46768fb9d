"""Evaluation of a network on labeled images: accuracy, confusion matrix and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lib.data.dataset import normalize
from lib.design.layers import CLASSES, Architecture
from lib.evaluation.proportion import Proportion
from lib.nn.memory import MEASURING_WORK, require_inference_fits, work
from lib.nn.network import eval_batch_size, torch_threads, uses_im2col
from lib.training.trainer import recommended_threads

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is in (low, high]; `confidence` is their mean confidence, NaN if there are none."""

    low: float
    high: float
    confidence: float
    accuracy: Proportion


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for labeled images: `probabilities` float (N, 10), `labels` int64 (N,)."""

    probabilities: Tensor
    labels: Tensor

    @cached_property
    def predicted(self) -> Tensor:
        """The most probable digit of each image, int64 (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def label_probability(self) -> Tensor:
        """The probability of the label of each image, float (N,)."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    @cached_property
    def confusion(self) -> Tensor:
        """Counts int64 (10, 10): a row for each label, a column for each predicted digit."""
        cells = self.labels * CLASSES + self.predicted
        return torch.bincount(cells, minlength=CLASSES**2).view(CLASSES, CLASSES)

    @cached_property
    def accuracy(self) -> Proportion:
        return Proportion(int(self.confusion.trace()), len(self.labels))

    @cached_property
    def by_class(self) -> tuple[Proportion, ...]:
        """For each digit, how many of its images are classified correctly."""
        return tuple(Proportion(int(row[digit]), int(row.sum())) for digit, row in enumerate(self.confusion))

    @cached_property
    def errors(self) -> list[int]:
        """Indices of the misclassified images, lowest probability of the label first."""
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        return self._sorted(wrong)

    def cell(self, label: int, predicted: int) -> list[int]:
        """Indices of the images in one cell of the confusion matrix, lowest probability of the label first."""
        return self._sorted(((self.labels == label) & (self.predicted == predicted)).nonzero()[:, 0])

    @cached_property
    def calibration(self) -> tuple[Bin, ...]:
        """Ten bins of equal width over the confidence, 0 to 1.

        Guo et al., "On Calibration of Modern Neural Networks", 2017, section 2.
        """
        confidence = self.probabilities.amax(1).double()
        edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
        place, right = torch.bucketize(confidence, edges), self.predicted == self.labels
        bins = []
        for number in range(BINS):
            inside = place == number
            count = int(inside.sum())
            mean = float(confidence[inside].mean()) if count else math.nan
            bins.append(Bin(number / BINS, (number + 1) / BINS, mean, Proportion(int(right[inside].sum()), count)))
        return tuple(bins)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (ECE), 0 to 1: the mean over images of |accuracy - confidence| of their bin.

        Guo et al., section 2.
        """
        gaps = (b.accuracy.count * abs(b.accuracy.share - b.confidence) for b in self.calibration if b.accuracy.count)
        return sum(gaps) / len(self.labels)

    def _sorted(self, indices: Tensor) -> list[int]:
        found: list[int] = indices[self.label_probability[indices].argsort(stable=True)].tolist()
        return found


def evaluate(
    network: nn.Module, architecture: Architecture, images: Tensor, labels: Tensor, temperature: float = 1.0
) -> Evaluation:
    """Evaluate a network in eval mode on uint8 images (N, 28, 28) with labels int64 (N,).

    The logits are divided by `temperature`. Raises TooLargeError if the network is too large.
    """
    with torch_threads(recommended_threads(architecture)):
        return Evaluation(probabilities(network, architecture, images, temperature), labels)


def measurable(architecture: Architecture, images: int) -> int:
    """The number of images, at most `images`, that `evaluate` handles within about a minute; at least 1."""
    return min(images, max(1, MEASURING_WORK // work(architecture)))


def probabilities(network: nn.Module, architecture: Architecture, images: Tensor, temperature: float) -> Tensor:
    """The softmax of the logits divided by `temperature`, float (N, 10), for uint8 images (N, 28, 28)."""
    return torch.softmax(logits(network, architecture, images) / temperature, 1)


def logits(network: nn.Module, architecture: Architecture, images: Tensor) -> Tensor:
    """The logits, float (N, 10), for uint8 images (N, 28, 28). Raises TooLargeError if the network is too large."""
    require_inference_fits(architecture, uses_im2col())
    with torch.inference_mode():
        found = torch.cat([network(normalize(batch)) for batch in torch.split(images, eval_batch_size(architecture))])
    # Cloned outside of inference mode, so that callers may use the tensor with autograd.
    return found.clone()
