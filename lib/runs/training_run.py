"""One training run: its state, its file, and its training in the calling thread.

- A `Run` has a history that only grows. `snapshot` copies what is new, so any number of tabs see the same.
- The training thread publishes copies of the weights from time to time; no other thread touches the network itself.
- A paused run holds no thread. Resuming reloads it from disk, exactly as after a restart of the server.
- A run has one writer: in this process the thread that holds `_writing`, among processes the one that holds the lock
  file. A run in training keeps the lock file; any other change takes it briefly and first reads what another process
  has written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.data.dataset import Dataset, DatasetError
from lib.design.analysis import analyze
from lib.nn.memory import is_out_of_memory
from lib.runs import run_store
from lib.runs.process_lock import WAIT_SECONDS, RunLock
from lib.runs.run_store import ACTIVE, RunRecord, Status
from lib.storage.checkpoints import MAX_TITLE, CheckpointError
from lib.text import untrusted_text
from lib.training.history import Curves, History
from lib.training.trainer import (
    DivergenceError,
    EpochMetrics,
    EvaluationProgress,
    StepMetrics,
    Trainer,
    TrainingState,
    best_device,
    recommended_threads,
)

PUBLISH_SECONDS = 0.25
# The trail: a copy of the weights at the first batch and whenever a fifth more have been made, as long as all copies
# together are no more than so many bytes; then every second one goes.
WEIGHT_HISTORY_FACTOR, WEIGHT_HISTORY_BYTES = 1.2, 32 * 2**20
# Between two savings lies at least this, and so many times what the last one took.
SAVE_SECONDS, SAVE_FACTOR = 5.0, 50
RATE_WINDOW = 50
LARGE_BATCH_MACS = 1_000_000_000
MAX_NAME = MAX_TITLE
MIN_FACTOR, MAX_FACTOR = run_store.MIN_FACTOR, run_store.MAX_FACTOR

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """What cannot be done with a run or with the queue, in a sentence with the remedy."""


@dataclass(frozen=True, eq=False)
class RunStatus:
    """What is new in a run since `since` steps and epochs, and how it stands.

    `steps_total` counts all the recipe's batches, 0 until it is known; `measuring` is the fraction measured just now,
    None while training; `images_per_second` is that of the last `RATE_WINDOW` batches; `message` is the reason of a
    failure; `save_error` says that and why it could not be saved lately.
    """

    status: Status
    curves: Curves
    epochs: tuple[EpochMetrics, ...]
    step: int
    epoch: int
    steps_total: int
    measuring: float | None
    images_per_second: float | None
    seconds_left: float | None
    factor: float
    message: str | None
    save_error: str | None
    saved: Path | None


@dataclass(frozen=True, eq=False)
class WeightsCopy:
    """A copy of a network's weights after `step` batches; nobody writes to it."""

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class StopAt:
    """How far a run goes before it pauses: to this batch, to the end of this epoch, or, with neither, to its end."""

    step: int | None = None
    epoch: int | None = None


class _CancelBatchError(Exception):
    """Thrown out of a batch that is not worth its end; its update has not been made."""


class Run:
    """One training. The thread is started by the manager; every public method may be called from any thread.

    Of the two locks `_writing` is taken first and held while the file is read or written, by whoever changes the run;
    `_lock` guards the fields, and nothing slow is done under it.
    """

    def __init__(self, record: RunRecord, folder: Path) -> None:
        self.identity, self.owner, self.parent = record.identity, record.owner, record.parent
        self.architecture, self.recipe, self.created = record.architecture, record.recipe, record.created
        self._folder = folder
        self._path = run_store.path_of(self.identity, folder)
        self._lock = threading.Lock()
        self._writing = threading.RLock()
        self._file_lock = RunLock(self.identity, folder)
        self._leave = threading.Event()
        self._idle = threading.Event()
        self._name: str
        self._status: Status
        self._message: str | None
        self._steps_total: int
        self._factor: float
        self._history: History | None
        self._state: TrainingState | None
        # Whether the state has been left in the file, to be read when it is needed.
        self._state_in_file: bool
        self._resumable: bool
        self._weights: WeightsCopy | None
        self._weight_history: tuple[WeightsCopy, ...]
        self._leg = StopAt()
        self._measuring: float | None = None
        self._times: list[float] = []
        self._save_error: str | None = None
        self._deleted = False
        self._save_due = 0.0
        self._stamp = _stamp(self._path)
        self._saved = None if self._stamp is None else self._path
        self._take(record)
        self._idle.set()

    @property
    def status(self) -> Status:
        with self._lock:
            return self._status

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def name(self) -> str:
        with self._lock:
            return self._name

    @property
    def resumable(self) -> bool:
        """Whether the run may go on: it has ended or paused before its last epoch, and its weights are numbers."""
        with self._lock:
            return self._status in ("paused", "stopped", "interrupted", "failed") and self._resumable

    @property
    def weights(self) -> WeightsCopy | None:
        """The last published copy; None before the first batch."""
        with self._lock:
            return self._weights

    @property
    def weight_history(self) -> tuple[WeightsCopy, ...]:
        """Copies from the way so far, oldest first, closer together at its beginning; the last published one ends it.

        Of what was trained in this process: a run that was read from its file has left none behind it.
        """
        with self._lock:
            last = self._weights
            earlier = self._weight_history
            return (*earlier, last) if last and (not earlier or last.step > earlier[-1].step) else earlier

    @property
    def bytes_kept(self) -> int:
        """Memory that its weights, their copies and the state to go on from take."""
        with self._lock:
            copies = (*self._weight_history, self._weights) if self._weights else self._weight_history
            tensors = [tensor for copy in copies for tensor in copy.tensors.values()]
            if self._state:
                tensors += [*self._state.network.values(), *self._state.optimizer.values()]
            return sum(tensor.nbytes for tensor in tensors)

    def pause(self) -> None:
        """Ask the training to pause, at the latest with the batch it is in. Raises RunError for a deleted run."""
        self._refuse_deleted()
        self._ask("pausing", "paused")

    def stop(self) -> None:
        """Ask the training to end, at the latest with the batch it is in. Of no effect on a run that has ended.

        Raises RunError for a run that was deleted, and for a paused one that cannot be written.
        """
        self._refuse_deleted()
        if self._ask("stopping", "stopped") or self.status != "paused":
            return
        with self._changing():
            with self._lock:
                if self._status == "paused":
                    self._status = "stopped"
            self._write()

    def interrupt(self) -> None:
        """Ask the training to leave: the process ends. Of no effect on a run that does not train."""
        self._ask("interrupted", "interrupted")

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply what the schedule asks for from the next batch on; 0.001 to 1000. Raises RunError."""
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            raise RunError(f"The learning rate can be multiplied by {MIN_FACTOR:g} to {MAX_FACTOR:,.0f}.")

        def change() -> None:
            self._factor = factor

        self._change(change)

    def rename(self, name: str) -> None:
        """Give it a name of at most 60 characters; an empty one gives back its first. Raises RunError."""
        try:
            name = untrusted_text.name(name, MAX_NAME)
        except untrusted_text.NameRefusedError as error:
            raise RunError(str(error)) from error

        def change() -> None:
            self._name = name or self.identity

        self._change(change)

    def delete(self) -> None:
        """Move its file away, to where `run_files.undelete` finds it. Nothing can be done with the run afterwards.

        The manager's part of `RunManager.delete`. Raises RunError.
        """
        with self._writing:
            self._refuse_deleted()
            if self.active:
                raise RunError(f"{self.name} is still training. Stop it first.")
            if not self._file_lock.acquire(WAIT_SECONDS):
                raise RunError(_elsewhere(self.name))
            try:
                run_store.delete(self.identity, self._folder)
            except OSError as error:
                raise RunError(f"{self.name} could not be deleted ({error.strerror}).") from error
            finally:
                self._file_lock.release()
            with self._lock:
                self._deleted = True

    def wait(self, seconds: float) -> bool:
        """Wait until it neither waits for a slot nor trains nor is saved, for so long at most; says whether so."""
        return self._idle.wait(seconds)

    def snapshot(self, since_step: int = 0, since_epoch: int = 0) -> RunStatus:
        """The steps and epochs after the given counts. Readers never consume."""
        self._reload()
        with self._lock:
            history = self._history or History()
            done, rate = history.steps, self._rate(history)
            left = None
            if rate and done and self._status in ("running", "stopping", "pausing"):
                left = (self._steps_total - done) * self.recipe.batch_size / rate
            per_epoch = max(1, self._steps_total // self.recipe.epochs)
            return RunStatus(
                status=self._status,
                curves=history.curves(since_step),
                epochs=tuple(history.epochs[since_epoch:]),
                step=done,
                epoch=min(len(history.epochs), max(done - 1, 0) // per_epoch) + 1,
                steps_total=self._steps_total,
                measuring=self._measuring,
                images_per_second=rate,
                seconds_left=left,
                factor=self._factor,
                message=self._message,
                save_error=self._save_error,
                saved=self._saved,
            )

    def queue(self, *, steps: int = 0, epochs: int = 0, leg: StopAt | None = None) -> None:
        """Make it wait for a slot, to go on for so many batches or epochs, or as far as `leg` says.

        The manager's part of `resume`; raises RunError where the run cannot go on. From then on until it pauses or
        ends, this process is the only one that may write its file.
        """
        with self._changing(keep=True):
            self._reload(with_state=True)
            with self._lock:
                if self._history is None or self._state_in_file:
                    raise RunError(f"{self._name} cannot go on. {self._save_error}")
                if self._status in ACTIVE or not self._resumable or self._status == "finished":
                    raise RunError(f"{self._name} cannot go on: it is {self._status}. Start a new run.")
                self._leg = leg or self._next_leg(self._history, steps, epochs)
                self._status, self._message = "queued", None
                self._leave.clear()
                self._idle.clear()

    @staticmethod
    def _next_leg(history: History, steps: int, epochs: int) -> StopAt:
        if steps:
            return StopAt(step=history.steps + steps)
        return StopAt(epoch=len(history.epochs) + epochs) if epochs else StopAt()

    def execute(self, load_data: Callable[[], Dataset]) -> None:
        """Train in the calling thread to the end of the leg. Raises nothing: a failure becomes status and message."""
        with self._lock:
            if self._status != "queued":
                return
            self._status = "running"
        try:
            ended = self._train(load_data())
        except DivergenceError as error:
            self._forget_state()
            self._end("failed", str(error))
        except DatasetError as error:
            self._end("failed", str(error))
        except MemoryError:
            self._end("failed", _NO_MEMORY)
        except Exception as error:
            log.exception("Run %s failed", self.identity)
            self._end("failed", _in_words(error))
        else:
            self._end(ended, None)

    def give_up(self, reason: str) -> None:
        """End a run that waits and cannot be trained."""
        with self._lock:
            if self._status != "queued":
                return
        self._end("failed", reason)

    def unload(self) -> None:
        """Forget what the file of a run that has ended knows too; of no effect while somebody changes the run."""
        self._unload(with_history=True)

    def unload_state(self) -> None:
        """As `unload`, but for the curves."""
        self._unload(with_history=False)

    def _unload(self, with_history: bool) -> None:
        if not self._writing.acquire(blocking=False):
            return
        try:
            with self._lock:
                if self._saved and self._save_error is None and self._status not in ACTIVE:
                    self._state_in_file = self._state_in_file or self._state is not None
                    self._state = self._weights = None
                    self._weight_history = ()
                    if with_history:
                        self._history = None
        finally:
            self._writing.release()

    def save(self) -> None:
        """Write the file of a run that waits or trains, as it stands; save_error becomes a part of the snapshot."""
        with self._writing:
            if self.active:
                self._write()

    def _ask(self, asked: Status, ended: Status) -> bool:
        """Ask a run that trains to leave, take one that waits out of the queue; returns False for any other."""
        with self._lock:
            if self._status in ("running", "pausing", "stopping"):
                self._status = asked
                self._leave.set()
                return True
        with self._writing:
            with self._lock:
                if self._status not in ACTIVE:
                    return False
                queued = self._status == "queued"
                self._status = ended if queued else asked
                self._leave.set()
            if queued:
                self._settle()
        return True

    def _refuse_deleted(self) -> None:
        with self._lock:
            if self._deleted:
                raise RunError(f"{self._name} was deleted. Only Undo, where it was deleted, can bring it back.")

    def _change(self, change: Callable[[], None]) -> None:
        """Change a field, and the file too unless the training writes it soon. Raises RunError."""
        with self._lock:
            if self._status in ACTIVE:
                change()
                return
        with self._changing():
            with self._lock:
                change()
                active = self._status in ACTIVE
            if not active:
                self._write()

    @contextmanager
    def _changing(self, keep: bool = False) -> Iterator[None]:
        """Change the run as its only writer, with what another process has written since. Raises RunError.

        With `keep`, the lock file stays locked where nothing was raised within.
        """
        with self._writing:
            self._refuse_deleted()
            if self.active:
                yield
                return
            if not self._file_lock.acquire(WAIT_SECONDS):
                raise RunError(_elsewhere(self.name))
            kept = False
            try:
                self._catch_up()
                yield
                kept = keep
            finally:
                if not kept:
                    self._file_lock.release()

    def _catch_up(self) -> None:
        """Read what another process has written since this one did. Raises RunError where the file has gone or is
        damaged: what is in memory is older.
        """
        now = _stamp(self._path)
        if now == self._stamp:
            return
        if now is None:
            raise RunError(
                f"The file of {self.name} is no longer there: another program has deleted or moved it. Put "
                f"{self._path.name} back, or delete the run here too."
            )
        try:
            record = run_store.load(self._path)
        except CheckpointError as error:
            raise RunError(str(error)) from error
        self._take(run_store.as_left(record))
        with self._lock:
            self._stamp, self._saved, self._save_error = now, self._path, None

    def _take(self, record: RunRecord) -> None:
        """Be as the record says."""
        with self._lock:
            self._name, self._status, self._message = record.name, record.status, record.message
            self._steps_total, self._factor = record.steps_total, record.factor
            self._history, self._state, self._state_in_file = record.history, record.state, False
            self._resumable = record.state is not None or record.history.steps == 0
            self._weights, self._weight_history = None, ()

    def _train(self, data: Dataset) -> Status:
        # torch's thread count belongs to the calling thread and must be set before its first operation.
        torch.set_num_threads(recommended_threads(self.architecture))
        device = best_device()
        training = Trainer(self.architecture, self.recipe, data, self._state, device)
        with self._lock:
            self._steps_total = training.steps_total
            leg = self._leg
        if analyze(self.architecture).macs * self.recipe.batch_size > LARGE_BATCH_MACS:
            _leave_within_a_batch(training.network, self._leave)
        published = -PUBLISH_SECONDS
        self._save_due = time.monotonic() + SAVE_SECONDS
        try:
            while True:
                with self._lock:
                    training.learning_rate_factor = self._factor
                try:
                    event = next(training, None)
                except _CancelBatchError:
                    break
                if event is None:
                    break
                self._record(event)
                now = time.monotonic()
                due = isinstance(event, StepMetrics) and event.step >= self._next_weight_history()
                if due or now - published >= PUBLISH_SECONDS:
                    self._publish(training, of_trail=due)
                    published = now
                if isinstance(event, EpochMetrics) or (now >= self._save_due and isinstance(event, StepMetrics)):
                    self._keep(training.state())
                if self._leave.is_set() or _done(leg, event):
                    break
            training.close()
        finally:
            self._keep(training.state(), write=False)
        if not run_store.is_finite(training.state()):
            raise DivergenceError(
                f"The weights were no longer numbers after step {training.step}. The learning rate is too high for "
                "this network: try a tenth of it."
            )
        self._publish(training)
        with self._lock:
            if training.epochs_done == self.recipe.epochs:
                return "finished"
            return {"stopping": "stopped", "interrupted": "interrupted"}.get(self._status, "paused")  # type: ignore[return-value]

    def _record(self, event: StepMetrics | EvaluationProgress | EpochMetrics) -> None:
        with self._lock:
            assert self._history is not None
            self._measuring = None
            match event:
                case StepMetrics():
                    self._history.add(event)
                    self._times.append(time.monotonic())
                    del self._times[:-RATE_WINDOW]
                case EvaluationProgress(seen=seen, total=total):
                    self._measuring = seen / total
                    # The pause between two epochs is no training time.
                    self._times.clear()
                case EpochMetrics():
                    self._history.add(event)

    def _rate(self, history: History) -> float | None:
        """Images a second over the last batches; the epoch's own rate while there are too few of them."""
        if len(self._times) >= 5:
            return (len(self._times) - 1) * self.recipe.batch_size / (self._times[-1] - self._times[0])
        return history.epochs[-1].images_per_second if history.epochs else None

    def _next_weight_history(self) -> float:
        return self._weight_history[-1].step * WEIGHT_HISTORY_FACTOR if self._weight_history else 0

    def _publish(self, training: Trainer, of_trail: bool = False) -> None:
        weights = WeightsCopy(training.step, training.weights())
        with self._lock:
            self._weights = weights
            if of_trail:
                copies = (*self._weight_history, weights)
                size = sum(tensor.nbytes for tensor in weights.tensors.values())
                self._weight_history = copies[1::2] if len(copies) * size > WEIGHT_HISTORY_BYTES else copies

    def _keep(self, state: TrainingState, write: bool = True) -> None:
        if not run_store.is_finite(state):
            # The next batch ends the run; what is in the file is the last that it could have gone on from.
            return
        with self._lock:
            self._state = state
        if write:
            started = time.monotonic()
            self.save()
            ended = time.monotonic()
            self._save_due = ended + max(SAVE_SECONDS, SAVE_FACTOR * (ended - started))

    def _end(self, status: Status, message: str | None) -> None:
        # Who sees that the run has ended, and resumes or deletes it, waits until it is saved.
        with self._writing:
            with self._lock:
                self._measuring = None
                self._times.clear()
                history, state = self._history or History(), self._state
                if status == "finished":
                    self._resumable = False
                elif status == "failed":
                    # An error in the middle of a batch may have left the curves a step behind the weights or before
                    # them.
                    kept = (0, 0) if state is None else (state.step, len(state.losses))
                    self._resumable = self._resumable and kept == (history.steps, len(history.epochs))
                self._status, self._message = status, message
            if status == "failed" and not self._resumable:
                self._forget_state()
            self._settle()

    def _settle(self) -> None:
        """Save a run that trains no more, and leave its file to others. To be called with `_writing` held."""
        try:
            self._write()
        finally:
            self._file_lock.release()
            self._idle.set()

    def _forget_state(self) -> None:
        """Of a run that cannot go on: what made the loss no number is in the weights."""
        with self._lock:
            self._state, self._resumable, self._weights = None, False, None
            self._weight_history = ()

    def record(self) -> RunRecord:
        """The run as it stands; while it trains, as it stood when its state was kept: curves and weights are those of
        the same batch, whoever saves it.
        """
        with self._lock:
            history, state = self._history or History(), self._state
            if state:
                history = history.until(state.step, len(state.losses))
            elif self._status in ACTIVE:
                history = History()
            return RunRecord(
                identity=self.identity,
                name=self._name,
                owner=self.owner,
                parent=self.parent,
                architecture=self.architecture,
                recipe=self.recipe,
                status=self._status,
                created=self.created,
                message=self._message,
                steps_total=self._steps_total,
                factor=self._factor,
                history=history,
                state=state,
            )

    def _write(self) -> None:
        """Write the file; save_error becomes a part of the snapshot. To be called with `_writing` held."""
        self._reload(with_state=True)
        with self._lock:
            if self._history is None or self._state_in_file:
                # The file cannot be read just now; what is in it is worth more than what is here.
                return
        now = _stamp(self._path)
        saved, save_error = self._saved, None
        if self._stamp is not None and now is not None and now != self._stamp:
            save_error = _TAKEN_UP
        else:
            try:
                saved = run_store.save(self.record(), self._folder)
                self._stamp = _stamp(self._path)
            except CheckpointError as error:
                save_error = str(error)
            except (MemoryError, RuntimeError) as error:
                log.exception("Run %s could not be saved", self.identity)
                save_error = f"The run could not be saved ({type(error).__name__}). The log has the rest."
        with self._lock:
            self._saved, self._save_error = saved, save_error

    def _reload(self, with_state: bool = False) -> None:
        """The curves of a run that was unloaded, and the state, larger, where it is needed."""
        with self._lock:
            wanted = self._history is None or (with_state and self._state_in_file)
            if not wanted or self._saved is None:
                return
            path = self._saved
        try:
            record, save_error = run_store.load(path), None
        except CheckpointError as error:
            record, save_error = None, str(error)
        with self._lock:
            self._save_error = save_error
            if record and self._history is None:
                self._history = record.history
            if record and with_state and self._state_in_file:
                self._state, self._state_in_file = record.state, False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells one version of a file from another, its time in ns among it; None where there is no file.

    The time alone is too coarse: a file system may give two versions within some milliseconds the same.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _done(leg: StopAt, event: StepMetrics | EvaluationProgress | EpochMetrics) -> bool:
    match event:
        case StepMetrics():
            return leg.step is not None and event.step >= leg.step
        case EpochMetrics():
            return leg.epoch is not None and event.epoch >= leg.epoch
    return False


_TAKEN_UP = (
    "Another program has changed the file of this run while it trained, and what it wrote is left alone. Restart "
    "Receptive to see it here."
)


def _elsewhere(name: str) -> str:
    return f"{name} is in use by another Receptive process, which may be training it. Pause or stop it there first."


_NO_MEMORY = "There is not enough memory. Use a smaller batch or fewer channels."


def _leave_within_a_batch(network: nn.Module, leave: threading.Event) -> None:
    """Let a stop take effect between two modules: a batch of a large network takes seconds."""

    def check(*_: object) -> None:
        if leave.is_set():
            raise _CancelBatchError

    for module in network.children():
        module.register_forward_pre_hook(check)
        module.register_full_backward_pre_hook(check)


def _in_words(error: Exception) -> str:
    if is_out_of_memory(error):
        return _NO_MEMORY
    return (
        f"The training ended with an error it did not expect ({type(error).__name__}: {error}). The log has the rest."
    )
