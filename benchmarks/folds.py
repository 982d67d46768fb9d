"""Compare recipes by cross-validation on six folds of the training images, without the test images.

    python -m benchmarks.folds NETWORK RECIPE [RECIPE ...]

Recipes are named as for `python -m lib train --recipe`. For each fold, all recipes are trained on the other five sixths
with the same seed (the number of the fold), and measured on the fold after the final epoch. Prints all accuracies,
their mean, and the mean difference to the first recipe with its standard error. docs/experiments.md says why one
split is not enough. Six folds of Thorough take ten minutes or more.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from lib.cli.output import UsageError
from lib.cli.train import read_recipe
from lib.data.dataset import Dataset, load
from lib.design.layers import Architecture, ArchitectureError
from lib.design.notation import parse
from lib.design.recipe import Recipe, RecipeError
from lib.training.trainer import EpochMetrics, Trainer, recommended_threads

FOLDS = 6


def folds(data: Dataset, count: int) -> Iterator[Dataset]:
    """Yield `count` data sets: in each, another part of the training images takes the place of the test images.

    The parts are of equal size, disjoint, and the same at every call.
    """
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(1))
    parts = torch.tensor_split(order, count)
    for number, out in enumerate(parts):
        kept = torch.cat([part for other, part in enumerate(parts) if other != number])
        yield Dataset(data.train_images[kept], data.train_labels[kept], data.train_images[out], data.train_labels[out])


def final_accuracy(architecture: Architecture, recipe: Recipe, data: Dataset) -> float:
    """Train, and return the accuracy on the fold after the final epoch, a fraction."""
    *_, last = (event for event in Trainer(architecture, recipe, data) if isinstance(event, EpochMetrics))
    return last.validation_accuracy


def advantage(accuracies: Sequence[float], first: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of two recipes' accuracies on the same two or more folds, and its standard error.

    All are fractions.
    """
    differences = [one - other for one, other in zip(accuracies, first, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def main(arguments: Sequence[str]) -> None:
    network, *names = arguments or [""]
    if not names:
        sys.exit("Name a network and its recipes: python -m benchmarks.folds NETWORK RECIPE [RECIPE ...]")
    try:
        architecture = parse(network)
        # Every epoch is measured on the fold, so no other training images are held out.
        recipes = [replace(read_recipe(name), validation="test") for name in names]
    except (ArchitectureError, RecipeError, UsageError) as error:
        sys.exit(str(error))
    torch.set_num_threads(recommended_threads(architecture))
    measured: list[list[float]] = [[] for _ in recipes]
    for seed, data in enumerate(folds(load(), FOLDS)):
        for name, recipe, accuracies in zip(names, recipes, measured, strict=True):
            accuracies.append(final_accuracy(architecture, replace(recipe, seed=seed), data))
            print(f"fold {seed + 1} of {FOLDS}, {name}: {accuracies[-1]:.2%}", flush=True)
    for name, accuracies in zip(names, measured, strict=True):
        mean, scatter = advantage(accuracies, measured[0])
        beats = "" if accuracies is measured[0] else f", {100 * mean:+.3f} ± {100 * scatter:.3f} points"
        print(f"{name}: mean {statistics.mean(accuracies):.3%}{beats}")


if __name__ == "__main__":
    main(sys.argv[1:])
