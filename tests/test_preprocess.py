"""Preprocessing of drawings, compared with MNIST."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lib.data.dataset import Dataset
from lib.inference.preprocess import (
    MAX_STROKE,
    MIN_STROKE,
    center_bounding_box,
    distances,
    preprocess,
    preprocess_steps,
    resize_whole,
    stroke_width,
    to_grayscale,
)
from tests.drawings import SEVEN, drawn
from tests.measure import accuracy_on, shipped_network


def enlarged(image: Tensor, size: int, top: int, left: int) -> Tensor:
    """A digit of MNIST, `size` pixels a side, on a canvas of 280 pixels."""
    big = F.interpolate(image[None, None].float() / 255, size=(size, size), mode="bicubic")[0, 0].clamp(0, 1)
    canvas = torch.zeros(280, 280)
    canvas[top : top + size, left : left + size] = big
    return canvas


def test_mnists_digits_are_recovered_from_a_canvas(mnist: Dataset) -> None:
    """Large, small and off center, a digit of the test set is reduced to nearly the original 28×28."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for image in mnist.test_images[:200]:
        size = int(torch.randint(140, 281, (), generator=generator))
        top, left = (int(torch.randint(0, 281 - size, (), generator=generator)) for _ in range(2))
        steps = preprocess_steps(enlarged(image, size, top, left))
        assert steps is not None
        # The stroke width of one digit in five is changed.
        if steps.before == steps.after:
            differences.append(float((steps.image.float() - image.float()).abs().mean()))
    assert len(differences) > 120
    # Gray levels, of 255; an image shifted by one pixel differs by about 20.
    assert sum(differences) / len(differences) < 9


def test_the_shipped_network_predicts_preprocessed_digits_as_well_as_the_originals(mnist: Dataset) -> None:
    network = shipped_network()
    images, labels = mnist.test_images[:1000], mnist.test_labels[:1000]
    reduced = [preprocess(enlarged(image, 250, 10, 20)) for image in images]
    assert all(image is not None for image in reduced)
    stacked = torch.stack([image for image in reduced if image is not None])
    assert accuracy_on(network, stacked, labels) >= accuracy_on(network, images, labels) - 0.005


def test_place_and_size_on_the_canvas_do_not_matter() -> None:
    large = preprocess(drawn(SEVEN, scale=1.0, left=40, top=30, width=22))
    small = preprocess(drawn(SEVEN, scale=0.5, left=150, top=140, width=11))
    assert large is not None
    assert small is not None
    assert float((large.float() - small.float()).abs().mean()) < 6


@pytest.mark.parametrize("width", [2, 6, 14, 30])
def test_thin_and_thick_pens_give_the_same_image(width: int) -> None:
    steps = preprocess_steps(drawn(SEVEN, left=60, top=60, width=width))
    assert steps is not None
    assert MIN_STROKE <= steps.after <= MAX_STROKE
    assert stroke_width(enlarge(steps.stroked)) / 6 == pytest.approx(steps.after, rel=0.25)
    # Drawn with a pen within MNIST's range.
    usual = preprocess(drawn(SEVEN, left=60, top=60, width=22))
    assert usual is not None
    assert float((steps.image.float() - usual.float()).abs().mean()) < 14


def enlarge(digit: Tensor) -> Tensor:
    return F.interpolate(digit[None, None], scale_factor=6, mode="bicubic")[0, 0].clamp(0, 1)


def test_a_stroke_within_mnists_range_is_not_changed() -> None:
    steps = preprocess_steps(drawn(SEVEN, width=22))
    assert steps is not None
    assert steps.before == steps.after
    assert steps.stroked is steps.fitted


def test_the_range_of_stroke_widths_is_mnists(mnist: Dataset) -> None:
    """MIN_STROKE and MAX_STROKE are the 10 % and 90 % quantiles."""
    strokes = [steps.before for steps in map(preprocess_steps, mnist.train_images[:1000].float() / 255) if steps]
    low, high = torch.tensor(strokes).quantile(torch.tensor([0.1, 0.9])).tolist()
    assert low == pytest.approx(MIN_STROKE, abs=0.1)
    assert high == pytest.approx(MAX_STROKE, abs=0.1)


@pytest.mark.parametrize("width", [6, 12, 18])
def test_the_stroke_width_of_a_bar_and_of_a_ring(width: int) -> None:
    bar = torch.zeros(120, 120)
    bar[:, 50 : 50 + width] = 1
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(120.0), indexing="ij")
    ring = (((y - 60) ** 2 + (x - 60) ** 2).sqrt() - 45).abs() <= width / 2
    assert stroke_width(bar) == pytest.approx(width, rel=0.15)
    assert stroke_width(ring.float()) == pytest.approx(width, rel=0.15)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_distances_are_the_minimum_over_all_pairs_of_pixels(height: int, width: int, seed: int) -> None:
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.2
    mask[0, 0] = True
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    expected = torch.cdist(places, mask.nonzero().double()).amin(1).view(height, width)
    torch.testing.assert_close(distances(mask).double(), expected, atol=1e-5, rtol=1e-5)
    assert bool(distances(torch.zeros_like(mask)).isinf().all())


def test_the_alternatives_scale_the_canvas_and_center_the_bounding_box() -> None:
    canvas = torch.zeros(280, 280)
    canvas[0:100, 180:280] = 1
    shrunken = torch.zeros(28, 28, dtype=torch.uint8)
    shrunken[0:10, 18:28] = 255
    # The edges are antialiased.
    assert float((resize_whole(canvas).float() - shrunken.float()).abs().mean()) < 2
    middle = torch.zeros(28, 28, dtype=torch.uint8)
    middle[4:24, 4:24] = 255
    boxes = center_bounding_box(canvas)
    assert boxes is not None
    assert torch.equal(boxes, middle)
    assert center_bounding_box(torch.zeros(280, 280)) is None


@given(st.integers(0, 250), st.integers(0, 250), st.integers(1, 280), st.integers(1, 280), st.floats(0.2, 1.0))
def test_any_drawing_fits_the_box_with_its_center_of_mass_in_the_middle(
    top: int, left: int, height: int, width: int, level: float
) -> None:
    canvas = torch.zeros(280, 280)
    canvas[top : top + height, left : left + width] = level
    image = preprocess(canvas)
    assert image is not None
    assert image.shape == (28, 28)
    assert image.dtype == torch.uint8
    rows, columns = (image > 0).nonzero(as_tuple=True)
    sides = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert max(sides) == 20
    mass = image.double()
    row = float((mass.sum(1) * torch.arange(28)).sum() / mass.sum())
    column = float((mass.sum(0) * torch.arange(28)).sum() / mass.sum())
    # Half a pixel, because the image is moved by whole pixels, and the rounding to 256 gray levels.
    assert abs(row - 14) <= 0.53
    assert abs(column - 14) <= 0.53


def test_mnists_centers_of_mass_are_where_preprocessing_puts_them(mnist: Dataset) -> None:
    """The centers of mass of the test images are at (14, 14), rounded to whole pixels."""
    x = mnist.test_images.double()
    row = (x.sum(2) * torch.arange(28)).sum(1) / x.sum((1, 2))
    assert float(row.mean()) == pytest.approx(14, abs=0.02)
    assert float(row.std()) == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("level", [0.0, 0.05])
def test_an_empty_canvas_gives_no_image(level: float) -> None:
    assert preprocess(torch.full((280, 280), level)) is None


def test_colors_and_transparency_become_gray() -> None:
    pixels = torch.tensor([[[255, 255, 255, 255], [0, 0, 0, 255], [255, 255, 255, 0], [255, 0, 0, 255]]])
    torch.testing.assert_close(to_grayscale(pixels.to(torch.uint8)), torch.tensor([[1.0, 0.0, 0.0, 1 / 3]]))
