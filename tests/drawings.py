"""Digits as a pen draws them: strokes on a canvas of 280 pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lib.inference.preprocess import to_grayscale

SEVEN = (((0, 0), (130, 0), (50, 170)),)
LETTER_H = (((0, 0), (0, 170)), ((110, 0), (110, 170)), ((0, 85), (110, 85)))
Strokes = tuple[tuple[tuple[float, float], ...], ...]


def picture(strokes: Strokes, scale: float, left: float, top: float, width: int) -> Image.Image:
    """RGBA, white on black, round ends as the canvas draws them."""
    image = Image.new("RGBA", (280, 280), "black")
    pen = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(left + scale * x, top + scale * y) for x, y in stroke]
        pen.line(points, fill="white", width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill="white")
    return image


def drawn(strokes: Strokes, scale: float = 1.0, left: float = 70, top: float = 50, width: int = 22) -> Tensor:
    """The drawing as `lib.inference.preprocess.preprocess` takes it."""
    return to_grayscale(torch.from_numpy(np.array(picture(strokes, scale, left, top, width))))


def canvas_state(strokes: Strokes) -> dict[str, object]:
    """What the canvas component keeps in the session for a drawing."""
    buffer = io.BytesIO()
    picture(strokes, 1.0, 70, 50, 22).save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"drawing": {"raw": {"objects": [{"type": "path"}]}, "data": url}, "backgroundFit": None}
