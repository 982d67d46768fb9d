"""Train the assignment's network with the Thorough recipe, seed 0, and write the shipped checkpoint.

    make checkpoint

The final epoch is what is saved and reported; the test set chooses nothing.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import torch

from lib import checkpoints
from lib.analysis import interval95
from lib.architecture import PRESETS, parse
from lib.dataset import load
from lib.network import build
from lib.recipe import RECIPES
from lib.training import EpochMetrics, fit

NAME = "assignment-9274" + checkpoints.SUFFIX


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    architecture = parse(PRESETS[0].text)
    recipe = next(preset.recipe for preset in RECIPES if preset.title == "Thorough")
    data = load()
    network = build(architecture, recipe.seed)
    last = None
    for event in fit(network, recipe, data):
        if isinstance(event, EpochMetrics):
            last = event
            print(
                f"epoch {event.epoch:2d}  train loss {event.train_loss:.4f}  test {event.test_accuracy:.2%}  "
                f"{event.images_per_second:,.0f} images/s",
                flush=True,
            )
    assert last is not None
    margin = interval95(last.test_accuracy, len(data.test_images))
    print(
        f"final epoch, seed {recipe.seed}: {last.test_accuracy:.2%} ± {margin:.2%} on {len(data.test_images):,} images"
    )
    summary = checkpoints.Summary(
        title="The assignment's network",
        architecture=architecture,
        recipe=recipe,
        epochs_done=last.epoch,
        test_accuracy=last.test_accuracy,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    checkpoints.save(checkpoints.Checkpoint(summary, network.state_dict()), checkpoints.FOLDER / NAME)


if __name__ == "__main__":
    main()
