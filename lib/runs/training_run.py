"""One training run: its record, its file, and its training in the calling thread.

- The curves of a `Run` only grow. `snapshot` copies what is new, so any number of tabs can follow a run.
- The training thread publishes copies of the weights from time to time; no other thread reads the network itself.
- A paused run holds no thread. Resuming reloads it from disk, exactly as after a restart of the server.
- A run has one writer: in this process the thread that holds `RunFile.writing`, among processes the one that holds the
  lock file. A run in training keeps the lock file; any other change holds it briefly and first reads what another
  process has written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.data.dataset import Dataset, DatasetError
from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.recipe import Recipe
from lib.evaluation.calibration import Calibration, calibrate
from lib.evaluation.network_probe import probe
from lib.nn.memory import is_out_of_memory
from lib.nn.network import Network, assembled
from lib.runs import run_store
from lib.runs.process_lock import WAIT_SECONDS
from lib.runs.run_record import ACTIVE, MAX_LR_SCALE, MIN_LR_SCALE, RunRecord, Status, diagnosis, is_finite
from lib.runs.run_store import RunFile
from lib.storage.checkpoints import MAX_TITLE, CheckpointError
from lib.text import untrusted_text
from lib.training.diagnosis import Diagnosis, needs_probe, summarize
from lib.training.history import Curves, History
from lib.training.trainer import (
    DivergenceError,
    EpochMetrics,
    EvaluationProgress,
    StepMetrics,
    Trainer,
    TrainingState,
    best_device,
)

PUBLISH_SECONDS = 0.25
# Weights are copied at the first step and whenever the number of steps has grown by this factor. If all copies together
# exceed the limit, every second one is dropped.
WEIGHT_HISTORY_FACTOR, WEIGHT_HISTORY_BYTES = 1.2, 32 * 2**20
# Minimum time between two saves, in seconds and as a multiple of the duration of the last save.
SAVE_SECONDS, SAVE_FACTOR = 5.0, 50
# Steps over which the training rate is measured, and the fewest that give one.
RATE_WINDOW, MIN_RATE_WINDOW = 50, 5
# Steps between two diagnoses: the first, or this part of all steps, which are read each time.
DIAGNOSIS_STEPS, DIAGNOSIS_PART = 50, 1 / 20
# MACs of a batch from which a training stops within a batch rather than between two batches.
LARGE_BATCH_MACS = 1_000_000_000
MAX_NAME = MAX_TITLE
# The parts of a record that `Run.unload` can leave in the file. The calibration belongs to the state.
HISTORY, STATE = "history", "state"
_FIELDS = {HISTORY: ("history",), STATE: ("state", "calibration")}

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """An action on a run or on the queue that is not possible; the message is a sentence with a remedy."""


@dataclass(frozen=True, eq=False)
class RunStatus:
    """The steps and epochs of a run since given counts, and its present status.

    `step` counts all steps done, `epoch` is the current one, from 1. `steps_total` is the number of steps of the whole
    recipe, 0 before the first training. `measuring` is the fraction of the images evaluated so far, None during
    training. `calibrating` is true after the last epoch, while the network is calibrated. `images_per_second` covers
    the last `RATE_WINDOW` steps. `lr_scale` multiplies the learning rate of the schedule. `diagnosis` says why the run
    does not learn, None if it does. `message` is the reason of a failure; `save_error` is the reason why the last save
    failed. `saved` is the path of the file.
    """

    status: Status
    curves: Curves
    epochs: tuple[EpochMetrics, ...]
    step: int
    epoch: int
    steps_total: int
    measuring: float | None
    calibrating: bool
    images_per_second: float | None
    seconds_left: float | None
    lr_scale: float
    diagnosis: Diagnosis | None
    message: str | None
    save_error: str | None
    saved: Path | None


@dataclass(frozen=True, eq=False)
class WeightsCopy:
    """A copy of a network's state after `step` steps; it is never changed."""

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class StopAt:
    """The point at which a run pauses: after a step, at the end of an epoch or at the end of the recipe."""

    step: int | None = None
    epoch: int | None = None


class _CancelBatchError(Exception):
    """Raised to abort the current batch: by a hook, before the optimizer's step, and during the calibration."""


class Run:
    """One training. The manager starts its thread; every public method may be called from any thread.

    There are two locks. `RunFile.writing` is acquired first and held during reads and writes of the file; `_lock`
    guards the fields and is never held during slow work.
    """

    def __init__(self, record: RunRecord, folder: Path) -> None:
        self._folder = folder
        self._file = RunFile(record.identity, folder)
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        # The record is replaced, not changed, except for its history, which grows during training.
        self._record = record
        self._in_file: frozenset[str] = frozenset()
        # Whether training can start: there is a state to resume from, or nothing was trained yet.
        self._has_start: bool
        self._weights: WeightsCopy | None
        self._weight_history: tuple[WeightsCopy, ...]
        # Derived from the record when it is first asked for; during training, by the training thread.
        self._diagnosis: Diagnosis | None = None
        self._is_diagnosed = False
        self._stop_at = StopAt()
        self._measuring: float | None = None
        self._calibrating = False
        self._times: list[float] = []
        self._save_due = 0.0
        self._deleted = False
        self._set_record(record)

    @property
    def identity(self) -> str:
        return self._record.identity

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def owner(self) -> str:
        return self._record.owner

    @property
    def parent(self) -> str | None:
        return self._record.parent

    @property
    def architecture(self) -> Architecture:
        return self._record.architecture

    @property
    def recipe(self) -> Recipe:
        return self._record.recipe

    @property
    def created(self) -> str:
        return self._record.created

    @property
    def status(self) -> Status:
        return self._record.status

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether the run can continue: it has paused or ended before its last epoch, and its weights are finite."""
        with self._lock:
            return self._record.status in ("paused", "stopped", "interrupted", "failed") and self._has_start

    @property
    def in_file(self) -> frozenset[str]:
        """The parts of the record that are not in memory: they are read when they are needed."""
        return self._in_file

    @property
    def weights(self) -> WeightsCopy | None:
        """The last published copy; None before the first step."""
        with self._lock:
            return self._weights

    @property
    def weight_history(self) -> tuple[WeightsCopy, ...]:
        """Copies of the weights at earlier steps, closer together at the beginning; the last one published is the end.

        Only steps that were trained in this process are covered.
        """
        with self._lock:
            last, earlier = self._weights, self._weight_history
            return (*earlier, last) if last and (not earlier or last.step > earlier[-1].step) else earlier

    @property
    def bytes_kept(self) -> int:
        """Memory of the weights, their copies and the training state, in bytes."""
        with self._lock:
            copies = (*self._weight_history, self._weights) if self._weights else self._weight_history
            tensors = [tensor for copy in copies for tensor in copy.tensors.values()]
            if state := self._record.state:
                tensors += [*state.network.values(), *state.optimizer.values()]
            return sum(tensor.nbytes for tensor in tensors)

    def pause(self) -> None:
        """Request a pause, at the latest after the current batch. Raises RunError for a deleted run."""
        self._refuse_deleted()
        self._request("pausing", "paused")

    def stop(self) -> None:
        """Request the end of the training, at the latest after the current batch. An ended run is left as it is.

        Raises RunError for a deleted run, and for a paused one that cannot be written.
        """
        self._refuse_deleted()
        if self._request("stopping", "stopped") or self.status != "paused":
            return
        with self._changing():
            with self._lock:
                if self._record.status == "paused":
                    self._record = replace(self._record, status="stopped")
            self._write()

    def interrupt(self) -> None:
        """Request the end of the training because the process ends. Other runs are left as they are."""
        self._request("interrupted", "interrupted")

    def set_lr_scale(self, scale: float) -> None:
        """Multiply the schedule's learning rate by `scale`, 0.001 to 1000, from the next step on. Raises RunError."""
        if not MIN_LR_SCALE <= scale <= MAX_LR_SCALE:
            raise RunError(f"The learning rate can be multiplied by {MIN_LR_SCALE:g} to {MAX_LR_SCALE:,.0f}.")
        self._change(lr_scale=scale)

    def rename(self, name: str) -> None:
        """Set the name, at most 60 characters; an empty one restores the first name. Raises RunError."""
        try:
            name = untrusted_text.name(name, MAX_NAME)
        except untrusted_text.NameRefusedError as error:
            raise RunError(str(error)) from error
        self._change(name=name or self.identity)

    def delete(self) -> None:
        """Move the file to the deleted runs, from where `run_store.undelete` restores it. Raises RunError.

        This is the run's part of `RunManager.delete`. Nothing can be done with the run afterwards.
        """
        with self._file.writing:
            self._refuse_deleted()
            if self.active:
                raise RunError(f"{self.name} is still training. Stop it first.")
            if not self._file.lock.acquire(WAIT_SECONDS):
                raise RunError(_used_elsewhere(self.name))
            try:
                run_store.delete(self.identity, self._folder)
            except OSError as error:
                raise RunError(f"{self.name} could not be deleted ({error.strerror}).") from error
            finally:
                self._file.lock.release()
            with self._lock:
                self._deleted = True

    def wait(self, seconds: float) -> bool:
        """Wait until the run is neither queued, nor training, nor being saved; return False after `seconds`."""
        return self._idle.wait(seconds)

    def snapshot(self, since_step: int = 0, since_epoch: int = 0) -> RunStatus:
        """Return the steps and epochs after the given counts, and the status."""
        self._load_parts({HISTORY})
        with self._lock:
            if not self._is_diagnosed and HISTORY not in self._in_file:
                self._diagnosis, self._is_diagnosed = diagnosis(self._record), True
            record, history = self._record, self._record.history
            done, rate = history.steps, self._rate()
            left = None
            if rate and done and record.status in ("running", "stopping", "pausing"):
                left = (record.steps_total - done) * record.recipe.batch_size / rate
            per_epoch = max(1, record.steps_total // record.recipe.epochs)
            return RunStatus(
                status=record.status,
                curves=history.curves(since_step),
                epochs=tuple(history.epochs[since_epoch:]),
                step=done,
                epoch=min(len(history.epochs), max(done - 1, 0) // per_epoch) + 1,
                steps_total=record.steps_total,
                measuring=self._measuring,
                calibrating=self._calibrating,
                images_per_second=rate,
                seconds_left=left,
                lr_scale=record.lr_scale,
                diagnosis=self._diagnosis,
                message=record.message,
                save_error=self._file.error,
                saved=self._file.saved,
            )

    def queue(self, *, steps: int = 0, epochs: int = 0, stop_at: StopAt | None = None) -> None:
        """Make the run wait for its turn, to train for `steps` or `epochs` more, or until `stop_at`.

        This is the run's part of `RunManager.resume`. Until the run pauses or ends, this process is the only one that
        may write its file. Raises RunError if the run cannot continue.
        """
        with self._changing(keep=True):
            self._load_parts({HISTORY, STATE})
            with self._lock:
                record = self._record
                if self._in_file:
                    raise RunError(f"{record.name} cannot go on. {self._file.error}")
                if record.status in ACTIVE or record.status == "finished" or not self._has_start:
                    raise RunError(f"{record.name} cannot go on: it is {record.status}. Start a new run.")
                self._stop_at = stop_at or _next_stop(record.history, steps, epochs)
                self._record = replace(record, status="queued", message=None)
                self._idle.clear()

    def execute(self, load_data: Callable[[], Dataset]) -> None:
        """Train in the calling thread until `stop_at`. Raises nothing: a failure becomes status and message."""
        with self._lock:
            if self._record.status != "queued":
                return
            self._record = replace(self._record, status="running")
        try:
            ended = self._train(load_data())
        except DivergenceError as error:
            with self._lock:
                self._drop_state()
            self._end("failed", str(error))
        except DatasetError as error:
            self._end("failed", str(error))
        except MemoryError:
            self._end("failed", _NO_MEMORY)
        except Exception as error:
            log.exception("Run %s failed", self.identity)
            self._end("failed", _failure_message(error))
        else:
            self._end(ended, None)

    def give_up(self, reason: str) -> None:
        """End a queued run that cannot be trained."""
        with self._lock:
            if self._record.status != "queued":
                return
        self._end("failed", reason)

    def unload(self, parts: frozenset[str] = frozenset({HISTORY, STATE})) -> None:
        """Free the memory of an ended run's weights and of `parts` that its file holds too.

        Without effect while another thread changes the run.
        """
        if not self._file.writing.acquire(blocking=False):
            return
        try:
            with self._lock:
                if self._file.saved and self._file.error is None and self._record.status not in ACTIVE:
                    self._weights, self._weight_history = None, ()
                    unloaded: dict[str, Any] = {"history": History(), "state": None, "calibration": None}
                    self._record = replace(
                        self._record, **{name: unloaded[name] for part in parts for name in _FIELDS[part]}
                    )
                    self._in_file |= parts
        finally:
            self._file.writing.release()

    def save(self) -> None:
        """Write the file of a run that is queued or in training; a failure appears in `RunStatus.save_error`."""
        with self._file.writing:
            if self.active:
                self._write()

    def _request(self, requested: Status, ended: Status) -> bool:
        """Set a training run's status to `requested`, a queued one's to `ended`; return False for any other run."""
        with self._lock:
            if self._record.status in ("running", "pausing", "stopping"):
                self._record = replace(self._record, status=requested)
                return True
        with self._file.writing:
            with self._lock:
                if self._record.status not in ACTIVE:
                    return False
                queued = self._record.status == "queued"
                self._record = replace(self._record, status=ended if queued else requested)
            if queued:
                self._settle()
        return True

    def _must_leave(self) -> bool:
        return self.status in ("pausing", "stopping", "interrupted")

    def _cancel_batch(self) -> None:
        """Let a stop take effect within a batch: one of a large network takes seconds."""
        if self._must_leave():
            raise _CancelBatchError

    def _refuse_deleted(self) -> None:
        if self._deleted:
            raise RunError(f"{self.name} was deleted. Only Undo, where it was deleted, can bring it back.")

    def _change(self, **values: Any) -> None:
        """Replace values of the record, and write the file unless the training writes it soon. Raises RunError."""
        with self._lock:
            if self._record.status in ACTIVE:
                self._record = replace(self._record, **values)
                return
        with self._changing():
            with self._lock:
                self._record = replace(self._record, **values)
                active = self._record.status in ACTIVE
            if not active:
                self._write()

    @contextmanager
    def _changing(self, keep: bool = False) -> Iterator[None]:
        """Hold both locks of the file, after reading what another process has written. Raises RunError.

        With `keep`, the lock file stays locked unless the body raises.
        """
        with self._file.writing:
            self._refuse_deleted()
            if self.active:
                yield
                return
            if not self._file.lock.acquire(WAIT_SECONDS):
                raise RunError(_used_elsewhere(self.name))
            kept = False
            try:
                try:
                    record = self._file.load_changes(self.name)
                except CheckpointError as error:
                    raise RunError(str(error)) from error
                if record:
                    self._set_record(record)
                yield
                kept = keep
            finally:
                if not kept:
                    self._file.lock.release()

    def _set_record(self, record: RunRecord) -> None:
        with self._lock:
            self._record, self._in_file = record, frozenset()
            self._diagnosis, self._is_diagnosed = None, False
            self._has_start = record.state is not None or record.history.steps == 0
            self._weights, self._weight_history = None, ()

    def _load_parts(self, parts: set[str]) -> None:
        """Read those of `parts` that are in the file only; on failure they stay there, and `RunFile.error` says why."""
        with self._lock:
            if not parts & self._in_file or self._file.saved is None:
                return
        record = self._file.load()
        if record is None:
            return
        with self._lock:
            # Another thread may have read them meanwhile.
            missing = parts & self._in_file
            self._record = replace(
                self._record, **{name: getattr(record, name) for part in missing for name in _FIELDS[part]}
            )
            self._in_file -= missing

    def _train(self, data: Dataset) -> Status:
        # torch's thread count belongs to the calling thread and must be set before its first operation.
        torch.set_num_threads(1)
        trainer = Trainer(self.architecture, self.recipe, data, self._record.state, best_device())
        torch.set_num_threads(trainer.threads)
        with self._lock:
            self._record = replace(self._record, steps_total=trainer.steps_total)
            stop_at = self._stop_at
        if analyze(self.architecture).macs * self.recipe.batch_size > LARGE_BATCH_MACS:
            trainer.interrupt_with(self._cancel_batch)
        published, diagnosis_due = -PUBLISH_SECONDS, trainer.step + DIAGNOSIS_STEPS
        self._save_due = time.monotonic() + SAVE_SECONDS
        try:
            while True:
                trainer.lr_scale = self._record.lr_scale
                try:
                    event = next(trainer, None)
                    if event is None:
                        break
                    self._add(event)
                    if isinstance(event, EpochMetrics) or trainer.step >= diagnosis_due:
                        self._diagnose(trainer.network, data)
                        diagnosis_due = trainer.step + max(DIAGNOSIS_STEPS, int(DIAGNOSIS_PART * trainer.step))
                except _CancelBatchError:
                    break
                now = time.monotonic()
                step_done = isinstance(event, StepMetrics)
                remember = step_done and trainer.step >= self._next_weight_history()
                if remember or now - published >= PUBLISH_SECONDS:
                    self._publish(trainer, remember)
                    published = now
                if isinstance(event, EpochMetrics) or (step_done and now >= self._save_due):
                    self._keep_state(trainer.state())
                    self._save_in_training()
                if self._must_leave() or _reached(stop_at, event):
                    break
            trainer.close()
        finally:
            state = trainer.state()
            self._keep_state(state)
        if not is_finite(state):
            raise DivergenceError(
                f"The weights were no longer numbers after step {trainer.step}. The learning rate is too high for "
                "this network: try a tenth of it."
            )
        self._publish(trainer)
        if trainer.epochs_done == self.recipe.epochs:
            self._calibrate(state.network, data)
            return "finished"
        with self._lock:
            return {"stopping": "stopped", "interrupted": "interrupted"}.get(self._record.status, "paused")  # type: ignore[return-value]

    def _calibrate(self, weights: Mapping[str, Tensor], data: Dataset) -> None:
        """Calibrate the trained network, so that no page has to; a request to stop ends this early, without a result.

        A process that is killed meanwhile loses nothing but this: the run was saved after its last epoch.
        """

        def check() -> None:
            if self._must_leave():
                raise _CancelBatchError

        found: Calibration | None = None
        with self._lock:
            self._calibrating, self._measuring = True, None
        try:
            check()
            found = calibrate(assembled(self.architecture, weights), data, check=check)
        except _CancelBatchError:
            pass
        except (DatasetError, MemoryError, RuntimeError):
            # The pages calibrate it when they need it, or say why they cannot.
            log.warning("%s could not be calibrated", self.identity, exc_info=True)
        finally:
            with self._lock:
                self._calibrating = False
                self._record = replace(self._record, calibration=found)

    def _add(self, event: StepMetrics | EvaluationProgress | EpochMetrics) -> None:
        with self._lock:
            self._measuring = None
            match event:
                case StepMetrics():
                    self._record.history.add(event)
                    self._times.append(time.monotonic())
                    del self._times[:-RATE_WINDOW]
                case EvaluationProgress(seen=seen, total=total):
                    self._measuring = seen / total
                    # The pause between two epochs is not training time.
                    self._times.clear()
                case EpochMetrics():
                    self._record.history.add(event)

    def _diagnose(self, network: Network, data: Dataset) -> None:
        with self._lock:
            record, curves = self._record, self._record.history.curves()
        summary = summarize(record.recipe, curves, record.lr_scale)
        found = None
        if needs_probe(summary, ended=len(record.history.epochs) == record.recipe.epochs):
            step, seed = record.history.steps, record.recipe.seed
            found = probe(network, data.train_images, data.train_labels, step=step, seed=seed)
        with self._lock:
            self._record = replace(self._record, probe=found)
            self._diagnosis, self._is_diagnosed = diagnosis(self._record), True

    def _rate(self) -> float | None:
        """Return images per second over the last steps; the last epoch's rate while there are too few of them."""
        record = self._record
        if len(self._times) >= MIN_RATE_WINDOW:
            return (len(self._times) - 1) * record.recipe.batch_size / (self._times[-1] - self._times[0])
        return record.history.epochs[-1].images_per_second if record.history.epochs else None

    def _next_weight_history(self) -> float:
        return self._weight_history[-1].step * WEIGHT_HISTORY_FACTOR if self._weight_history else 0

    def _publish(self, trainer: Trainer, remember: bool = False) -> None:
        weights = WeightsCopy(trainer.step, trainer.weights())
        with self._lock:
            self._weights = weights
            if remember:
                copies = (*self._weight_history, weights)
                size = sum(tensor.nbytes for tensor in weights.tensors.values())
                self._weight_history = copies[1::2] if len(copies) * size > WEIGHT_HISTORY_BYTES else copies

    def _keep_state(self, state: TrainingState) -> None:
        # After a state that is not finite the next batch ends the run; the one before it can still be resumed.
        if is_finite(state):
            with self._lock:
                self._record = replace(self._record, state=state)

    def _save_in_training(self) -> None:
        started = time.monotonic()
        self.save()
        ended = time.monotonic()
        self._save_due = ended + max(SAVE_SECONDS, SAVE_FACTOR * (ended - started))

    def _end(self, status: Status, message: str | None) -> None:
        # A thread that sees the end and resumes or deletes the run waits until it is saved.
        with self._file.writing:
            with self._lock:
                self._measuring = None
                self._times.clear()
                history, state = self._record.history, self._record.state
                if status == "failed":
                    # An error within a batch may leave curves and weights at different steps.
                    at = (0, 0) if state is None else (state.step, len(state.losses))
                    if not self._has_start or at != (history.steps, len(history.epochs)):
                        self._drop_state()
                self._record = replace(self._record, status=status, message=message)
                self._is_diagnosed = False
            self._settle()

    def _settle(self) -> None:
        """Save a run that no longer trains, and unlock its file. `RunFile.writing` must be held."""
        try:
            self._write()
        finally:
            self._file.lock.release()
            self._idle.set()

    def _drop_state(self) -> None:
        """Forget the weights and the state of a run that cannot continue. `_lock` must be held."""
        self._record = replace(self._record, state=None)
        self._has_start = False
        self._weights, self._weight_history = None, ()

    def _write(self) -> None:
        """Write the file; a failure is in `RunFile.error`. `RunFile.writing` must be held."""
        self._load_parts({HISTORY, STATE})
        with self._lock:
            if self._in_file:
                # The file cannot be read now, and it holds more than the memory does.
                return
            record = self._record
            if record.state:
                # Curves and weights in the file belong to the same step.
                record = replace(record, history=record.history.until(record.state.step, len(record.state.losses)))
            elif record.status in ACTIVE:
                record = replace(record, history=History())
        self._file.save(record)


def _next_stop(history: History, steps: int, epochs: int) -> StopAt:
    if steps:
        return StopAt(step=history.steps + steps)
    return StopAt(epoch=len(history.epochs) + epochs) if epochs else StopAt()


def _reached(stop_at: StopAt, event: StepMetrics | EvaluationProgress | EpochMetrics) -> bool:
    match event:
        case StepMetrics():
            return stop_at.step is not None and event.step >= stop_at.step
        case EpochMetrics():
            return stop_at.epoch is not None and event.epoch >= stop_at.epoch
    return False


def _used_elsewhere(name: str) -> str:
    return f"{name} is in use by another Receptive process, which may be training it. Pause or stop it there first."


_NO_MEMORY = "There is not enough memory. Use a smaller batch or fewer channels."


def _failure_message(error: Exception) -> str:
    if is_out_of_memory(error):
        return _NO_MEMORY
    return f"The training ended with an unexpected error ({type(error).__name__}: {error}). The log has the details."
