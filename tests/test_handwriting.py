"""Synthetic handwriting."""

from __future__ import annotations

import itertools

import pytest
import torch

from lib.data import handwriting
from lib.data.handwriting import STYLES, Style, lift
from lib.data.outliers import BOX, PEN, POINTS
from lib.inference.predict import predict_all
from lib.storage import checkpoints


def written(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (count, 28, 28) and labels."""
    digits, labels = handwriting.handwriting(count, torch.Generator().manual_seed(seed))
    return (digits[:, 0] * 255).round().to(torch.uint8), labels


def read_right(count: int) -> list[float]:
    """Accuracy for each class, on `count` synthetic digits, of a network trained on MNIST alone."""
    network = checkpoints.network(checkpoints.load(checkpoints.FOLDER / "assignment-9274.safetensors"))
    digits, labels = written(count)
    read = torch.tensor([p.digit for p in predict_all(network, digits)])
    return [float((read[labels == digit] == digit).double().mean()) for digit in range(10)]


def test_digits_are_balanced_and_distinct_and_fit_the_box_of_mnist() -> None:
    digits, labels = written(2000)
    assert digits.shape == (2000, 28, 28)
    assert labels.dtype == torch.int64
    assert int(labels.bincount(minlength=10).min()) > 150
    assert len(torch.unique(digits.flatten(1), dim=0)) == 2000
    ink = digits > 127
    for lines in (ink.any(2), ink.any(1)):
        first, last = lines.int().argmax(1), 27 - lines.flip(1).int().argmax(1)
        assert int((last - first).max()) < BOX + 2
    # The longer side fills the box.
    sides = torch.stack([ink.any(2).sum(1), ink.any(1).sum(1)]).amax(0)
    assert int(sides.min()) > BOX - 4
    assert all(torch.equal(one, other) for one, other in zip(written(20, 5), written(20, 5), strict=True))
    assert written(0)[0].shape == (0, 28, 28)


def test_a_network_trained_on_mnist_reads_the_styles_that_mnist_has() -> None:
    """So the labels are right. It has not seen flagged ones, barred sevens, open fours and nines with tails."""
    right = read_right(3000)
    assert all(right[digit] > 0.85 for digit in (0, 2, 3, 5, 6, 8)), right
    # A third is more than chance.
    assert min(right) > 0.3, right


def test_there_are_styles_that_mnist_lacks() -> None:
    strokes = {digit: {len(style.strokes) for style in STYLES if style.digit == digit} for digit in range(10)}
    assert {1, 2} <= strokes[7]
    assert {1, 2} <= strokes[1]
    assert {1, 2} <= strokes[4]
    assert all(len(stroke) >= 2 for style in STYLES for stroke in style.strokes)


@pytest.mark.parametrize("lifted", [True, False])
@pytest.mark.parametrize("number", range(len(STYLES)))
def test_the_curve_runs_through_every_point_of_a_style(
    number: int, lifted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is ink at every point and, if the pen is not lifted, between two strokes."""
    for name in ("SCATTER", "TURN", "SLANT"):
        monkeypatch.setattr(handwriting, name, 0.0)
    for name in ("NARROWEST", "WIDEST"):
        monkeypatch.setattr(handwriting, name, 1.0)
    monkeypatch.setattr(handwriting, "UNLIFTED", 0.0 if lifted else 1.0)
    monkeypatch.setattr(handwriting, "PEN", (2.0, 2.0))
    style = STYLES[number]
    monkeypatch.setattr(handwriting, "_FIRST", torch.full((10,), number))
    monkeypatch.setattr(handwriting, "_AMONG", torch.ones(10, dtype=torch.int64))
    digits, _ = written(1)
    rows, columns = (digits[0] > 20).nonzero(as_tuple=True)
    ink = torch.stack([columns, rows], 1).double()
    low, high = ink.amin(0), ink.amax(0)
    points = torch.tensor([point for stroke in style.strokes for point in stroke], dtype=torch.float64)
    # The scale at which the points are as large as the ink.
    scale = float(((high - low).max() - 1) / (points.amax(0) - points.amin(0)).max())
    places = points * scale
    places += (ink.amin(0) + ink.amax(0)) / 2 - (places.amin(0) + places.amax(0)) / 2
    assert float(torch.cdist(places, ink).amin(1).max()) < 2.0
    joins = [
        (torch.tensor(before[-1]) + torch.tensor(after[0])).double() / 2
        for before, after in itertools.pairwise(style.strokes)
    ]
    ends = points.amin(0), points.amax(0)
    for join in joins:
        place = join * scale + (low + high) / 2 - (ends[0] + ends[1]) * scale / 2
        near = float(torch.cdist(place[None], ink).amin()) < 1.5
        assert near or lifted


def test_strokes_are_joined_only_if_the_pen_is_not_lifted() -> None:
    style = Style(4, (((0, 0), (0, 1)), ((1, 0), (1, 0.5), (1, 1))))
    points = handwriting._points(style)
    for lifted in (True, False):
        line = handwriting._weights(style, lifted) @ points
        across = (line[:, 0] > 0.1) & (line[:, 0] < 0.9)
        assert bool(across.any()) != lifted
        steps = line.diff(dim=0).norm(dim=1)
        # The points are evenly spaced, except for the jump.
        assert float(steps.sort().values[-2]) < 1.2 * float(steps.median())


def test_a_repeated_point_makes_a_sharp_corner() -> None:
    style = Style(7, (((0, 0), (1, 0), (1, 0), (1, 1)),))
    line = handwriting._weights(style, True) @ handwriting._points(style)
    assert bool(((line[:, 1].abs() < 1e-5) | ((line[:, 0] - 1).abs() < 1e-5)).all())


def test_the_pen_is_as_wide_as_for_outliers() -> None:
    digits, labels = written(200)
    ones = digits[labels == 1].double() / 255
    # At least a line of the pen's width along the box.
    assert float(ones.sum((1, 2)).min()) > 0.8 * PEN[0] * BOX * 0.9


def test_pen_digits_of_every_class_are_sampled_and_an_odd_count_is_filled() -> None:
    places, labels = handwriting._of_people(500, torch.Generator().manual_seed(0))
    assert places.shape == (500, POINTS, 2)
    assert int(labels.bincount(minlength=10).min()) > 25
    people = handwriting._people()
    digits = torch.repeat_interleave(torch.arange(10), people.among)
    assert torch.equal(people.first, torch.tensor([int((digits < digit).sum()) for digit in range(10)]))
    assert written(7)[0].shape == (7, 28, 28)


def test_pen_digits_have_the_right_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handwriting, "_styled", handwriting._of_people)
    right = read_right(3000)
    assert all(right[digit] > 0.8 for digit in (0, 2, 3, 5, 6, 8)), right
    assert min(right) > 0.3, right


def test_pen_lifts_are_found() -> None:
    top, stem = [(0.0, 0.0), (0.4, 0.0), (1.0, 0.0), (0.7, 0.5), (0.4, 1.0)], [(0.7, 0.6)]
    barred = [*top, (0.1, 0.55), *stem, (0.9, 0.55)]
    assert lift(barred, 7) == (4, 5)
    # With a point halfway between foot and bar.
    assert lift([*top, (0.2, 0.8), (0.1, 0.5), (0.9, 0.5)], 7) == (4, 6)
    plain = [(0.0, 0.0), (0.3, 0.0), (0.6, 0.0), (1.0, 0.0), (0.85, 0.25), (0.7, 0.5), (0.5, 0.8), (0.4, 1.0)]
    assert lift(plain, 7) is None
    belly = [(0.1, 0.0), (0.0, 0.4), (0.8, 0.5), (1.0, 0.8), (0.4, 1.0), (0.0, 0.9)]
    assert lift([*belly, (0.1, 0.0), (1.0, 0.0)], 5) == (5, 6)
    assert lift([(1.0, 0.0), (0.3, 0.0), *belly], 5) is None
    four = [(0.3, 0.0), (0.1, 0.3), (0.0, 0.6), (0.5, 0.6), (1.0, 0.6), (0.7, 0.2), (0.7, 0.6), (0.7, 1.0)]
    assert lift(four, 4) == (4, 5)
    assert lift(four, 9) is None


def test_there_is_no_ink_between_the_strokes_of_a_pen_digit() -> None:
    line = torch.tensor([(number / 7, 0.0) for number in range(8)])
    for before, after in ((2, 3), (4, 6), (6, 7)):
        x = (handwriting._evenly((before, after)) @ line)[:, 0]
        assert not bool(((x > line[before, 0] + 1e-4) & (x < line[after, 0] - 1e-4)).any())
        # A single last point after a lift is left out.
        assert float(x.max()) == pytest.approx(1.0 if after < 7 else 6 / 7)
    whole = (handwriting._evenly(None) @ line)[:, 0]
    assert float(whole.diff().max()) < 1.5 / POINTS


def test_a_barred_seven_needs_the_pen_lift_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a network trained on MNIST alone; with a line from foot to bar it looks like a 2."""
    monkeypatch.setattr(handwriting, "_styled", handwriting._of_people)
    shares = []
    for unlifted in (0.0, 1.0):
        monkeypatch.setattr(handwriting, "UNLIFTED", unlifted)
        shares.append(read_right(2000)[7])
    assert shares[0] > 0.6
    assert shares[1] < shares[0] - 0.2
