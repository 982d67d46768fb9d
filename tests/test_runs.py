"""Runs in real threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib import checkpoints
from lib.analysis import analyse
from lib.architecture import PRESETS, parse
from lib.dataset import Dataset, DatasetError
from lib.network import build
from lib.recipe import Recipe
from lib.runs import Run, RunManager, refusal
from lib.training import StepMetrics, evaluate

ARCHITECTURE = parse("4 M 8 M 10 A")
LONG = Recipe(epochs=100, batch_size=16)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def manager(small: Dataset, tmp_path: Path) -> RunManager:
    return RunManager(lambda: small, folder=tmp_path)


def test_a_run_finishes_saves_and_keeps_its_history(manager: RunManager, small: Dataset) -> None:
    run = manager.start(ARCHITECTURE, Recipe(epochs=2, batch_size=100))
    wait_for(lambda: not run.active)
    snapshot = run.snapshot()
    assert snapshot.status == "finished"
    assert [step.step for step in snapshot.steps] == list(range(1, 21))
    assert snapshot.steps_total == 20
    assert len(snapshot.epochs) == 2
    assert snapshot.message is None
    assert snapshot.saved is not None
    checkpoint = checkpoints.load(snapshot.saved)
    assert checkpoint.summary.epochs_done == 2
    assert checkpoint.summary.test_accuracy == snapshot.epochs[-1].test_accuracy
    accuracy = evaluate(checkpoints.network(checkpoint), small.test_images, small.test_labels)
    assert accuracy == pytest.approx(snapshot.epochs[-1].test_accuracy, abs=0.003)


def test_readers_never_consume(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, Recipe(epochs=1, batch_size=10))
    pieces: list[StepMetrics] = []
    seen = 0
    while run.active:
        new = run.snapshot(since_step=seen).steps
        run.snapshot()
        pieces.extend(new)
        seen += len(new)
        time.sleep(0.002)
    pieces.extend(run.snapshot(since_step=seen).steps)
    assert tuple(pieces) == run.snapshot().steps
    assert len(pieces) == 100


def test_stop_takes_effect_within_a_second_and_keeps_the_curves(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, LONG)
    wait_for(lambda: run.snapshot().step > 20)
    assert not run.wait(0)
    run.stop()
    assert run.wait(1)
    assert not run.active
    snapshot = run.snapshot()
    assert snapshot.status == "stopped"
    assert snapshot.step == len(snapshot.steps) > 20
    assert snapshot.saved is not None
    assert checkpoints.load_summary(snapshot.saved).test_accuracy is None or snapshot.epochs


@pytest.mark.parametrize("batch_size", [128, 1024])
def test_a_large_network_is_stopped_within_its_batch(mnist: Dataset, tmp_path: Path, batch_size: int) -> None:
    """A batch of 1,024 takes the starting network some five seconds on two cores."""
    manager = RunManager(lambda: mnist, tmp_path)
    run = manager.start(parse(PRESETS[2].text), Recipe(batch_size=batch_size))
    wait_for(lambda: run.snapshot().step >= 1, seconds=120)
    time.sleep(0.3)
    asked, step = time.monotonic(), run.snapshot().step
    run.stop()
    wait_for(lambda: not run.active, seconds=20)
    print(f"stopped after {time.monotonic() - asked:.2f} s")
    snapshot = run.snapshot()
    assert snapshot.status == "stopped"
    assert snapshot.step <= step + (batch_size == 128)
    assert snapshot.saved is not None
    assert checkpoints.load(snapshot.saved).summary.epochs_done == 0


def test_a_loss_that_is_no_number_fails_the_run_with_its_reason(manager: RunManager) -> None:
    run = manager.start(parse("64n 64n 64n M 64n 64n 10 A"), Recipe("SGD", 10.0, "constant", 50, 64, 0.0))
    wait_for(lambda: not run.active)
    snapshot = run.snapshot()
    assert snapshot.status == "failed"
    assert snapshot.message is not None
    assert "learning rate" in snapshot.message
    assert snapshot.steps
    assert snapshot.saved is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (DatasetError("The data file x.gz is missing."), "The data file x.gz is missing."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "not enough memory"),
        (ZeroDivisionError("surprise"), "ZeroDivisionError: surprise"),
    ],
)
def test_an_exception_fails_the_run_in_words_and_frees_the_slot(tmp_path: Path, error: Exception, says: str) -> None:
    def load() -> Dataset:
        raise error

    manager = RunManager(load, folder=tmp_path)
    run, after = manager.start(ARCHITECTURE, LONG), manager.start(ARCHITECTURE, LONG)
    wait_for(lambda: not run.active and not after.active)
    assert run.snapshot().status == after.snapshot().status == "failed"
    assert says in str(run.snapshot().message)


def test_no_room_to_save_is_said_and_the_run_still_finishes(small: Dataset, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("")
    run = RunManager(lambda: small, folder=blocked).start(ARCHITECTURE, Recipe(epochs=1))
    wait_for(lambda: not run.active)
    assert run.snapshot().status == "finished"
    assert "could not be saved" in str(run.snapshot().message)


def test_runs_queue_for_the_one_slot_and_a_queued_one_can_be_stopped(manager: RunManager) -> None:
    first, second, third = (manager.start(ARCHITECTURE, LONG) for _ in range(3))
    wait_for(lambda: first.snapshot().step > 0)
    assert [run.status for run in (first, second, third)] == ["running", "queued", "queued"]
    assert [manager.ahead_of(run) for run in (second, third)] == [1, 2]
    assert manager.runs() == [third, second, first]
    second.stop()
    assert second.status == "stopped"
    assert manager.ahead_of(third) == 1
    first.stop()
    wait_for(lambda: third.snapshot().step > 0)
    assert second.snapshot().steps == ()
    third.stop()
    wait_for(lambda: not third.active)


def test_published_weights_are_copies_that_the_training_leaves_alone(manager: RunManager) -> None:
    run = manager.start(ARCHITECTURE, LONG)
    wait_for(lambda: run.weights is not None)
    published = run.weights
    assert published is not None
    before = {name: tensor.clone() for name, tensor in published.tensors.items()}
    wait_for(lambda: run.weights is not published)
    assert all(torch.equal(before[name], tensor) for name, tensor in published.tensors.items())
    later = run.weights
    assert later is not None
    assert later.step > published.step
    assert not torch.equal(later.tensors["0.weight"], published.tensors["0.weight"])
    build(ARCHITECTURE).load_state_dict(later.tensors)
    run.stop()
    wait_for(lambda: not run.active)


def test_what_fits_into_memory_is_not_refused() -> None:
    """The kernel's own figure counts caches that it would give up; a machine that has run for a day is full of them."""
    for preset in PRESETS:
        assert refusal(analyse(parse(preset.text)), Recipe()) is None
    said = refusal(analyse(parse("2048 2048 2048 2048 10 A")), Recipe(batch_size=4096))
    assert said is not None
    assert "Use fewer channels or a smaller batch." in said


def test_runs_are_found_by_identity_and_live_on_without_their_starter(manager: RunManager) -> None:
    identities: list[str] = []
    tab = threading.Thread(target=lambda: identities.append(manager.start(ARCHITECTURE, LONG).identity))
    tab.start()
    tab.join()
    run = manager.get(identities[0])
    assert isinstance(run, Run)
    wait_for(lambda: run.snapshot().step > 5)
    assert manager.get("run-9-ffffff") is None
    assert manager.get(None) is None
    run.stop()
    wait_for(lambda: not run.active)
