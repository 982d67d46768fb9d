"""Train without a server until the process is killed.

    python -m soak.driver FOLDER SECONDS

Resumes the interrupted runs in FOLDER, or starts one if all have finished, and saves every SECONDS seconds. Prints the
identity of each run on a line, then "trains" after the first batch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lib.data import dataset
from lib.design.notation import parse
from lib.design.recipe import Augmentation, Recipe
from lib.runs import training_run
from lib.runs.run_manager import RunManager

ARCHITECTURE = parse("4 M 8 M 10 A")
# A process that is not killed ends by itself.
LIFE_SECONDS = 600
RECIPE = Recipe(epochs=12, batch_size=128, augmentation=Augmentation(5.0))


def main() -> None:
    folder, training_run.SAVE_SECONDS, training_run.SAVE_FACTOR = Path(sys.argv[1]), float(sys.argv[2]), 0
    manager = RunManager(dataset.load, folder)
    if manager.set_aside:
        sys.exit(manager.set_aside[0])
    interrupted = [run for run in reversed(manager.runs()) if run.status == "interrupted"]
    for run in interrupted:
        manager.resume(run)
        print(run.identity, flush=True)
    before, said = sum(run.snapshot().step for run in manager.runs()), False
    end = time.monotonic() + LIFE_SECONDS
    while time.monotonic() < end:
        if not any(run.active for run in manager.runs()):
            print(manager.start(ARCHITECTURE, RECIPE).identity, flush=True)
        if not said and sum(run.snapshot().step for run in manager.runs()) > before:
            print("trains", flush=True)
            said = True
        time.sleep(0.01)


if __name__ == "__main__":
    main()
