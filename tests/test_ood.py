"""The out-of-distribution score."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.data.dataset import Dataset, normalize
from lib.data.outliers import sample_outliers
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.evaluation import ood
from lib.evaluation.calibration import calibrate
from lib.inference.predict import Prediction, predict_all
from lib.nn.network import build
from tests.architectures import architectures
from tests.measure import shipped_network


def distribution(width: int) -> tuple[Tensor, Tensor]:
    """Means (10, width) far apart, and a matrix (width, width) that correlates independent noise."""
    shape = torch.Generator().manual_seed(0)
    means = 20 * torch.randn(10, width, generator=shape, dtype=torch.float64)
    return means, torch.randn(width, width, generator=shape, dtype=torch.float64)


def sample(seed: int, count: int, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are always correct, features of ten normal distributions with a shared covariance, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    means, mixed = distribution(width)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return torch.eye(10, dtype=torch.float64)[labels], means[labels] + noise @ mixed, labels


def fitted(logits: Tensor, features: Tensor, labels: Tensor) -> ood.ClassGaussians:
    gaussians = ood.fit(logits, features, labels)
    assert gaussians is not None
    return gaussians


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_percentiles_of_samples_of_the_same_distribution_are_uniform(seed: int) -> None:
    gaussians = fitted(*sample(seed, 8_000))
    _, features, labels = sample(seed + 5_000, 4_000)
    shares = ood.ood_percentile(gaussians, features, labels)
    for share in (0.1, 0.5, 0.9, 0.98):
        assert float((shares <= share).double().mean()) == pytest.approx(share, abs=0.06)
    others = ood.ood_percentile(gaussians, features, (labels + 1) % 10)
    assert float(others.min()) > 0.99


def test_the_percentile_is_that_of_the_chi_squared_distribution() -> None:
    """Squared Mahalanobis distances of a normal distribution in six dimensions have it, with six degrees of freedom."""
    _, features, labels = sample(1, 2_000)
    means, mixed = distribution(6)
    deviations = torch.linalg.solve(mixed.T, (features - means[labels]).T)
    expected = torch.special.gammainc(torch.tensor(3.0).double(), (deviations**2).sum(0) / 2)
    shares = ood.ood_percentile(fitted(*sample(0, 20_000)), features, labels)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.08)


def test_the_percentile_does_not_depend_on_scale_or_rotation_of_the_features() -> None:
    logits, features, labels = sample(1, 8_000)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    one, other = fitted(logits, features, labels), fitted(logits, 7 * features @ rotation, labels)
    torch.testing.assert_close(
        ood.ood_percentile(one, features, labels),
        ood.ood_percentile(other, 7 * features @ rotation, labels),
        rtol=0,
        atol=1e-3,
    )


def test_misclassified_samples_are_not_used() -> None:
    logits, features, labels = sample(3, 8_000)
    wrong = torch.rand(8_000, generator=torch.Generator().manual_seed(4)) < 0.3
    features[wrong] += 1_000
    logits[wrong] = logits[wrong].roll(1, 1)
    clean = fitted(logits[~wrong], features[~wrong], labels[~wrong])
    torch.testing.assert_close(fitted(logits, features, labels).means, clean.means)


def test_with_too_few_samples_or_no_features_nothing_is_fitted() -> None:
    logits, features, labels = sample(5, 2_000)
    assert ood.fit(logits, features[:, :0], labels) is None
    kept = (labels != 3) | (torch.arange(2_000) < 100)
    assert ood.fit(logits[kept], features[kept], labels[kept]) is None


@pytest.mark.parametrize("text", ["4 M 6n 10v A", "4 2048k1 10 A", "4 M 20f 10f", "10k5 A"])
def test_features_are_the_square_roots_of_the_means_after_each_relu(text: str, mnist: Dataset) -> None:
    network = build(parse(text), 1).eval()
    x = normalize(mnist.test_images[:3])
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: seen.append(output.reshape(3, output.shape[1], -1).mean(2)))
        for module in network
        if isinstance(module, nn.ReLU)
    ]
    with torch.inference_mode():
        logits = network(x).double()
    for hook in hooks:
        hook.remove()
    found, features = ood.features(network, x)
    torch.testing.assert_close(found, logits)
    every = torch.cat(seen, 1) if seen else torch.zeros(3, 0)
    step = 1 if every.shape[1] <= ood.MAX_FEATURES else 5
    torch.testing.assert_close(features**2, every[:, ::step].double())


def test_the_score_recognizes_outliers_that_the_probabilities_do_not(mnist: Dataset) -> None:
    network = shipped_network()
    found = calibrate(network, mnist)
    digits = mnist.train_images[:500].float()[:, None] / 255
    unknown = (sample_outliers(digits, 500, torch.Generator().manual_seed(0))[:, 0] * 255).round().to(torch.uint8)

    def confident(images: Tensor, gaussians: ood.ClassGaussians | None) -> float:
        predictions = predict_all(network, images, found.temperature, gaussians)
        return sum(prediction.is_confident for prediction in predictions) / len(predictions)

    assert confident(unknown, None) > 0.4
    assert confident(unknown, found.gaussians) < 0.25
    assert confident(mnist.test_images[:2_000], found.gaussians) > 0.95
    noise = torch.randint(256, (50, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert all(prediction.is_ood for prediction in predict_all(network, noise, 1.0, found.gaussians))


def test_without_a_fit_nothing_is_out_of_distribution() -> None:
    assert not Prediction((0.5, 0.5) + (0.0,) * 8).is_ood


@settings(max_examples=30, deadline=None)
@given(architectures())
def test_features_come_with_the_logits_of_any_network(architecture: Architecture) -> None:
    network = build(architecture).eval()
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    logits, found = ood.features(network, x)
    with torch.inference_mode():
        assert torch.allclose(logits, network(x).double(), atol=1e-5, equal_nan=True)
    assert bool(found.shape[1]) == any(isinstance(module, nn.ReLU) for module in network)
