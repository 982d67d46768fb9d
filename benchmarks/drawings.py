"""Measure the accuracy of the shipped networks on drawings, and their confidence on images that are not digits.

    make drawings       writes benchmarks/drawings.json

The drawings are MNIST's test images redrawn with other pens, and the digits of two data sets that are not used for
training: ujipenchars2.txt and pendigits.tes, if they are in data/. The other images are letters of a printed font and
random walks of a pen. docs/benchmarks.md describes them all; docs/experiments.md says which choices they decided.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from benchmarks.environment import environment
from lib.data.dataset import FOLDER, load, parse_pen_digits
from lib.data.handwriting import PEN_DIGIT_ASPECT, catmull_rom, find_pen_lift, split_at_pen_lift
from lib.evaluation.calibration import calibrate
from lib.evaluation.proportion import accuracy_text
from lib.inference.predict import predict_all
from lib.inference.preprocess import center_bounding_box, preprocess, resize_whole, set_stroke_width, stroke_width
from lib.storage import checkpoints

RESULT = Path(__file__).parent / "drawings.json"
CANVAS, DIGITS, SCRIBBLES = 280, 2_000, 100
PENS = (4, 8, 14, 22, 30)
LETTERS = "AEFHKMNPRTVWX"
SEED = 0
PEN_DIGITS, PEN_CHARACTERS = FOLDER / "pendigits.tes", FOLDER / "ujipenchars2.txt"


def main() -> None:
    data, generator = load(), np.random.default_rng(SEED)
    drawings = [_redrawn(image.float() / 255, generator) for image in data.test_images[:DIGITS]]
    labels = data.test_labels[:DIGITS].tolist()
    ways = {
        "as MNIST was made": preprocess,
        "the canvas shrunk": resize_whole,
        "the box in the middle": center_bounding_box,
    }
    reduced = {way: torch.stack([_known(made(drawing)) for drawing in drawings]) for way, made in ways.items()}
    marks = {"letters": _letters(generator)}
    marks |= {f"scribbles of {n} stroke{'s' * (n > 1)}": _scribbles(n, generator) for n in (1, 2, 3)}
    unknown = {kind: torch.stack([_known(preprocess(mark)) for mark in some]) for kind, some in marks.items()}
    strangers = {
        f"pen digits, {'lifts put back' if lifted else 'as they are'}": _pen_digits(lifted, generator)
        for lifted in (False, True)
        if PEN_DIGITS.is_file()
    }
    if PEN_CHARACTERS.is_file():
        strangers["pen characters"] = _pen_characters(generator)
    result = {}
    for path in checkpoints.shipped():
        network = checkpoints.network(checkpoints.load(path))
        found = calibrate(network, data)
        right = {}
        for way, images in reduced.items():
            read = predict_all(network, images, found.temperature)
            right[way] = float(np.mean([p.digit == label for p, label in zip(read, labels, strict=True)]))
        read = predict_all(network, reduced["as MNIST was made"], found.temperature, found.gaussians)
        certain = float(np.mean([p.is_confident for p in read]))
        taken, by_probability = (
            {
                kind: float(
                    np.mean([p.is_confident for p in predict_all(network, images, found.temperature, gaussians)])
                )
                for kind, images in unknown.items()
            }
            for gaussians in (found.gaussians, None)
        )
        of_strangers, sure = {}, {}
        for kind, (images, names) in strangers.items():
            read = predict_all(network, images, found.temperature, found.gaussians)
            of_strangers[kind] = float(np.mean([p.digit == name for p, name in zip(read, names, strict=True)]))
            sure[kind] = float(np.mean([p.is_confident for p in read]))
        result[path.stem] = {
            "environment": environment(),
            "drawings": DIGITS,
            "strangers": {kind: len(names) for kind, (_, names) in strangers.items()},
            "marks": {kind: len(some) for kind, some in marks.items()},
            "strangers_read_right": of_strangers,
            "certain_of_strangers": sure,
            "read_right": right,
            "certain_of_drawings": certain,
            "certain_of_marks": taken,
            "certain_of_marks_by_probability_alone": by_probability,
            "temperature": found.temperature,
            "calibration_error_before": found.error_before,
            "calibration_error_after": found.error_after,
        }
        best = right["as MNIST was made"]
        print(
            f"{path.stem}: reads {accuracy_text(best, DIGITS)} of {DIGITS:,} drawings "
            f"({right['the canvas shrunk']:.1%} shrunk, {right['the box in the middle']:.1%} box in the middle), "
            f"is certain of {certain:.1%}; certain of "
            + ", ".join(
                f"{share:.0%} of {len(marks[kind])} {kind} (by its probability alone {by_probability[kind]:.0%})"
                for kind, share in taken.items()
            )
            + f"; calibration error {found.error_before:.2%} before, {found.error_after:.2%} after"
            + "".join(
                f"; reads {accuracy_text(share, len(strangers[kind][1]))} of "
                f"{len(strangers[kind][1]):,} {kind}, is certain of {sure[kind]:.1%}"
                for kind, share in of_strangers.items()
            ),
            flush=True,
        )
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _known(image: Tensor | None) -> Tensor:
    assert image is not None
    return image


def _redrawn(digit: Tensor, generator: np.random.Generator) -> Tensor:
    """Redraw a digit (28, 28) with a random pen, size and position: (CANVAS, CANVAS), 0 to 1."""
    size, pen = int(generator.integers(70, 230)), float(generator.choice(PENS))
    large = F.interpolate(digit[None, None], size=(size, size), mode="bicubic")[0, 0].clamp(0, 1)
    # A stroke wider than a fifth of the digit would be unreadable; thinner than half of its ink, it would break.
    drawn = set_stroke_width(large, max(min(pen, size / 5), stroke_width(large) / 2))
    canvas = torch.zeros(CANVAS, CANVAS)
    height, width = (min(side, CANVAS) for side in drawn.shape)
    top, left = (int(generator.integers(0, CANVAS - side + 1)) for side in (height, width))
    canvas[top : top + height, left : left + width] = drawn[:height, :width]
    return canvas


def _letters(generator: np.random.Generator) -> list[Tensor]:
    found = []
    for letter in LETTERS:
        for size in (90, 140, 200):
            page = Image.new("L", (CANVAS, CANVAS))
            place = tuple(float(n) for n in generator.uniform(0, 60, 2))
            ImageDraw.Draw(page).text((place[0], place[1]), letter, fill=255, font=ImageFont.load_default(size))
            found.append(torch.from_numpy(np.array(page)).float() / 255)
    return found


def _pen_digits(lifted: bool, generator: np.random.Generator) -> tuple[Tensor, list[int]]:
    """Preprocessed drawings, uint8 (N, 28, 28), and their labels."""
    digits, names = parse_pen_digits(PEN_DIGITS.read_text(encoding="ascii"))
    found = []
    for points, name in zip(digits, names.tolist(), strict=True):
        pen_lift = find_pen_lift(points.tolist(), name) if lifted else None
        ways = [catmull_rom(stroke).numpy() * (PEN_DIGIT_ASPECT, 1) for stroke in split_at_pen_lift(points, pen_lift)]
        found.append(_reduced(ways, generator))
    return torch.stack(found), names.tolist()


def _pen_characters(generator: np.random.Generator) -> tuple[Tensor, list[int]]:
    """Like `_pen_digits`, from the UJI file.

    For each character the file has a line WORD with the character and its writer, a line NUMSTROKES, and a line POINTS
    for each stroke, with its points after a #, y down.
    """
    found: list[Tensor] = []
    names: list[int] = []
    name, ways = "", list[NDArray[np.float64]]()
    for line in [*PEN_CHARACTERS.read_text(encoding="utf-8").splitlines(), "WORD"]:
        match line.split():
            case ["WORD", *word]:
                if ways:
                    found.append(_reduced(ways, generator))
                name, ways = word[0] if word else "", []
                if name.isdecimal():
                    names.append(int(name))
            case ["POINTS", _, "#", *numbers] if name.isdecimal():
                points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
                # A resting pen repeats the same point.
                moved = np.append(True, (np.diff(points, axis=0) != 0).any(1))
                stroke = torch.from_numpy(points[moved])
                ways.append((catmull_rom(stroke) if len(stroke) > 1 else stroke).numpy())
    return torch.stack(found), names


def _reduced(ways: list[NDArray[np.float64]], generator: np.random.Generator) -> Tensor:
    """Draw strokes, in any unit, with a random pen, size and position, and preprocess them: uint8 (28, 28)."""
    every = np.concatenate(ways)
    scale = int(generator.integers(70, 230)) / float(np.ptp(every, axis=0).max())
    size = np.ptp(every, axis=0) * scale
    pen = min(float(generator.choice(PENS)), float(size.max()) / 6)
    corner = generator.uniform(pen, np.maximum(CANVAS - pen - size, pen))
    page = Image.new("L", (CANVAS, CANVAS))
    for way in ways:
        _draw(page, (way - every.min(0)) * scale + corner, pen)
    return _known(preprocess(torch.from_numpy(np.array(page)).float() / 255))


def _draw(page: Image.Image, way: NDArray[np.float64], pen: float) -> None:
    """Draw a stroke with round ends."""
    brush, places = ImageDraw.Draw(page), [(float(x), float(y)) for x, y in way]
    brush.line(places, fill=255, width=round(pen), joint="curve")
    for x, y in places:
        brush.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)


def _scribbles(strokes: int, generator: np.random.Generator) -> list[Tensor]:
    found = []
    for _ in range(SCRIBBLES):
        page = Image.new("L", (CANVAS, CANVAS))
        pen = ImageDraw.Draw(page)
        for _ in range(strokes):
            place, speed = generator.uniform(40, 240, 2), generator.normal(0, 12, 2)
            points = []
            for _ in range(generator.integers(20, 60)):
                speed = 0.8 * speed + generator.normal(0, 9, 2)
                place = np.clip(place + speed, 20, 260)
                points.append((float(place[0]), float(place[1])))
            pen.line(points, fill=255, width=int(generator.choice((8, 14, 22))), joint="curve")
        found.append(torch.from_numpy(np.array(page)).float() / 255)
    return found


if __name__ == "__main__":
    main()
