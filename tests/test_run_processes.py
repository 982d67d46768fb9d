"""Several processes on one folder of runs: each run has one writer, also when processes are killed."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from lib.runs import run_store
from lib.runs.run_manager import MAX_WAITING
from lib.storage.checkpoints import CheckpointError
from tests.run_process import UNKNOWN, RunProcess
from tools.waiting import until

pytestmark = pytest.mark.slow


EPOCHS, LONG = 4, 100
STEPS = 10 * EPOCHS
ELSEWHERE, DELETED, GONE = "another Receptive process", "was deleted", "is no longer there"


def saved_steps(folder: Path, identity: str) -> int:
    return run_store.load(run_store.path_of(identity, folder)).history.steps


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Callable[[], RunProcess]]:
    """Makes processes on one folder; they are killed at the end."""
    made: list[RunProcess] = []

    def process() -> RunProcess:
        made.append(RunProcess(tmp_path))
        made[-1].seen()
        return made[-1]

    yield process
    for each in made:
        each.kill()


def comes_to(process: RunProcess, identity: str, *statuses: str) -> None:
    """Wait until the run has one of these and is saved."""
    until(lambda: process.seen().status(identity) in statuses)
    assert process.ask("wait") == (True, None)


def paused(process: RunProcess, folder: Path, epochs: int = EPOCHS, step: int = 3) -> str:
    """A run that stands still after `step` batches, and is saved."""
    identity, refused = process.ask("start", "", step, epochs)
    assert refused is None
    comes_to(process, identity, "paused")
    assert saved_steps(folder, identity) == step
    return str(identity)


def test_a_run_that_another_process_trains_is_left_alone(two: Callable[[], RunProcess], tmp_path: Path) -> None:
    """Deleting it, and undoing that, rolled the run back to where the first process had left it."""
    one = two()
    identity = paused(one, tmp_path, LONG)
    other = two()
    assert other.ask("resume", identity, 0) == (None, None)
    for command in (("delete", identity), ("rename", identity, "mine"), ("stop", identity), ("resume", identity, 1)):
        _, refused = one.ask(*command)
        assert ELSEWHERE in str(refused), command
    assert other.ask("stop", identity) == (None, None)
    comes_to(other, identity, "stopped")
    assert saved_steps(tmp_path, identity) == other.seen().runs[identity][2] > 3
    assert not (tmp_path / "deleted").exists()
    assert one.ask("delete", identity) == (None, None)


def test_a_run_that_another_process_has_left_goes_on_from_there(two: Callable[[], RunProcess], tmp_path: Path) -> None:
    """Not from where this process saw it last, and without a restart."""
    one = two()
    identity = paused(one, tmp_path)
    other = two()
    for process, step in ((other, 5), (one, 7), (other, 9), (other, 11), (one, 13)):
        assert process.ask("resume", identity, 2) == (None, None)
        comes_to(process, identity, "paused")
        assert saved_steps(tmp_path, identity) == step
    assert other.ask("rename", identity, "theirs") == (None, None)
    assert one.ask("stop", identity) == (None, None)
    record = run_store.load(run_store.path_of(identity, tmp_path))
    assert (record.name, record.status, record.history.steps) == ("theirs", "stopped", 13)
    assert other.ask("resume", identity, 0) == (None, None)
    comes_to(other, identity, "finished")
    assert saved_steps(tmp_path, identity) == STEPS
    _, refused = one.ask("resume", identity, 0)
    assert "it is finished" in str(refused)


def test_a_run_that_another_process_has_deleted_is_said_to_be_gone(
    two: Callable[[], RunProcess], tmp_path: Path
) -> None:
    one = two()
    identity = paused(one, tmp_path)
    other = two()
    assert other.ask("delete", identity) == (None, None)
    for command in (("rename", identity, "mine"), ("stop", identity), ("resume", identity, 1)):
        _, refused = one.ask(*command)
        assert GONE in str(refused), command
    assert list(tmp_path.glob("*.safetensors")) == []
    assert one.ask("delete", identity) == (None, None), "it can be taken from the list"
    assert other.ask("undelete", identity) == (identity, None)
    assert one.ask("undelete", identity)[1] == (
        f"{identity} could not be brought back. There is a file {identity}.safetensors again, and it is left as it is."
    )
    assert saved_steps(tmp_path, identity) == 3


def test_a_killed_process_leaves_its_run_to_the_others(two: Callable[[], RunProcess], tmp_path: Path) -> None:
    one = two()
    identity = paused(one, tmp_path)
    other = two()
    assert one.ask("resume", identity, 0) == (None, None)
    one.kill()
    step = saved_steps(tmp_path, identity)
    assert other.ask("resume", identity, 1) == (None, None)
    comes_to(other, identity, "paused", "finished")
    assert saved_steps(tmp_path, identity) == min(step + 1, STEPS)


@cache
def paused_runs() -> tuple[Path, ...]:
    """The files of two runs that stand still after three batches."""
    folder = Path(tempfile.mkdtemp(prefix="receptive-paused-"))
    atexit.register(shutil.rmtree, folder)
    process = RunProcess(folder)
    try:
        return tuple(run_store.path_of(paused(process, folder), folder) for _ in range(2))
    finally:
        process.kill()


class Folder(RuleBasedStateMachine):
    """Two processes on one folder do anything to its runs, in any order, and are killed at any moment.

    No step that was saved is lost, no run is trained unlisted or twice, no dead process holds a slot, and every refusal
    has a reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="receptive-"))
        # Both processes list the runs that are there before them, and not those that the other one starts.
        for path in paused_runs():
            shutil.copy(path, self.folder)
        self.processes = [RunProcess(self.folder), RunProcess(self.folder)]
        # The longest curve that a file has held, by identity.
        self.losses: dict[str, NDArray[np.float64]] = {}
        self.known = [path.stem for path in paused_runs()]

    def teardown(self) -> None:
        try:
            self._everything_ends()
        finally:
            for process in self.processes:
                process.kill()
            shutil.rmtree(self.folder)

    process = st.integers(0, 1)
    some = st.one_of(st.just(0), st.integers(0, 3))

    def _some(self, some: int) -> str:
        """A run of all that there ever were, deleted ones among them: a tab may still show it."""
        return self.known[some % len(self.known)]

    def _is_reason(self, process: int, identity: str, refused: str, busy: bool) -> bool:
        """Whether a preflight_error names what any action may fail of, and that is so."""
        listed = identity in self.processes[process].seen().runs
        return (
            (ELSEWHERE in refused and busy)
            or (GONE in refused and self._deleted(identity))
            or (DELETED in refused and not listed)
            or (refused == UNKNOWN and not listed)
        )

    @rule(process=process, step=st.sampled_from([None, 1, 4, 12]))
    def start(self, process: int, step: int | None) -> None:
        waiting = self._waiting(process)
        identity, refused = self.processes[process].ask("start", "", step, EPOCHS)
        if refused is None:
            self.known.append(identity)
        else:
            assert waiting >= MAX_WAITING
            assert "are waiting already" in refused

    @rule(process=process, some=some, steps=st.sampled_from([0, 1, 7]))
    def resume(self, process: int, some: int, steps: int) -> None:
        identity = self._some(some)
        busy = self._active_elsewhere(process, identity)
        active = identity in self.processes[process].seen().active
        waiting = self._waiting(process)
        _, refused = self.processes[process].ask("resume", identity, steps)
        if refused is None:
            assert identity in self.processes[process].seen().runs
            assert not self._deleted(identity)
        elif "cannot go on: it is" in refused:
            assert active or self._status(identity) in ("finished", "failed")
        elif "are waiting already" in refused:
            assert waiting >= MAX_WAITING
        else:
            assert self._is_reason(process, identity, refused, busy), refused

    @rule(process=process, some=some, command=st.sampled_from(["pause", "stop"]))
    def leave(self, process: int, some: int, command: str) -> None:
        identity = self._some(some)
        busy = self._active_elsewhere(process, identity)
        _, refused = self.processes[process].ask(command, identity)
        assert refused is None or self._is_reason(process, identity, refused, busy), refused

    @rule(process=process, some=some, name=st.sampled_from(["wider", "deeper"]))
    def rename(self, process: int, some: int, name: str) -> None:
        identity = self._some(some)
        busy = self._active_elsewhere(process, identity)
        _, refused = self.processes[process].ask("rename", identity, name)
        if refused is None:
            assert self.processes[process].seen().runs[identity][0] == name
        else:
            assert self._is_reason(process, identity, refused, busy), refused

    @rule(process=process, some=some)
    def delete(self, process: int, some: int) -> None:
        identity = self._some(some)
        busy = self._active_elsewhere(process, identity)
        active = identity in self.processes[process].seen().active
        _, refused = self.processes[process].ask("delete", identity)
        if refused is None:
            assert identity not in self.processes[process].seen().runs
            assert self._deleted(identity)
        elif "Stop it first" in refused:
            assert active
        else:
            assert self._is_reason(process, identity, refused, busy), refused

    @rule(process=process, some=some)
    def undo(self, process: int, some: int) -> None:
        identity = self._some(some)
        there, deleted = self._path(identity).exists(), self._bin(identity).exists()
        listed = identity in self.processes[process].seen().runs
        _, refused = self.processes[process].ask("undelete", identity)
        assert (refused is None) == (listed or (deleted and not there)), refused

    @rule(process=process)
    def kill(self, process: int) -> None:
        self.processes[process].kill()
        self._look_at_files()
        self.processes[process] = RunProcess(self.folder)
        assert self.processes[process].ask("set aside") == ((), None)

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.1]))
    def train(self, seconds: float) -> None:
        time.sleep(seconds)

    @invariant()
    def no_saved_step_is_lost(self) -> None:
        self._look_at_files()

    @invariant()
    def each_run_is_listed_where_it_trains_and_nowhere_else(self) -> None:
        one, other = (process.seen() for process in self.processes)
        for seen in (one, other):
            # A thread that is about to end may be of a run that has just been deleted; it is gone soon.
            assert len(seen.trained) <= 2, seen
            assert seen.active <= seen.runs.keys()
        assert not one.active & other.active, (one, other)

    def _everything_ends(self) -> None:
        """All that trains or waits comes to its end, and then the slot of each process is free."""
        for process in self.processes:
            for identity in process.seen().active:
                process.ask("stop", identity)
        for process in self.processes:
            assert process.ask("wait") == (True, None)
            assert not process.seen().active
            identity, refused = process.ask("start", "at last", 1, EPOCHS)
            assert refused is None
            comes_to(process, identity, "paused")
            assert not process.seen().active
        self._look_at_files()

    def _look_at_files(self) -> None:
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob("deleted/*.safetensors")]:
            try:
                losses = run_store.load(path).history.curves().train_loss
            except CheckpointError:
                # It has been moved between the two, and is met again.
                assert not path.exists()
                continue
            before = self.losses.get(path.stem, losses[:0])
            assert len(losses) >= len(before), f"{path.stem} has lost steps"
            np.testing.assert_array_equal(losses[: len(before)], before)
            self.losses[path.stem] = losses

    def _path(self, identity: str) -> Path:
        return run_store.path_of(identity, self.folder)

    def _bin(self, identity: str) -> Path:
        return run_store.path_of(identity, self.folder / "deleted")

    def _deleted(self, identity: str) -> bool:
        return not self._path(identity).exists() and self._bin(identity).exists()

    def _status(self, identity: str) -> str:
        return run_store.load(self._path(identity)).status

    def _waiting(self, process: int) -> int:
        return [status for _, status, _ in self.processes[process].seen().runs.values()].count("queued")

    def _active_elsewhere(self, process: int, identity: str) -> bool:
        """Or was a moment ago: it may be in its last save."""
        return identity in self.processes[1 - process].seen().active


FOLDER_SETTINGS = settings(
    max_examples=6,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_two_processes_on_one_folder_lose_nothing() -> None:
    run_state_machine_as_test(Folder, settings=FOLDER_SETTINGS)
