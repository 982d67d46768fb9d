"""Images that are no digit, such as letters and scribbles, for training with outlier exposure.

A network that has only ever seen digits takes everything for one. One that also learns to be undecided about marks
like these is undecided about others too (Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier
Exposure", 2019, section 3).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE, BOX = 28, 20
POINTS = 120
# Of a scribble, at most.
CURVES = 6
PEN = (1.8, 3.6)
DRAWN_AT_ONCE = 256
SEAM = 6.0
# Of a tangle.
WAVES = 5
# Two digits: columns cut off at either side of each, and how high they are then.
PAIR_CUT, PAIR_HEIGHT = 5, 11
# Rows above and below a digit, MNIST's box being the middle of its image.
EMPTY = (SIZE - BOX) // 2
# Strokes on a square from 0 to 1, x to the right and y down; none is also a way to write a digit.
LETTERS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0, 1), (0.5, 0), (1, 1)), ((0.2, 0.6), (0.8, 0.6))),
    "E": (((0.8, 0), (0, 0), (0, 1), (0.8, 1)), ((0, 0.5), (0.7, 0.5))),
    "F": (((0.8, 0), (0, 0), (0, 1)), ((0, 0.5), (0.7, 0.5))),
    "H": (((0, 0), (0, 1)), ((0.9, 0), (0.9, 1)), ((0, 0.5), (0.9, 0.5))),
    "K": (((0, 0), (0, 1)), ((0.8, 0), (0, 0.55), (0.8, 1))),
    "M": (((0, 1), (0.1, 0), (0.5, 0.6), (0.9, 0), (1, 1)),),
    "N": (((0, 1), (0, 0), (0.8, 1), (0.8, 0)),),
    "P": (((0, 1), (0, 0), (0.6, 0), (0.7, 0.25), (0.6, 0.5), (0, 0.5)),),
    "R": (((0, 1), (0, 0), (0.6, 0), (0.7, 0.25), (0.6, 0.5), (0, 0.5), (0.8, 1)),),
    "T": (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),
    "V": (((0, 0), (0.5, 1), (1, 0)),),
    "W": (((0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)),),
    "X": (((0, 0), (0.9, 1)), ((0.9, 0), (0, 1))),
    "+": (((0, 0.5), (1, 0.5)), ((0.5, 0), (0.5, 1))),
    "=": (((0, 0.3), (1, 0.3)), ((0, 0.7), (1, 0.7))),
    "triangle": (((0.5, 0), (1, 0.9), (0, 0.9), (0.5, 0)),),
    "star": (((0.2, 1), (0.5, 0), (0.8, 1), (0, 0.4), (1, 0.4), (0.2, 1)),),
    "arrow": (((0, 0.5), (1, 0.5)), ((0.7, 0.2), (1, 0.5), (0.7, 0.8))),
    "zigzag": (((0, 0.3), (0.2, 0.7), (0.4, 0.3), (0.6, 0.7), (0.8, 0.3), (1, 0.7)),),
}


def marks(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, 1, 28, 28) digits, 0 to 1, strokes light -> (count, 1, 28, 28) marks: a fifth each are letters and signs,
    scribbles, tangles, digits cut and put together wrongly, which no pen tells from digits, and two digits at once.
    """
    kind = count // 5
    points = torch.cat([_letters(count - 4 * kind, generator), _scribbles(kind, generator), _tangles(kind, generator)])
    pens = drawn(points, _between(*PEN, len(points), generator))
    soft = torch.rand(len(pens), 1, 1, 1, generator=generator)
    pens = torch.lerp(pens, F.avg_pool2d(pens, 3, 1, 1), soft)
    return torch.cat([pens, _cut(digits, kind, generator), _pairs(digits, kind, generator)])


def drawn(points: Tensor, pen: Tensor) -> Tensor:
    """Points (N, P, 2) along strokes, close together, x and y in any unit, and N pens in pixels -> (N, 1, 28, 28)."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    scale = (BOX - pen[:, None, None]) / (high - low).amax(2, keepdim=True).clamp(min=1e-6)
    points = (points - points.mean(1, keepdim=True)) * scale
    # The mass at the centre, as far as all of it stays on the image.
    half = SIZE / 2
    reach = half - pen[:, None, None] / 2
    shift = (points.amin(1, keepdim=True) + reach).clamp(max=0) + (points.amax(1, keepdim=True) - reach).clamp(min=0)
    points = points - shift + half
    middles = torch.arange(SIZE) + 0.5
    pixels = torch.cartesian_prod(middles, middles).flip(1)
    # The distances of every pixel from every point are many numbers: of so many drawings at once.
    nearest = torch.cat(
        [torch.cdist(pixels.expand(len(some), -1, -1), some).amin(2) for some in torch.split(points, DRAWN_AT_ONCE)]
    )
    return (pen[:, None] / 2 + 0.5 - nearest).clamp(0, 1).view(-1, 1, SIZE, SIZE)


def _cut(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The left half of a digit that lies on its side beside the right half of one that stands on its head."""
    one, other = torch.randint(len(digits), (2, count), generator=generator)
    lying, standing = digits[one].transpose(2, 3), digits[other].flip(2)
    # The seam is soft: a network would look for nothing else.
    ramp = ((torch.arange(SIZE) - SIZE / 2 + 0.5) / SEAM + 0.5).clamp(0, 1)
    return torch.lerp(lying, standing, ramp)


def _letters(count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(LETTERS), (count,), generator=generator)
    points = _TEMPLATES[chosen]
    # Bent by a slow wave, turned, slanted and stretched, each in a way of its own.
    wave = _between(-0.06, 0.06, (2, count, 1), generator)
    phase = _between(0, 2 * math.pi, (2, count, 1), generator)
    x, y = points.unbind(2)
    x, y = x + wave[0] * torch.sin(5 * y + phase[0]), y + wave[1] * torch.sin(5 * x + phase[1])
    turn, slant, stretch = _between(-1, 1, (3, count, 1), generator)
    x = x * (1 + 0.3 * stretch) + 0.3 * slant * y
    angle = turn * math.radians(15)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 2)


def _scribbles(count: int, generator: torch.Generator) -> Tensor:
    """Two to six cubic Bezier curves between random points, every second scribble without lifting the pen."""
    corners = torch.rand(count, CURVES, 4, 2, generator=generator)
    joined = torch.arange(count) % 2 == 1
    for curve in range(1, CURVES):
        corners[joined, curve, 0] = corners[joined, curve - 1, 3]
    some = torch.randint(2, CURVES + 1, (count, 1), generator=generator)
    left_out = torch.arange(CURVES) >= some
    corners = torch.where(left_out[:, :, None, None], corners[:, :1], corners)
    t = torch.linspace(0, 1, POINTS // CURVES)
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return torch.einsum("ncki,kt->ncti", corners, weights).reshape(count, POINTS, 2)


def _tangles(count: int, generator: torch.Generator) -> Tensor:
    """A pen that swings to and fro in every direction at once: sums of waves, the fast ones smaller."""
    t = torch.linspace(0, 1, POINTS)
    waves = torch.arange(1, WAVES + 1)
    ends = _between(1.2, 3.2, (count, 1, 1, 1), generator)
    phase = _between(0, 2 * math.pi, (count, 2, WAVES, 1), generator)
    size = torch.rand(count, 2, WAVES, 1, generator=generator) / waves[:, None] ** 0.7
    return (size * torch.sin(math.pi * waves[:, None] * ends * t + phase)).sum(2).transpose(1, 2)


def _pairs(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Two digits side by side, as wide together as one may be."""
    one, other = torch.randint(len(digits), (2, count), generator=generator)
    digits = digits[:, :, EMPTY:-EMPTY, PAIR_CUT:-PAIR_CUT]
    wide = torch.cat([digits[one], digits[other]], 3)
    small = F.interpolate(wide, size=(PAIR_HEIGHT, BOX), mode="bilinear", antialias=True)
    # What is made small is thin; a pen is not.
    bold = F.max_pool2d(small, 3, 1, 1)
    small = torch.lerp(small, bold, _between(0.2, 0.9, (count, 1, 1, 1), generator))
    above = (SIZE - PAIR_HEIGHT) // 2
    return F.pad(small, (EMPTY, EMPTY, above, SIZE - PAIR_HEIGHT - above)).clamp(0, 1)


def _between(low: float, high: float, shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _sampled(strokes: tuple[tuple[tuple[float, float], ...], ...]) -> Tensor:
    """POINTS points (P, 2), as evenly along all strokes as their corners allow."""
    pieces = [torch.tensor(pair, dtype=torch.float32) for stroke in strokes for pair in itertools.pairwise(stroke)]
    lengths = torch.stack([(end - start).norm() for start, end in pieces])
    places = (torch.arange(POINTS) + 0.5) / POINTS * lengths.sum()
    ends = lengths.cumsum(0)
    index = torch.searchsorted(ends, places).clamp(max=len(pieces) - 1)
    part = (places - (ends - lengths)[index]) / lengths[index]
    starts, stops = torch.stack(pieces).unbind(1)
    return torch.lerp(starts[index], stops[index], part[:, None])


_TEMPLATES = torch.stack([_sampled(strokes) for strokes in LETTERS.values()])
