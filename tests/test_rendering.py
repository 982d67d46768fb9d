"""Pictures of tensors, pixel by pixel."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.attribution import area_means
from lib.ui.rendering import (
    FRAME_GRAY,
    GAP,
    HEAT,
    IMAGE_SIDE,
    MAP_SIDE,
    center_in_square,
    enlarge,
    feature_maps,
    filter_grid,
    fit_in_square,
    gallery,
    heat_map,
    receptive_fields,
    tile_side,
)

STEP = MAP_SIDE + 2 + GAP


@given(st.integers(1, 400), st.integers(1, 28))
@settings(max_examples=40)
def test_channels_are_in_reading_order(channels: int, side: int) -> None:
    """The middle of each tile has the gray of its value."""
    maps = torch.arange(channels, dtype=torch.float32)[:, None, None].expand(channels, side, side).contiguous()
    picture = feature_maps(maps)
    # A map wider than its tile is reduced.
    side = min(side, tile_side(channels))
    assert picture.shape[2] == 4
    assert picture.shape[1] <= 32 * (28 + 2 + GAP)
    scale = next(n for n in range(1, 200) if (picture[0, :, 3] > 0).argmin() in (0, side * n + 2))
    step = side * scale + 2 + GAP if channels > 1 else 1
    columns = (picture.shape[1] + GAP) // step if channels > 1 else 1
    for channel in {0, channels // 2, channels - 1}:
        row, column = divmod(channel, columns)
        y, x = row * step + 1 + side * scale // 2, column * step + 1 + side * scale // 2
        expected = round(255 * channel / max(channels - 1, 1))
        if channels > 1:
            assert picture[y, x].tolist() == [expected, expected, expected, 255]


def test_black_is_the_lowest_value_white_the_highest_and_gaps_are_transparent() -> None:
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0], maps[2, 1, 1] = -3.0, 1.0
    picture = feature_maps(maps)
    assert picture.shape == (MAP_SIDE + 2, 3 * STEP - GAP, 4)
    assert picture[1, 1].tolist() == [0, 0, 0, 255]
    assert picture[MAP_SIDE, 2 * STEP + MAP_SIDE].tolist() == [255, 255, 255, 255]
    assert picture[10, STEP + 10, 0] == 191
    assert picture[0, 5].tolist() == [FRAME_GRAY, FRAME_GRAY, FRAME_GRAY, 255]
    assert not picture[:, MAP_SIDE + 2 : STEP].any()


def test_dead_channels_are_crossed_and_silent_ones_struck_through_once() -> None:
    picture = feature_maps(torch.zeros(3, 28, 28), dead=[0], silent=[1])[1:-1, :, 0]
    dead, silent, awake = (picture[:, number * STEP + 1 :][:, :MAP_SIDE] for number in range(3))
    rising, falling = np.eye(MAP_SIDE, dtype=bool)[::-1], np.eye(MAP_SIDE, dtype=bool)
    assert (dead[rising] == 255).all()
    assert (dead[falling] == 255).all()
    assert (silent[rising] == 255).all()
    assert (silent[falling] == 255).mean() < 0.1
    assert not awake.any()


def test_the_stroke_of_a_tile_that_is_no_square_ends_in_its_corners() -> None:
    picture = feature_maps(torch.zeros(2, 28, 14), dead=[0], silent=[1])[1:-1, :, 0]
    assert picture.shape == (MAP_SIDE, 2 * (MAP_SIDE // 2 + 2 + GAP) - GAP)
    dead, silent = (picture[:, start : start + MAP_SIDE // 2] for start in (1, MAP_SIDE // 2 + 3 + GAP))
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert [int(dead[corner]) for corner in corners] == [255] * 4
    assert [int(silent[corner]) for corner in corners] == [0, 255, 255, 0]
    assert dead[MAP_SIDE // 2, MAP_SIDE // 4] == silent[MAP_SIDE // 2, MAP_SIDE // 4] == 255


def test_a_map_that_is_no_square_keeps_its_ratio_when_it_is_reduced() -> None:
    assert area_means(torch.zeros(3, 100, 50), 20).shape == (3, 20, 10)
    assert area_means(torch.zeros(3, 2, 60), 20).shape == (3, 1, 20)
    assert area_means(torch.zeros(3, 10, 20), 20).shape == (3, 10, 20)


def test_filters_are_gray_by_sign_with_a_row_for_each_output() -> None:
    weights = torch.zeros(2, 3, 3, 3)
    weights[1, 2, 0, 0], weights[0, 1, 2, 2] = -2.0, 1.0
    picture = filter_grid(weights)[..., 0]
    step, pixel = 24 + 2 + GAP, 8
    assert picture.shape == (2 * step - GAP, 3 * step - GAP)
    assert picture[step + 1, 2 * step + 1] == 0
    assert picture[1 + 2 * pixel, step + 1 + 2 * pixel] == 191
    assert picture[1, 1] == 128
    assert filter_grid(torch.ones(5, 1, 3, 3)).shape[:2] == (50, 5 * (50 + GAP) - GAP)
    # A depthwise convolution has one input channel for each output; a kernel of 1×5 is wide.
    assert filter_grid(torch.ones(5, 1, 1, 5)).shape[:2] == (12, 5 * (52 + GAP) - GAP)
    # Of more than 32, the first 32 are drawn, on the scale of all.
    wide = torch.ones(40, 50, 1, 1)
    wide[39, 49] = 2.0
    assert filter_grid(wide).shape[:2] == (32 * step - GAP, 32 * step - GAP)
    assert filter_grid(wide)[5, 5, 0] == 191


def test_a_heat_map_is_orange_at_the_highest_value_and_the_dimmed_image_at_zero() -> None:
    image = torch.full((28, 28), 200, dtype=torch.uint8)
    values = torch.zeros(28, 28)
    values[3, 4], values[5, 6] = 0.5, -0.5
    picture = heat_map(image, values)
    scale = IMAGE_SIDE // 28
    assert picture.shape == (IMAGE_SIDE, IMAGE_SIDE, 3)
    assert picture[3 * scale, 4 * scale].tolist() == list(HEAT)
    assert picture[5 * scale, 6 * scale].tolist() == [120, 120, 120]
    assert (heat_map(image, torch.full((28, 28), torch.nan)) == 120).all()


def test_images_and_fields_are_enlarged_pixel_by_pixel() -> None:
    image = torch.arange(784).view(28, 28).remainder(256).to(torch.uint8)
    assert (enlarge(image, 84)[::3, ::3] == image.numpy()).all()
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[10:12, 10:12] = True
    picture = receptive_fields(inside, torch.full((28, 28), 0.5))[..., 0]
    assert (picture[1:-1, 1:113][::4, ::4] == 255 * inside.numpy()).all()
    assert (picture[1:-1, -113:-1] == 128).all()


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_small_picture_is_in_the_middle_of_its_square(height: int, width: int) -> None:
    pixels = torch.linspace(0, 1, height * width).view(height, width)
    square = center_in_square(pixels, 20, 60)
    assert square.shape == (60, 60)
    top, left = (20 - height) // 2, (20 - width) // 2
    inside = square[1::3, 1::3][top : top + height, left : left + width]
    assert np.array_equal(inside, (255 * pixels.numpy()).round())
    assert int(square.sum(dtype=int)) == 9 * int(inside.sum(dtype=int))


@given(st.integers(1, 280), st.integers(1, 280))
def test_a_fitted_picture_touches_two_sides_of_its_square_and_keeps_its_aspect_ratio(height: int, width: int) -> None:
    square = fit_in_square(torch.ones(height, width), 100)
    rows, columns = (square > 127).any(1).sum(), (square > 127).any(0).sum()
    assert square.shape == (100, 100)
    assert max(rows, columns) == 100
    assert min(rows, columns) == max(1, round(100 * min(height, width) / max(height, width)))
    assert abs(int((square > 127).argmax() // 100) - (100 - int(rows)) / 2) <= 1


def test_reducing_averages_pixels() -> None:
    stripes = torch.zeros(200, 200)
    stripes[::2] = 1
    assert np.abs(fit_in_square(stripes, 50)[5:-5].astype(int) - 127).max() <= 16


def test_a_gallery_is_in_reading_order() -> None:
    digits = torch.arange(10, dtype=torch.uint8)[:, None, None].expand(10, 28, 28) * 20
    step = 56 + 2 + GAP
    sheet = gallery(digits, 8, 56)
    assert sheet.shape == (2 * step - GAP, 8 * step - GAP, 4)
    assert [int(sheet[n // 8 * step + 20, n % 8 * step + 20, 0]) for n in range(10)] == list(range(0, 200, 20))
    assert sheet[step + 20, 2 * step + 20, 3] == 0
    assert gallery(digits[:3], 8, 56).shape == (58, 3 * step - GAP, 4)
