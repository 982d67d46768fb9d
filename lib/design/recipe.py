"""The training recipe as data: optimizer, schedule, batch size, epochs, augmentation, validation set, seed.

`learning_rate` says what a recipe's schedule asks for at any step; it needs nothing but the losses seen so far, so a
run that goes on from a checkpoint takes up its schedule where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

Optimiser: TypeAlias = Literal["SGD", "Adam", "AdamW"]
Schedule: TypeAlias = Literal["constant", "step", "plateau", "one-cycle"]
Validation: TypeAlias = Literal["test", "held-out"]
OPTIMISERS: tuple[str, ...] = get_args(Optimiser)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
VALIDATIONS: tuple[str, ...] = get_args(Validation)

MAX_EPOCHS = 100
MAX_BATCH_SIZE = 4096
MAX_LEARNING_RATE = 10.0
# One-cycle: it rises for this part of all steps, from the peak over RISE to the peak, and ends at the start over FALL
# (Smith and Topin, "Super-Convergence", 2017; the numbers are those of torch's OneCycleLR).
RISING, RISE, FALL = 0.3, 25.0, 1e4
# A loss is better than the best one if it is lower by this part of it.
PLATEAU_THRESHOLD = 1e-4


class RecipeError(ValueError):
    """A recipe that cannot be trained. The message says which value is wrong and what is allowed."""


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecipeError(f"The {name} must be one of {', '.join(allowed)}.")


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(f"The {name} must be a number.")
    if not low <= value <= high:
        raise RecipeError(f"The {name} must be from {_plain(low)} to {_plain(high)}; {_plain(value)} is outside.")


def _plain(value: float | str) -> str:
    """A number without an exponent, where a reader can still count the digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1e12 else f"{value:g}"


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecipeError(f"The {name} must be a whole number.")
    if not low <= value <= high:
        raise RecipeError(f"The {name} must be from {low} to {high}; {value} is outside.")


@dataclass(frozen=True)
class Augmentation:
    """A random affine map for each image: rotation and shear in degrees, shift and zoom as fractions, each up to +- its
    value; and a stroke thicker or thinner by up to `stroke` pixels at each edge.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    stroke: float = 0.0

    @property
    def active(self) -> bool:
        return any(astuple(self))


@dataclass(frozen=True)
class Recipe:
    """How to train. SGD uses Nesterov momentum 0.9.

    `learning_rate` is the peak of a one-cycle schedule and the start of the others. `drop` is what "step" and "plateau"
    multiply it by: "step" after every `patience` epochs, "plateau" when the validation loss has not fallen for more
    than `patience` epochs. `validation` names the images that every epoch is measured on: the 10,000 of the test set,
    or 5,000 of the training set, which are then not trained on. In the last `clean_epochs` the images are not
    augmented. For each image of a batch, `written` synthetic digits (lib/data/handwriting.py) are shown, and `marks`
    outliers that are no digit (lib/data/outliers.py), whose target is the uniform distribution.
    """

    optimiser: Optimiser = "AdamW"
    learning_rate: float = 0.02
    schedule: Schedule = "one-cycle"
    epochs: int = 5
    batch_size: int = 128
    weight_decay: float = 0.01
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    label_smoothing: float = 0.0
    drop: float = 0.1
    patience: int = 3
    validation: Validation = "test"
    clean_epochs: int = 0
    marks: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        _choice("optimiser", self.optimiser, OPTIMISERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("validation", self.validation, VALIDATIONS)
        _number("learning rate", self.learning_rate, 1e-6, MAX_LEARNING_RATE)
        _number("weight decay", self.weight_decay, 0, 1)
        _number("label smoothing", self.label_smoothing, 0, 0.9)
        _number("share of marks", self.marks, 0, 1)
        _number("share of written digits", self.written, 0, 1)
        _number("drop", self.drop, 0.001, 1)
        _whole("number of epochs", self.epochs, 1, MAX_EPOCHS)
        _whole("batch size", self.batch_size, 1, MAX_BATCH_SIZE)
        _whole("patience", self.patience, 1, MAX_EPOCHS)
        _whole("number of clean epochs", self.clean_epochs, 0, MAX_EPOCHS)
        _whole("seed", self.seed, 0, 2**31 - 1)
        if not isinstance(self.augmentation, Augmentation):
            raise RecipeError("The augmentation must name rotation, shift, zoom, shear and stroke.")
        _number("rotation", self.augmentation.rotation, 0, 180)
        _number("shift", self.augmentation.shift, 0, 0.5)
        _number("zoom", self.augmentation.zoom, 0, 0.5)
        _number("shear", self.augmentation.shear, 0, 45)
        _number("stroke", self.augmentation.stroke, 0, 1)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, losses: Sequence[float] = ()) -> float:
    """What the schedule asks for in `step`, counted from 0; `losses` are those of the epochs measured before it."""
    peak = recipe.learning_rate
    match recipe.schedule:
        case "constant":
            return peak
        case "step":
            return peak * recipe.drop ** (step // steps_per_epoch // recipe.patience)
        case "plateau":
            return peak * recipe.drop ** _plateaus(losses, recipe.patience)
        case "one-cycle":
            steps = steps_per_epoch * recipe.epochs
            # One step more than there are, as if the schedule were also asked after the last batch.
            turn = RISING * (steps + 1) - 1
            if step <= turn:
                return _cosine(peak / RISE, peak, step / turn)
            return _cosine(peak, peak / RISE / FALL, (step - turn) / (steps - turn))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """How often the loss has stood still, as torch's ReduceLROnPlateau counts."""
    best, waited, plateaus = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - PLATEAU_THRESHOLD):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


@dataclass(frozen=True)
class RecipePreset:
    """A way to train; with a `network`, in the notation, where it is told of that one alone."""

    title: str
    recipe: Recipe
    story: str
    network: str | None = None


_ASSIGNMENT = Recipe("Adam", 0.001, "plateau", 19, 128, 0.0)
RECIPES = (
    RecipePreset(
        "Quick",
        Recipe("AdamW", 0.015, "one-cycle", 5, 64, 0.01, Augmentation(5, 0.04, 0.04), clean_epochs=1),
        "AdamW, one-cycle, 5 epochs, every image moved a little but in the last: good while the class watches.",
    ),
    RecipePreset("One epoch", Recipe(epochs=1), "One pass over the 60,000 images: the shortest honest training."),
    RecipePreset(
        "Thorough",
        Recipe("AdamW", 0.02, "one-cycle", 19, 128, 0.01, Augmentation(10, 0.07, 0.1)),
        "AdamW, one-cycle, 19 epochs, every image turned, shifted and zoomed a little.",
    ),
    RecipePreset(
        "Thorough, small network",
        Recipe("AdamW", 0.02, "one-cycle", 19, 128, 0.01, Augmentation(7, 0.04, 0.05)),
        "As Thorough, with milder augmentation: a small network has no room to learn what it will not meet.",
    ),
    RecipePreset(
        "For drawings",
        Recipe(
            "AdamW",
            0.015,
            "one-cycle",
            15,
            128,
            0.02,
            Augmentation(12, 0.05, 0.12, 15, 0.4),
            marks=0.4,
            written=0.8,
        ),
        "Strokes of any thickness and slant, digits in other hands, letters and scribbles to be unsure of. All that "
        "takes more parameters than the exercise allows.",
        "8 16 M 32 32 M 64v 10v A",
    ),
    RecipePreset(
        "The assignment",
        _ASSIGNMENT,
        "Adam at 0.001, a tenth of that once the loss stands still, 19 epochs: the course exercise's own recipe.",
        "4 4 8 M 12 12 16 M 20v 10v A",
    ),
    RecipePreset(
        "No scheduler",
        replace(_ASSIGNMENT, schedule="constant"),
        "The assignment's recipe with its learning rate left at 0.001 throughout: what the schedule is worth.",
        "4 4 8 M 12 12 16 M 20v 10v A",
    ),
    RecipePreset(
        "No batch norm",
        _ASSIGNMENT,
        "The assignment's recipe and its network without batch norm: what the norm is worth.",
        "4n 4n 8n M 12n 12n 16n M 20vn 10v A",
    ),
)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What a reader would call the changes from one recipe to the other: "learning rate 0.02 → 0.1"."""
    before, after = _flat(old), _flat(new)
    return [f"{name} {_plain(before[name])} → {_plain(after[name])}" for name in before if before[name] != after[name]]


def _flat(recipe: Recipe) -> dict[str, Any]:
    values = asdict(recipe)
    augmentation = values.pop("augmentation")
    return {name.replace("_", " "): value for name, value in {**values, **augmentation}.items()}


def to_json(recipe: Recipe) -> str:
    """A JSON object with one key a field; `from_json` reads it back."""
    return json.dumps(asdict(recipe), sort_keys=True)


def from_json(text: str) -> Recipe:
    """Read a recipe. Raises RecipeError for anything that `to_json` does not write."""
    try:
        values: dict[str, Any] = json.loads(text)
        unknown = set(values) - {f.name for f in fields(Recipe)}
        if unknown:
            raise RecipeError(f"The recipe has unknown entries: {', '.join(sorted(unknown))}.")
        return Recipe(**{**values, "augmentation": Augmentation(**values.get("augmentation", {}))})
    except RecipeError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RecipeError("The recipe is not one that Receptive wrote.") from error
