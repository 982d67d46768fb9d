"""Out-of-distribution (OOD) score: how far an image's features are from those of the predicted digit.

Probabilities only compare ten digits with each other, so a scribble can get a probability of 100 %. K. Lee, K. Lee,
H. Lee and J. Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
2018, section 2.1: the features of each class are modeled as a Gaussian with a shared covariance, and the score is the
Mahalanobis distance to the predicted class. The features here are the square roots of the means of all feature maps
after a ReLU, of all layers together; the means are skewed, their square roots are less so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.design.layers import Architecture
from lib.design.operations import operations
from lib.nn.memory import require_inference_fits
from lib.nn.network import Network, eval_batch_size, uses_im2col

DIGITS = 10
# A network with more features uses every second, third, ... of them: the covariance has the square of their number.
MAX_FEATURES = 512
# The mean of a digit needs this many samples.
MIN_SAMPLES = 20
# Added to the covariance's diagonal, as a fraction of the mean variance: constant features would make it singular.
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """The distribution of the F features of real digits, float64, with values that float32 holds exactly.

    `means` (10, F), `whitening` (F, F), the inverse of the lower Cholesky factor of the shared covariance, and
    `distances` (N,), the sorted squared Mahalanobis distances of other digits to the mean of their class. A deviation
    from a mean times the transpose of `whitening` has the identity as covariance, so its squared length is the squared
    Mahalanobis distance.
    """

    means: Tensor
    whitening: Tensor
    distances: Tensor


def feature_count(architecture: Architecture) -> int:
    """The number F of features that `features` finds in a network."""
    width = sum(operation.output_shape[0] for operation in operations(architecture) if operation.kind == "ReLU")
    return math.ceil(width / _feature_step(width))


def features(network: Network, x: Tensor, check: Callable[[], object] | None = None) -> tuple[Tensor, Tensor]:
    """Normalized images (N, 1, 28, 28) -> logits (N, 10) and features (N, F), both float64.

    F is 0 for a network without ReLU. `network` must be in eval mode. `check` is called before each batch and may raise
    an exception to end the work. Raises TooLargeError if the network is too large.
    """
    require_inference_fits(network.architecture, uses_im2col())
    logits, found = [], []
    with torch.inference_mode():
        for batch in torch.split(x, eval_batch_size(network.architecture)):
            if check:
                check()
            output, means = batch, [batch.new_zeros(len(batch), 0)]
            for module, output in zip(network, network.outputs(batch), strict=True):
                if isinstance(module, nn.ReLU):
                    means.append(output.flatten(2).mean(2) if output.dim() == 4 else output)
            joined = torch.cat(means, 1)
            found.append(joined[:, :: _feature_step(joined.shape[1])].double().sqrt())
            logits.append(output.double())
    return torch.cat(logits), torch.cat(found)


def _feature_step(width: int) -> int:
    return max(1, math.ceil(width / MAX_FEATURES))


def fit(logits: Tensor, features: Tensor, labels: Tensor) -> ClassGaussians | None:
    """Fit the Gaussians to logits (N, 10), features (N, F) and labels, int64 (N,).

    Of the correctly classified samples, those with an even index give means and covariance, the others the reference
    distances. Returns None if a digit has fewer than MIN_SAMPLES of the former, or if there are no features, or none
    that vary.
    """
    correct = logits.argmax(1) == labels
    features, labels = features[correct], labels[correct]
    fitted, classes = features[::2], labels[::2]
    counts = classes.bincount(minlength=DIGITS)
    if not features.shape[1] or int(counts.min()) < MIN_SAMPLES:
        return None
    means = torch.zeros(DIGITS, features.shape[1], dtype=torch.float64).index_add_(0, classes, fitted) / counts[:, None]
    # Rounded before they are used, so that the distances belong to the values that a file holds.
    means = _rounded(means)
    deviations = fitted - means[classes]
    covariance = deviations.T @ deviations / len(deviations)
    ridge = RIDGE * float(covariance.diagonal().mean()) + torch.finfo(torch.float64).tiny
    identity = torch.eye(len(covariance), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge * identity)
    whitening = _rounded(torch.linalg.solve_triangular(factor, identity, upper=False))
    if int(failed) or not bool(torch.isfinite(whitening).all()):
        return None
    distances = _rounded(_distances(means, whitening, features[1::2], labels[1::2]))
    return ClassGaussians(means, whitening, distances.sort().values)


def ood_percentile(gaussians: ClassGaussians, features: Tensor, predicted: Tensor) -> Tensor:
    """The fraction of real digits that are closer to their class than each sample to its predicted class.

    Features (N, F) and predicted digits, int64 (N,) -> float64 (N,), 0 to 1.
    """
    distances = _distances(gaussians.means, gaussians.whitening, features, predicted)
    return torch.searchsorted(gaussians.distances, distances).double() / len(gaussians.distances)


def _distances(means: Tensor, whitening: Tensor, features: Tensor, classes: Tensor) -> Tensor:
    """Squared Mahalanobis distances, float64 (N,), of features (N, F) to the means of `classes`, int64 (N,)."""
    return ((features - means[classes]) @ whitening.T).square().sum(1)


def _rounded(values: Tensor) -> Tensor:
    return values.float().double()
