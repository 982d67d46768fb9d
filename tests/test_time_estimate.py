"""The estimate of the training time. `make bench` measures its error on this machine."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Augmentation, Recipe
from lib.training import time_estimate
from lib.training.time_estimate import (
    MachineProfile,
    StepCost,
    duration,
    epoch_seconds,
    estimate_error_text,
    estimate_text,
)

FREE = StepCost(0, 0, 0, 0, 0, 0)


def test_the_time_of_an_epoch_is_linear_in_its_counts() -> None:
    network, recipe = parse("4 10 A"), Recipe(batch_size=100, augmentation=Augmentation(10))
    # Convolution, ReLU and norm with 4 channels, a convolution with 10 channels, and the 10 outputs of the pool.
    activations = 3 * 4 * 784 + 10 * 784 + 10
    macs = 4 * 784 * 9 + 10 * 784 * 4 * 9
    params = (4 * 9 + 4) + 2 * 4 + (10 * 4 * 9 + 10)
    counts = {
        "step": 600,
        "parameter": 600 * params,
        "image": 60_000,
        "augmented_image": 60_000,
        "activation": 60_000 * activations,
        "mac": 60_000 * macs,
    }
    for name, count in counts.items():
        costs = StepCost(**{**dict.fromkeys(counts, 0.0), name: 1e-9})
        assert epoch_seconds(MachineProfile(costs, FREE), network, recipe) == pytest.approx(1e-9 * count)
    assert epoch_seconds(MachineProfile(FREE, costs), network, recipe) == 0
    # A norm before the activation has no fast path, and the same counts.
    other = epoch_seconds(MachineProfile(FREE, costs), parse("4b 10 A"), recipe)
    assert other == pytest.approx(epoch_seconds(MachineProfile(costs, FREE), network, recipe))


def test_the_costs_of_a_machine_are_recovered_from_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StepCost(3e-4, 1e-9, 1e-6, 4e-6, 3e-10, 5e-11)

    def seconds(architecture: Architecture, batch_size: int, augmentation: Augmentation) -> float:
        analysis = analyze(architecture)
        image = machine.image + analysis.activations * machine.activation + analysis.macs * machine.mac
        image += machine.augmented_image if augmentation.active else 0
        return machine.step + analysis.num_params * machine.parameter + batch_size * image

    monkeypatch.setattr(time_estimate, "_batch_seconds", seconds)
    profile = time_estimate.measure()
    assert astuple(profile.fused) == pytest.approx(astuple(machine), rel=1e-6)
    assert astuple(profile.other) == pytest.approx(astuple(machine), rel=1e-6)


@pytest.mark.slow
def test_this_machine_can_be_measured() -> None:
    profile = time_estimate.measure()
    assert all(0 <= cost < 1 for cost in astuple(profile.fused) + astuple(profile.other))
    seconds = [epoch_seconds(profile, parse(PRESETS[index].text), Recipe()) for index in (3, 0, 5)]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_the_estimate_as_text() -> None:
    profile = MachineProfile(StepCost(0, 0, 1e-4, 0, 0, 0), FREE)
    text = estimate_text(profile, parse("10 A"), Recipe(epochs=1))
    assert "6.0 s of training an epoch: 6.0 s for the recipe's 1 epoch, 1.9 min for the 19" in text
    assert estimate_error_text(8.0, 10.0) == "Estimated at 8.0 s of training an epoch, it took 10 s: 25 % more."
    assert estimate_error_text(8.0, 6.0).endswith("25 % less.")
    assert estimate_error_text(8.0, 8.01).endswith("as estimated.")
    assert [duration(s) for s in (0.84, 24, 210, 7560)] == ["0.8 s", "24 s", "3.5 min", "2.1 h"]
