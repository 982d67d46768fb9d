"""Images that are not digits, such as letters and scribbles, for training with outlier exposure.

A network trained on digits alone predicts a digit for every image. Trained to predict the uniform distribution on
outliers like these, it becomes uncertain about other outliers too (Hendrycks, Mazeika and Dietterich, "Deep Anomaly
Detection with Outlier Exposure", 2019, section 3).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Pixels: the image, and the box that MNIST's digits fill.
SIZE, BOX = 28, 20
MARGIN = (SIZE - BOX) // 2
# Minimum and maximum width of a pen in pixels.
PEN_WIDTHS = (1.8, 3.6)
# Points along the strokes of a drawing.
POINTS = 120
# Drawings rasterized at once, which bounds the memory for the distances between pixels and points.
DRAWN_AT_ONCE = 256
MAX_SCRIBBLE_CURVES = 6
# Sine waves in a tangle, for each axis.
TANGLE_WAVES = 5
# Width in pixels of the transition between the two halves of a cut digit.
SEAM_WIDTH = 6.0
# A pair of digits: the columns cut off on each side of a digit, and the height of the pair.
PAIR_CUT, PAIR_HEIGHT = 5, 11
# Strokes in the unit square, x to the right and y down. None of them is a way to write a digit.
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


def sample_outliers(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sample outliers: float32 (count, 1, 28, 28), 0 to 1, light strokes on dark.

    Equal parts are letters and symbols, scribbles, tangles, cut digits and pairs of digits, in this order. The last two
    kinds are made from `digits`, (N, 1, 28, 28), 0 to 1, light strokes on dark.
    """
    part = count // 5
    points = torch.cat([_letters(count - 4 * part, generator), _scribbles(part, generator), _tangles(part, generator)])
    drawings = rasterize(points, _uniform(*PEN_WIDTHS, len(points), generator))
    blur = torch.rand(len(drawings), 1, 1, 1, generator=generator)
    drawings = torch.lerp(drawings, F.avg_pool2d(drawings, 3, 1, 1), blur)
    return torch.cat([drawings, _cut_digits(digits, part, generator), _digit_pairs(digits, part, generator)])


def rasterize(points: Tensor, pen_widths: Tensor) -> Tensor:
    """Draw strokes with a round pen, scaled to the box of MNIST: float32 (N, 1, 28, 28), 0 to 1, light on dark.

    `points` are (N, P, 2), close together along the strokes, x to the right and y down in any unit. `pen_widths` are
    (N,), in pixels.
    """
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    scale = (BOX - pen_widths[:, None, None]) / (high - low).amax(2, keepdim=True).clamp(min=1e-6)
    points = (points - points.mean(1, keepdim=True)) * scale
    # The center of mass is the center of the image, unless the drawing would then leave the image.
    center = SIZE / 2
    reach = center - pen_widths[:, None, None] / 2
    shift = (points.amin(1, keepdim=True) + reach).clamp(max=0) + (points.amax(1, keepdim=True) - reach).clamp(min=0)
    points = points - shift + center
    coordinates = torch.arange(SIZE) + 0.5
    pixels = torch.cartesian_prod(coordinates, coordinates).flip(1)
    distances = torch.cat(
        [torch.cdist(pixels.expand(len(chunk), -1, -1), chunk).amin(2) for chunk in torch.split(points, DRAWN_AT_ONCE)]
    )
    return (pen_widths[:, None] / 2 + 0.5 - distances).clamp(0, 1).view(-1, 1, SIZE, SIZE)


def _cut_digits(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Join the left half of a transposed digit and the right half of an upside-down one: (count, 1, 28, 28)."""
    left, right = torch.randint(len(digits), (2, count), generator=generator)
    transposed, flipped = digits[left].transpose(2, 3), digits[right].flip(2)
    # A gradual transition: a sharp edge would be enough to detect these outliers.
    ramp = ((torch.arange(SIZE) - SIZE / 2 + 0.5) / SEAM_WIDTH + 0.5).clamp(0, 1)
    return torch.lerp(transposed, flipped, ramp)


def _letters(count: int, generator: torch.Generator) -> Tensor:
    """Sample letters and symbols, each bent by a sine wave, stretched, slanted and rotated: (count, POINTS, 2)."""
    index = torch.randint(len(LETTERS), (count,), generator=generator)
    x, y = _letter_points()[index].unbind(2)
    wave = _uniform(-0.06, 0.06, (2, count, 1), generator)
    phase = _uniform(0, 2 * math.pi, (2, count, 1), generator)
    x, y = x + wave[0] * torch.sin(5 * y + phase[0]), y + wave[1] * torch.sin(5 * x + phase[1])
    rotation, slant, stretch = _uniform(-1, 1, (3, count, 1), generator)
    x = x * (1 + 0.3 * stretch) + 0.3 * slant * y
    angle = rotation * math.radians(15)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 2)


def _scribbles(count: int, generator: torch.Generator) -> Tensor:
    """Sample two to MAX_SCRIBBLE_CURVES cubic Bézier curves with random control points: (count, POINTS, 2).

    In every second scribble each curve begins where the one before it ends.
    """
    controls = torch.rand(count, MAX_SCRIBBLE_CURVES, 4, 2, generator=generator)
    joined = torch.arange(count) % 2 == 1
    for curve in range(1, MAX_SCRIBBLE_CURVES):
        controls[joined, curve, 0] = controls[joined, curve - 1, 3]
    curves = torch.randint(2, MAX_SCRIBBLE_CURVES + 1, (count, 1), generator=generator)
    # Curves beyond the sampled number repeat the first one.
    unused = torch.arange(MAX_SCRIBBLE_CURVES) >= curves
    controls = torch.where(unused[:, :, None, None], controls[:, :1], controls)
    t = torch.linspace(0, 1, POINTS // MAX_SCRIBBLE_CURVES)
    bernstein = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return torch.einsum("ncki,kt->ncti", controls, bernstein).reshape(count, POINTS, 2)


def _tangles(count: int, generator: torch.Generator) -> Tensor:
    """Sample curves whose x and y are sums of sine waves, smaller at higher frequencies: (count, POINTS, 2)."""
    t = torch.linspace(0, 1, POINTS)
    harmonics = torch.arange(1, TANGLE_WAVES + 1)
    duration = _uniform(1.2, 3.2, (count, 1, 1, 1), generator)
    phase = _uniform(0, 2 * math.pi, (count, 2, TANGLE_WAVES, 1), generator)
    amplitude = torch.rand(count, 2, TANGLE_WAVES, 1, generator=generator) / harmonics[:, None] ** 0.7
    return (amplitude * torch.sin(math.pi * harmonics[:, None] * duration * t + phase)).sum(2).transpose(1, 2)


def _digit_pairs(digits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Place two digits side by side, together as wide as the box: (count, 1, 28, 28)."""
    left, right = torch.randint(len(digits), (2, count), generator=generator)
    digits = digits[:, :, MARGIN:-MARGIN, PAIR_CUT:-PAIR_CUT]
    pair = torch.cat([digits[left], digits[right]], 3)
    small = F.interpolate(pair, size=(PAIR_HEIGHT, BOX), mode="bilinear", antialias=True)
    # Downscaling thins the strokes; dilation compensates for it.
    dilated = F.max_pool2d(small, 3, 1, 1)
    small = torch.lerp(small, dilated, _uniform(0.2, 0.9, (count, 1, 1, 1), generator))
    top = (SIZE - PAIR_HEIGHT) // 2
    return F.pad(small, (MARGIN, MARGIN, top, SIZE - PAIR_HEIGHT - top)).clamp(0, 1)


def _uniform(low: float, high: float, shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _resample(strokes: tuple[tuple[tuple[float, float], ...], ...]) -> Tensor:
    """Sample POINTS evenly spaced points along polylines: (POINTS, 2)."""
    segments = [torch.tensor(pair, dtype=torch.float32) for stroke in strokes for pair in itertools.pairwise(stroke)]
    lengths = torch.stack([(end - start).norm() for start, end in segments])
    targets = (torch.arange(POINTS) + 0.5) / POINTS * lengths.sum()
    ends = lengths.cumsum(0)
    index = torch.searchsorted(ends, targets).clamp(max=len(segments) - 1)
    fraction = (targets - (ends - lengths)[index]) / lengths[index]
    starts, stops = torch.stack(segments).unbind(1)
    return torch.lerp(starts[index], stops[index], fraction[:, None])


@lru_cache(maxsize=1)
def _letter_points() -> Tensor:
    """LETTERS as points: (len(LETTERS), POINTS, 2)."""
    return torch.stack([_resample(strokes) for strokes in LETTERS.values()])
