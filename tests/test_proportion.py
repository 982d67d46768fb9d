"""The confidence interval of an accuracy: against SciPy's, against its definition, and at its edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.evaluation.proportion import Proportion, accuracy_text, interval_text, wilson_interval


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_interval_is_scipys(correct: int, count: int) -> None:
    from scipy.stats import binomtest

    correct = min(correct, count)
    expected = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    assert Proportion(correct, count).interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_ends_where_the_score_test_rejects(correct: int, count: int) -> None:
    """Wilson's definition: at each end p the share is 1.96 standard deviations of p away, or the end is 0 or 1."""
    correct = min(correct, count)
    found = Proportion(correct, count)
    low, high = found.interval
    assert 0 <= low <= found.share <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(end - found.share) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, rel=1e-5)


def test_known_cases() -> None:
    assert Proportion(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    # Never of length 0, unlike the normal approximation's.
    assert Proportion(10, 10).interval == pytest.approx((0.7225, 1), abs=1e-4)
    assert Proportion(0, 10).interval == pytest.approx((0, 0.2775), abs=1e-4)


def test_without_samples_nothing_is_known() -> None:
    assert Proportion(0, 0).interval == wilson_interval(math.nan, 0) == (0.0, 1.0)
    assert math.isnan(Proportion(0, 0).share)


def test_a_mean_of_several_networks_needs_no_whole_number_of_correct_samples() -> None:
    low, high = wilson_interval(0.99495, 10_000)
    assert wilson_interval(0.9949, 10_000)[0] < low < wilson_interval(0.995, 10_000)[0]
    assert wilson_interval(0.9949, 10_000)[1] < high < wilson_interval(0.995, 10_000)[1]


def test_there_is_one_text_form() -> None:
    assert interval_text(0.9948, 10_000) == "99.32–99.60 %"
    assert accuracy_text(0.9948, 10_000) == "99.48 % (95 % CI 99.32–99.60 %)"
    assert accuracy_text(18 / 19, 19, 1) == "94.7 % (95 % CI 75.4–99.1 %)"
