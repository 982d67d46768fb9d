"""The random numbers of the compiled dropout, and how maxima treat NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from scipy.stats import binom

from lib.design.notation import parse
from lib.nn import vectors
from lib.nn.fast_path import fast_path
from lib.nn.network import build
from lib.nn.vectors import LANES
from tests.fast_path_reference import drawn_factors

# A correct generator fails a test of these numbers once in a hundred million runs; the seeds are fixed.
ONE_SIDED = 5e-9
DEVIATIONS = 5.7


def seeds(number: int) -> Sequence[int]:
    return torch.randint(2**32, (2,), generator=torch.Generator().manual_seed(number)).tolist()


def kept(count: int, number: int, p: float) -> Any:
    return drawn_factors(count, seeds(number), p) > 0


@pytest.mark.parametrize("p", [0.0001, 0.005, 0.1, 0.25, 0.5, 0.9])
def test_values_are_dropped_with_their_probability_and_the_mean_stays(p: float) -> None:
    count = 2**20
    for number in range(5):
        factors = drawn_factors(count, seeds(number), p)
        assert set(np.unique(factors)) == {np.float32(0), np.float32(1 / (1 - p))}
        dropped = int((factors == 0).sum())
        assert binom.ppf(ONE_SIDED, count, p) <= dropped <= binom.isf(ONE_SIDED, count, p)
        assert abs(float(factors.mean(dtype=np.float64)) - 1) <= DEVIATIONS * math.sqrt(p / (1 - p) / count)


def test_nothing_is_dropped_with_probability_0() -> None:
    assert (drawn_factors(1024, seeds(0), 0.0) == 1).all()


def correlation(a: Any, b: Any) -> float:
    """The correlation of two masks of kept values, in standard deviations of that of independent masks."""
    a, b = (values.ravel() - values.mean() for values in (a, b))
    return float(abs((a * b).mean() / (a.std() * b.std())) * math.sqrt(len(a)))


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_values_at_any_distance_are_not_correlated(p: float) -> None:
    """Lanes, columns, rows, channels and blocks of a map of 4 x 14 x 14 are at these distances, and others."""
    drawn = kept(2**20, 1, p)
    distances = {
        1,
        2,
        3,
        LANES - 1,
        LANES,
        14 * LANES,
        14 * 14 * LANES,
        4 * 14 * 14 * LANES,
        *(2**k for k in range(17)),
    }
    assert {
        distance: c for distance in distances if (c := correlation(drawn[:-distance], drawn[distance:])) > DEVIATIONS
    } == {}


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_layers_and_steps_are_not_correlated(p: float) -> None:
    """Each layer of each step has its own seeds; also if they are close, or swapped."""
    count = 2**18
    first, second = seeds(1)
    masks = [kept(count, number, p) for number in range(12)]
    masks += [drawn_factors(count, some, p) > 0 for some in ((first ^ 1, second), (second, first))]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert correlation(mask, other) <= DEVIATIONS


def test_pairs_of_neighbours_are_dropped_as_often_as_independent_ones() -> None:
    """For all lanes, so that no lane copies another."""
    p, count = 0.3, 2**16
    dropped = ~kept(count * LANES, 3, p).reshape(count, LANES)
    for lane in range(LANES):
        for other in range(lane):
            both = int((dropped[:, lane] & dropped[:, other]).sum())
            assert binom.ppf(ONE_SIDED, count, p * p) <= both <= binom.isf(ONE_SIDED, count, p * p)


def test_whole_channels_of_single_images_are_dropped() -> None:
    network = build(parse("64k1xu D30c M 10f"))
    torch.nn.init.ones_(network[0].weight)  # type: ignore[arg-type]
    forward: Any = fast_path(network)
    images = 2 * LANES + 3
    forward(torch.ones(images, 1, 28, 28))
    pooled = next(int(stage["target"]) for stage in forward._plan.records.stages if stage["kernel_height"] == 2)
    values = forward._read(forward._work.values, pooled).flatten(2)
    scale = np.float32(1 / 0.7)
    assert set(values.unique().tolist()) == {0.0, float(scale)}
    assert (values == values[:, :, :1]).all()
    dropped = (values[:, :, 0] == 0).double()
    assert binom.ppf(1e-6, dropped.numel(), 0.3) <= int(dropped.sum()) <= binom.isf(1e-6, dropped.numel(), 0.3)
    # Neither channels nor images share their fate.
    assert ((dropped.mean(0) > 0) & (dropped.mean(0) < 1)).all()
    assert ((dropped.mean(1) > 0) & (dropped.mean(1) < 1)).all()


@pytest.mark.parametrize("token", ["D30", "D30c"])
def test_the_state_of_the_generator_decides_the_mask(token: str) -> None:
    network = build(parse(f"8n {token} 10f"))
    generator: Any = network[2].generator
    forward = fast_path(network)
    assert forward is not None
    x = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    state = generator.get_state()
    with torch.no_grad():
        first, second = forward(x), forward(x)
        generator.set_state(state)
        again = forward(x)
    assert torch.equal(first, again)
    assert not torch.isclose(first, second).any()


# numba knows the types of its intrinsics.
operations: Any = vectors


def _maxima(values: Any, out: Any, indexes: Any) -> None:
    best, best_index = operations.load(values, 0), operations.fill_indexes(np.int32(0))
    for row in range(1, len(values) // LANES):
        value = operations.load(values, row * LANES)
        best_index = operations.maximum_index(value, best, operations.fill_indexes(np.int32(row)), best_index)
        best = operations.maximum(value, best)
    operations.store(out, 0, best)
    operations.store_indexes(indexes, 0, best_index)


def test_maxima_are_those_of_torch_with_nan_infinities_and_equal_numbers() -> None:
    numbers = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan])
    rows = 4
    chosen = torch.cartesian_prod(*[torch.arange(len(numbers))] * rows)
    compiled = njit(_maxima)
    for case in torch.split(chosen, LANES):
        values = np.zeros((rows, LANES), np.float32)
        values[:, : len(case)] = numbers[case].T
        out, indexes = np.zeros(LANES, np.float32), np.zeros(LANES, np.int32)
        compiled(values.ravel(), out, indexes)
        pooled, places = torch.nn.functional.max_pool1d(torch.from_numpy(values.T[None]), rows, return_indices=True)
        np.testing.assert_array_equal(out, pooled.flatten())
        np.testing.assert_array_equal(indexes, places.flatten())
