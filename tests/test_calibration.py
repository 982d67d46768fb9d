"""Probabilities that are as often right as they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib import checkpoints
from lib.calibration import calibrate, temperature
from lib.dataset import Dataset


def made(seed: int, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is the truth: every label is drawn by it."""
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 10, generator=chance, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=chance).squeeze(1)


@settings(max_examples=10)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_the_temperature_that_was_applied_is_found(applied: float, seed: int) -> None:
    logits, labels = made(seed)
    assert temperature(logits * applied, labels) == pytest.approx(applied, rel=0.05)


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = made(0, 500)
    best = temperature(logits * 3, labels)
    losses = [float(F.cross_entropy(logits * 3 / other, labels)) for other in torch.linspace(0.5, 10, 200)]
    assert float(F.cross_entropy(logits * 3 / best, labels)) <= min(losses) + 1e-9


def test_a_shipped_network_is_calibrated_on_images_kept_for_it(mnist: Dataset) -> None:
    found = calibrate(checkpoints.network(checkpoints.load(checkpoints.FOLDER / "assignment-9274.safetensors")), mnist)
    assert found.images == 5_000
    assert 0.5 < found.temperature < 2
    assert found.error_after < 0.02
    assert found.known is not None
