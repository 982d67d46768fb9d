"""Outliers: images that are not digits."""

from __future__ import annotations

import torch

from lib.data.dataset import Dataset
from lib.data.outliers import BOX, PEN_WIDTHS, POINTS, rasterize, sample_outliers


def test_outliers_are_distinct_and_fit_the_box_of_mnist(small: Dataset) -> None:
    digits = small.train_images[:50].unsqueeze(1) / 255
    x = sample_outliers(digits, 300, torch.Generator().manual_seed(0))
    assert x.shape == (300, 1, 28, 28)
    assert float(x.min()) == 0
    assert float(x.max()) == 1
    assert len(torch.unique(x.flatten(1), dim=0)) > 290
    # Letters, scribbles and tangles are drawn to fill the box.
    for image in x[:180, 0]:
        rows, columns = (image > 0.5).nonzero(as_tuple=True)
        assert BOX - 4 <= max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1 <= BOX + 2
    again = sample_outliers(digits, 300, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert sample_outliers(digits, 0, torch.Generator()).shape == (0, 1, 28, 28)


def test_two_digits_are_side_by_side_in_the_box(small: Dataset) -> None:
    digits = small.train_images[:50].unsqueeze(1) / 255
    pairs = sample_outliers(digits, 300, torch.Generator().manual_seed(0))[240:, 0]
    assert not bool(pairs[:, :, :4].any() | pairs[:, :, 24:].any())
    assert not bool(pairs[:, :8].any() | pairs[:, 20:].any())
    halves = pairs[:, :, :14].amax((1, 2)), pairs[:, :, 14:].amax((1, 2))
    assert all(bool((half > 0.4).all()) for half in halves)


def test_a_line_has_the_length_of_the_box_and_the_width_of_the_pen() -> None:
    y = torch.linspace(0, 5, POINTS)
    line = torch.stack([torch.zeros(POINTS), y], 1)[None]
    for pen in PEN_WIDTHS:
        image = rasterize(line, torch.tensor([pen]))[0, 0]
        assert abs(float(image[14].sum()) - pen) < 0.1
        assert abs(float(image.sum(1).sum()) / pen - BOX) < 1
