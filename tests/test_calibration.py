"""Temperature scaling, of saved networks and of networks in training."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib.data.dataset import Dataset, DatasetError
from lib.evaluation import calibration
from lib.evaluation.calibration import UNCALIBRATED, LiveCalibrator, calibrate, temperature
from lib.storage import checkpoints
from tests.measure import shipped_network

pytestmark = pytest.mark.slow


def calibrated_logits(seed: int, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels sampled from their softmax: calibrated by construction."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 10, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


@settings(max_examples=10)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_an_applied_temperature_is_recovered(applied: float, seed: int) -> None:
    logits, labels = calibrated_logits(seed)
    assert temperature(logits * applied, labels) == pytest.approx(applied, rel=0.05)


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = calibrated_logits(0, 500)
    best = temperature(logits * 3, labels)
    losses = [float(F.cross_entropy(logits * 3 / other, labels)) for other in torch.linspace(0.5, 10, 200)]
    assert float(F.cross_entropy(logits * 3 / best, labels)) <= min(losses) + 1e-9


def test_a_shipped_network_is_calibrated_on_held_out_images(mnist: Dataset) -> None:
    found = calibrate(shipped_network(), mnist)
    assert found.images == 5_000
    assert 0.5 < found.temperature < 2
    assert found.error_after < 0.02
    assert found.gaussians is not None


def test_a_network_in_training_is_calibrated_in_the_background(mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LIVE_SECONDS", 1e9)
    network, live = shipped_network("assignment-9274"), LiveCalibrator(lambda: mnist)
    assert live.get("one", 7, network) == (0, UNCALIBRATED)
    live.wait()
    step, found = live.get("one", 8, network)
    assert (step, found.images) == (7, 2_000)
    assert found.temperature == calibrate(network, mnist, 2_000).temperature
    assert found.temperature == pytest.approx(calibrate(network, mnist).temperature, rel=0.3)
    # The OOD score would be out of date a few hundred steps later.
    assert found.gaussians is None
    # Too soon after the last calibration.
    live.wait()
    assert live.get("one", 9, network)[0] == 7
    # Another network does not have to wait.
    assert live.get("other", 3, network) == (0, UNCALIBRATED)
    live.wait()
    assert live.get("other", 3, network)[0] == 3
    monkeypatch.setattr(calibration, "LIVE_SECONDS", 0)
    live.get("one", 10, network)
    live.wait()
    assert live.get("one", 10, network)[0] == 10


def test_only_the_most_recent_networks_in_training_are_kept(mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_LIVE", 2)
    monkeypatch.setattr(calibration, "LIVE_IMAGES", 20)
    network, live = shipped_network("small-4468"), LiveCalibrator(lambda: mnist)
    for name in ("one", "two", "three"):
        live.get(name, 1, network)
        live.wait()
    assert [live.get(name, 1, network)[0] for name in ("three", "two", "one")] == [1, 1, 0]
    live.wait()


def test_without_mnist_a_network_in_training_is_not_calibrated_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def damaged() -> Dataset:
        raise DatasetError("damaged")

    live = LiveCalibrator(damaged)
    for _ in range(2):
        assert live.get("one", 7, shipped_network("small-4468")) == (0, UNCALIBRATED)
        live.wait()
    assert "one could not be calibrated" in caplog.text
    assert "DatasetError: damaged" in caplog.text


def test_a_process_may_end_while_a_network_is_calibrated() -> None:
    program = (
        "from lib.data import dataset; from lib.storage import checkpoints;"
        "from lib.evaluation.calibration import LiveCalibrator;"
        "network = checkpoints.network(checkpoints.load(checkpoints.FOLDER / 'assignment-9274.safetensors'));"
        "data = dataset.load(); LiveCalibrator(lambda: data).get('one', 1, network)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=checkpoints.FOLDER.parent, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
