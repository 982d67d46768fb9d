"""A full disk: a file system of 1 MB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.runs import run_store, training_run
from lib.runs.preflight import preflight_error
from lib.runs.run_manager import RunManager
from lib.runs.training_run import StopAt
from tools.waiting import until

ARCHITECTURE, RECIPE = parse("4 M 8 M 10 A"), Recipe(epochs=2, batch_size=512)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("a small file system is made by Linux's tmpfs")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "receptive", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"only root may make a small file system: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until the disk is full, and return its path."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return path


def test_a_run_finishes_on_a_full_disk_and_is_saved_when_there_is_room(disk: Path, mnist: Dataset) -> None:
    manager = RunManager(lambda: mnist, disk)
    run = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=50))
    until(lambda: not run.active)
    assert run.wait(30)
    snapshot = run.snapshot()
    assert (snapshot.status, snapshot.step, snapshot.save_error) == ("paused", 50, None)
    assert snapshot.saved is not None
    before = snapshot.saved.read_bytes()
    filler = fill(disk)
    assert "are free where runs are kept" in str(preflight_error(ARCHITECTURE, RECIPE, disk))
    manager.resume(run)
    until(lambda: not run.active)
    assert run.wait(30)
    snapshot = run.snapshot()
    assert (snapshot.status, snapshot.step, len(snapshot.epochs)) == ("finished", 236, 2)
    assert "could not be saved (No space left on device). Free some disk space" in str(snapshot.save_error)
    assert snapshot.saved is not None
    assert snapshot.saved.read_bytes() == before
    assert run_store.load(snapshot.saved).history.steps == 50
    files = [path.name for path in disk.iterdir() if path.is_file() and path.name != "filler"]
    assert files == [snapshot.saved.name]
    filler.unlink()
    run.rename("saved at last")
    assert run.snapshot().save_error is None
    record = run_store.load(snapshot.saved)
    assert (record.status, record.history.steps, record.name) == ("finished", 236, "saved at last")


def test_saving_succeeds_again_during_a_training_when_there_is_room(
    disk: Path, mnist: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "SAVE_SECONDS", 0.05)
    monkeypatch.setattr(training_run, "SAVE_FACTOR", 0)
    manager = RunManager(lambda: mnist, disk)
    run = manager.start(ARCHITECTURE, Recipe(epochs=100, batch_size=512))
    path = run_store.path_of(run.identity, disk)
    until(lambda: run_store.load(path).history.steps > 20)
    filler = fill(disk)
    until(lambda: "could not be saved" in str(run.snapshot().save_error))
    old = run_store.load(path).history.steps
    step = run.snapshot().step
    until(lambda: run.snapshot().step > step + 20)
    assert run_store.load(path).history.steps == old
    assert run.status == "running"
    filler.unlink()
    until(lambda: run.snapshot().save_error is None)
    assert run_store.load(path).history.steps > old
    run.stop()
    assert run.wait(30)
    assert run_store.load(path).history.steps == run.snapshot().step


def test_a_run_finishes_on_a_disk_that_is_full_from_the_start(disk: Path, mnist: Dataset) -> None:
    filler = fill(disk)
    run = RunManager(lambda: mnist, disk).start(ARCHITECTURE, RECIPE)
    until(lambda: not run.active)
    assert run.wait(30)
    snapshot = run.snapshot()
    assert (snapshot.status, snapshot.saved) == ("finished", None)
    assert "could not be saved" in str(snapshot.save_error)
    filler.unlink()
    run.rename("")
    assert run_store.load(run_store.path_of(run.identity, disk)).history.steps == 236
