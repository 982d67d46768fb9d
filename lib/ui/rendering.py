"""Draw tensors as pictures of enlarged pixels: feature maps, filters, heat maps, receptive fields.

uint8 (height, width) greys, or (height, width, 3 or 4) RGB and RGBA.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lib.evaluation.attribution import area_means

Picture: TypeAlias = NDArray[np.uint8]

GAP = 3
# Around a tile: seen on a light page and on a dark one.
FRAME_GREY = 134
TILE, FILTER, FIELD, DIGIT = 84, 24, 112, 224
WIDTH = 8 * (TILE + 2 + GAP)
MAX_FILTERS = 32
# The heat's colour where it is strongest.
HEAT = (255, 146, 43)
TINY = 1e-12


def feature_maps(maps: Tensor, dead: Collection[int] = (), silent: Collection[int] = ()) -> Picture:
    """Maps (C, H, W) in rows, left to right; black is the lowest of all values and white the highest.

    A cross lies over a dead channel, one stroke over a silent one. Maps wider than their tile are made smaller.
    """
    values = np.nan_to_num(area_means(maps, tile_side(len(maps))).numpy())
    low, high = values.min(), values.max()
    greys = _greys((values - low) / max(high - low, TINY))
    channels = len(greys)
    columns = math.ceil(channels / math.ceil(channels / _widest(channels)))
    tiles = _enlarged(greys, tile_side(channels))
    for channel in {*dead, *silent}:
        _strike(tiles[channel], cross=channel in dead)
    return _grid(tiles, columns)


def tile_side(channels: int) -> int:
    """Pixels of a tile's side in a picture of so many maps."""
    return WIDTH // _widest(channels) - 2 - GAP


def filters(weights: Tensor) -> Picture:
    """Weights (out, in, height, width), a row an output channel, a column an input channel, at most 32 of each; of one
    input channel all in one row. Mid-grey is 0, white the largest weight and black its negative.
    """
    values = weights.numpy()
    shown = values[:MAX_FILTERS, :MAX_FILTERS]
    outputs, inputs, height, width = shown.shape
    greys = _greys(0.5 + 0.5 * shown / max(values.max(), -values.min(), TINY))
    one_row = inputs == 1
    tiles = _enlarged(greys.reshape(-1, height, width), 2 * FILTER if one_row else FILTER)
    return _grid(tiles, outputs if one_row else inputs)


def heat(image: Tensor, values: Tensor) -> Picture:
    """uint8 (28, 28) and float (28, 28) -> RGB: the image, dimmed, below an orange that is full at the highest value
    and gone at 0 and below.
    """
    numbers = np.nan_to_num(values.numpy())
    strength = (numbers / max(numbers.max(), TINY)).clip(0, 1)[..., None]
    mixed = (1 - strength) * 0.6 * image.numpy()[..., None] + strength * np.array(HEAT)
    return np.dstack(list(_enlarged(mixed.round().astype(np.uint8).transpose(2, 0, 1), DIGIT)))


def digit(image: Tensor, size: int = DIGIT) -> Picture:
    """uint8 (28, 28), enlarged to about `size` pixels."""
    return _enlarged_one(image.numpy(), size)


def in_square(pixels: Tensor, side: int, size: int) -> Picture:
    """float (h, w), 0 to 1, in the middle of a black square of `side` pixels, at least h and w, enlarged to about
    `size`.
    """
    height, width = pixels.shape
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = _greys(pixels.numpy())
    return _enlarged_one(square, size)


def fitted(pixels: Tensor, size: int) -> Picture:
    """float (h, w) of any size, 0 to 1, its longer side made `size` pixels, in the middle of a black square."""
    height, width = pixels.shape
    scale = size / max(height, width)
    small = Image.fromarray(_greys(pixels.numpy())).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR
    )
    square = Image.new("L", (size, size))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.array(square)


def gallery(digits: Tensor, across: int, size: int) -> Picture:
    """uint8 (N, 28, 28), each enlarged to about `size` pixels, `across` a row."""
    return _grid(_enlarged(digits.numpy(), size), min(across, len(digits)))


def fields(theoretical: Tensor, effective: Tensor) -> Picture:
    """bool (28, 28) and float (28, 28), 0 to 1, side by side: white is inside, and where the pixels count most."""
    return _grid(_enlarged(_greys(np.stack([theoretical.numpy(), np.nan_to_num(effective.numpy())])), FIELD), 2)


def _widest(channels: int) -> int:
    """Tiles in a row, at most."""
    return 8 if channels <= 64 else 16 if channels <= 256 else 32


def _greys(values: NDArray[np.floating[Any]]) -> Picture:
    """0 to 1 -> black to white."""
    return (255 * values).round().astype(np.uint8)


def _enlarged(greys: Picture, size: int) -> Picture:
    """(N, H, W), each pixel a square, so that the longer side comes near `size`."""
    scale = max(1, round(size / max(greys.shape[1:])))
    return greys.repeat(scale, 1).repeat(scale, 2)


def _enlarged_one(greys: Picture, size: int) -> Picture:
    return np.ascontiguousarray(*_enlarged(greys[None], size))


def _strike(tile: Picture, *, cross: bool) -> None:
    """Draw a white stroke with black edges from the tile's lower left, or two."""
    rows, columns = np.arange(tile.shape[0])[:, None], np.arange(tile.shape[1])
    away = np.abs(rows + columns - tile.shape[0] + 1)
    if cross:
        away = np.minimum(away, np.abs(rows - columns))
    tile[away <= 4] = 0
    tile[away <= 2] = 255


def _grid(tiles: Picture, columns: int) -> Picture:
    """(N, H, W) in rows of `columns` -> RGBA, each tile in a frame, and nothing between them."""
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    # The gap is below and to the right of a tile.
    greys = np.zeros((rows * columns, height + 2 + GAP, width + 2 + GAP), np.uint8)
    opacity = np.zeros_like(greys)
    greys[:count, :-GAP, :-GAP] = FRAME_GREY
    greys[:count, 1 : height + 1, 1 : width + 1] = tiles
    opacity[:count, :-GAP, :-GAP] = 255

    def whole(places: Picture) -> Picture:
        down, across = places.shape[1:]
        laid = places.reshape(rows, columns, down, across).swapaxes(1, 2)
        return laid.reshape(rows * down, columns * across)[:-GAP, :-GAP]

    grey = whole(greys)
    return np.dstack([grey, grey, grey, whole(opacity)])
