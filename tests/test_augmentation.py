"""Augmentation of images."""

from __future__ import annotations

import math

import pytest
import torch

from lib.data.augmentation import augment, preview
from lib.data.dataset import Dataset, normalize
from lib.design.recipe import Augmentation


def test_augmentation_stays_within_its_bounds_and_differs_by_image() -> None:
    """Rotation changes only the angle of a dot around the center, zoom only its distance."""
    x = torch.zeros(400, 1, 28, 28)
    x[:, 0, 13:15, 21:23] = 1.0
    rotated = augment(x, Augmentation(rotation=20), torch.Generator().manual_seed(0))
    row, column = _center_of_mass(rotated)
    angle = torch.rad2deg(torch.atan2(row - 13.5, column - 13.5))
    assert float(angle.abs().max()) <= 20.5
    assert float(angle.max()) > 15
    assert float(angle.min()) < -15
    torch.testing.assert_close(torch.hypot(row - 13.5, column - 13.5), torch.full((400,), 8.0), atol=0.15, rtol=0)
    shifted = augment(x, Augmentation(shift=0.1), torch.Generator().manual_seed(0))
    row, column = _center_of_mass(shifted)
    assert float((row - 13.5).abs().max()) <= 2.85
    assert 2 < float((column - 21.5).abs().max()) <= 2.85
    zoomed = augment(x, Augmentation(zoom=0.25), torch.Generator().manual_seed(0))
    _, column = _center_of_mass(zoomed)
    assert 6 - 0.1 <= float((column - 13.5).min()) < 6.5
    assert 9.5 < float((column - 13.5).max()) <= 10 + 0.1


def test_shear_shifts_a_row_in_proportion_to_its_distance_from_the_center() -> None:
    x = torch.zeros(400, 1, 28, 28)
    x[:, 0, 5:7, 13:15] = 1.0
    row, column = _center_of_mass(augment(x, Augmentation(shear=30), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(row, torch.full((400,), 5.5), atol=0.1, rtol=0)
    largest_shift = 8 * math.tan(math.radians(30))
    assert 0.9 * largest_shift < float((column - 13.5).abs().max()) <= largest_shift + 0.1


def test_augmentation_fills_with_the_background(small: Dataset) -> None:
    x = normalize(small.train_images[:50])
    y = augment(x, Augmentation(30, 0.2, 0.2), torch.Generator().manual_seed(1))
    background = float(x.min())
    assert float(y.min()) == pytest.approx(background, abs=1e-5)
    # The corners of MNIST images are empty, also after a shift by a fifth of the width.
    torch.testing.assert_close(y[:, 0, ::27, ::27], torch.full((50, 2, 2), background), atol=1e-5, rtol=0)
    assert augment(x, Augmentation(), torch.Generator()) is x


def _center_of_mass(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mass = x.sum((1, 2, 3))
    row = (x.sum((1, 3)) * torch.arange(28)).sum(1) / mass
    column = (x.sum((1, 2)) * torch.arange(28)).sum(1) / mass
    return row, column


def test_strokes_grow_and_shrink_within_the_given_bounds(small: Dataset) -> None:
    x = torch.zeros(200, 1, 28, 28)
    x[:, 0, 4:24, 12:16] = 1
    y = augment(x, Augmentation(stroke=0.5), torch.Generator().manual_seed(0))
    widths = y[:, 0, 14].sum(1)
    assert 3 <= float(widths.min()) < 3.1
    assert 4.9 < float(widths.max()) <= 5
    digits = normalize(small.train_images[:20])
    y = augment(digits, Augmentation(stroke=1), torch.Generator().manual_seed(0))
    assert float(y.min()) >= float(digits.min())
    assert float(y.max()) <= float(digits.max())


def test_the_preview_shows_the_images_above_augmented_ones(small: Dataset) -> None:
    images = small.train_images[:3]
    plain = preview(images, Augmentation(), rows=2)
    assert torch.equal(plain, torch.cat([images.permute(1, 0, 2).reshape(28, -1)] * 3))
    moved = preview(images, Augmentation(shift=0.2), rows=2)
    assert torch.equal(moved[:28], plain[:28])
    assert not torch.equal(moved[28:56], moved[56:])
