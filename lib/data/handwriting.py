"""Synthetic digits in handwriting styles that MNIST lacks: a 7 with a bar, a 1 with a flag, an open 4.

The writers of MNIST were Americans, and most of them wrote a plain 1 and a 7 without a bar. A network trained on MNIST
alone reads a barred 7 as a 2 and a flagged 1 as a 7.

Half of the synthetic digits come from the STYLES table, half from the 30 writers of the UCI pen digits
(`dataset.pen_digits`). Each is a smooth curve through a few points. The points are jittered; the curve is then
stretched, slanted and rotated at random, and drawn with a pen of random width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data.dataset import PEN_POINTS, pen_digits
from lib.data.outliers import PEN_WIDTHS, POINTS, rasterize

Stroke: TypeAlias = tuple[tuple[float, float], ...]

# Standard deviation of each point, relative to the height of the digit. Pen digits need less: they differ already.
STYLE_JITTER, PEN_JITTER = 0.045, 0.02
# Width relative to height. The data set scales every pen digit to a square.
PEN_DIGIT_ASPECT = 0.65
MAX_ROTATION = 12.0  # degrees
MAX_SLANT = 0.3  # horizontal shift per unit of height
MIN_STRETCH, MAX_STRETCH = 0.6, 1.3  # of the width
# Probability that the pen is not lifted between two strokes.
JOINED_PROBABILITY = 0.3
# Samples of a curve between two of its points.
CURVE_STEPS = 32


@dataclass(frozen=True)
class Style:
    """A way to write a digit.

    Each stroke is a sequence of points (x, y): x to the right, y down, the height from 0 to 1. A repeated point is a
    corner.
    """

    digit: int
    strokes: tuple[Stroke, ...]


_ROUND = ((0.5, 0), (0.1, 0.15), (0, 0.5), (0.12, 0.87), (0.4, 1), (0.7, 0.85), (0.8, 0.5), (0.7, 0.13), (0.45, 0))
_HOOK = ((0.7, 0.15), (0.4, 0), (0.05, 0.12), (0.05, 0.38), (0.35, 0.5), (0.65, 0.32), (0.7, 0.1))
_BELLY = ((0.35, 0.38), (0.75, 0.55), (0.7, 0.9), (0.35, 1), (0, 0.9))
_STEM = ((0, 0), (0.8, 0), (0.8, 0), (0.55, 0.4), (0.3, 1))
STYLES = (
    Style(0, (_ROUND,)),
    Style(0, ((*_ROUND[4:], *_ROUND[1:4], (0.35, 1.02)),)),
    Style(0, ((*_ROUND, (0.15, 0.08)),)),
    Style(0, (_ROUND, ((0.78, 0.03), (0.02, 0.97)))),
    Style(1, (((0, 0), (0, 0.5), (0, 1)),)),
    Style(1, (((0, 0.35), (0.4, 0), (0.4, 0), (0.4, 0.5), (0.4, 1)),)),
    Style(1, (((0, 0.6), (0.3, 0.3), (0.55, 0), (0.55, 0), (0.5, 0.5), (0.45, 1)),)),
    Style(1, (((0, 0.75), (0.35, 0.4), (0.65, 0), (0.65, 0), (0.7, 0.5), (0.7, 1)),)),
    Style(1, (((0, 0.5), (0.4, 0.2), (0.75, 0), (0.75, 0), (0.65, 0.5), (0.5, 1)),)),
    Style(1, (((0, 0.45), (0.3, 0.25), (0.6, 0), (0.6, 0), (0.63, 0.5), (0.62, 1)), ((0.3, 1), (0.95, 1)))),
    Style(1, (((0.1, 0.3), (0.45, 0), (0.45, 0), (0.45, 0.5), (0.45, 1)), ((0.05, 1), (0.9, 1)))),
    Style(1, (((0.4, 0), (0.4, 0.5), (0.4, 1)), ((0.05, 1), (0.8, 1)))),
    Style(2, (((0, 0.25), (0.3, 0), (0.7, 0.1), (0.65, 0.45), (0.3, 0.8), (0, 1), (0, 1), (0.8, 1)),)),
    Style(2, (((0, 0.2), (0.35, 0), (0.7, 0.2), (0.5, 0.6), (0.05, 0.97), (0, 0.8), (0.3, 0.8), (0.8, 1)),)),
    Style(2, (((0, 0.1), (0.4, 0), (0.75, 0.2), (0.4, 0.6), (0, 1), (0, 1), (0.4, 0.93), (0.8, 0.97)),)),
    Style(3, (((0.05, 0.1), (0.4, 0), (0.7, 0.2), (0.3, 0.45), (0.3, 0.45), (0.75, 0.7), (0.45, 1), (0, 0.9)),)),
    Style(3, (((0, 0), (0.7, 0), (0.7, 0), (0.3, 0.4), (0.3, 0.4), (0.72, 0.6), (0.6, 0.92), (0, 0.95)),)),
    Style(3, (((0.05, 0.12), (0.5, 0), (0.55, 0.35), (0.2, 0.48), (0.6, 0.55), (0.65, 0.9), (0, 0.97)),)),
    Style(4, (((0.3, 0), (0, 0.6), (0, 0.6), (0.85, 0.6)), ((0.6, 0.3), (0.6, 0.65), (0.55, 1)))),
    Style(4, (((0.6, 0), (0, 0.65), (0, 0.65), (0.85, 0.65)), ((0.6, 0), (0.6, 0.5), (0.6, 1)))),
    Style(4, (((0.05, 0), (0, 0.45), (0.2, 0.55), (0.65, 0.45)), ((0.7, 0), (0.67, 0.5), (0.6, 1)))),
    Style(4, (((0.6, 1), (0.62, 0.5), (0.6, 0), (0.6, 0), (0, 0.65), (0, 0.65), (0.85, 0.65)),)),
    Style(4, (((0.35, 0), (0.15, 0.3), (0, 0.5), (0, 0.5), (0.75, 0.45)), ((0.65, 0.25), (0.45, 0.65), (0.35, 1)))),
    Style(5, (((0.1, 0), (0.05, 0.42), (0.05, 0.42), *_BELLY), ((0.1, 0), (0.75, 0)))),
    Style(5, (((0.7, 0), (0.12, 0), (0.12, 0), (0.05, 0.42), (0.05, 0.42), *_BELLY),)),
    Style(5, (((0.7, 0.03), (0.3, 0), (0.08, 0.25), (0.5, 0.5), (0.7, 0.78), (0.4, 1), (0, 0.93)),)),
    Style(5, (((0.1, 0), (0.05, 0.42), (0.05, 0.42), *_BELLY), ((0.12, 0.02), (0.5, 0.03), (0.8, -0.05)))),
    Style(6, (((0.6, 0), (0.2, 0.25), (0, 0.65), (0.25, 1), (0.6, 0.85), (0.55, 0.6), (0.25, 0.55), (0.03, 0.75)),)),
    Style(6, (((0.3, 0), (0.1, 0.35), (0, 0.7), (0.3, 1), (0.65, 0.8), (0.5, 0.55), (0.2, 0.6), (0.05, 0.8)),)),
    Style(6, (((0.75, 0.02), (0.4, 0.05), (0.08, 0.45), (0.1, 0.9), (0.5, 0.97), (0.55, 0.6), (0.1, 0.65)),)),
    Style(7, (_STEM,)),
    Style(7, (_STEM, ((0.15, 0.5), (0.75, 0.48)))),
    Style(7, (((0, 0.18), (0.03, 0), (0.03, 0), *_STEM[1:]),)),
    Style(7, (((0, 0.18), (0.03, 0), (0.03, 0), *_STEM[1:]), ((0.2, 0.55), (0.8, 0.5)))),
    Style(7, (((0, 0.08), (0.25, 0.02), (0.55, 0.08), (0.8, 0), (0.5, 0.45), (0.35, 1)), ((0.15, 0.5), (0.8, 0.45)))),
    Style(7, (((0, 0.02), (0.6, 0), (0.7, 0.1), (0.6, 0.5), (0.5, 1)), ((0.3, 0.5), (0.85, 0.5)))),
    Style(7, (((0, 0.15), (0.25, 0), (0.6, 0.03), (0.7, 0.2), (0.45, 0.6), (0.35, 1)), ((0.1, 0.6), (0.75, 0.55)))),
    Style(7, (((0.05, 0.1), (0.3, 0), (0.7, 0.02), (0.7, 0.02), (0.5, 0.5), (0.4, 1)), ((0.1, 0.7), (0.75, 0.66)))),
    Style(
        8,
        (
            (
                (0.65, 0.12),
                (0.3, 0),
                (0.1, 0.2),
                (0.4, 0.48),
                (0.7, 0.8),
                (0.35, 1),
                (0.02, 0.8),
                (0.35, 0.48),
                (0.62, 0.25),
                (0.62, 0.1),
            ),
        ),
    ),
    Style(
        8,
        (
            ((0.35, 0), (0.08, 0.22), (0.35, 0.45), (0.62, 0.22), (0.35, 0)),
            ((0.35, 0.45), (0, 0.75), (0.35, 1), (0.7, 0.75), (0.38, 0.45)),
        ),
    ),
    Style(
        8,
        (
            (
                (0.1, 0.15),
                (0.4, 0),
                (0.65, 0.2),
                (0.35, 0.45),
                (0.02, 0.75),
                (0.35, 1),
                (0.68, 0.75),
                (0.35, 0.45),
                (0.1, 0.2),
                (0.15, 0.1),
            ),
        ),
    ),
    Style(9, ((*_HOOK, (0.7, 0.1), (0.7, 0.55), (0.65, 1)),)),
    Style(9, ((*_HOOK, (0.7, 0.1), (0.72, 0.6), (0.5, 0.97), (0.05, 0.9)),)),
    Style(9, ((*_HOOK, (0.7, 0.1), (0.55, 0.55), (0.2, 1)),)),
    Style(9, (((0.6, 0.05), (0.2, 0.02), (0.05, 0.2), (0.35, 0.35), (0.65, 0.2), (0.65, 0.6), (0.4, 1), (0, 0.88)),)),
    Style(9, (((0.45, 0.12), (0.15, 0.04), (0.08, 0.28), (0.4, 0.33), (0.5, 0.1), (0.6, 0.6), (0.35, 1), (0, 0.88)),)),
    Style(9, (((0.65, 0.1), (0.3, 0), (0.08, 0.2), (0.3, 0.4), (0.7, 0.25), (0.75, 0.6), (0.45, 0.97), (0, 0.93)),)),
)
MAX_STYLE_POINTS = max(sum(map(len, style.strokes)) for style in STYLES)


def sample_handwriting(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample synthetic digits: float32 (count, 1, 28, 28), 0 to 1, light strokes on dark; and labels, int64 (count,).

    All ten classes have the same probability. The first half of the samples comes from STYLES, the second half from the
    pen digits. Raises DatasetError if the pen digits cannot be read.
    """
    pen_count = count // 2
    paths, labels = zip(
        _sample_styles(count - pen_count, generator), _sample_pen_digits(pen_count, generator), strict=True
    )
    x, y = torch.cat(paths).unbind(2)
    rotation, slant, stretch = (2 * torch.rand(3, count, 1, generator=generator) - 1).unbind()
    # The logarithm of the stretch is uniform.
    x = x * MIN_STRETCH * (MAX_STRETCH / MIN_STRETCH) ** ((stretch + 1) / 2) - MAX_SLANT * slant * y
    angle = rotation * math.radians(MAX_ROTATION)
    points = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 2)
    low, high = PEN_WIDTHS
    digits = rasterize(points, low + (high - low) * torch.rand(count, generator=generator))
    blur = torch.rand(count, 1, 1, 1, generator=generator)
    return torch.lerp(digits, F.avg_pool2d(digits, 3, 1, 1), blur), torch.cat(labels)


def _sample_styles(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample jittered styles: points along the pen's path, (count, POINTS, 2), and labels, int64 (count,)."""
    tables = _style_tables()
    labels = torch.randint(10, (count,), generator=generator)
    first, counts = tables.first[labels], tables.counts[labels]
    style = first + (torch.rand(count, generator=generator) * counts).long()
    lifted = torch.rand(count, generator=generator) >= JOINED_PROBABILITY
    weights = torch.where(lifted[:, None, None], tables.lifted_weights[style], tables.joined_weights[style])
    jitter = STYLE_JITTER * torch.randn(count, MAX_STYLE_POINTS, 2, generator=generator)
    return weights @ (tables.points[style] + jitter), labels


def _sample_pen_digits(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample jittered pen digits: points along the pen's path, (count, POINTS, 2), and labels, int64 (count,)."""
    digits = _load_pen_digits()
    labels = torch.randint(10, (count,), generator=generator)
    index = digits.first[labels] + (torch.rand(count, generator=generator) * digits.counts[labels]).long()
    lifted = torch.rand(count, generator=generator) >= JOINED_PROBABILITY
    weights = digits.weights[torch.where(lifted, digits.weight_index[index], 0)]
    points = digits.points[index] + PEN_JITTER * torch.randn(count, PEN_POINTS, 2, generator=generator)
    return weights @ (points * torch.tensor([PEN_DIGIT_ASPECT, 1.0])), labels


@dataclass(frozen=True, eq=False)
class _StyleTables:
    """STYLES as tensors.

    - `first`, `counts`: the index of the first style of each digit and the number of its styles, int64 (10,).
    - `points`: (S, MAX_STYLE_POINTS, 2), padded with 0.
    - `lifted_weights`, `joined_weights`: (S, POINTS, MAX_STYLE_POINTS), see `_style_weights`.
    """

    first: Tensor
    counts: Tensor
    points: Tensor
    lifted_weights: Tensor
    joined_weights: Tensor


# Built at the first use: a training without synthetic digits does not need them.
@lru_cache(maxsize=1)
def _style_tables() -> _StyleTables:
    digits = [style.digit for style in STYLES]
    lifted, joined = (torch.stack([_style_weights(style, lifted) for style in STYLES]) for lifted in (True, False))
    return _StyleTables(
        torch.tensor([digits.index(digit) for digit in range(10)]),
        torch.tensor([digits.count(digit) for digit in range(10)]),
        torch.stack([_padded_points(style) for style in STYLES]),
        lifted,
        joined,
    )


@dataclass(frozen=True, eq=False)
class _PenDigits:
    """The pen digits, sorted by label.

    - `points`: (N, PEN_POINTS, 2), y down, 0 to 1.
    - `first`, `counts`: the index of the first sample of each digit and the number of its samples, int64 (10,).
    - `weight_index`: the index in `weights` for each sample, int64 (N,); 0 if the pen is not lifted.
    - `weights`: (W, POINTS, PEN_POINTS), see `_pen_digit_weights`.
    """

    points: Tensor
    first: Tensor
    counts: Tensor
    weight_index: Tensor
    weights: Tensor


@lru_cache(maxsize=1)
def _load_pen_digits() -> _PenDigits:
    points, labels = pen_digits()
    order = labels.argsort(stable=True)
    points, labels = points[order], labels[order]
    counts = labels.bincount(minlength=10)
    pen_lifts = [find_pen_lift(one.tolist(), int(digit)) for one, digit in zip(points, labels, strict=True)]
    distinct = [None, *sorted({pen_lift for pen_lift in pen_lifts if pen_lift})]
    weights = torch.stack([_pen_digit_weights(pen_lift) for pen_lift in distinct])
    weight_index = torch.tensor([distinct.index(pen_lift) for pen_lift in pen_lifts])
    return _PenDigits(points, counts.cumsum(0) - counts, counts, weight_index, weights)


def find_pen_lift(points: Sequence[Sequence[float]], digit: int) -> tuple[int, int] | None:
    """Find where the pen was lifted: the indices of the last point before and the first point after, or None.

    The data set does not say. A heuristic finds a lift before the bar of a 7, the top of a 5 and the stem of a 4.
    `points` has PEN_POINTS rows (x, y), y down.
    """
    x, y = zip(*points, strict=True)
    last = len(points) - 1
    lowest = y.index(max(y))
    match digit:
        case 7 if 2 <= lowest < last - 1:
            bar = min(range(lowest + 1, last + 1), key=x.__getitem__)
            return (lowest, bar) if bar < last else None
        case 5 if y[last] < 0.3 and x[last] > 0.4:
            belly = max((index for index in range(lowest, last) if y[index] > 0.5), default=last)
            return (belly, belly + 1) if belly < last - 1 else None
        case 4:
            rises = (index for index in range(2, last) if x[index] > 0.55 and y[index + 1] < y[index] - 0.05)
            return next(((corner, corner + 1) for corner in rises), None)
        case _:
            return None


def split_at_pen_lift(points: Tensor, pen_lift: tuple[int, int] | None) -> list[Tensor]:
    """Split points (PEN_POINTS, D) into strokes (K, D), K ≥ 2: a single point after the lift is dropped."""
    strokes = [points[: pen_lift[0] + 1], points[pen_lift[1] :]] if pen_lift else [points]
    return [stroke for stroke in strokes if len(stroke) > 1]


def _pen_digit_weights(pen_lift: tuple[int, int] | None) -> Tensor:
    """Compute the matrix (POINTS, PEN_POINTS) that maps the points of a pen digit to POINTS points along its curve.

    The points of a pen digit are about evenly spaced, so equal steps of the curve's parameter are too.
    """
    curve = torch.cat([catmull_rom(stroke) for stroke in split_at_pen_lift(torch.eye(PEN_POINTS), pen_lift)])
    return curve[torch.linspace(0, len(curve) - 1, POINTS).round().long()]


def catmull_rom(points: Tensor) -> Tensor:
    """Interpolate points (K, D), K ≥ 2, with a uniform Catmull-Rom spline: (CURVE_STEPS (K - 1) + 1, D).

    The spline passes through all points (Catmull and Rom, "A Class of Local Interpolating Splines", 1974).
    """
    # Each end is continued in a straight line: the spline needs a neighbor on both sides of a segment.
    points = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = torch.linspace(0, 1, CURVE_STEPS + 1, dtype=points.dtype)[:-1, None]
    segments = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False)
    ]
    return torch.cat([*segments, points[-2:-1]])


def _style_weights(style: Style, lifted: bool) -> Tensor:
    """Compute the matrix (POINTS, MAX_STYLE_POINTS) that maps the points of a style to POINTS points along its strokes.

    The result is evenly spaced for the points in STYLES. A Catmull-Rom spline is linear in its points, so the same
    matrix draws the style after its points have been jittered. `lifted` says whether the pen is lifted between strokes.
    """
    points = _padded_points(style)
    starts: list[Tensor] = []
    steps: list[Tensor] = []
    for indices in _curve_indices(style, lifted):
        curve = catmull_rom(torch.eye(MAX_STYLE_POINTS)[indices])
        starts.append(curve[:-1])
        steps.append(curve.diff(dim=0))
    lengths = (torch.cat(steps) @ points).norm(dim=1)
    ends = lengths.cumsum(0)
    targets = (torch.arange(POINTS) + 0.5) / POINTS * ends[-1]
    index = torch.searchsorted(ends, targets).clamp(max=len(ends) - 1)
    fraction = (targets - (ends - lengths)[index]) / lengths[index]
    weights: Tensor = torch.cat(starts)[index] + fraction[:, None] * torch.cat(steps)[index]
    return weights


def _curve_indices(style: Style, lifted: bool) -> list[list[int]]:
    """List the point indices of each smooth curve of a style. Strokes are cut at their corners."""
    curves: list[list[int]] = []
    index = 0
    for stroke in style.strokes:
        if index and not lifted:
            curves.append([index - 1, index])
        curves.append([index])
        for previous, point in itertools.pairwise(stroke):
            index += 1
            if point == previous:
                # Both curves use the first of the two points, so that jitter does not open the corner.
                curves.append([curves[-1][-1]])
            else:
                curves[-1].append(index)
        index += 1
    return curves


def _padded_points(style: Style) -> Tensor:
    """Concatenate the points of all strokes: (MAX_STYLE_POINTS, 2), padded with 0."""
    points = torch.tensor([point for stroke in style.strokes for point in stroke], dtype=torch.float32)
    return F.pad(points, (0, 0, 0, MAX_STYLE_POINTS - len(points)))
