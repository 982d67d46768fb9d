"""Runs in real threads."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.data.dataset import Dataset, DatasetError
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import Augmentation, Recipe
from lib.evaluation.calibration import calibrate
from lib.evaluation.stored_calibration import stored_calibration
from lib.files import atomic_file
from lib.nn.network import build
from lib.runs import preflight, run_manager, run_store, training_run
from lib.runs.preflight import preflight_error
from lib.runs.run_manager import MAX_LOADED_RUNS, MAX_WAITING, MAX_WAITING_IN_ALL, RunManager
from lib.runs.training_run import HISTORY, MAX_NAME, STATE, WEIGHT_HISTORY_FACTOR, Run, RunError, RunStatus, StopAt
from lib.storage import checkpoints
from lib.training.trainer import DivergenceError, EpochMetrics, StepMetrics, Trainer
from tests.measure import accuracy_on
from tools.waiting import until

ARCHITECTURE = parse("4 M 8 M 10 A")
LONG = Recipe(epochs=100, batch_size=16)
# 20 batches an epoch.
RECIPE = Recipe(epochs=5, batch_size=50, augmentation=Augmentation(10, 0.1, 0.1))
DIVERGING = parse("64n 64n 64n M 64n 64n 10 A"), Recipe("SGD", 10.0, "constant", 50, 64, 0.0)
COLUMNS = ("train_loss", "train_accuracy", "learning_rate")


def reaches(run: Run, step: int) -> None:
    """Wait until the run has made `steps` steps, or has ended."""
    until(lambda: run.snapshot().step >= step or not run.active)


def inactive(run: Run) -> None:
    """Wait until the run has its last status; its thread may still write the file."""
    until(lambda: not run.active, pause=0)


def unloaded(manager: RunManager, run: Run) -> None:
    """Let enough other runs end for the run to be unloaded."""
    for _ in range(MAX_LOADED_RUNS):
        ended(manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=500)))
    until(lambda: run.weights is None)


def ended(run: Run) -> RunStatus:
    """Wait until the run is not in training."""
    until(lambda: not run.active)
    assert run.wait(30)
    return run.snapshot()


def found(manager: RunManager, run: Run) -> Run:
    """The same run in another manager."""
    other = manager.get(run.identity)
    assert other is not None
    return other


def epochs_of(snapshot: RunStatus) -> list[EpochMetrics]:
    """Without what the clock decides."""
    return [replace(epoch, seconds=0.0, images_per_second=0.0) for epoch in snapshot.epochs]


def weights_of(snapshot: RunStatus) -> dict[str, torch.Tensor]:
    assert snapshot.saved is not None
    return dict(checkpoints.load(snapshot.saved).weights)


def assert_same(one: RunStatus, other: RunStatus) -> None:
    """Bit by bit: curves, epochs and what was saved."""
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one.curves, name), getattr(other.curves, name))
    assert epochs_of(one) == epochs_of(other)
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.fixture
def manager(small: Dataset, tmp_path: Path) -> RunManager:
    return RunManager(lambda: small, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunStatus:
    run = RunManager(lambda: small, tmp_path_factory.mktemp("whole")).start(ARCHITECTURE, RECIPE)
    snapshot = ended(run)
    assert snapshot.status == "finished"
    return snapshot


def test_a_run_finishes_saves_and_keeps_its_history(manager: RunManager, small: Dataset) -> None:
    run = manager.start(ARCHITECTURE, Recipe(epochs=2, batch_size=100))
    snapshot = ended(run)
    assert snapshot.status == "finished"
    assert list(snapshot.curves.steps) == list(range(1, 21))
    assert snapshot.step == snapshot.steps_total == 20
    assert len(snapshot.epochs) == snapshot.epoch == 2
    assert (snapshot.message, snapshot.save_error, snapshot.measuring, snapshot.seconds_left) == (None,) * 4
    assert snapshot.saved is not None
    checkpoint = checkpoints.load(snapshot.saved)
    assert checkpoint.summary.epochs_done == 2
    assert checkpoint.summary.test_accuracy == snapshot.epochs[-1].test_accuracy
    accuracy = accuracy_on(checkpoints.network(checkpoint), small.test_images, small.test_labels)
    assert accuracy == pytest.approx(snapshot.epochs[-1].test_accuracy, abs=0.003)
    assert not run.resumable
    with pytest.raises(RunError, match="cannot go on"):
        manager.resume(run)


def test_a_finished_run_holds_the_calibration_of_its_network(manager: RunManager, small: Dataset) -> None:
    run = manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=100))
    path = ended(run).saved
    assert path is not None
    checkpoint = checkpoints.load(path)
    found = stored_calibration(checkpoint)
    assert found is not None
    assert found.temperature == calibrate(checkpoints.network(checkpoint), small).temperature
    # What changes only the name writes the same calibration.
    run.unload()
    run.rename("Other")
    assert stored_calibration(checkpoints.load(path)) == found
    # A run that was stopped is not calibrated: it may go on.
    other = manager.start(ARCHITECTURE, LONG)
    reaches(other, 5)
    other.stop()
    path = ended(other).saved
    assert path is not None
    assert stored_calibration(checkpoints.load(path)) is None


@pytest.mark.parametrize("way", ["stop", "pause", "interrupt"])
def test_a_run_that_is_stopped_while_it_is_calibrated_is_finished(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    begun = threading.Event()

    def endless(*_: object, check: Callable[[], object], **__: object) -> None:
        begun.set()
        until(check, seconds=30)

    monkeypatch.setattr(training_run, "calibrate", endless)
    run = manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=100))
    assert begun.wait(30)
    snapshot = run.snapshot()
    assert (snapshot.status, snapshot.calibrating, snapshot.step) == ("running", True, 10)
    # The file holds the whole run before it is calibrated: a killed process loses nothing.
    assert snapshot.saved is not None
    assert len(run_store.load(snapshot.saved).history.epochs) == 1
    getattr(run, way)()
    assert run.wait(5)
    snapshot = run.snapshot()
    assert (snapshot.status, snapshot.calibrating, snapshot.message) == ("finished", False, None)
    assert snapshot.saved is not None
    assert stored_calibration(checkpoints.load(snapshot.saved)) is None


def test_a_run_that_was_killed_while_it_was_calibrated_is_calibrated_when_it_is_resumed(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch, small: Dataset, tmp_path: Path
) -> None:
    begun, end = threading.Event(), threading.Event()

    def waiting(*_: object, **__: object) -> None:
        begun.set()
        assert end.wait(30)

    monkeypatch.setattr(training_run, "calibrate", waiting)
    run = manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=100))
    assert begun.wait(30)
    # What a process that is killed now leaves behind.
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(tmp_path / f"{run.identity}.safetensors", folder)
    end.set()
    monkeypatch.undo()
    finished = ended(run)
    later = RunManager(lambda: small, folder)
    again = found(later, run)
    assert again.status == "interrupted"
    later.resume(again)
    resumed = ended(again)
    assert resumed.status == "finished"
    assert_same(resumed, finished)
    assert resumed.saved is not None
    assert stored_calibration(checkpoints.load(resumed.saved)) is not None


def test_a_run_is_finished_even_if_it_cannot_be_calibrated(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise DatasetError("damaged")

    monkeypatch.setattr(training_run, "calibrate", failing)
    snapshot = ended(manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=100)))
    assert (snapshot.status, snapshot.message) == ("finished", None)
    assert "could not be calibrated" in caplog.text


def test_readers_never_consume(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=10))
    pieces: list[float] = []

    def read() -> bool:
        active = run.active
        new = run.snapshot(since_step=len(pieces)).curves
        assert new.first == len(pieces) + 1
        run.snapshot()
        pieces.extend(new.train_loss)
        return not active

    until(read, pause=0.002)
    pieces.extend(run.snapshot(since_step=len(pieces)).curves.train_loss)
    assert pieces == list(run.snapshot().curves.train_loss)
    assert len(pieces) == 100
    assert run.snapshot(since_epoch=1).epochs == ()


def test_stop_takes_effect_within_a_second_and_keeps_the_curves(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, LONG)
    reaches(run, 21)
    assert not run.wait(0)
    run.stop()
    assert run.wait(1)
    assert not run.active
    snapshot = run.snapshot()
    assert snapshot.status == "stopped"
    assert snapshot.step == len(snapshot.curves) > 20
    assert snapshot.saved is not None
    assert run_store.load(snapshot.saved).history.steps == snapshot.step
    assert checkpoints.load_summary(snapshot.saved).test_accuracy is None or snapshot.epochs


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [128, 1024])
def test_a_large_network_is_stopped_within_its_batch_and_may_go_on(
    mnist: Dataset, tmp_path: Path, batch_size: int
) -> None:
    """A batch of 1,024 takes the starting network some five seconds on two cores."""
    manager = RunManager(lambda: mnist, tmp_path)
    run = manager.start(parse(PRESETS[2].text), Recipe(batch_size=batch_size))
    until(lambda: run.snapshot().step >= 1, seconds=120)
    time.sleep(0.3)
    step = run.snapshot().step
    run.stop()
    snapshot = ended(run)
    assert snapshot.status == "stopped"
    assert snapshot.step <= step + (batch_size == 128)
    assert snapshot.saved is not None
    state = run_store.load(snapshot.saved).state
    assert state is not None
    assert state.step == snapshot.step
    assert run.resumable
    if batch_size == 128:
        manager.resume(run, steps=1)
        assert ended(run).step == snapshot.step + 1


def test_a_pause_takes_effect_within_a_batch_and_frees_the_slot(manager: RunManager) -> None:
    run, after = manager.start(ARCHITECTURE, LONG), manager.start(ARCHITECTURE, LONG)
    reaches(run, 6)
    assert after.status == "queued"
    run.pause()
    step = run.snapshot().step
    assert run.wait(1)
    snapshot = run.snapshot()
    assert snapshot.status == "paused"
    assert step <= snapshot.step <= step + 1
    assert run.resumable
    reaches(after, 6)
    assert run.snapshot().step == snapshot.step
    manager.resume(run)
    assert manager.runs_before(run) == [after]
    after.stop()
    until(lambda: run.snapshot().step > snapshot.step)
    run.stop()
    ended(run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_was_left_again_and_again_is_that_which_never_was(
    small: Dataset, tmp_path: Path, uninterrupted: RunStatus, seed: int
) -> None:
    """At random batches, within an epoch and while it is measured, half of the times in a new manager."""
    rng = random.Random(seed)
    manager = RunManager(lambda: small, tmp_path)
    run = manager.start(ARCHITECTURE, RECIPE)
    left = 0
    for batch in sorted(rng.sample(range(100), 4)):
        reaches(run, batch)
        [run.pause, run.stop, manager.close][rng.randrange(3)]()
        snapshot = ended(run)
        if snapshot.status == "finished":
            break
        left += 1
        if snapshot.status == "interrupted" or rng.random() < 0.5:
            manager = RunManager(lambda: small, tmp_path)
            assert manager.set_aside == ()
            run = found(manager, run)
            assert run.snapshot().status == snapshot.status
        manager.resume(run)
    snapshot = ended(run)
    assert left >= 1
    assert snapshot.status == "finished"
    assert_same(snapshot, uninterrupted)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [f"{run.identity}.safetensors"]


def test_a_run_goes_on_by_one_batch_and_by_one_epoch(manager: RunManager, uninterrupted: RunStatus) -> None:
    run = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=18))
    assert (ended(run).status, run.snapshot().step) == ("paused", 18)
    for step in (19, 20, 21, 22):
        manager.resume(run, steps=1)
        snapshot = ended(run)
        assert (snapshot.status, snapshot.step, len(snapshot.epochs)) == ("paused", step, step // 21)
    for epoch in (2, 3, 4):
        manager.resume(run, epochs=1)
        snapshot = ended(run)
        assert (snapshot.status, snapshot.step, len(snapshot.epochs)) == ("paused", 20 * epoch, epoch)
    manager.resume(run, steps=20)
    assert (ended(run).status, run.snapshot().step, len(run.snapshot().epochs)) == ("paused", 100, 4)
    manager.resume(run, steps=1)
    assert ended(run).status == "finished"
    assert_same(run.snapshot(), uninterrupted)


def test_the_learning_rate_changes_with_the_next_batch_and_stays_changed(
    manager: RunManager, small: Dataset, tmp_path: Path
) -> None:
    run = manager.start(ARCHITECTURE, Recipe("SGD", 0.001, "constant", 100, 16, 0.0))
    reaches(run, 6)
    run.set_lr_scale(10)
    step = run.snapshot().step
    until(lambda: run.snapshot().step > step + 5)
    run.pause()
    rates = ended(run).curves.learning_rate
    assert set(rates[:5]) == {0.001}
    assert rates[step + 1 :] == pytest.approx(0.01)
    manager.resume(run, steps=2)
    assert ended(run).curves.learning_rate[-2:] == pytest.approx(0.01)
    run.set_lr_scale(0.5)
    again = found(RunManager(lambda: small, tmp_path), run)
    assert again.snapshot().lr_scale == 0.5
    manager.resume(run, steps=1)
    assert ended(run).curves.learning_rate[-2:] == pytest.approx([0.01, 0.0005])


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e-4, 1001.0, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_refused(manager: RunManager, factor: float) -> None:
    run = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=1))
    with pytest.raises(RunError, match=r"0\.001 to 1,000"):
        run.set_lr_scale(factor)
    assert run.snapshot().lr_scale == 1
    ended(run)


def test_a_name_is_kept_and_has_an_end(manager: RunManager, small: Dataset, tmp_path: Path) -> None:
    run = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=3))
    ended(run)
    assert run.name == run.identity
    run.rename("  wider,\n not  deeper ")
    assert run.name == "wider, not deeper"
    assert found(RunManager(lambda: small, tmp_path), run).name == "wider, not deeper"
    run.rename("n" * MAX_NAME)
    with pytest.raises(RunError, match="at most 60 characters; this one has 61"):
        run.rename("n" * (MAX_NAME + 1))
    assert run.name == "n" * MAX_NAME
    run.rename(" ")
    assert run.name == run.identity
    manager.resume(run, steps=1)
    run.rename("in flight")
    ended(run)
    assert found(RunManager(lambda: small, tmp_path), run).name == "in flight"


def test_a_run_is_deleted_and_brought_back(manager: RunManager, small: Dataset, tmp_path: Path) -> None:
    run = manager.start(ARCHITECTURE, RECIPE)
    with pytest.raises(RunError, match="Stop it first"):
        manager.delete(run)
    before = ended(run)
    manager.delete(run)
    assert manager.get(run.identity) is None
    assert manager.runs() == RunManager(lambda: small, tmp_path).runs() == []
    back = manager.undelete(run.identity)
    assert manager.runs() == [back]
    assert back.status == "finished"
    assert_same(back.snapshot(), before)
    assert manager.undelete(run.identity) is back, "two tabs may press Undo"
    with pytest.raises(RunError, match="could not be brought back"):
        manager.undelete("run-9-ffffff")


def test_a_deleted_run_obeys_no_tab_that_still_shows_it(manager: RunManager, tmp_path: Path) -> None:
    run = manager.start(ARCHITECTURE, LONG, stop_at=StopAt(step=3))
    assert ended(run).status == "paused"
    manager.delete(run)
    actions: list[Callable[[], None]] = [
        lambda: manager.resume(run),
        lambda: manager.resume(run, steps=1),
        lambda: manager.delete(run),
        lambda: run.rename("back"),
        lambda: run.set_lr_scale(2),
        run.pause,
        run.stop,
    ]
    for action in actions:
        with pytest.raises(RunError, match="was deleted"):
            action()
    run.save()
    assert list(tmp_path.glob("*.safetensors")) == []
    back = manager.undelete(run.identity)
    assert (back.status, back.snapshot().step) == ("paused", 3)
    # The old object stays as good as deleted: the file has one writer.
    with pytest.raises(RunError, match="was deleted"):
        run.rename("mine")
    after = manager.start(ARCHITECTURE, LONG)
    reaches(after, 1)
    assert after.status == "running", "the slot is free"
    after.stop()
    ended(after)


def test_a_run_that_goes_on_while_it_is_deleted_is_either_in_training_or_gone(
    manager: RunManager, tmp_path: Path
) -> None:
    """Two tabs press Resume and Delete at the same moment."""
    for _ in range(10):
        run = manager.start(ARCHITECTURE, LONG, stop_at=StopAt(step=1))
        ended(run)
        outcomes: dict[str, str | None] = {}
        barrier = threading.Barrier(2)

        def press(
            name: str,
            action: Callable[[Run], None],
            run: Run = run,
            barrier: threading.Barrier = barrier,
            outcomes: dict[str, str | None] = outcomes,
        ) -> None:
            barrier.wait(10)
            try:
                action(run)
            except RunError as error:
                outcomes[name] = str(error)
            else:
                outcomes[name] = None

        tabs = [
            threading.Thread(target=press, args=("resume", manager.resume)),
            threading.Thread(target=press, args=("delete", manager.delete)),
        ]
        for tab in tabs:
            tab.start()
        for tab in tabs:
            tab.join(10)
        assert list(outcomes.values()).count(None) == 1, outcomes
        if outcomes["resume"] is None:
            assert manager.get(run.identity) is run
            run.stop()
            ended(run)
            manager.delete(run)
        assert run not in manager.runs()
        assert not run.active
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_resume_waits_for_the_save_of_the_pause_and_is_not_refused(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk, where the folder's fsync takes a while after the file has got its new time."""
    sync = atomic_file._sync_folder

    def slow(folder: Path) -> None:
        time.sleep(0.03)
        sync(folder)

    monkeypatch.setattr(atomic_file, "_sync_folder", slow)
    run = manager.start(ARCHITECTURE, LONG, stop_at=StopAt(step=1))
    for step in range(2, 12):
        until(lambda: run.status == "paused")
        time.sleep(0.012)
        manager.resume(run, steps=1)
        reaches(run, step)
    assert ended(run).step == 11


def test_a_deleted_run_does_not_come_back_with_its_threads_last_word(manager: RunManager, tmp_path: Path) -> None:
    for _ in range(10):
        run = manager.start(ARCHITECTURE, LONG)
        reaches(run, 1)
        run.stop()
        inactive(run)
        manager.delete(run)
        assert run.wait(10)
        assert list(tmp_path.glob("*.safetensors")) == []


def test_a_loss_that_is_no_number_fails_the_run_with_its_reason(
    manager: RunManager, small: Dataset, tmp_path: Path
) -> None:
    run = manager.start(*DIVERGING)
    snapshot = ended(run)
    assert snapshot.status == "failed"
    assert "learning rate" in str(snapshot.message)
    assert len(snapshot.curves) >= 2
    assert not np.isfinite(snapshot.curves.train_loss[-1])
    assert not run.resumable
    assert run.weights is None
    with pytest.raises(RunError, match="cannot go on"):
        manager.resume(run)
    again = found(RunManager(lambda: small, tmp_path), run)
    assert again.snapshot().message == snapshot.message
    np.testing.assert_array_equal(again.snapshot().curves.train_loss, snapshot.curves.train_loss)
    assert not again.resumable


def test_a_run_left_at_the_batch_that_diverges_has_failed_and_can_be_read_again(
    manager: RunManager, small: Dataset, tmp_path: Path
) -> None:
    training = Trainer(*DIVERGING, small)
    with pytest.raises(DivergenceError):
        list(training)
    run = manager.start(*DIVERGING, stop_at=StopAt(step=training.step))
    snapshot = ended(run)
    assert (snapshot.status, snapshot.step) == ("failed", training.step)
    assert "learning rate" in str(snapshot.message)
    again = RunManager(lambda: small, tmp_path)
    assert again.set_aside == ()
    assert found(again, run).snapshot().step == training.step


ERRORS = [
    (DatasetError("The data file x.gz is missing."), "The data file x.gz is missing."),
    (MemoryError(), "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "not enough memory"),
    (ZeroDivisionError("surprise"), "ZeroDivisionError: surprise"),
]


@pytest.mark.parametrize(("error", "says"), ERRORS)
def test_an_exception_fails_the_run_in_words_and_frees_the_slot(tmp_path: Path, error: Exception, says: str) -> None:
    def load() -> Dataset:
        raise error

    manager = RunManager(load, tmp_path)
    run, after = manager.start(ARCHITECTURE, LONG), manager.start(ARCHITECTURE, LONG)
    assert ended(run).status == ended(after).status == "failed"
    assert says in str(run.snapshot().message)


@pytest.mark.parametrize(("error", "says"), ERRORS)
def test_an_exception_takes_nothing_from_a_run_that_had_learnt(
    small: Dataset, tmp_path: Path, uninterrupted: RunStatus, error: Exception, says: str
) -> None:
    trouble: list[Exception] = []

    def load() -> Dataset:
        if trouble:
            raise trouble.pop()
        return small

    manager = RunManager(load, tmp_path)
    run = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=33))
    before = ended(run)
    trouble.append(error)
    manager.resume(run)
    snapshot = ended(run)
    assert snapshot.status == "failed"
    assert says in str(snapshot.message)
    assert_same(snapshot, before)
    assert run.resumable
    manager = RunManager(load, tmp_path)
    run = found(manager, run)
    manager.resume(run)
    assert ended(run).message is None
    assert_same(run.snapshot(), uninterrupted)


def test_no_room_to_save_is_said_and_the_run_still_finishes(small: Dataset, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("")
    run = RunManager(lambda: small, blocked).start(ARCHITECTURE, Recipe(epochs=1))
    snapshot = ended(run)
    assert snapshot.status == "finished"
    assert "could not be saved" in str(snapshot.save_error)
    assert (snapshot.saved, snapshot.message) == (None, None)


def test_runs_queue_for_the_one_slot_and_a_queued_one_can_be_stopped(
    manager: RunManager, small: Dataset, tmp_path: Path
) -> None:
    first, second, third = (manager.start(ARCHITECTURE, LONG) for _ in range(3))
    reaches(first, 1)
    assert [run.status for run in (first, second, third)] == ["running", "queued", "queued"]
    assert [manager.runs_before(run) for run in (second, third)] == [[first], [first, second]]
    assert manager.runs() == [third, second, first]
    second.stop()
    assert second.status == "stopped"
    assert manager.runs_before(third) == [first]
    assert found(RunManager(lambda: small, tmp_path), second).status == "stopped"
    first.stop()
    reaches(third, 1)
    assert len(second.snapshot().curves) == 0
    third.stop()
    ended(third)


def test_one_paused_while_it_waits_takes_its_place_at_the_end(manager: RunManager) -> None:
    first, second, third = (manager.start(ARCHITECTURE, LONG) for _ in range(3))
    reaches(first, 1)
    second.pause()
    assert second.status == "paused"
    manager.resume(second)
    assert manager.runs_before(third) == [first]
    assert manager.runs_before(second) == [first, third]
    for run in (first, third, second):
        reaches(run, 1)
        run.stop()
        ended(run)


def test_all_browsers_together_have_a_limit_too(manager: RunManager) -> None:
    """Another browser is another owner, and anybody may open many."""
    trains = manager.start(ARCHITECTURE, LONG, owner="first")
    reaches(trains, 1)
    for number in range(MAX_WAITING_IN_ALL):
        manager.start(ARCHITECTURE, LONG, owner=f"browser {number // 2}")
    with pytest.raises(RunError, match=f"{MAX_WAITING_IN_ALL} runs are waiting already"):
        manager.start(ARCHITECTURE, LONG, owner="one more")
    assert len(manager.runs()) == 1 + MAX_WAITING_IN_ALL
    manager.close()
    with pytest.raises(RunError, match="is being closed"):
        manager.start(ARCHITECTURE, LONG)


def test_no_thread_trains_once_a_manager_is_closed(manager: RunManager) -> None:
    """One that still frees what torch holds aborts the interpreter when that ends."""
    run = manager.start(parse("8n 8n M 8n 10n A"), Recipe(learning_rate=10, optimizer="SGD", schedule="constant"))
    assert run.wait(60)
    manager.close()
    assert run.status == "failed"
    assert not [thread for thread in threading.enumerate() if thread.name == f"training-{run.identity}"]


def test_ended_runs_keep_a_bounded_number_of_bytes(manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=1, batch_size=500)
    size = ended_bytes(manager, recipe)
    monkeypatch.setattr(run_manager, "KEPT_BYTES", round(2.5 * size))
    made = [manager.start(ARCHITECTURE, recipe) for _ in range(3)]
    for run in made:
        ended(run)
    until(lambda: [run.bytes_kept > 0 for run in made] == [False, True, True])
    monkeypatch.setattr(run_manager, "KEPT_BYTES", 1)
    last = manager.start(ARCHITECTURE, recipe)
    ended(last)
    until(lambda: not any(run.bytes_kept for run in made))
    assert last.bytes_kept == size, "the last one is still at hand"


def ended_bytes(manager: RunManager, recipe: Recipe) -> int:
    run = manager.start(ARCHITECTURE, recipe)
    ended(run)
    return run.bytes_kept


def test_a_run_without_a_thread_fails_and_holds_no_slot(manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        run = manager.start(ARCHITECTURE, RECIPE)
    snapshot = ended(run)
    assert snapshot.status == "failed"
    assert "no more threads" in str(snapshot.message)
    manager.resume(run)
    assert ended(run).status == "finished"


def test_an_owner_has_three_runs_waiting_and_no_more(manager: RunManager) -> None:
    paused = manager.start(ARCHITECTURE, RECIPE, owner="a", stop_at=StopAt(step=1))
    ended(paused)
    trains = manager.start(ARCHITECTURE, LONG, owner="a")
    reaches(trains, 1)
    waiting = [manager.start(ARCHITECTURE, LONG, owner="a") for _ in range(MAX_WAITING)]
    with pytest.raises(RunError, match="3 of your runs are waiting already"):
        manager.start(ARCHITECTURE, LONG, owner="a")
    with pytest.raises(RunError, match="3 of your runs are waiting already"):
        manager.resume(paused)
    assert paused.status == "paused"
    assert len(manager.runs()) == 2 + MAX_WAITING
    other = manager.start(ARCHITECTURE, LONG, owner="b")
    assert other.status == "queued"
    waiting[0].stop()
    manager.resume(paused)
    manager.close()


def test_old_runs_are_read_from_their_files_again(manager: RunManager) -> None:
    first = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=30))
    before = ended(first)
    unloaded(manager, first)
    assert first.in_file == {HISTORY, STATE}
    assert_same(first.snapshot(), before)
    assert first.in_file == {STATE}, "a look at the curves needs no weights"
    assert first.resumable
    first.rename("an old one")
    assert_same(first.snapshot(), before)


@pytest.mark.parametrize(("more", "step"), [({"steps": 5}, 35), ({"epochs": 2}, 60)])
def test_an_old_run_goes_on_as_far_as_it_was_asked_to(manager: RunManager, more: dict[str, int], step: int) -> None:
    first = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=30))
    ended(first)
    unloaded(manager, first)
    manager.resume(first, **more)
    assert ended(first).step == step


def test_the_runs_of_a_folder_leave_their_weights_in_their_files(
    manager: RunManager, small: Dataset, tmp_path: Path
) -> None:
    """200 runs of a large network would else take the memory when Receptive starts."""
    first = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=30))
    before = ended(first)
    path = run_store.path_of(first.identity, tmp_path)
    record = run_store.load(path)
    for number in range(MAX_LOADED_RUNS + 2):
        run_store.save(replace(record, identity=f"run-{number}-copied"), tmp_path)
    again = RunManager(lambda: small, tmp_path)
    assert len(again.runs()) == MAX_LOADED_RUNS + 3
    assert [run.bytes_kept for run in again.runs()] == [0] * (MAX_LOADED_RUNS + 3)
    assert sum(run.in_file == {STATE} for run in again.runs()) == MAX_LOADED_RUNS
    for run in again.runs():
        assert run.resumable
        assert_same(run.snapshot(), replace(before, saved=run_store.path_of(run.identity, tmp_path)))
        assert run.bytes_kept == 0
    old = again.get("run-0-copied")
    assert old is not None
    again.resume(old, steps=5)
    assert ended(old).step == 35


def test_an_old_run_whose_file_is_away_for_a_while_is_not_overwritten(manager: RunManager) -> None:
    first = manager.start(ARCHITECTURE, RECIPE, stop_at=StopAt(step=30))
    before = ended(first)
    unloaded(manager, first)
    assert before.saved is not None
    away = before.saved.rename(before.saved.with_suffix(".away"))
    snapshot = first.snapshot()
    assert len(snapshot.curves) == 0
    assert "cannot be read" in str(snapshot.save_error)
    with pytest.raises(RunError, match="is no longer there"):
        first.rename("nothing to save")
    with pytest.raises(RunError, match="is no longer there"):
        first.stop()
    with pytest.raises(RunError, match="is no longer there"):
        manager.resume(first)
    assert not before.saved.exists()
    assert first.name == first.identity
    away.rename(before.saved)
    assert_same(first.snapshot(), before)
    assert first.snapshot().save_error is None


def test_a_file_written_by_whatever_thread_has_curves_and_weights_of_one_batch(
    manager: RunManager, tmp_path: Path
) -> None:
    run = manager.start(ARCHITECTURE, LONG, stop_at=StopAt(step=40))
    ended(run)
    path = tmp_path / f"{run.identity}.safetensors"
    manager.resume(run)
    while run.snapshot().step < 150:
        run.save()
        record = run_store.load(path)
        assert record.state is not None
        assert record.state.step == record.history.steps >= 40
    run.stop()
    assert run_store.load(path).history.steps <= ended(run).step == run_store.load(path).history.steps


def test_closing_interrupts_and_saves_and_a_new_process_goes_on(
    manager: RunManager, small: Dataset, tmp_path: Path, uninterrupted: RunStatus
) -> None:
    trains, waits = manager.start(ARCHITECTURE, RECIPE), manager.start(ARCHITECTURE, RECIPE)
    reaches(trains, 8)
    manager.close()
    snapshot = trains.snapshot()
    assert [trains.status, waits.status] == ["interrupted", "interrupted"]
    assert snapshot.saved is not None
    assert run_store.load(snapshot.saved).history.steps == snapshot.step >= 8
    again = RunManager(lambda: small, tmp_path)
    assert again.set_aside == ()
    assert {run.identity for run in again.runs()} == {trains.identity, waits.identity}
    assert {run.status for run in again.runs()} == {"interrupted"}
    for run in again.runs():
        again.resume(run)
    for run in again.runs():
        assert_same(ended(run), uninterrupted)


def test_a_fork_begins_as_its_parent_did(manager: RunManager, small: Dataset, tmp_path: Path) -> None:
    parent = manager.start(ARCHITECTURE, RECIPE, owner="a")
    fork = manager.start(ARCHITECTURE, replace(RECIPE, learning_rate=0.01), parent=parent.identity, owner="b")
    assert ended(parent).curves.train_loss[0] == ended(fork).curves.train_loss[0]
    same = manager.start(ARCHITECTURE, RECIPE, parent=parent.identity)
    assert_same(ended(same), parent.snapshot())
    again = found(RunManager(lambda: small, tmp_path), fork)
    assert (again.parent, again.owner, again.recipe) == (parent.identity, "b", fork.recipe)


def test_the_trail_is_of_weights_on_the_way_closer_together_at_its_beginning(
    manager: RunManager, small: Dataset
) -> None:
    run = manager.start(ARCHITECTURE, RECIPE, owner="a tab")
    ended(run)
    trail = run.weight_history
    steps = [weights.step for weights in trail]
    assert steps[:5] == [1, 2, 3, 4, 5]
    assert steps == sorted(set(steps))
    assert all(after <= before * WEIGHT_HISTORY_FACTOR + 1 for before, after in itertools.pairwise(steps))
    assert steps[-1] == run.snapshot().step
    assert len(steps) < 5 + 2 * math.log(steps[-1]) / math.log(WEIGHT_HISTORY_FACTOR)
    saved = weights_of(run.snapshot())
    assert all(torch.equal(trail[-1].tensors[name], tensor) for name, tensor in saved.items())
    # Training that goes as far makes the same weights.
    again = Trainer(ARCHITECTURE, RECIPE, small)
    while again.step < steps[3]:
        next(again)
    assert all(torch.equal(trail[3].tensors[name], tensor) for name, tensor in again.weights().items())


def test_a_large_network_leaves_few_copies(manager: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(tensor.nbytes for tensor in build(ARCHITECTURE).state_dict().values())
    monkeypatch.setattr(training_run, "WEIGHT_HISTORY_BYTES", 4 * size)
    run = manager.start(ARCHITECTURE, RECIPE, owner="a tab")
    ended(run)
    assert 2 <= len(run.weight_history) <= 5


def test_published_weights_are_copies_that_the_training_leaves_alone(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, LONG)
    until(lambda: run.weights is not None)
    published = run.weights
    assert published is not None
    before = {name: tensor.clone() for name, tensor in published.tensors.items()}
    until(lambda: run.weights is not published)
    assert all(torch.equal(before[name], tensor) for name, tensor in published.tensors.items())
    later = run.weights
    assert later is not None
    assert later.step > published.step
    assert not torch.equal(later.tensors["0.weight"], published.tensors["0.weight"])
    build(ARCHITECTURE).load_state_dict(later.tensors)
    run.stop()
    ended(run)


def test_runs_are_found_by_identity_and_live_on_without_their_starter(manager: RunManager) -> None:
    identities: list[str] = []
    tab = threading.Thread(target=lambda: identities.append(manager.start(ARCHITECTURE, LONG).identity))
    tab.start()
    tab.join()
    run = manager.get(identities[0])
    assert isinstance(run, Run)
    reaches(run, 6)
    assert manager.get("run-9-ffffff") is None
    assert manager.get(None) is None
    run.stop()
    ended(run)


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    """The kernel's own figure counts caches that it would give up; a machine that has run for a day is full of them."""
    for preset in PRESETS:
        assert preflight_error(parse(preset.text), Recipe(), tmp_path) is None


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    said = preflight_error(parse("2048 2048 2048 2048 10 A"), Recipe(batch_size=4096), tmp_path)
    assert "Use fewer channels or a smaller batch." in str(said)


def test_a_run_whose_file_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    """37 million parameters and their moments make 450 MB, which a checkpoint's reader refuses."""
    said = preflight_error(parse("M M 2048 2048 10 A"), Recipe(), tmp_path)
    assert "can be read. Use fewer channels" in str(said)
    assert preflight_error(parse("M M 1024 1024 10 A"), Recipe(), tmp_path) is None


def test_a_full_disk_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """soak/test_full_disk.py does it on a real one."""
    monkeypatch.setattr(preflight, "_free_bytes", lambda folder: 200_000)
    said = preflight_error(ARCHITECTURE, Recipe(), tmp_path / "not" / "there" / "yet")
    assert "0.2 MB are free where runs are kept" in str(said)


ONE_PIXEL = parse("4 M 8k14v 10 A")


@pytest.mark.parametrize(
    ("text", "batch_size", "images", "refused"),
    [
        ("4 M 8k14v 10 A", 1, 60_000, True),
        ("4 M 8k14v 10 A", 3, 55_000, True),
        ("4 M 8k14v 10 A", 3, 60_000, False),
        ("4 M 8k14v 10 A", 128, 60_000, False),
        ("4 M 8k14vn 10 A", 1, 60_000, False),
        ("4 M 8 M 10 A", 1, 60_000, False),
    ],
)
def test_a_single_image_that_cannot_be_normalized_is_refused(
    tmp_path: Path, text: str, batch_size: int, images: int, refused: bool
) -> None:
    said = preflight_error(parse(text), Recipe(batch_size=batch_size), tmp_path, images)
    assert ("the last batch has a single image" in str(said)) == refused


def test_what_is_refused_for_a_single_image_does_fail(small: Dataset) -> None:
    training = Trainer(ONE_PIXEL, Recipe(batch_size=999), small)
    assert isinstance(next(training), StepMetrics)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        next(training)
