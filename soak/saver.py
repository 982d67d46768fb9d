"""Save a run, a checkpoint and a digit set again and again, in processes that are killed.

    python -m soak.saver FOLDER DIGIT_SETS

Forks a process for each line on standard input, because imports take seconds and there are many kills. It continues
with what the folders hold, and prints its pid, then a line for each save: what was saved, and a count. "ended" and the
exit code are printed when it was killed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.runs import run_store
from lib.runs.process_lock import RunLock
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import SUFFIX, Checkpoint, Summary
from lib.training.history import History
from lib.training.trainer import EvaluationProgress, Trainer

ARCHITECTURE, RECIPE = parse("4 M 8 M 10 A"), Recipe(epochs=1, batch_size=1)
IDENTITY, SET, OTHER = "run-1-slow", "mine", "checkpoint"
STEPS = 2_000


def records() -> list[RunRecord]:
    """The record of one run after each batch. All have different weights."""
    images = torch.randint(0, 256, (STEPS, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    data = Dataset(images, torch.arange(STEPS) % 10, images[:10], torch.arange(10))
    past, training, found = History(), Trainer(ARCHITECTURE, RECIPE, data), []
    while training.step < STEPS - 1:
        event = next(training)
        if isinstance(event, EvaluationProgress):
            continue
        past.add(event)
        found.append(
            RunRecord(
                IDENTITY, "Slow", "", None, ARCHITECTURE, RECIPE, "running", "2026-11-22T00:00:00+00:00", None,
                training.steps_total, 1.0, past.until(training.step, 0), training.state(),
            )
        )  # fmt: skip
    return found


def save_all(known: list[RunRecord], folder: Path) -> None:
    """Save the records that the killed processes have not saved yet, and a digit and a checkpoint with each."""

    def say(word: str, count: int) -> None:
        os.write(1, f"{word} {count}\n".encode())

    lock = RunLock(IDENTITY, folder)
    assert lock.acquire()
    path = run_store.path_of(IDENTITY, folder)
    done = run_store.load(path).history.steps if path.exists() else 0
    if SET not in digit_sets.names():
        digit_sets.create(SET)
    for record in known[done:]:
        run_store.save(record, folder)
        say("run", record.history.steps)
        image = torch.full((1, 28, 28), len(digit_sets.load(SET)) % 256, dtype=torch.uint8)
        say("set", len(digit_sets.add(SET, image, torch.tensor([3]))))
        assert record.state is not None
        summary = Summary("Other", ARCHITECTURE, RECIPE, 0, None, record.created)
        details = {"count": record.history.steps}
        checkpoints.save(Checkpoint(summary, record.state.network, {}, details), folder / f"{OTHER}{SUFFIX}")
        say("checkpoint", record.history.steps)


def main() -> None:
    folder, digit_sets.FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
    # Torch's threads would be missing after a fork.
    torch.set_num_threads(1)
    known = [replace(record) for record in records()]
    print("ready", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            os.write(1, f"pid {os.getpid()}\n".encode())
            save_all(known, folder)
            os._exit(3)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
