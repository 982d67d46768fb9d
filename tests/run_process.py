"""A process with its own run manager, for tests in which processes share a folder or are killed."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.runs import training_run
from lib.runs.run_manager import RunManager
from lib.runs.run_record import ACTIVE
from lib.runs.training_run import Run, RunError, StopAt

# Without the fast path, whose kernels a new process would have to load.
ARCHITECTURE = parse("2b M M 10 A")
# 10 batches an epoch.
RECIPE = Recipe(batch_size=20)
ANSWER_SECONDS = 60.0
UNKNOWN = "This process has never listed it."


@dataclass(frozen=True)
class Seen:
    """A process's runs: name, status and step by identity, and the identities of those that a thread trains."""

    runs: dict[str, tuple[str, str, int]]
    trained: frozenset[str]

    @property
    def active(self) -> set[str]:
        return {identity for identity, (_, status, _) in self.runs.items() if status in ACTIVE}

    def status(self, identity: str) -> str:
        return self.runs[identity][1]


def digits() -> Dataset:
    """200 training and 20 test images of noise, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (220, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (220,), generator=generator)
    return Dataset(images[:200], labels[:200], images[200:], labels[200:])


class RunProcess:
    """A process with a manager on `folder`, which `ask` sends commands to."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.run_process"])
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(folder, there), daemon=True)
        # A new process runs the file of the main module again; AppTest leaves a page there.
        with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
            self._process.start()
        there.close()

    def ask(self, command: str, *arguments: Any) -> tuple[Any, str | None]:
        """(result, None), or (None, the error message)."""
        self._here.send((command, *arguments))
        assert self._here.poll(ANSWER_SECONDS), f"no answer to {command}"
        answer: tuple[Any, str | None] = self._here.recv()
        return answer

    def seen(self) -> Seen:
        found, refused = self.ask("seen")
        assert isinstance(found, Seen), refused
        return found

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.join(ANSWER_SECONDS)
        assert self._process.exitcode is not None


def _serve(folder: Path, there: Connection) -> None:
    training_run.SAVE_SECONDS, training_run.SAVE_FACTOR = 0.0, 0
    data = digits()
    manager = RunManager(lambda: data, folder)
    # Like a tab that was not reloaded: it still has a run that another tab has deleted.
    stale: dict[str, Run] = {}
    while True:
        try:
            command, *arguments = there.recv()
        except EOFError:
            return
        try:
            stale.update({run.identity: run for run in manager.runs()})
            there.send((_answer(manager, stale, command, *arguments), None))
        except RunError as error:
            there.send((None, str(error)))


def _answer(manager: RunManager, stale: dict[str, Run], command: str, identity: str = "", *arguments: Any) -> Any:
    """The arguments of `start` are an owner, a step to pause at or None, and the number of epochs."""
    match command:
        case "seen":
            return _seen(manager)
        case "set aside":
            return manager.set_aside
        case "start":
            step, epochs = arguments
            return manager.start(ARCHITECTURE, replace(RECIPE, epochs=epochs), identity, stop_at=StopAt(step)).identity
        case "undelete":
            return manager.undelete(identity).identity
        case "wait":
            return all(run.wait(20) for run in manager.runs())
    run = stale.get(identity)
    if run is None:
        raise RunError(UNKNOWN)
    match command:
        case "resume":
            manager.resume(run, steps=arguments[0])
        case "pause":
            run.pause()
        case "stop":
            run.stop()
        case "rename":
            run.rename(*arguments)
        case "delete":
            manager.delete(run)
        case _:
            raise ValueError(command)
    return None


def _seen(manager: RunManager) -> Seen:
    found: dict[str, tuple[str, str, int]] = {}
    for run in manager.runs():
        snapshot = run.snapshot()
        found[run.identity] = (run.name, snapshot.status, snapshot.step)
    names = [thread.name for thread in threading.enumerate()]
    trained = {name.removeprefix("training-") for name in names if name.startswith("training-")}
    return Seen(found, frozenset(trained))
