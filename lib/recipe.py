"""The training recipe as data: optimiser, schedule, batch, epochs, augmentation, seed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

Optimiser: TypeAlias = Literal["SGD", "Adam", "AdamW"]
Schedule: TypeAlias = Literal["constant", "one-cycle"]
OPTIMISERS: tuple[str, ...] = get_args(Optimiser)
SCHEDULES: tuple[str, ...] = get_args(Schedule)

MAX_EPOCHS = 100
MAX_BATCH_SIZE = 4096
MAX_LEARNING_RATE = 10.0


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


def _plain(value: float) -> str:
    """Without an exponent, where a reader can still count the digits."""
    return f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1e12 else f"{value:g}"


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecipeError(f"The {name} must be a whole number.")
    if not low <= value <= high:
        raise RecipeError(f"The {name} must be from {low} to {high}; {value} is outside.")


@dataclass(frozen=True)
class Augmentation:
    """A random affine map for each image: rotation in degrees, shift and zoom as fractions, each up to +- its value."""

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0

    @property
    def active(self) -> bool:
        return any((self.rotation, self.shift, self.zoom))


@dataclass(frozen=True)
class Recipe:
    """How to train. `learning_rate` is the peak of a one-cycle schedule; SGD uses Nesterov momentum 0.9."""

    optimiser: Optimiser = "AdamW"
    learning_rate: float = 0.02
    schedule: Schedule = "one-cycle"
    epochs: int = 3
    batch_size: int = 128
    weight_decay: float = 0.01
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("optimiser", self.optimiser, OPTIMISERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _number("learning rate", self.learning_rate, 1e-6, MAX_LEARNING_RATE)
        _number("weight decay", self.weight_decay, 0, 1)
        _whole("number of epochs", self.epochs, 1, MAX_EPOCHS)
        _whole("batch size", self.batch_size, 1, MAX_BATCH_SIZE)
        _whole("seed", self.seed, 0, 2**31 - 1)
        if not isinstance(self.augmentation, Augmentation):
            raise RecipeError("The augmentation must name rotation, shift and zoom.")
        _number("rotation", self.augmentation.rotation, 0, 180)
        _number("shift", self.augmentation.shift, 0, 0.5)
        _number("zoom", self.augmentation.zoom, 0, 0.5)


@dataclass(frozen=True)
class RecipePreset:
    title: str
    recipe: Recipe
    story: str


RECIPES = (
    RecipePreset("Quick", Recipe(), "AdamW, one-cycle, 3 epochs: a good network while the class watches."),
    RecipePreset("One epoch", Recipe(epochs=1), "One pass over the 60,000 images: the shortest honest training."),
    RecipePreset(
        "Thorough",
        Recipe("SGD", 0.2, "one-cycle", 19, 128, 5e-4, Augmentation(10, 0.07, 0.1)),
        "SGD with Nesterov momentum, one-cycle, 19 epochs, every image turned, shifted and zoomed a little.",
    ),
    RecipePreset(
        "Plain Adam",
        Recipe("Adam", 0.001, "constant", 5, 128, 0.0),
        "Adam at a constant 0.001: what most notebooks start with.",
    ),
)


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
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError("The recipe is not one that Receptive wrote.") from error
