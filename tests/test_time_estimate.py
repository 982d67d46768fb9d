"""The estimate of the training time. `make bench` measures its error on this machine."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Augmentation, Recipe
from lib.nn import tiles
from lib.nn.fast_path import default_threads
from lib.nn.vectors import LANES
from lib.training import step_counts as counting
from lib.training import time_estimate
from lib.training.step_counts import StepCounts, TileSizes, step_counts
from lib.training.time_estimate import (
    MachineProfile,
    duration,
    epoch_seconds,
    estimate_error_text,
    estimate_text,
)

NAMES = tuple(field.name for field in fields(StepCounts))
FREE = StepCounts(*(0.0 for _ in NAMES))
SIZES = TileSizes(6, 4, 4, 6, 16)


def profile(**seconds: float) -> MachineProfile:
    return MachineProfile(replace(FREE, **seconds), 2, SIZES)


def counts(text: str, batch_size: int = 32, threads: int = 2, recipe: Recipe | None = None) -> StepCounts:
    return step_counts(parse(text), recipe or Recipe(), 1, batch_size, threads, SIZES)


def test_the_time_of_an_epoch_is_linear_in_its_counts() -> None:
    network, recipe = parse("4 10 A"), Recipe(batch_size=160, augmentation=Augmentation(10))
    params = (4 * 9 + 4) + 2 * 4 + (10 * 4 * 9 + 10)
    # Convolution, ReLU, norm, convolution, pool and flattening. The values are input and output of both convolutions,
    # and the input of the pool.
    expected = {
        "steps": 375,
        "operations": 375 * 6,
        "parameters": 375 * params,
        "images": 60_000,
        "augmented_images": 60_000,
        # Two threads share the images.
        "values": 30_000 * 784 * (1 + 4 + 4 + 10 + 10),
        "dropped_values": 0,
        "external_values": 0,
        "external_macs": 0,
    }
    for name, count in expected.items():
        assert epoch_seconds(profile(**{name: 1e-9}), network, recipe) == pytest.approx(1e-9 * count), name


def test_tiles_have_the_multiply_adds_of_the_network() -> None:
    """A layer whose sizes divide into whole tiles takes a cycle for each multiply-add of a block, and little more."""
    text = "8v 12v 24k1 10k1 A"
    analysis = analyze(parse(text))
    first = 26 * 26 * 8 * 9
    # The first layer needs no gradient of its input.
    multiply_adds = 3 * analysis.macs - first
    assert multiply_adds < counts(text, 16).cycles < 1.45 * multiply_adds


def test_threads_without_a_block_wait() -> None:
    assert 4 * counts("8 10 A", 64, 4).cycles == counts("8 10 A", 64, 1).cycles
    assert counts("8 10 A", 16, 4).cycles == counts("8 10 A", 16, 1).cycles
    assert counts("8 10 A", 17, 1).cycles == 2 * counts("8 10 A", 16, 1).cycles


def test_what_no_kernel_has_is_counted_apart() -> None:
    plain, gelu = counts("8n 10 A"), counts("8n.gelu 10 A")
    assert plain.external_values == 0
    assert gelu.external_values == 32 * 2 * 8 * 784
    assert gelu.cycles == plain.cycles
    small, large = counts("M M 64f 10f"), counts("512f 10f")
    assert small.external_macs == 0
    assert large.external_macs == 32 * 784 * 512
    assert counts("8 D10 10 A").dropped_values == 16 * 8 * 784


def test_synthetic_digits_and_outliers_are_trained_too() -> None:
    recipe = Recipe(batch_size=64, outlier_ratio=0.5, synthetic_ratio=0.5)
    assert epoch_seconds(profile(images=1.0), parse("10 A"), recipe) == pytest.approx(120_000)


@given(st.integers(1, 300), st.integers(1, 8))
def test_parts_are_those_of_the_kernels(count: int, largest: int) -> None:
    parts = counting._parts(count, largest)
    ends = tiles.bounds(count, largest)
    assert parts == [end - start for start, end in itertools.pairwise(ends)]
    assert max(parts) <= largest
    assert sum(parts) == count


def test_the_costs_of_a_machine_are_recovered_from_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StepCounts(5e-4, 4e-5, 1e-9, 1e-6, 2e-5, 3.5e-10, 8e-10, 2e-10, 6e-9, 8e-11)

    def seconds(cases: list[tuple[str, int, Augmentation]]) -> list[float]:
        found: list[float] = []
        for text, batch_size, augmentation in cases:
            sizes = TileSizes(
                tiles.MAX_POSITIONS, tiles.MAX_CHANNELS, tiles.MAX_GRAD_CHANNELS, tiles.MAX_WEIGHTS, LANES
            )
            threads = default_threads()
            done = step_counts(parse(text), Recipe(augmentation=augmentation), 1, batch_size, threads, sizes)
            found.append(sum(map(math.prod, zip(astuple(machine), astuple(done), strict=True))))
        return found

    monkeypatch.setattr(time_estimate, "_step_seconds", seconds)
    assert astuple(time_estimate.measure().seconds) == pytest.approx(astuple(machine), rel=1e-4)


@pytest.mark.slow
def test_this_machine_can_be_measured() -> None:
    measured = time_estimate.measure()
    assert all(0 <= cost < 1 for cost in astuple(measured.seconds))
    seconds = [epoch_seconds(measured, parse(PRESETS[index].text), Recipe()) for index in (3, 0, 5)]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_the_estimate_as_text() -> None:
    text = estimate_text(profile(images=1e-4), parse("10 A"), Recipe(epochs=1))
    assert "6.0 s of training an epoch: 6.0 s for the recipe's 1 epoch, 1.9 min for the 19" in text
    assert estimate_error_text(8.0, 10.0) == "Estimated at 8.0 s of training an epoch, it took 10 s: 25 % more."
    assert estimate_error_text(8.0, 6.0).endswith("25 % less.")
    assert estimate_error_text(8.0, 8.01).endswith("as estimated.")
    assert [duration(s) for s in (0.84, 24, 210, 7560)] == ["0.8 s", "24 s", "3.5 min", "2.1 h"]


def test_every_network_has_an_estimate() -> None:
    costs = MachineProfile(StepCounts(*(1e-9 for _ in NAMES)), 2, SIZES)
    architectures: list[Architecture] = [parse(preset.text) for preset in PRESETS]
    architectures.append(parse("8k5s2 add( 8g8 / ) R cat( 4.gn2 / 4k1x ) M3s2p1 D5c 16.silu.ln2d G 10f"))
    assert all(0 < epoch_seconds(costs, architecture, Recipe()) < math.inf for architecture in architectures)
