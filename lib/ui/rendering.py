"""Draw tensors as pictures of enlarged pixels: feature maps, filters, heat maps, receptive fields.

A picture is uint8: gray (height, width), RGB (height, width, 3) or RGBA (height, width, 4).
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

# Sizes are in pixels of the screen.
GAP = 3
# The frame of a tile is visible on a light and on a dark page.
FRAME_GRAY = 134
MAP_SIDE, FILTER_SIDE, FIELD_SIDE, IMAGE_SIDE = 84, 24, 112, 224
WIDTH = 8 * (MAP_SIDE + 2 + GAP)
MAX_FILTERS = 32
# The color of the highest value of a heat map.
HEAT = (255, 146, 43)
# Avoids a division by zero.
EPSILON = 1e-12


def feature_maps(maps: Tensor, dead: Collection[int] = (), silent: Collection[int] = ()) -> Picture:
    """Draw float maps (C, H, W) in rows, left to right; the lowest of all values is black, the highest white.

    Dead channels are crossed, silent ones struck through once. Maps wider than their tile are reduced.
    """
    values = np.nan_to_num(area_means(maps, tile_side(len(maps))).numpy())
    low, high = values.min(), values.max()
    grays = _grays((values - low) / max(high - low, EPSILON))
    channels = len(grays)
    columns = math.ceil(channels / math.ceil(channels / _max_columns(channels)))
    tiles = _enlarge(grays, tile_side(channels))
    for channel in {*dead, *silent}:
        _strike_through(tiles[channel], cross=channel in dead)
    return _grid(tiles, columns)


def tile_side(channels: int) -> int:
    """Side, in pixels, of the tile of a map in a picture of this many maps."""
    return WIDTH // _max_columns(channels) - 2 - GAP


def filter_grid(weights: Tensor) -> Picture:
    """Draw weights (out, in, height, width): a row for each output channel, a column for each input channel.

    At most MAX_FILTERS of each are drawn. The filters of a single input channel are drawn in one row. 0 is mid-gray,
    the largest absolute value white or black, by its sign.
    """
    values = weights.numpy()
    shown = values[:MAX_FILTERS, :MAX_FILTERS]
    outputs, inputs, height, width = shown.shape
    grays = _grays(0.5 + 0.5 * shown / max(values.max(), -values.min(), EPSILON))
    one_row = inputs == 1
    tiles = _enlarge(grays.reshape(-1, height, width), 2 * FILTER_SIDE if one_row else FILTER_SIDE)
    return _grid(tiles, outputs if one_row else inputs)


def heat_map(image: Tensor, values: Tensor) -> Picture:
    """Draw values, float (28, 28), in orange over a dimmed image, uint8 (28, 28): RGB.

    The orange is opaque at the highest value and transparent at 0 and below.
    """
    numbers = np.nan_to_num(values.numpy())
    strength = (numbers / max(numbers.max(), EPSILON)).clip(0, 1)[..., None]
    mixed = (1 - strength) * 0.6 * image.numpy()[..., None] + strength * np.array(HEAT)
    return np.dstack(list(_enlarge(mixed.round().astype(np.uint8).transpose(2, 0, 1), IMAGE_SIDE)))


def enlarge(image: Tensor, size: int = IMAGE_SIDE) -> Picture:
    """Enlarge uint8 (28, 28) by a whole number, to about `size` pixels a side."""
    return _enlarge_one(image.numpy(), size)


def center_in_square(pixels: Tensor, side: int, size: int) -> Picture:
    """Place float (h, w), 0 to 1, in a black square of `side` pixels and enlarge it to about `size` pixels a side.

    `h` and `w` are at most `side`.
    """
    height, width = pixels.shape
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = _grays(pixels.numpy())
    return _enlarge_one(square, size)


def fit_in_square(pixels: Tensor, size: int) -> Picture:
    """Scale float (h, w) of any size, 0 to 1, to fit a black square of `size` pixels a side."""
    height, width = pixels.shape
    scale = size / max(height, width)
    small = Image.fromarray(_grays(pixels.numpy())).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR
    )
    square = Image.new("L", (size, size))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.array(square)


def gallery(images: Tensor, columns: int, size: int) -> Picture:
    """Draw uint8 images (N, 28, 28) in rows of `columns`, each enlarged to about `size` pixels a side."""
    return _grid(_enlarge(images.numpy(), size), min(columns, len(images)))


def receptive_fields(theoretical: Tensor, effective: Tensor) -> Picture:
    """Draw a theoretical field, bool (28, 28), beside an effective one, float (28, 28), 0 to 1; 1 is white."""
    return _grid(_enlarge(_grays(np.stack([theoretical.numpy(), np.nan_to_num(effective.numpy())])), FIELD_SIDE), 2)


def _max_columns(channels: int) -> int:
    return 8 if channels <= 64 else 16 if channels <= 256 else 32


def _grays(values: NDArray[np.floating[Any]]) -> Picture:
    """0 to 1 -> black to white."""
    return (255 * values).round().astype(np.uint8)


def _enlarge(grays: Picture, size: int) -> Picture:
    """Enlarge (N, H, W) by a whole number, so that the longer side is about `size`."""
    scale = max(1, round(size / max(grays.shape[1:])))
    return grays.repeat(scale, 1).repeat(scale, 2)


def _enlarge_one(grays: Picture, size: int) -> Picture:
    return np.ascontiguousarray(*_enlarge(grays[None], size))


def _strike_through(tile: Picture, *, cross: bool) -> None:
    """Draw a white diagonal with black edges from the lower left, or both diagonals."""
    height, width = tile.shape
    # Along both axes from 0 to the longer side, so that a diagonal ends in the corners of a tile that is no square.
    longer = max(height, width) - 1
    rows, columns = np.linspace(0, longer, height)[:, None], np.linspace(0, longer, width)
    distance = np.abs(rows + columns - longer)
    if cross:
        distance = np.minimum(distance, np.abs(rows - columns))
    tile[distance <= 4] = 0
    tile[distance <= 2] = 255


def _grid(tiles: Picture, columns: int) -> Picture:
    """Arrange (N, H, W) in rows of `columns`: RGBA, each tile in a frame, transparent between tiles."""
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    # Each cell has its gap below and to the right.
    grays = np.zeros((rows * columns, height + 2 + GAP, width + 2 + GAP), np.uint8)
    opacity = np.zeros_like(grays)
    grays[:count, :-GAP, :-GAP] = FRAME_GRAY
    grays[:count, 1 : height + 1, 1 : width + 1] = tiles
    opacity[:count, :-GAP, :-GAP] = 255

    def joined(cells: Picture) -> Picture:
        cell_height, cell_width = cells.shape[1:]
        laid = cells.reshape(rows, columns, cell_height, cell_width).swapaxes(1, 2)
        return laid.reshape(rows * cell_height, columns * cell_width)[:-GAP, :-GAP]

    gray = joined(grays)
    return np.dstack([gray, gray, gray, joined(opacity)])
