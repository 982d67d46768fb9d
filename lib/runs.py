"""Trainings in background threads, and who may see them.

- A `Run` owns a thread while it trains and a history that only grows; `snapshot` copies what is new, so any number of
  tabs agree.
- The thread publishes copies of its weights now and then; nobody else touches the network in training.
- A paused run has no thread: it lies in its file, and goes on from there as it would after a restart of the server.
- `RunManager` lives once in the process: it owns the runs, a queue and the slots. A closed tab ends nothing.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor, nn

from lib import run_files, untrusted_text
from lib.analysis import NetworkAnalysis, analyse, training_bytes
from lib.architecture import Architecture, operations
from lib.checkpoints import MAX_BYTES, CheckpointError
from lib.dataset import Dataset, DatasetError
from lib.history import Curves, History
from lib.recipe import Recipe
from lib.run_files import ACTIVE, RunRecord, Status
from lib.training import (
    DivergenceError,
    EpochMetrics,
    MeasuringProgress,
    StepMetrics,
    Training,
    TrainingState,
    best_device,
    threads,
)

PUBLISH_SECONDS = 0.25
# The trail: a copy of the weights at the first batch and whenever a fifth more have been made, as long as all copies
# together are no more than so many bytes; then every second one goes.
TRAIL_FACTOR, TRAIL_BYTES = 1.2, 32 * 2**20
# Between two savings lies at least this, and so many times what the last one took.
SAVE_SECONDS, SAVE_FACTOR = 5.0, 50
RATE_WINDOW = 50
LARGE_BATCH_MACS = 1_000_000_000
MAX_WAITING = 3
# Ended runs whose curves stay in memory; those of older ones are read from their files again.
KEPT = 8
MAX_NAME = 60
MIN_FACTOR, MAX_FACTOR = 1e-3, 1e3
END_SECONDS = 10.0

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """What cannot be done with a run or with the queue, in a sentence with the remedy."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is new in a run since `since` steps and epochs, and how it stands.

    `steps_total` counts all the recipe's batches, 0 until it is known; `measuring` is the fraction measured just now,
    None while training; `images_per_second` is that of the last `RATE_WINDOW` batches; `message` is the reason of a
    failure; `trouble` says that and why it could not be saved lately.
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
    trouble: str | None
    saved: Path | None


@dataclass(frozen=True, eq=False)
class Weights:
    """A copy of a network's weights after `step` batches; nobody writes to it."""

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Leg:
    """How far a run goes before it pauses: to this batch, to the end of this epoch, or, with neither, to its end."""

    step: int | None = None
    epoch: int | None = None


class _LeftInBatch(Exception):  # noqa: N818
    """Thrown out of a batch that is not worth its end; its update has not been made."""


class Run:
    """One training. The thread is started by the manager; every public method may be called from any thread."""

    def __init__(self, record: RunRecord, folder: Path, process: str) -> None:
        self.identity, self.owner, self.parent = record.identity, record.owner, record.parent
        self.architecture, self.recipe, self.created = record.architecture, record.recipe, record.created
        self._folder, self._process = folder, process
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._leave = threading.Event()
        self._idle = threading.Event()
        self._name, self._status, self._message = record.name, record.status, record.message
        self._steps_total, self._factor = record.steps_total, record.factor
        self._history: History | None = record.history
        self._state = record.state
        # Whether the state has been left in the file, to be read when it is needed.
        self._state_in_file = False
        self._resumable = record.state is not None or record.history.steps == 0
        self._leg = Leg()
        self._measuring: float | None = None
        self._times: list[float] = []
        self._trouble: str | None = None
        self._weights: Weights | None = None
        self._trail: tuple[Weights, ...] = ()
        path = run_files.path_of(self.identity, folder)
        self._saved = path if path.exists() else None
        self._stamp = _stamp(path)
        self._save_due = 0.0
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
    def weights(self) -> Weights | None:
        """The last published copy; None before the first batch."""
        with self._lock:
            return self._weights

    @property
    def trail(self) -> tuple[Weights, ...]:
        """Copies from the way so far, oldest first, closer together at its beginning; the last published one ends it.

        Of what was trained in this process: a run that was read from its file has left none behind it.
        """
        with self._lock:
            last = self._weights
            return self._trail + ((last,) if last and (not self._trail or last.step > self._trail[-1].step) else ())

    def pause(self) -> None:
        """Ask the training to pause, at the latest with the batch it is in."""
        self._ask("pausing", "paused")

    def stop(self) -> None:
        """Ask the training to end, at the latest with the batch it is in. Of no effect on a run that has ended."""
        self._ask("stopping", "stopped")
        with self._lock:
            paused = self._status == "paused"
            if paused:
                self._status = "stopped"
        if paused:
            self._save()

    def interrupt(self) -> None:
        """Ask the training to leave: the process ends."""
        self._ask("interrupted", "interrupted")

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply what the schedule asks for from the next batch on; 0.001 to 1000. Raises RunError."""
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            raise RunError(f"The learning rate can be multiplied by {MIN_FACTOR:g} to {MAX_FACTOR:,.0f}.")
        with self._lock:
            self._factor = factor
            active = self._status in ACTIVE
        if not active:
            self._save()

    def rename(self, name: str) -> None:
        """Give it a name of at most 60 characters; an empty one gives back its first. Raises RunError."""
        try:
            name = untrusted_text.name(name, MAX_NAME)
        except untrusted_text.NameRefusedError as error:
            raise RunError(str(error)) from error
        with self._lock:
            self._name = name or self.identity
            active = self._status in ACTIVE
        if not active:
            self._save()

    def wait(self, seconds: float) -> bool:
        """Wait until it neither waits for a slot nor trains nor is saved, for so long at most; says whether so."""
        return self._idle.wait(seconds)

    def snapshot(self, since_step: int = 0, since_epoch: int = 0) -> Snapshot:
        """The steps and epochs after the given counts. Readers never consume."""
        self._read_again()
        with self._lock:
            history = self._history or History()
            done, rate = history.steps, self._rate(history)
            left = None
            if rate and done and self._status in ("running", "stopping", "pausing"):
                left = (self._steps_total - done) * self.recipe.batch_size / rate
            per_epoch = max(1, self._steps_total // self.recipe.epochs)
            return Snapshot(
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
                trouble=self._trouble,
                saved=self._saved,
            )

    def queue(self, leg: Leg) -> None:
        """Make it wait for a slot. The manager's part of `resume`; raises RunError where the run cannot go on."""
        self._read_again(with_state=True)
        if self._taken_up():
            raise RunError(_TAKEN_UP)
        with self._lock:
            if self._history is None or self._state_in_file:
                raise RunError(f"{self._name} cannot go on. {self._trouble}")
            if self._status in ACTIVE or not self._resumable or self._status == "finished":
                raise RunError(f"{self._name} cannot go on: it is {self._status}. Start it anew.")
            self._status, self._leg, self._message = "queued", leg, None
            self._leave.clear()
            self._idle.clear()

    def next_leg(self, *, steps: int = 0, epochs: int = 0) -> Leg:
        """So many batches or epochs more, and then a pause."""
        self._read_again()
        with self._lock:
            history = self._history or History()
            if steps:
                return Leg(step=history.steps + steps)
            return Leg(epoch=len(history.epochs) + epochs) if epochs else Leg()

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
        finally:
            with self._lock:
                # It may have been paused, saved and queued again by now.
                if self._status not in ACTIVE:
                    self._idle.set()

    def unload(self) -> None:
        """Forget what the file of a run that has ended knows too."""
        with self._lock:
            if self._saved and self._trouble is None and self._status not in ACTIVE:
                self._state_in_file = self._state_in_file or self._state is not None
                self._history = self._state = self._weights = None
                self._trail = ()

    def save(self) -> None:
        """Write the run's file as it stands; trouble becomes a part of the snapshot."""
        self._save()

    def _ask(self, asked: Status, ended: Status) -> None:
        with self._lock:
            queued = self._status == "queued"
            if queued:
                self._status = ended
                self._idle.set()
            elif self._status in ("running", "pausing", "stopping"):
                self._status = asked
            else:
                return
            self._leave.set()
        if queued:
            self._save()

    def _train(self, data: Dataset) -> Status:
        # torch's thread count belongs to the calling thread and must be set before its first operation.
        torch.set_num_threads(threads(self.architecture))
        device = best_device()
        training = Training(self.architecture, self.recipe, data, self._state, device)
        with self._lock:
            self._steps_total = training.steps_total
            leg = self._leg
        if analyse(self.architecture).macs * self.recipe.batch_size > LARGE_BATCH_MACS:
            _leave_within_a_batch(training.network, self._leave)
        published = -PUBLISH_SECONDS
        self._save_due = time.monotonic() + SAVE_SECONDS
        try:
            while True:
                with self._lock:
                    training.learning_rate_factor = self._factor
                try:
                    event = next(training, None)
                except _LeftInBatch:
                    break
                if event is None:
                    break
                self._record(event)
                now = time.monotonic()
                due = isinstance(event, StepMetrics) and event.step >= self._next_of_trail()
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
        if not run_files.is_sound(training.state()):
            raise DivergenceError(
                f"The weights were no longer numbers after step {training.step}. The learning rate is too high for "
                "this network: try a tenth of it."
            )
        self._publish(training)
        with self._lock:
            if training.epochs_done == self.recipe.epochs:
                return "finished"
            return {"stopping": "stopped", "interrupted": "interrupted"}.get(self._status, "paused")  # type: ignore[return-value]

    def _record(self, event: StepMetrics | MeasuringProgress | EpochMetrics) -> None:
        with self._lock:
            assert self._history is not None
            self._measuring = None
            match event:
                case StepMetrics():
                    self._history.add(event)
                    self._times.append(time.monotonic())
                    del self._times[:-RATE_WINDOW]
                case MeasuringProgress(_, seen, total):
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

    def _next_of_trail(self) -> float:
        return self._trail[-1].step * TRAIL_FACTOR if self._trail else 0

    def _publish(self, training: Training, of_trail: bool = False) -> None:
        weights = Weights(training.step, training.weights())
        with self._lock:
            self._weights = weights
            if of_trail:
                copies = (*self._trail, weights)
                size = sum(tensor.nbytes for tensor in weights.tensors.values())
                self._trail = copies[1::2] if len(copies) * size > TRAIL_BYTES else copies

    def _keep(self, state: TrainingState, write: bool = True) -> None:
        if not run_files.is_sound(state):
            # The next batch ends the run; what is in the file is the last that it could have gone on from.
            return
        with self._lock:
            self._state = state
        if write:
            started = time.monotonic()
            self._save()
            ended = time.monotonic()
            self._save_due = ended + max(SAVE_SECONDS, SAVE_FACTOR * (ended - started))

    def _end(self, status: Status, message: str | None) -> None:
        with self._lock:
            self._measuring = None
            self._times.clear()
            history, state = self._history or History(), self._state
            if status == "finished":
                self._resumable = False
            elif status == "failed":
                # An error in the middle of a batch may have left the curves a step behind the weights or before them.
                kept = (0, 0) if state is None else (state.step, len(state.losses))
                self._resumable = self._resumable and kept == (history.steps, len(history.epochs))
            self._status, self._message = status, message
        if status == "failed" and not self._resumable:
            self._forget_state()
        self._save()

    def _forget_state(self) -> None:
        """Of a run that cannot go on: what made the loss no number is in the weights."""
        with self._lock:
            self._state, self._resumable, self._weights = None, False, None
            self._trail = ()

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
                process=self._process,
                history=history,
                state=state,
            )

    def _save(self) -> None:
        self._read_again(with_state=True)
        with self._saving:
            with self._lock:
                if self._history is None or self._state_in_file:
                    # The file cannot be read just now; what is in it is worth more than what is here.
                    return
                if self._taken_up():
                    self._trouble = _TAKEN_UP
                    return
            try:
                saved: Path | None = run_files.save(self.record(), self._folder)
                trouble = None
                self._stamp = _stamp(run_files.path_of(self.identity, self._folder))
            except CheckpointError as error:
                saved, trouble = self._saved, str(error)
            with self._lock:
                self._saved, self._trouble = saved, trouble

    def _taken_up(self) -> bool:
        """Whether another process has written the run's file since this one did."""
        now = _stamp(run_files.path_of(self.identity, self._folder))
        return self._stamp is not None and now is not None and now != self._stamp

    def _read_again(self, with_state: bool = False) -> None:
        """The curves of a run that was unloaded, and the state, larger, where it is needed."""
        with self._lock:
            wanted = self._history is None or (with_state and self._state_in_file)
            if not wanted or self._saved is None:
                return
            path = self._saved
        try:
            record, trouble = run_files.load(path), None
        except CheckpointError as error:
            record, trouble = None, str(error)
        with self._lock:
            self._trouble = trouble
            if record and self._history is None:
                self._history = record.history
            if record and with_state and self._state_in_file:
                self._state, self._state_in_file = record.state, False


def _stamp(path: Path) -> int | None:
    """When the file was written, in ns; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _done(leg: Leg, event: StepMetrics | MeasuringProgress | EpochMetrics) -> bool:
    match event:
        case StepMetrics():
            return leg.step is not None and event.step >= leg.step
        case EpochMetrics():
            return leg.epoch is not None and event.epoch >= leg.epoch
    return False


class RunManager:
    """All runs of the process: at most `slots` train at once, the others wait in the order of their start.

    They are kept in `folder`; what it holds already is there again, and what was running when its process ended is
    interrupted. `set_aside` has a sentence for each file that could not be read.
    """

    def __init__(self, load_data: Callable[[], Dataset], folder: Path, slots: int = 1) -> None:
        self._load_data = load_data
        self._folder = folder
        self._slots = slots
        self._lock = threading.Lock()
        self._queue: list[Run] = []
        self._training = 0
        self._closed = False
        self._process = run_files.Process(folder)
        found = run_files.scan(folder, self._process)
        self.set_aside = found.set_aside
        self._runs = {record.identity: Run(record, folder, self._process.token) for record in found.records}
        self._ended: list[Run] = list(self._runs.values())
        self._forget()

    def start(
        self,
        architecture: Architecture,
        recipe: Recipe,
        owner: str = "",
        parent: str | None = None,
        leg: Leg | None = None,
    ) -> Run:
        """A new run, training at once where a slot is free, else queued.

        Raises RunError where this owner has three runs waiting already.
        """
        created = datetime.now(UTC)
        with self._lock:
            self._refuse_more(owner)
            identity = f"run-{len(self._runs) + 1}-{uuid4().hex[:6]}"
            record = RunRecord(
                identity=identity,
                name=identity,
                owner=owner,
                parent=parent,
                architecture=architecture,
                recipe=recipe,
                status="stopped",
                created=created.isoformat(timespec="microseconds"),
                message=None,
                steps_total=0,
                factor=1.0,
                process=self._process.token,
                history=History(),
                state=None,
            )
            run = self._runs[identity] = Run(record, self._folder, self._process.token)
            run.queue(leg or Leg())
            self._queue.append(run)
        run.save()
        self._fill_slots()
        return run

    def resume(self, run: Run, *, steps: int = 0, epochs: int = 0) -> None:
        """Let a run go on from where it is: to its end, or for so many batches or epochs and then pause.

        Raises RunError where it cannot, or where its owner has three runs waiting already.
        """
        with self._lock:
            self._refuse_more(run.owner)
            run.queue(run.next_leg(steps=steps, epochs=epochs))
            # One that was paused while it waited is still in the queue, at its old place.
            self._queue = [*(other for other in self._queue if other is not run), run]
        self._fill_slots()

    def get(self, identity: str | None) -> Run | None:
        with self._lock:
            return self._runs.get(identity) if identity else None

    def runs(self) -> list[Run]:
        """Newest first."""
        with self._lock:
            return sorted(self._runs.values(), key=lambda run: run.created, reverse=True)

    def ahead_of(self, run: Run) -> list[Run]:
        """The runs that train or wait before a queued one."""
        with self._lock:
            training = [other for other in self._runs.values() if other.status in ACTIVE - {"queued"}]
            waiting = [other for other in self._queue if other.status == "queued"]
            return training + (waiting[: waiting.index(run)] if run in waiting else [])

    def delete(self, run: Run) -> None:
        """Take a run that is not training from the list; `undelete` brings it back. Raises RunError."""
        if run.active:
            raise RunError(f"{run.name} is still training. Stop it first.")
        # Its thread may be about to write the file once more.
        run.wait(END_SECONDS)
        try:
            run_files.delete(run.identity, self._folder)
        except OSError as error:
            raise RunError(f"{run.name} could not be deleted ({error.strerror}).") from error
        with self._lock:
            self._runs.pop(run.identity, None)
            self._ended = [other for other in self._ended if other is not run]

    def undelete(self, identity: str) -> Run:
        """Bring a deleted run back. Raises RunError."""
        try:
            record = run_files.undelete(identity, self._folder)
        except (CheckpointError, OSError) as error:
            raise RunError(f"{identity} could not be brought back ({error}).") from error
        run = Run(record, self._folder, self._process.token)
        with self._lock:
            self._runs[identity] = run
            self._ended.append(run)
        return run

    def close(self) -> None:
        """Interrupt what trains, each saved at its last batch, and start nothing more: the process ends."""
        with self._lock:
            self._closed = True
            runs = list(self._runs.values())
        for run in runs:
            run.interrupt()
        # One that has just ended is still being saved.
        for run in runs:
            run.wait(END_SECONDS)

    def _refuse_more(self, owner: str) -> None:
        waiting = sum(run.owner == owner and run.status == "queued" for run in self._queue)
        if waiting >= MAX_WAITING:
            raise RunError(
                f"{waiting} of your runs are waiting already. Stop one of them, or wait until one has started."
            )

    def _fill_slots(self) -> None:
        with self._lock:
            while self._queue and self._training < self._slots and not self._closed:
                run = self._queue.pop(0)
                if run.status != "queued":
                    continue
                self._training += 1
                threading.Thread(target=self._work, args=(run,), name=f"training-{run.identity}", daemon=True).start()

    def _work(self, run: Run) -> None:
        try:
            run.execute(self._load_data)
        finally:
            with self._lock:
                self._training -= 1
                if run.identity in self._runs:
                    self._ended = [*(other for other in self._ended if other is not run), run]
            self._forget()
            self._fill_slots()

    def _forget(self) -> None:
        with self._lock:
            old, self._ended = self._ended[:-KEPT], self._ended[-KEPT:]
        for run in old:
            run.unload()


def refusal(architecture: Architecture, recipe: Recipe, folder: Path, images: int = 60_000) -> str | None:
    """Why the network cannot be trained here and now, in words; None where it can, or where the system does not say.

    `folder` is where its checkpoint will be written, `images` the number it is trained on.
    """
    analysis = analyse(architecture)
    needed, available = training_bytes(analysis, recipe.batch_size), _available_memory()
    if available is not None and needed >= available:
        return (
            f"Training this network with a batch of {recipe.batch_size:,} takes about {needed / 1e9:.0f} GB of memory, "
            f"and {available / 1e9:.0f} GB are available. Use fewer channels or a smaller batch."
        )
    size, free = _checkpoint_bytes(analysis, recipe, images), _free_bytes(folder)
    if size > MAX_BYTES:
        return (
            f"A checkpoint of this run takes up to {size / 1e6:,.0f} MB, and at most {MAX_BYTES / 1e6:.0f} MB can be "
            "read again. Use fewer channels, a larger batch or fewer epochs."
        )
    # A checkpoint is written beside the one that it replaces.
    if free is not None and free < 2 * size:
        return (
            f"Checkpoints of this run take up to {2 * size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free where "
            "runs are kept. Free some disk space, or delete runs."
        )
    smallest = min(recipe.batch_size, images % recipe.batch_size or recipe.batch_size)
    if smallest == 1 and any(
        o.kind == "BatchNorm2d" and o.output_shape[1:] == (1, 1) for o in operations(architecture)
    ):
        return (
            f"With a batch size of {recipe.batch_size:,} a batch of a single image comes up, and the batch norm of a "
            "layer of one pixel cannot normalise a single value. Choose another batch size, or leave that norm out."
        )
    return None


_TAKEN_UP = (
    "Another program has gone on with this run, and what it saved is left alone. Start Receptive anew to see it here."
)
_NO_MEMORY = "There is not enough memory. Use a smaller batch or fewer channels."


def _checkpoint_bytes(analysis: NetworkAnalysis, recipe: Recipe, images: int) -> int:
    """Weights and two moments, three curves, and room for the rest."""
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return 4 * 3 * analysis.num_params + 8 * 3 * steps + 100_000


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _available_memory() -> int | None:
    """Bytes that a program may take: on Linux what the kernel would give, its caches included; else all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _leave_within_a_batch(network: nn.Module, leave: threading.Event) -> None:
    """Let a stop take effect between two modules: a batch of a large network takes seconds."""

    def check(*_: object) -> None:
        if leave.is_set():
            raise _LeftInBatch

    for module in network.children():
        module.register_forward_pre_hook(check)
        module.register_full_backward_pre_hook(check)


def _in_words(error: Exception) -> str:
    if "not enough memory" in str(error) or "out of memory" in str(error):
        return _NO_MEMORY
    return (
        f"The training ended with an error it did not expect ({type(error).__name__}: {error}). The log has the rest."
    )
