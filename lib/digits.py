"""A drawing -> 28x28 as MNIST was made -> ten probabilities, and how strange it is.

The reduction follows Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits": the bounding box of
the digit is fitted, aspect kept and antialiased, into 20x20, and placed in 28x28 so that its centre of mass is at the
centre. What a canvas adds to that is the pen: a stroke much thinner or thicker than MNIST's is brought to their range
in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from lib.dataset import normalise
from lib.memory import MEASURING_WORK, require_work
from lib.network import Network, torch_threads
from lib.novelty import Known, features, novelty

BOX = 20
SIZE = 28
INK_THRESHOLD = 0.1
# Pixels of the 20x20 box: of MNIST's strokes, measured by `thickness`, a tenth are thinner and a tenth thicker.
THIN, THICK = 1.95, 3.6
# Strokes are measured and changed in a box of 20 x FINE pixels.
FINE = 6
# A stroke is made thinner by at most this part of its thickness on each side: more would break it where it is thin.
MOST_THINNED = 0.35
# Below this calibrated probability a reading is called uncertain, and so it is where more than this share of real
# digits is less strange.
CERTAIN, STRANGE = 0.9, 0.98
# How near to an edge counts as its rim, in pixels.
EDGE = 2


@dataclass(frozen=True, eq=False)
class Reduction:
    """A drawing's way to 28x28, step by step: all float, 0 to 1, strokes light, but for `image`, uint8 (28, 28).

    `box` is the part of the drawing that holds ink, `fitted` (at most 20x20) that part made small, `stroked` the same
    with its stroke brought into range. `before` and `after` are the stroke's thickness in pixels of those 20.
    """

    box: Tensor
    fitted: Tensor
    stroked: Tensor
    image: Tensor
    before: float
    after: float


@dataclass(frozen=True)
class Prediction:
    """Ten probabilities that sum to 1, and the share of real digits that are less strange to the network, 0 to 1
    (`lib/novelty.py`); None where that is not known.
    """

    probabilities: tuple[float, ...]
    novelty: float | None = None

    @property
    def digit(self) -> int:
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        return self.probabilities[self.digit]

    @property
    def entropy(self) -> float:
        """In bits: 0 where one digit has all the probability, log2 10 = 3.32 where all ten have the same."""
        return max(0.0, -sum(p * math.log2(p) for p in self.probabilities if p > 0))

    @property
    def strange(self) -> bool:
        """Like no digit, whichever is the likeliest."""
        return self.novelty is not None and self.novelty > STRANGE

    @property
    def certain(self) -> bool:
        return self.confidence >= CERTAIN and not self.strange


@torch_threads(1)
def ink(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3 or 4), light strokes on dark -> float (H, W), 0 to 1; a transparent pixel is dark."""
    colour = pixels[..., :3].float().mean(-1) / 255
    return colour * pixels[..., 3].float() / 255 if pixels.shape[-1] == 4 else colour


@torch_threads(1)
def reduction(drawing: Tensor) -> Reduction | None:
    """float (H, W), 0 to 1, strokes light -> every step to 28x28, or None where nothing is drawn."""
    box = _cropped(drawing)
    if box is None:
        return None
    fitted = _fitted(box, BOX)
    fine = _fitted(box, BOX * FINE)
    before = thickness(fine) / FINE
    stroked = fitted
    wanted = min(max(before, THIN), THICK)
    if wanted != before:
        changed = _cropped(with_stroke(fine, wanted * FINE))
        if changed is not None:
            stroked = _fitted(changed, BOX)
    image = (_centred(stroked) * 255).round().to(torch.uint8)
    return Reduction(box, fitted, stroked, image, before, wanted)


def reduce(drawing: Tensor) -> Tensor | None:
    """float (H, W), 0 to 1, strokes light -> uint8 (28, 28) as MNIST's, or None where nothing is drawn."""
    steps = reduction(drawing)
    return None if steps is None else steps.image


@torch_threads(1)
def shrunk(drawing: Tensor) -> Tensor:
    """What MNIST did not do: the whole drawing (H, W) made small as it stands -> uint8 (28, 28)."""
    return (_fitted(drawing, SIZE, keep_aspect=False) * 255).round().to(torch.uint8)


@torch_threads(1)
def boxed(drawing: Tensor) -> Tensor | None:
    """What MNIST did not do: the bounding box fitted into 20x20, and its middle, not its mass, put at the centre."""
    box = _cropped(drawing)
    if box is None:
        return None
    fitted = _fitted(box, BOX)
    height, width = fitted.shape
    return (_placed(fitted, (SIZE - height) // 2, (SIZE - width) // 2) * 255).round().to(torch.uint8)


def thickness(digit: Tensor) -> float:
    """Mean thickness in pixels of the strokes of a digit (h, w), 0 to 1.

    A stroke of length l and thickness t has the area l t, and two edges of length l: t is twice the area by the edges'
    length. That length is the area within one pixel of an edge, by 2.
    """
    inside = digit >= 0.5
    if not bool(inside.any()):
        return 1.0
    padded = F.pad(inside, (2, 2, 2, 2))
    rim = ((padded & (distances(~padded) <= EDGE)) | (~padded & (distances(padded) <= EDGE))).sum()
    return float(2 * inside.sum() / (rim / (2 * EDGE)))


def with_stroke(digit: Tensor, wanted: float) -> Tensor:
    """Grow or shrink the ink of (h, w) at its edges until its strokes are `wanted` pixels thick, as far as they can be:
    a stroke keeps at least 0.3 of its thickness. The picture grows with the ink.
    """
    before = thickness(digit)
    grown = min(max((wanted - before) / 2, -MOST_THINNED * before), wanted)
    room = math.ceil(max(grown, 0)) + 1
    padded = F.pad(digit, (room, room, room, room))
    inside = padded >= 0.5
    # To the nearest pixel of the other kind, whose edge is half a pixel nearer than its middle.
    depth = torch.where(inside, distances(~inside) - 0.5, 0.5 - distances(inside))
    return (depth + grown + 0.5).clamp(0, 1)


def distances(mask: Tensor) -> Tensor:
    """bool (h, w) -> float (h, w): distance in pixels to the nearest pixel of the mask, infinite if it is empty."""
    if not bool(mask.any()):
        return torch.full(mask.shape, math.inf)
    return torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy())).float()


def _cropped(drawing: Tensor) -> Tensor | None:
    """The part that holds ink; None where there is none."""
    rows, columns = (drawing > INK_THRESHOLD).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return drawing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _fitted(drawing: Tensor, box: int, keep_aspect: bool = True) -> Tensor:
    """The longer side made `box` pixels, antialiased, and the other as its share asks, or `box` too."""
    height, width = drawing.shape
    scale = box / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale))) if keep_aspect else (box, box)
    return F.interpolate(drawing[None, None], size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


@torch_threads(1)
def predict(network: Network, image: Tensor, temperature: float = 1.0, known: Known | None = None) -> Prediction:
    """The reading of a uint8 (28, 28) image; `network` must be in eval mode. Raises TooLargeError.

    The logits are divided by the temperature (`lib/calibration.py`).
    """
    return predict_all(network, image[None], temperature, known)[0]


def predict_all(
    network: Network, images: Tensor, temperature: float = 1.0, known: Known | None = None
) -> list[Prediction]:
    """Those of uint8 (N, 28, 28) images; `network` must be in eval mode. Raises TooLargeError."""
    if not len(images):
        return []
    require_work(network.architecture, len(images), MEASURING_WORK)
    logits, answers = features(network, normalise(images))
    strange = [None] * len(images) if known is None else novelty(known, answers, logits.argmax(1)).tolist()
    probabilities = torch.softmax(logits / temperature, 1).tolist()
    return [Prediction(tuple(row), share) for row, share in zip(probabilities, strange, strict=True)]


def _centred(digit: Tensor) -> Tensor:
    """Place (h, w), at most 20x20, in 28x28, its centre of mass at pixel 14, 14, as near as whole pixels allow."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(1) * torch.arange(height)).sum() / mass)
    column = float((digit.sum(0) * torch.arange(width)).sum() / mass)
    return _placed(
        digit,
        min(max(round(SIZE / 2 - row), 0), SIZE - height),
        min(max(round(SIZE / 2 - column), 0), SIZE - width),
    )


def _placed(digit: Tensor, top: int, left: int) -> Tensor:
    height, width = digit.shape
    image = torch.zeros(SIZE, SIZE)
    image[top : top + height, left : left + width] = digit
    return image
