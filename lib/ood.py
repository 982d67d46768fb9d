"""Whether what a network reads is like any digit at all: where the answers of its maps lie among those to real digits.

A probability only weighs ten digits against each other; of a scribble, too, one may have all of it. K. Lee, K. Lee,
H. Lee and J. Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
2018, section 2.1: the features that a network has of each class are taken for a normal distribution, all with the same
covariance, and what lies far from the class that is read, by the distance of Mahalanobis, is none of them. Here the
features are the square roots of the mean of every map behind its ReLU, in all layers at once: those means are skewed,
their roots are much less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.memory import require_readable
from lib.network import Network, forward_batch, unfolds

DIGITS = 10
# Every second, third, ... map of a wider network: the covariance takes the square of it.
MOST_FEATURES = 512
# Of each digit, as many as it takes to know where it lies.
FEWEST = 20
# Of the mean variance: what never varies would make every distance infinite.
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """What digits look like to a network of F features, float64: the mean of each digit (10, F), the inverse of their
    covariance (F, F), and the squared distances (N,) at which other digits lie, sorted.
    """

    means: Tensor
    precision: Tensor
    distances: Tensor


def features(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) as the network takes them -> logits (N, 10) and features (N, F), float64; F is 0 where the
    network has no ReLU. It must be in eval mode. Raises TooLargeError.
    """
    require_readable(network.architecture, unfolds())
    logits, found = [], []
    with torch.inference_mode():
        for some in torch.split(x, forward_batch(network.architecture)):
            means = [some.new_zeros(len(some), 0)]
            for module in network:
                some = module(some)
                if isinstance(module, nn.ReLU):
                    means.append(some.flatten(2).mean(2) if some.dim() == 4 else some)
            together = torch.cat(means, 1)
            found.append(together[:, :: max(1, math.ceil(together.shape[1] / MOST_FEATURES))].double().sqrt())
            logits.append(some.double())
    return torch.cat(logits), torch.cat(found)


def fit(logits: Tensor, features: Tensor, labels: Tensor) -> ClassGaussians | None:
    """Logits (N, 10), features (N, F) and labels, int64 (N,) -> what digits look like, from those that are read right:
    every second one tells where its digit lies, the others how far from there a digit may be. None where too few are
    read right, or there are no features.
    """
    right = logits.argmax(1) == labels
    features, labels = features[right], labels[right]
    told, label = features[::2], labels[::2]
    counts = label.bincount(minlength=DIGITS)
    if not features.shape[1] or int(counts.min()) < FEWEST:
        return None
    means = torch.zeros(DIGITS, features.shape[1], dtype=torch.float64).index_add_(0, label, told) / counts[:, None]
    apart = told - means[label]
    covariance = apart.T @ apart / len(apart)
    ridge = RIDGE * float(covariance.diagonal().mean()) + torch.finfo(torch.float64).tiny
    precision = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
    return ClassGaussians(means, precision, _distances(means, precision, features[1::2], labels[1::2]).sort().values)


def ood_percentile(known: ClassGaussians, features: Tensor, digits: Tensor) -> Tensor:
    """(N, F) and what is read there, int64 (N,) -> for each the share of real digits that lie nearer to their own:
    float64 (N,), 0 to 1.
    """
    distances = _distances(known.means, known.precision, features, digits)
    return torch.searchsorted(known.distances, distances).double() / len(known.distances)


def _distances(means: Tensor, precision: Tensor, features: Tensor, digits: Tensor) -> Tensor:
    apart = features - means[digits]
    return ((apart @ precision) * apart).sum(1)
