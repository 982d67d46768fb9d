"""A drawing -> 28x28 as MNIST was made -> ten probabilities.

The reduction follows Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits": the bounding box of
the digit is fitted, aspect kept and antialiased, into 20x20, and placed in 28x28 so that its centre of mass is at the
centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.dataset import normalise

BOX = 20
SIZE = 28
INK_THRESHOLD = 0.1
BATCH = 250
# A prediction of less is called uncertain.
CERTAIN = 0.6


@dataclass(frozen=True)
class Prediction:
    """Ten probabilities that sum to 1."""

    probabilities: tuple[float, ...]

    @property
    def digit(self) -> int:
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        return self.probabilities[self.digit]

    @property
    def uncertain(self) -> bool:
        return self.confidence < CERTAIN


def ink(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3 or 4), light strokes on dark -> float (H, W), 0 to 1; a transparent pixel is dark."""
    colour = pixels[..., :3].float().mean(-1) / 255
    return colour * pixels[..., 3].float() / 255 if pixels.shape[-1] == 4 else colour


def reduce(drawing: Tensor) -> Tensor | None:
    """float (H, W), 0 to 1, strokes light -> uint8 (28, 28) as MNIST's, or None where nothing is drawn."""
    rows, columns = (drawing > INK_THRESHOLD).nonzero(as_tuple=True)
    if not len(rows):
        return None
    box = drawing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = box.shape
    scale = BOX / max(height, width)
    fitted = F.interpolate(
        box[None, None],
        size=(max(1, round(height * scale)), max(1, round(width * scale))),
        mode="bilinear",
        antialias=True,
    )[0, 0].clamp(0, 1)
    return (_centre(fitted) * 255).round().to(torch.uint8)


def predict(network: nn.Module, image: Tensor) -> Prediction:
    """The ten probabilities of a uint8 (28, 28) image; `network` must be in eval mode."""
    return predict_all(network, image[None])[0]


def predict_all(network: nn.Module, images: Tensor) -> list[Prediction]:
    """Those of uint8 (N, 28, 28) images; `network` must be in eval mode."""
    with torch.inference_mode():
        logits = [network(normalise(images[i : i + BATCH])).double() for i in range(0, len(images), BATCH)]
    return [Prediction(tuple(row)) for some in logits for row in torch.softmax(some, 1).tolist()]


def _centre(digit: Tensor) -> Tensor:
    """Place (h, w), at most 20x20, in 28x28, its centre of mass at pixel 14, 14, as near as whole pixels allow."""
    height, width = digit.shape
    mass = digit.sum()
    row = float((digit.sum(1) * torch.arange(height)).sum() / mass)
    column = float((digit.sum(0) * torch.arange(width)).sum() / mass)
    top = min(max(round(SIZE / 2 - row), 0), SIZE - height)
    left = min(max(round(SIZE / 2 - column), 0), SIZE - width)
    image = torch.zeros(SIZE, SIZE)
    image[top : top + height, left : left + width] = digit
    return image
