"""The reduction of a drawing, held to MNIST itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lib import checkpoints
from lib.dataset import Dataset
from lib.digits import ink, predict, reduce
from lib.training import evaluate
from tests.drawings import SEVEN, drawn


def enlarged(image: Tensor, size: int, top: int, left: int) -> Tensor:
    """A digit of MNIST drawn `size` pixels tall and wide, somewhere on a canvas of 280."""
    big = F.interpolate(image[None, None].float() / 255, size=(size, size), mode="bicubic")[0, 0].clamp(0, 1)
    canvas = torch.zeros(280, 280)
    canvas[top : top + size, left : left + size] = big
    return canvas


def test_mnists_own_digits_come_back_from_a_canvas(mnist: Dataset) -> None:
    """Drawn large, small and off centre, a digit of the test set is reduced to nearly its own 28x28."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for image in mnist.test_images[:200]:
        size = int(torch.randint(140, 281, (), generator=generator))
        top, left = (int(torch.randint(0, 281 - size, (), generator=generator)) for _ in range(2))
        reduced = reduce(enlarged(image, size, top, left))
        assert reduced is not None
        differences.append(float((reduced.float() - image.float()).abs().mean()))
    # Of 255; an image shifted by one pixel differs by 20 or so.
    assert sum(differences) / len(differences) < 8


def test_the_shipped_network_reads_reduced_digits_as_well_as_the_originals(mnist: Dataset) -> None:
    network = checkpoints.network(checkpoints.load(checkpoints.FOLDER / "assignment-9274.safetensors"))
    images, labels = mnist.test_images[:1000], mnist.test_labels[:1000]
    reduced = [reduce(enlarged(image, 250, 10, 20)) for image in images]
    assert all(image is not None for image in reduced)
    stacked = torch.stack([image for image in reduced if image is not None])
    assert evaluate(network, stacked, labels) >= evaluate(network, images, labels) - 0.005


def test_place_and_size_on_the_canvas_do_not_matter() -> None:
    large = reduce(drawn(SEVEN, scale=1.0, left=40, top=30, width=22))
    small = reduce(drawn(SEVEN, scale=0.5, left=150, top=140, width=11))
    assert large is not None
    assert small is not None
    assert float((large.float() - small.float()).abs().mean()) < 6


def test_a_thin_stroke_is_averaged_and_not_dropped() -> None:
    """One pixel wide at ten times the size: the drawing's ink is left, whatever column it stands in."""
    for column in range(100, 110):
        canvas = torch.zeros(280, 280)
        canvas[40:240, column] = 1
        canvas[40, 90:190] = 1
        image = reduce(canvas)
        assert image is not None
        assert float(image.sum()) / 255 == pytest.approx(float(canvas.sum()) / 100, rel=0.2)


@given(st.integers(0, 250), st.integers(0, 250), st.integers(1, 280), st.integers(1, 280), st.floats(0.2, 1.0))
def test_any_mark_fits_the_box_and_is_centred_as_mnists(
    top: int, left: int, height: int, width: int, level: float
) -> None:
    canvas = torch.zeros(280, 280)
    canvas[top : top + height, left : left + width] = level
    image = reduce(canvas)
    assert image is not None
    assert image.shape == (28, 28)
    assert image.dtype == torch.uint8
    rows, columns = (image > 0).nonzero(as_tuple=True)
    sides = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert max(sides) == 20
    mass = image.double()
    row = float((mass.sum(1) * torch.arange(28)).sum() / mass.sum())
    column = float((mass.sum(0) * torch.arange(28)).sum() / mass.sum())
    # Half a pixel, the image being moved by whole ones, and what rounding to 256 greys adds.
    assert abs(row - 14) <= 0.53
    assert abs(column - 14) <= 0.53


def test_mnist_is_centred_where_the_reduction_puts_it(mnist: Dataset) -> None:
    """The source of the claim above: the test images' own centres of mass are at 14, 14, rounded to whole pixels."""
    x = mnist.test_images.double()
    row = (x.sum(2) * torch.arange(28)).sum(1) / x.sum((1, 2))
    assert float(row.mean()) == pytest.approx(14, abs=0.02)
    assert float(row.std()) == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("level", [0.0, 0.05])
def test_an_empty_canvas_is_no_digit(level: float) -> None:
    assert reduce(torch.full((280, 280), level)) is None


def test_ink_reads_colour_and_transparency() -> None:
    pixels = torch.tensor([[[255, 255, 255, 255], [0, 0, 0, 255], [255, 255, 255, 0], [255, 0, 0, 255]]])
    torch.testing.assert_close(ink(pixels.to(torch.uint8)), torch.tensor([[1.0, 0.0, 0.0, 1 / 3]]))


def test_prediction_is_a_softmax(mnist: Dataset) -> None:
    network = checkpoints.network(checkpoints.load(checkpoints.FOLDER / "assignment-9274.safetensors"))
    prediction = predict(network, mnist.test_images[0])
    assert prediction.digit == int(mnist.test_labels[0]) == 7
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert prediction.confidence == max(prediction.probabilities) > 0.9
