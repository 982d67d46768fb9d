"""Synthetic digits in handwriting styles that MNIST lacks: a barred 7, a flagged 1, an open 4.

MNIST's writers were Americans, most of whom write a 1 as a bare line and a 7 without a bar. A network that has seen no
other takes a barred 7 for a 2 and a flagged 1 for a 7. Here every way of writing is a few points that a smooth curve
runs through: half of them are styles told below, half are those of thirty people who wrote on a tablet
(`dataset.pen_digits`). Each digit made moves the points, slants, turns and stretches what comes of it, and has a pen of
its own.
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
from lib.data.outliers import PEN, POINTS, drawn

Stroke: TypeAlias = tuple[tuple[float, float], ...]

# How far a point may come to lie from where it belongs, as a standard deviation in parts of the digit's height: of a
# style, and of what somebody wrote.
SCATTER, TREMBLE = 0.045, 0.02
# The people's digits have lost their width: every one is as wide as high.
PEOPLES_WIDTH = 0.65
TURN, SLANT = 12.0, 0.3
NARROWEST, WIDEST = 0.6, 1.3
# So many of a digit's strokes are written without lifting the pen between them.
UNLIFTED = 0.3
# Of a curve between two points.
FINE = 32


@dataclass(frozen=True)
class Style:
    """A way to write a digit: strokes of points, x to the right and y down, the height from 0 to 1. A point that comes
    twice is a corner.
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


def handwriting(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, 1, 28, 28) digits, 0 to 1, strokes light, in MNIST's box, and which they are, int64 (count,): every digit
    as often as every other, first those in a style, then those of people. Raises DatasetError.
    """
    by_people = count // 2
    ways, labels = zip(_styled(count - by_people, generator), _of_people(by_people, generator), strict=True)
    x, y = torch.cat(ways).unbind(2)
    turn, slant, width = (2 * torch.rand(3, count, 1, generator=generator) - 1).unbind()
    x = x * NARROWEST * (WIDEST / NARROWEST) ** ((width + 1) / 2) - SLANT * slant * y
    angle = turn * math.radians(TURN)
    points = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 2)
    low, high = PEN
    digits = drawn(points, low + (high - low) * torch.rand(count, generator=generator))
    soft = torch.rand(count, 1, 1, 1, generator=generator)
    return torch.lerp(digits, F.avg_pool2d(digits, 3, 1, 1), soft), torch.cat(labels)


def _styled(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places (count, POINTS, 2) along the pen's way, and labels."""
    labels = torch.randint(10, (count,), generator=generator)
    first, among = _FIRST[labels], _AMONG[labels]
    style = first + (torch.rand(count, generator=generator) * among).long()
    lifted = torch.rand(count, generator=generator) >= UNLIFTED
    weights = torch.where(lifted[:, None, None], _LIFTED[style], _UNLIFTED[style])
    return weights @ (_PLACES[style] + SCATTER * torch.randn(count, *_PLACES.shape[1:], generator=generator)), labels


def _of_people(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `_styled`."""
    people = _people()
    labels = torch.randint(10, (count,), generator=generator)
    chosen = people.first[labels] + (torch.rand(count, generator=generator) * people.among[labels]).long()
    lifted = torch.rand(count, generator=generator) >= UNLIFTED
    weights = people.weights[torch.where(lifted, people.lift[chosen], 0)]
    places = people.points[chosen] + TREMBLE * torch.randn(count, PEN_POINTS, 2, generator=generator)
    return weights @ (places * torch.tensor([PEOPLES_WIDTH, 1.0])), labels


@dataclass(frozen=True, eq=False)
class _People:
    """What thirty people wrote, in the order of its digits: points (N, PEN_POINTS, 2), y down, 0 to 1; where each
    digit's begin and how many there are, int64 (10,); for every one which weights lift the pen, 0 where it stays down;
    those weights, (W, POINTS, PEN_POINTS).
    """

    points: Tensor
    first: Tensor
    among: Tensor
    lift: Tensor
    weights: Tensor


@lru_cache(maxsize=1)
def _people() -> _People:
    points, labels = pen_digits()
    order = labels.argsort(stable=True)
    points, labels = points[order], labels[order]
    among = labels.bincount(minlength=10)
    lifts = [lift(one.tolist(), int(digit)) for one, digit in zip(points, labels, strict=True)]
    kinds = [None, *sorted({found for found in lifts if found})]
    weights = torch.stack([_evenly(kind) for kind in kinds])
    return _People(points, among.cumsum(0) - among, among, torch.tensor([kinds.index(kind) for kind in lifts]), weights)


def lift(points: Sequence[Sequence[float]], digit: int) -> tuple[int, int] | None:
    """Between which two points, of PEN_POINTS with y down, somebody who wrote this digit lifted the pen, as far as the
    points still tell: before a 7's bar, a 5's top, a 4's stem. None where they do not.
    """
    x, y = zip(*points, strict=True)
    last = len(points) - 1
    lowest = y.index(max(y))
    match digit:
        case 7 if 2 <= lowest < last - 1:
            bar = min(range(lowest + 1, last + 1), key=x.__getitem__)
            return (lowest, bar) if bar < last else None
        case 5 if y[last] < 0.3 and x[last] > 0.4:
            belly = max((number for number in range(lowest, last) if y[number] > 0.5), default=last)
            return (belly, belly + 1) if belly < last - 1 else None
        case 4:
            rises = (number for number in range(2, last) if x[number] > 0.55 and y[number + 1] < y[number] - 0.05)
            return next(((corner, corner + 1) for corner in rises), None)
        case _:
            return None


def strokes(points: Tensor, lifted: tuple[int, int] | None) -> list[Tensor]:
    """(PEN_POINTS, D) -> what is drawn before a lift and what after it, each (K, D); a point alone is no stroke."""
    parts = [points[: lifted[0] + 1], points[lifted[1] :]] if lifted else [points]
    return [part for part in parts if len(part) > 1]


def _evenly(lifted: tuple[int, int] | None) -> Tensor:
    """What each of PEN_POINTS points weighs in POINTS places along the curve through them, or through those before and
    those after a lift of the pen: (POINTS, PEN_POINTS). The points lie about evenly along the way.
    """
    fine = torch.cat([smooth(stroke) for stroke in strokes(torch.eye(PEN_POINTS), lifted)])
    return fine[torch.linspace(0, len(fine) - 1, POINTS).round().long()]


def smooth(points: Tensor) -> Tensor:
    """(K, D), two points or more -> (FINE (K - 1) + 1, D), the curve of Catmull and Rom through all of them."""
    # Beyond either end it goes straight on.
    points = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = torch.linspace(0, 1, FINE + 1, dtype=points.dtype)[:-1, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False)
    ]
    return torch.cat([*pieces, points[-2:-1]])


def _weights(style: Style, lifted: bool) -> Tensor:
    """What each point of a style weighs in each of POINTS places evenly along its strokes: (POINTS, MOST_POINTS).

    A curve of Catmull and Rom is linear in the points that it runs through, wherever they are moved.
    """
    points = _points(style)
    starts: list[Tensor] = []
    steps: list[Tensor] = []
    for curve in _curves(style, lifted):
        fine = smooth(torch.eye(MOST_POINTS)[curve])
        starts.append(fine[:-1])
        steps.append(fine.diff(dim=0))
    lengths = (torch.cat(steps) @ points).norm(dim=1)
    ends = lengths.cumsum(0)
    wanted = (torch.arange(POINTS) + 0.5) / POINTS * ends[-1]
    index = torch.searchsorted(ends, wanted).clamp(max=len(ends) - 1)
    part = (wanted - (ends - lengths)[index]) / lengths[index]
    weights: Tensor = torch.cat(starts)[index] + part[:, None] * torch.cat(steps)[index]
    return weights


def _curves(style: Style, lifted: bool) -> list[list[int]]:
    """The numbers of the points that every smooth curve runs through, its strokes being cut at their corners."""
    curves: list[list[int]] = []
    number = 0
    for stroke in style.strokes:
        if number and not lifted:
            curves.append([number - 1, number])
        curves.append([number])
        for before, point in itertools.pairwise(stroke):
            number += 1
            if point == before:
                # Both points of a corner are the first, whatever moves them.
                curves.append([curves[-1][-1]])
            else:
                curves[-1].append(number)
        number += 1
    return curves


def _points(style: Style) -> Tensor:
    """All points of its strokes, one after the other: (MOST_POINTS, 2), the last of them 0 where it has fewer."""
    points = torch.tensor([point for stroke in style.strokes for point in stroke], dtype=torch.float32)
    return F.pad(points, (0, 0, 0, MOST_POINTS - len(points)))


MOST_POINTS = max(sum(map(len, style.strokes)) for style in STYLES)
_PLACES = torch.stack([_points(style) for style in STYLES])
_LIFTED, _UNLIFTED = (torch.stack([_weights(style, lifted) for style in STYLES]) for lifted in (True, False))
_DIGITS = [style.digit for style in STYLES]
_FIRST = torch.tensor([_DIGITS.index(digit) for digit in range(10)])
_AMONG = torch.tensor([_DIGITS.count(digit) for digit in range(10)])
