"""The training recipe as data: optimizer, schedule, batch size, epochs, augmentation, validation set, seed.

`learning_rate` says what a recipe's schedule asks for at any step; it needs nothing but the losses seen so far, so a
run that goes on from a checkpoint takes up its schedule where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

Optimizer: TypeAlias = Literal["SGD", "Adam", "AdamW"]
Schedule: TypeAlias = Literal["constant", "step", "plateau", "one-cycle"]
Validation: TypeAlias = Literal["test", "held-out"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Schedule)
VALIDATIONS: tuple[str, ...] = get_args(Validation)

MAX_EPOCHS = 100
MAX_BATCH_SIZE = 4096
MAX_LEARNING_RATE = 10.0
# One-cycle: the learning rate rises for PCT_START of all steps, from peak / DIV_FACTOR to the peak, and ends at
# start / FINAL_DIV_FACTOR (Smith and Topin, "Super-Convergence", 2017; names and values as in torch's OneCycleLR).
PCT_START, DIV_FACTOR, FINAL_DIV_FACTOR = 0.3, 25.0, 1e4
# A loss is better than the best one if it is lower by this part of it.
PLATEAU_THRESHOLD = 1e-4


class RecipeError(ValueError):
    """A recipe that cannot be trained. The message says which value is wrong and what is allowed."""


@dataclass(frozen=True)
class FieldSpec:
    """One field of a recipe: what its values are, how it is stored, and how the form shows it.

    - `key`: in the URL, and of the widget. `json_key`: in files and in JSON. Both stay when a field is renamed in code.
    - `noun`: in sentences. `label`, `help`, `step`: of the widget.
    - `low`, `high`: limits of a number. `choices`: the values of a text, and the titles under which they are offered.
    - `schedules`: the schedules that use the field; all if empty.
    - `is_augmentation`: whether it is about the images rather than about the optimization.
    """

    name: str
    key: str
    json_key: str
    noun: str
    label: str
    help: str | None
    kind: type
    default: Any
    low: float = -math.inf
    high: float = math.inf
    step: float = 1
    choices: Mapping[str, str] = field(default_factory=dict)
    schedules: tuple[str, ...] = ()
    is_augmentation: bool = False
    in_augmentation: bool = False

    def get(self, recipe: Recipe) -> Any:
        return getattr(recipe.augmentation if self.in_augmentation else recipe, self.name)

    def check(self, value: object) -> None:
        """Raise RecipeError if the value is not allowed."""
        if self.choices:
            if value not in self.choices:
                raise RecipeError(f"The {self.noun} must be one of {', '.join(self.choices)}.")
            return
        if self.kind is int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise RecipeError(f"The {self.noun} must be a whole number.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecipeError(f"The {self.noun} must be a number.")
        if not self.low <= value <= self.high:
            low, high = (number_text(self.kind(limit)) for limit in (self.low, self.high))
            raise RecipeError(f"The {self.noun} must be from {low} to {high}; {number_text(value)} is outside.")


def number_text(value: float | str) -> str:
    """A number without an exponent as long as its digits can be counted; a text unchanged."""
    if isinstance(value, str):
        return value
    return f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1e12 else f"{value:g}"


def _choice(titles: Mapping[str, str] | Sequence[str], **spec: Any) -> dict[str, Any]:
    return {"choices": titles if isinstance(titles, Mapping) else dict(zip(titles, titles, strict=True)), **spec}


def _number(low: float, high: float, step: float, **spec: Any) -> dict[str, Any]:
    return {"low": low, "high": high, "step": step, **spec}


def _specs(data_class: type, **common: Any) -> tuple[FieldSpec, ...]:
    """The specs of a dataclass from the metadata of its fields; what a field does not say follows from its name."""
    return tuple(
        FieldSpec(
            **{
                "name": f.name,
                "key": f.name,
                "json_key": f.name,
                "noun": f.name.replace("_", " "),
                "label": f.name.replace("_", " ").capitalize(),
                "help": None,
                "kind": type(f.default),
                "default": f.default,
                **common,
                **f.metadata,
            }
        )
        for f in fields(data_class)
        if f.metadata
    )


@dataclass(frozen=True)
class Augmentation:
    """A random affine map for each image, and a random change of the stroke width; each up to ± its value."""

    rotation: float = field(default=0.0, metadata=_number(0, 180, 1.0, label="Rotation, ± degrees"))
    shift: float = field(default=0.0, metadata=_number(0, 0.5, 0.01, label="Shift, ± fraction"))
    zoom: float = field(default=0.0, metadata=_number(0, 0.5, 0.01, label="Zoom, ± fraction"))
    shear: float = field(default=0.0, metadata=_number(0, 45, 1.0, label="Shear, ± degrees"))
    stroke: float = field(
        default=0.0, metadata=_number(0, 1, 0.1, label="Stroke, ± pixels", help="At each edge of a stroke.")
    )

    @property
    def active(self) -> bool:
        return any(astuple(self))


@dataclass(frozen=True)
class Recipe:
    """How to train. SGD uses Nesterov momentum 0.9.

    - `learning_rate`: the peak of a one-cycle schedule, the start of the others.
    - `gamma`: factor of the learning rate, for "step" after every `patience` epochs, for "plateau" when the validation
      loss has not improved for more than `patience` epochs.
    - `validation`: the images that every epoch is measured on, the 10,000 of the test set or 5,000 of the training set,
      which are then not trained on.
    - `unaugmented_epochs`: number of last epochs without augmentation.
    - `outlier_ratio`, `synthetic_ratio`: outliers (`lib/data/outliers.py`), whose target is the uniform distribution,
      and synthetic digits (`lib/data/handwriting.py`) added for each image of a batch.
    """

    optimizer: Optimizer = field(
        default="AdamW",
        metadata=_choice(
            OPTIMIZERS,
            key="optimiser",
            json_key="optimiser",
            help="How a gradient becomes a step. SGD follows it, with momentum. Adam divides the gradient of each "
            "weight by its usual size. AdamW also pulls the weights towards 0.",
        ),
    )
    learning_rate: float = field(
        default=0.02,
        metadata=_number(
            1e-6, MAX_LEARNING_RATE, 0.001, help="The peak of a one-cycle schedule, the start of the others."
        ),
    )
    schedule: Schedule = field(
        default="one-cycle",
        metadata=_choice(
            SCHEDULES,
            help="How the learning rate changes: not at all (constant), by a factor every few epochs (step) or when "
            "the validation loss stops falling (plateau), or up to a peak and down to almost 0 (one-cycle).",
        ),
    )
    epochs: int = field(
        default=5, metadata=_number(1, MAX_EPOCHS, 1, noun="number of epochs", help="One epoch shows every image once.")
    )
    batch_size: int = field(default=128, metadata=_number(1, MAX_BATCH_SIZE, 1, help="Images in each step."))
    weight_decay: float = field(default=0.01, metadata=_number(0, 1, 0.001))
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = field(default=0, metadata=_number(0, 2**31 - 1, 1, help="The same seed gives the same run."))
    label_smoothing: float = field(
        default=0.0,
        metadata=_number(
            0,
            0.9,
            0.01,
            key="smoothing",
            help="The part of the target probability that is spread over all ten digits. It increases the training "
            "loss.",
        ),
    )
    gamma: float = field(
        default=0.1,
        metadata=_number(
            0.001,
            1,
            0.1,
            key="drop",
            json_key="drop",
            noun="decay factor",
            label="Decay factor (gamma)",
            schedules=("step", "plateau"),
            help="For the schedules “step” and “plateau”: the learning rate is multiplied by this.",
        ),
    )
    patience: int = field(
        default=3,
        metadata=_number(
            1,
            MAX_EPOCHS,
            1,
            label="Patience, epochs",
            schedules=("step", "plateau"),
            help="“step” lowers the learning rate each time after this number of epochs, “plateau” when the "
            "validation loss has not improved for more epochs than this.",
        ),
    )
    validation: Validation = field(
        default="test",
        metadata=_choice(
            {"test": "The 10,000 test images", "held-out": "5,000 held out of training"},
            label="Validation set",
            help="The exercise measures every epoch on the test images. To choose the best epoch by them makes its "
            "accuracy look better than it is. Held-out images keep the test images for the end.",
        ),
    )
    unaugmented_epochs: int = field(
        default=0,
        metadata=_number(
            0,
            MAX_EPOCHS,
            1,
            key="clean",
            json_key="clean_epochs",
            noun="number of final epochs without augmentation",
            label="Final epochs without augmentation",
            is_augmentation=True,
            help="In the last epochs the network sees the images as they are, like those that it will be measured on.",
        ),
    )
    outlier_ratio: float = field(
        default=0.0,
        metadata=_number(
            0,
            1,
            0.1,
            key="marks",
            json_key="marks",
            label="Non-digit outliers",
            is_augmentation=True,
            help="Letters and scribbles for each MNIST image, for which the network learns to give all ten digits the "
            "same probability. It then reports unknown marks as uncertain.",
        ),
    )
    synthetic_ratio: float = field(
        default=0.0,
        metadata=_number(
            0,
            1,
            0.1,
            key="written",
            json_key="written",
            label="Synthetic digits",
            is_augmentation=True,
            help="Pen-drawn digits for each MNIST image: a 7 with a bar, a 1 with a flag and a foot, an open 4, which "
            "are rare in MNIST. Half are generated, half were written by thirty people in Turkey on a tablet.",
        ),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.augmentation, Augmentation):
            raise RecipeError("The augmentation must name rotation, shift, zoom, shear and stroke.")
        for spec in FIELDS:
            spec.check(spec.get(self))


_AUGMENTATION_FIELDS = _specs(Augmentation, is_augmentation=True, in_augmentation=True)
FIELDS = _specs(Recipe) + _AUGMENTATION_FIELDS


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The value of each field by its key; `recipe_from_values` makes the recipe again."""
    return {spec.key: spec.get(recipe) for spec in FIELDS}


def recipe_from_values(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the given values by key. Raises RecipeError for values that are not allowed."""
    augmentation = Augmentation(**{spec.name: values[spec.key] for spec in _AUGMENTATION_FIELDS})
    own = {spec.name: values[spec.key] for spec in FIELDS if not spec.in_augmentation}
    return Recipe(**own, augmentation=augmentation)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, losses: Sequence[float] = ()) -> float:
    """Return the learning rate of `step`, from 0; `losses` are the validation losses of the epochs before it."""
    peak = recipe.learning_rate
    match recipe.schedule:
        case "constant":
            return peak
        case "step":
            return peak * recipe.gamma ** (step // steps_per_epoch // recipe.patience)
        case "plateau":
            return peak * recipe.gamma ** _plateaus(losses, recipe.patience)
        case "one-cycle":
            steps = steps_per_epoch * recipe.epochs
            # torch's OneCycleLR counts one step more, because it is advanced after the last batch too.
            turn = PCT_START * (steps + 1) - 1
            if step <= turn:
                return _cosine(peak / DIV_FACTOR, peak, step / turn)
            return _cosine(peak, peak / DIV_FACTOR / FINAL_DIV_FACTOR, (step - turn) / (steps - turn))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """Return the number of plateaus of the loss, as torch's ReduceLROnPlateau counts them."""
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
    """A named recipe; if `network` (notation) is given, the preset is meant for that network only."""

    title: str
    recipe: Recipe
    description: str
    network: str | None = None


_ASSIGNMENT = Recipe("Adam", 0.001, "plateau", 19, 128, 0.0)
RECIPES = (
    RecipePreset(
        "Quick",
        Recipe("AdamW", 0.015, "one-cycle", 5, 64, 0.01, Augmentation(5, 0.04, 0.04), unaugmented_epochs=1),
        "AdamW, one-cycle, 5 epochs, augmentation in all but the last: fast enough to watch in class.",
    ),
    RecipePreset("One epoch", Recipe(epochs=1), "One pass over the 60,000 images: the shortest complete training."),
    RecipePreset(
        "Three epochs",
        Recipe("AdamW", 0.01, "one-cycle", 3, 32, 0.01, Augmentation(5, 0.04, 0.04), unaugmented_epochs=1),
        "Like Quick, in 3 epochs with batches of half the size: more steps, on fewer images.",
    ),
    RecipePreset(
        "Thorough",
        Recipe("AdamW", 0.02, "one-cycle", 19, 128, 0.01, Augmentation(10, 0.07, 0.1)),
        "AdamW, one-cycle, 19 epochs, every image rotated, shifted and scaled slightly.",
    ),
    RecipePreset(
        "Thorough, small network",
        Recipe("AdamW", 0.02, "one-cycle", 19, 128, 0.01, Augmentation(7, 0.04, 0.05)),
        "Like Thorough, with weaker augmentation: a small network cannot also learn distortions that do not occur.",
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
            outlier_ratio=0.4,
            synthetic_ratio=0.8,
        ),
        "Strokes of any width and slant, synthetic digits, and letters and scribbles as outliers. This takes more "
        "parameters than the exercise allows.",
        "8 16 M 32 32 M 64v 10v A",
    ),
    RecipePreset(
        "The assignment",
        _ASSIGNMENT,
        "Adam at 0.001, a tenth of that when the loss no longer improves, 19 epochs: the recipe of the exercise.",
        "4 4 8 M 12 12 16 M 20v 10v A",
    ),
    RecipePreset(
        "No scheduler",
        replace(_ASSIGNMENT, schedule="constant"),
        "The assignment's recipe with a constant learning rate of 0.001, to show what the schedule contributes.",
        "4 4 8 M 12 12 16 M 20v 10v A",
    ),
    RecipePreset(
        "No batch norm",
        _ASSIGNMENT,
        "The assignment's recipe and its network without batch norm, to show what the norm contributes.",
        "4n 4n 8n M 12n 12n 16n M 20vn 10v A",
    ),
)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return the changes from one recipe to another, such as "learning rate 0.02 → 0.1"."""
    changed = [(spec.noun, spec.get(old), spec.get(new)) for spec in FIELDS if spec.get(old) != spec.get(new)]
    return [f"{noun} {number_text(before)} → {number_text(after)}" for noun, before, after in changed]


def to_json(recipe: Recipe) -> str:
    """Return the recipe as a JSON object with one key for each field; `from_json` is the inverse."""
    return json.dumps(json_values(recipe), sort_keys=True)


def json_values(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as a dict with the keys of its JSON form."""
    values = {spec.json_key: spec.get(recipe) for spec in FIELDS if not spec.in_augmentation}
    return {**values, "augmentation": asdict(recipe.augmentation)}


def from_json(text: str) -> Recipe:
    """Read a recipe; fields that are left out have their defaults. Raises RecipeError if it is not a recipe."""
    names = {spec.json_key: spec.name for spec in FIELDS if not spec.in_augmentation} | {"augmentation": "augmentation"}
    try:
        values: dict[str, Any] = json.loads(text)
        unknown = set(values) - set(names)
        if unknown:
            raise RecipeError(f"The recipe has unknown entries: {', '.join(sorted(unknown))}.")
        augmentation = Augmentation(**values.pop("augmentation", {}))
        return Recipe(**{names[key]: value for key, value in values.items()}, augmentation=augmentation)
    except RecipeError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RecipeError("The recipe is not one that Receptive wrote.") from error
