"""Proportions of correct predictions, and their confidence interval. Every accuracy in Receptive uses this interval.

Needs the standard library alone, so that charts and pages can use it without waiting for torch.

E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", J. Amer. Stat. Assoc. 22, 1927;
recommended over the normal approximation (Wald) for small samples and for proportions near 0 or 1 by L. D. Brown,
T. T. Cai and A. DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16, 2001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from lib.text.formatting import percent

# The 97.5 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """`correct` of `count` predictions."""

    correct: int
    count: int

    @property
    def share(self) -> float:
        """Between 0 and 1; NaN if `count` is 0."""
        return self.correct / self.count if self.count else math.nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % confidence interval, between 0 and 1; (0, 1) if `count` is 0."""
        return wilson_interval(self.share, self.count)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % score interval, between 0 and 1, of a proportion measured on `count` samples.

    `share` is a fraction between 0 and 1; it need not be a multiple of 1 / count, so that it may be a mean over
    networks measured on the same samples. The interval is (0, 1) if `count` is 0.
    """
    if not count:
        return 0.0, 1.0
    shrinkage = 1 + Z95**2 / count
    center = (share + Z95**2 / (2 * count)) / shrinkage
    half = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2)) / shrinkage
    # If the share is 0 or 1, one end equals it; rounding must not put the share outside.
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))


def interval_text(share: float, count: int, decimals: int = 2) -> str:
    """0.9948 of 10,000 -> "99.32–99.60 %"."""
    low, high = wilson_interval(share, count)
    return f"{100 * low:.{decimals}f}–{percent(high, decimals)}"


def accuracy_text(share: float, count: int, decimals: int = 2) -> str:
    """0.9948 of 10,000 -> "99.48 % (95 % CI 99.32–99.60 %)"."""
    return f"{percent(share, decimals)} (95 % CI {interval_text(share, count, decimals)})"
