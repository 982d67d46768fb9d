"""Train the shipped recipes and write what they reach on the test images to benchmarks/accuracy.json.

    make accuracy       three or five seeds of each recipe, one of that for drawings
    make checkpoints    the same, and the first seed's networks into checkpoints/

`python -m benchmarks.accuracy [--ship] [NAME ...]` measures only the named tables and keeps the others. The accuracy is
that of the final epoch; no epoch and no seed is chosen. docs/experiments.md says how the recipes were chosen.

`python -m benchmarks.accuracy --calibrate` trains nothing: it calibrates the shipped networks again, for a new version
of `lib/evaluation/stored_calibration.py`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from lib.data.dataset import load
from lib.design.analysis import analyze
from lib.design.exercise import TARGET_ACCURACY
from lib.design.layers import Architecture
from lib.design.notation import notation, parse
from lib.design.presets import PRESETS
from lib.design.recipe import RECIPES, Recipe, to_json
from lib.evaluation.calibration import calibrate
from lib.evaluation.proportion import accuracy_text, wilson_interval
from lib.evaluation.stored_calibration import with_calibration
from lib.storage import checkpoints
from lib.training.trainer import EpochMetrics, Trainer, recommended_threads

RESULT = Path(__file__).parent / "accuracy.json"
SEEDS = (0, 1, 2)
TEST_IMAGES = 10_000


@dataclass(frozen=True)
class Entry:
    """A network and a recipe, the seeds to train with, and the title of the shipped checkpoint; None ships none.

    `name` is that of the table and of the checkpoint's file.
    """

    name: str
    network: str
    recipe: str
    title: str | None
    seeds: tuple[int, ...] = SEEDS


ENTRIES = (
    Entry("assignment-9274", PRESETS[0].text, "Thorough", "The assignment's network"),
    Entry("small-4468", "4 6 8 M 8 8 8 8 M 8v 10v A", "Thorough, small network", "Under 4,500 parameters"),
    Entry("quick-9274", PRESETS[0].text, "Quick", "The assignment's network, five epochs"),
    Entry("three-epochs-9274", PRESETS[0].text, "Three epochs", None, seeds=(0, 1, 2, 3, 4)),
    Entry("drawings-39706", "8 16 M 32 32 M 64v 10v A", "For drawings", "For drawings", seeds=(0,)),
)


def main() -> None:
    if sys.argv[1:] == ["--calibrate"]:
        for path in checkpoints.shipped():
            _ship(checkpoints.load(path), path)
        return
    ship, names = "--ship" in sys.argv[1:], [name for name in sys.argv[1:] if name != "--ship"]
    unknown = set(names) - {entry.name for entry in ENTRIES}
    if unknown:
        sys.exit(f"There is no table {', '.join(sorted(unknown))}: {', '.join(entry.name for entry in ENTRIES)}.")
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["tables"] if names else {}
    tables = {entry.name: kept[entry.name] for entry in ENTRIES if entry.name in kept}
    for entry in (entry for entry in ENTRIES if not names or entry.name in names):
        architecture = parse(entry.network)
        recipe = next(preset.recipe for preset in RECIPES if preset.title == entry.recipe)
        runs = [_train(entry, architecture, replace(recipe, seed=seed), ship) for seed in entry.seeds]
        accuracies = [run["test_accuracy"] for run in runs]
        mean = statistics.mean(accuracies)
        tables[entry.name] = {
            "network": notation(architecture),
            "num_params": analyze(architecture).num_params,
            "recipe": json.loads(to_json(recipe)),
            "epochs": recipe.epochs,
            "runs": runs,
            "mean_test_accuracy": round(mean, 6),
            # For 10,000 images: the seeds share one test set, so their predictions are not independent samples.
            "interval95": [round(end, 6) for end in wilson_interval(mean, TEST_IMAGES)],
            "median_seconds": round(statistics.median(run["seconds"] for run in runs), 1),
            "environment": environment(),
        }
        print(f"{entry.name}: mean {accuracy_text(mean, TEST_IMAGES)} over seeds {entry.seeds}", flush=True)
    tables = {entry.name: tables[entry.name] for entry in ENTRIES if entry.name in tables}
    result = {**soonest(tables.values()), "tables": tables}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def soonest(tables: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the epochs and the median seconds of the table with the fewest epochs that reaches the exercise's target.

    Only tables of the assignment's network count, and their mean over all seeds. None if no table reaches it.
    """
    network = notation(parse(PRESETS[0].text))
    reached = [t for t in tables if t["network"] == network and t["mean_test_accuracy"] >= TARGET_ACCURACY]
    if not reached:
        return {"epochs_to_99_4": None, "seconds_to_99_4": None}
    first = min(reached, key=lambda table: table["epochs"])
    return {"epochs_to_99_4": first["epochs"], "seconds_to_99_4": first["median_seconds"]}


def _train(entry: Entry, architecture: Architecture, recipe: Recipe, ship: bool) -> dict[str, float]:
    torch.set_num_threads(recommended_threads(architecture))
    data, last = load(), None
    started = time.perf_counter()
    training = Trainer(architecture, recipe, data)
    for event in training:
        if isinstance(event, EpochMetrics):
            last = event
    seconds = time.perf_counter() - started
    assert last is not None
    assert last.test_accuracy is not None
    print(
        f"{entry.name}, seed {recipe.seed}, final epoch ({last.epoch}): "
        f"{accuracy_text(last.test_accuracy, TEST_IMAGES)}, {seconds:.0f} s",
        flush=True,
    )
    if ship and entry.title is not None and recipe.seed == entry.seeds[0]:
        summary = checkpoints.Summary(
            title=entry.title,
            architecture=architecture,
            recipe=recipe,
            epochs_done=last.epoch,
            test_accuracy=last.test_accuracy,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        path = checkpoints.FOLDER / f"{entry.name}{checkpoints.SUFFIX}"
        _ship(checkpoints.Checkpoint(summary, training.weights()), path)
    return {"seed": recipe.seed, "test_accuracy": last.test_accuracy, "seconds": round(seconds, 1)}


def _ship(checkpoint: checkpoints.Checkpoint, path: Path) -> None:
    """Save a checkpoint with the calibration of its network."""
    calibration = calibrate(checkpoints.network(checkpoint), load())
    checkpoints.save(with_calibration(checkpoint, calibration), path)


if __name__ == "__main__":
    main()
