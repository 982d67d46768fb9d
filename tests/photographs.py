"""Digits of MNIST as somebody would photograph them."""

from __future__ import annotations

import io
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Style: TypeAlias = Literal["plain", "paper", "blackboard", "shadow", "tile", "inverted tile"]
STYLES: tuple[Style, ...] = get_args(Style)


def photo(image: Tensor, style: Style, seed: int) -> bytes:
    """A uint8 (28, 28) digit, ten times as large, as a JPEG of quality 60 but for the tiles, 28x28 PNGs.

    "plain" is black on white; "paper" dark ink on light paper lit from one side, with noise, texture and a margin;
    "blackboard" light on dark so; "shadow" paper with the soft shadow of a hand over a part of it.
    """
    chance = np.random.default_rng(seed)
    if style in ("tile", "inverted tile"):
        pixels = image.numpy()
        return encoded(Image.fromarray(pixels if style == "tile" else 255 - pixels), "PNG")
    large = Image.fromarray(image.numpy()).resize((280, 280), Image.Resampling.BICUBIC)
    top, left = chance.integers(0, 150, 2)
    canvas = Image.new("L", (430, 360 + int(chance.integers(0, 100))))
    canvas.paste(large, (int(left), min(int(top), canvas.height - 280)))
    strokes = np.asarray(canvas, dtype=float) / 255
    if style == "plain":
        return encoded(Image.fromarray((255 - 255 * strokes).astype(np.uint8)), "JPEG", quality=60)
    height, width = strokes.shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    angle = chance.uniform(0, 2 * np.pi)
    light = 0.8 + 0.25 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    if style == "shadow":
        edge = np.cos(angle + 1) * (x - 0.5) + np.sin(angle + 1) * (y - 0.5) - chance.uniform(-0.2, 0.2)
        light *= 1 - 0.35 / (1 + np.exp(-edge / 0.06))
    paper, ink = (0.2, 0.85) if style == "blackboard" else (0.95, 0.15)
    texture = _smooth(chance.normal(0, 1, (height // 4 + 1, width // 4 + 1)), height, width)
    scene = light * (paper + (ink - paper) * strokes + 0.015 * texture) + chance.normal(0, 0.03, strokes.shape)
    return encoded(Image.fromarray((255 * scene.clip(0, 1)).astype(np.uint8)), "JPEG", quality=60)


def on_a_table(image: Tensor, seed: int) -> bytes:
    """A light sheet with the digit in the middle of a dark photo."""
    chance = np.random.default_rng(seed)
    large = Image.fromarray(255 - image.numpy()).resize((280, 280), Image.Resampling.BICUBIC)
    scene = Image.new("L", (700, 640), 60)
    scene.paste(230, (140, 100, 570, 530))
    scene.paste(large.point(lambda level: 30 + 200 * level // 255), (200, 170))
    noisy = np.asarray(scene) + chance.normal(0, 8, (640, 700))
    return encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=60)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _smooth(values: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
