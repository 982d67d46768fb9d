"""Turn a drawing into a 28×28 image like those of MNIST.

As described by Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits": the bounding box of the
digit is scaled into 20×20 with its aspect ratio kept and with antialiasing, and placed in 28×28 so that its center of
mass is in the middle. One step is added for drawings: a stroke much thinner or thicker than MNIST's gets a width within
MNIST's range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.nn.network import torch_threads

BOX = 20
SIZE = 28
INK_THRESHOLD = 0.1
# Stroke widths in pixels of the 20×20 box: the 10 % and 90 % quantiles of `stroke_width` over MNIST.
MIN_STROKE, MAX_STROKE = 1.95, 3.6
# Strokes are measured and changed at a higher resolution, in a box of 20 * OVERSAMPLING pixels.
OVERSAMPLING = 6
# Thinning by a larger fraction of the width on each side would break strokes where they are thin.
MAX_THINNING = 0.35
# Pixels within this distance of an edge form the rim, from which the stroke width is computed.
RIM = 2


@dataclass(frozen=True, eq=False)
class PreprocessingSteps:
    """The steps from a drawing to a 28×28 image. All are float, 0 to 1, light on dark, except `image`, uint8 (28, 28).

    - `box`: the part of the drawing that has ink.
    - `fitted`: the same, scaled to at most 20×20.
    - `stroked`: the same with a stroke width within MNIST's range.
    - `before`, `after`: the stroke width before and after that, in pixels of the 20×20 box.
    """

    box: Tensor
    fitted: Tensor
    stroked: Tensor
    image: Tensor
    before: float
    after: float


@torch_threads(1)
def to_grayscale(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3 or 4), light strokes on dark -> float (H, W), 0 to 1. Transparent pixels are dark."""
    color = pixels[..., :3].float().mean(-1) / 255
    return color * pixels[..., 3].float() / 255 if pixels.shape[-1] == 4 else color


@torch_threads(1)
def preprocess_steps(drawing: Tensor) -> PreprocessingSteps | None:
    """float (H, W), 0 to 1, light strokes on dark -> all steps to 28×28, or None if nothing is drawn."""
    box = _crop(drawing)
    if box is None:
        return None
    fitted = _resize(box, BOX)
    fine = _resize(box, BOX * OVERSAMPLING)
    before = stroke_width(fine) / OVERSAMPLING
    stroked = fitted
    after = min(max(before, MIN_STROKE), MAX_STROKE)
    if after != before:
        changed = _crop(set_stroke_width(fine, after * OVERSAMPLING))
        if changed is not None:
            stroked = _resize(changed, BOX)
    image = (_center_mass(stroked) * 255).round().to(torch.uint8)
    return PreprocessingSteps(box, fitted, stroked, image, before, after)


def preprocess(drawing: Tensor) -> Tensor | None:
    """float (H, W), 0 to 1, light strokes on dark -> uint8 (28, 28), or None if nothing is drawn."""
    steps = preprocess_steps(drawing)
    return None if steps is None else steps.image


@torch_threads(1)
def resize_whole(drawing: Tensor) -> Tensor:
    """Scale the whole drawing (H, W) to uint8 (28, 28), for comparison: MNIST was not made like this."""
    return (_resize(drawing, SIZE, keep_aspect=False) * 255).round().to(torch.uint8)


@torch_threads(1)
def center_bounding_box(drawing: Tensor) -> Tensor | None:
    """Center the 20×20 bounding box instead of the center of mass, for comparison; None if nothing is drawn."""
    box = _crop(drawing)
    if box is None:
        return None
    fitted = _resize(box, BOX)
    height, width = fitted.shape
    return (_place(fitted, (SIZE - height) // 2, (SIZE - width) // 2) * 255).round().to(torch.uint8)


def stroke_width(digit: Tensor) -> float:
    """Mean width, in pixels, of the strokes of a digit (h, w), 0 to 1.

    A stroke of length l and width t has area l t and two edges of length l, so t is twice the area divided by the
    length of all edges. That length is the area within RIM pixels of an edge, divided by 2 RIM.
    """
    inside = digit >= 0.5
    if not bool(inside.any()):
        return 1.0
    padded = F.pad(inside, (RIM, RIM, RIM, RIM))
    rim = ((padded & (distances(~padded) <= RIM)) | (~padded & (distances(padded) <= RIM))).sum()
    return float(2 * inside.sum() / (rim / (2 * RIM)))


def set_stroke_width(digit: Tensor, width: float) -> Tensor:
    """Grow or shrink the ink of (h, w) until its strokes are `width` pixels wide; the result is larger if it grows.

    A stroke keeps at least 1 - 2 * MAX_THINNING of its width.
    """
    before = stroke_width(digit)
    growth = min(max((width - before) / 2, -MAX_THINNING * before), width)
    margin = math.ceil(max(growth, 0)) + 1
    padded = F.pad(digit, (margin, margin, margin, margin))
    inside = padded >= 0.5
    # Signed distance to the edge, which is half a pixel closer than the center of the nearest pixel beyond it.
    depth = torch.where(inside, distances(~inside) - 0.5, 0.5 - distances(inside))
    return (depth + growth + 0.5).clamp(0, 1)


def distances(mask: Tensor) -> Tensor:
    """bool (h, w) -> float (h, w): distance in pixels to the nearest pixel of the mask, infinite if it is empty."""
    from scipy.ndimage import distance_transform_edt

    if not bool(mask.any()):
        return torch.full(mask.shape, math.inf)
    return torch.from_numpy(distance_transform_edt(~mask.numpy())).float()


def _crop(drawing: Tensor) -> Tensor | None:
    """The bounding box of the ink, or None if there is none."""
    rows, columns = (drawing > INK_THRESHOLD).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return drawing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _resize(drawing: Tensor, side: int, keep_aspect: bool = True) -> Tensor:
    """Scale the longer side to `side` pixels with antialiasing, and the other in proportion, or to `side` too."""
    height, width = drawing.shape
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale))) if keep_aspect else (side, side)
    return F.interpolate(drawing[None, None], size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def _center_mass(digit: Tensor) -> Tensor:
    """Place (h, w), at most 20×20, in 28×28 with its center of mass at (14, 14), to the nearest pixel."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(1) * torch.arange(height)).sum() / mass)
    column = float((digit.sum(0) * torch.arange(width)).sum() / mass)
    return _place(
        digit,
        min(max(round(SIZE / 2 - row), 0), SIZE - height),
        min(max(round(SIZE / 2 - column), 0), SIZE - width),
    )


def _place(digit: Tensor, top: int, left: int) -> Tensor:
    height, width = digit.shape
    image = torch.zeros(SIZE, SIZE)
    image[top : top + height, left : left + width] = digit
    return image
