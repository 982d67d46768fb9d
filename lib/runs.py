"""Trainings in background threads, and who may see them.

- A `Run` owns one thread and a history that only grows; `snapshot` copies what is new, so any number of tabs agree.
- The thread publishes copies of its weights now and then; nobody else touches the network in training.
- `RunManager` lives once in the process: it owns the runs, a queue and the slots. A closed tab ends nothing.
- Every run that ends with something learnt is saved as a checkpoint.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias
from uuid import uuid4

import torch
from torch import Tensor, nn

from lib import checkpoints
from lib.analysis import NetworkAnalysis, analyse, training_bytes
from lib.architecture import Architecture
from lib.dataset import Dataset, DatasetError
from lib.network import build
from lib.recipe import Recipe
from lib.training import DivergenceError, EpochMetrics, Event, MeasuringProgress, StepMetrics, fit, threads

Status: TypeAlias = Literal["queued", "running", "stopping", "finished", "stopped", "failed"]
ACTIVE: frozenset[Status] = frozenset({"queued", "running", "stopping"})
PUBLISH_SECONDS = 0.25
RATE_WINDOW = 50
LARGE_BATCH_MACS = 1_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What is new in a run since `since` steps and epochs, and how it stands.

    `steps_total` counts all the recipe's batches; `measuring` is the fraction of the test set measured just now, None
    while training; `images_per_second` is that of the last `RATE_WINDOW` batches; `message` is the reason of a failure.
    """

    status: Status
    steps: tuple[StepMetrics, ...]
    epochs: tuple[EpochMetrics, ...]
    step: int
    steps_total: int
    measuring: float | None
    images_per_second: float | None
    seconds_left: float | None
    message: str | None
    saved: Path | None


@dataclass(frozen=True, eq=False)
class Weights:
    """A copy of a network's weights after `step` batches; nobody writes to it."""

    step: int
    tensors: dict[str, Tensor]


class _StoppedInBatch(Exception):  # noqa: N818
    """Thrown out of a batch that is not worth its end; its update has not been made."""


class Run:
    """One training. The thread is started by the manager; every public method may be called from any thread."""

    def __init__(self, architecture: Architecture, recipe: Recipe, identity: str, folder: Path) -> None:
        self.architecture = architecture
        self.recipe = recipe
        self.identity = identity
        self._path = folder / f"{identity}{checkpoints.SUFFIX}"
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._status: Status = "queued"
        self._steps: list[StepMetrics] = []
        self._epochs: list[EpochMetrics] = []
        self._times: list[float] = []
        self._measuring: float | None = None
        self._steps_total = 0
        self._message: str | None = None
        self._saved: Path | None = None
        self._weights: Weights | None = None

    @property
    def status(self) -> Status:
        with self._lock:
            return self._status

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def weights(self) -> Weights | None:
        """The last published copy; None before the first batch."""
        with self._lock:
            return self._weights

    def stop(self) -> None:
        """Ask the training to end, at the latest with the batch it is in. Of no effect on a run that has ended."""
        self._stop.set()
        with self._lock:
            if self._status == "running":
                self._status = "stopping"
            elif self._status == "queued":
                self._status = "stopped"
                self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the run has ended, for so long at most; says whether it has."""
        return self._ended.wait(seconds)

    def snapshot(self, since_step: int = 0, since_epoch: int = 0) -> Snapshot:
        """The steps and epochs after the given counts. Readers never consume."""
        with self._lock:
            done = len(self._steps)
            rate = self._rate()
            left = None
            if rate and self._steps and self._status in ("running", "stopping"):
                left = (self._steps_total - done) * self.recipe.batch_size / rate
            return Snapshot(
                status=self._status,
                steps=tuple(self._steps[since_step:]),
                epochs=tuple(self._epochs[since_epoch:]),
                step=done,
                steps_total=self._steps_total,
                measuring=self._measuring,
                images_per_second=rate,
                seconds_left=left,
                message=self._message,
                saved=self._saved,
            )

    def execute(self, load_data: Callable[[], Dataset]) -> None:
        """Train to the end in the calling thread. Raises nothing: a failure becomes the status and the message."""
        with self._lock:
            if self._status != "queued":
                return
            self._status = "running"
        try:
            self._train(load_data())
        except (DivergenceError, DatasetError) as error:
            self._end("failed", str(error))
        except MemoryError:
            self._end("failed", "There is not enough memory. Use a smaller batch or fewer channels.")
        except Exception as error:
            log.exception("Run %s failed", self.identity)
            self._end("failed", _in_words(error))
        else:
            self._end("stopped" if self._stop.is_set() else "finished", None)

    def _train(self, data: Dataset) -> None:
        # torch's thread count belongs to the calling thread and must be set before its first operation.
        torch.set_num_threads(threads(self.architecture))
        steps_per_epoch = -(-len(data.train_images) // self.recipe.batch_size)
        with self._lock:
            self._steps_total = steps_per_epoch * self.recipe.epochs
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = build(self.architecture, self.recipe.seed)
        if analyse(self.architecture).macs * self.recipe.batch_size > LARGE_BATCH_MACS:
            _end_within_a_batch(network, self._stop)
        published = -PUBLISH_SECONDS
        events = fit(network, self.recipe, data, device)
        with suppress(_StoppedInBatch):
            for event in events:
                self._record(event)
                now = time.monotonic()
                if now - published >= PUBLISH_SECONDS:
                    self._publish(network)
                    published = now
                if self._stop.is_set():
                    break
        events.close()
        self._publish(network)

    def _record(self, event: Event) -> None:
        with self._lock:
            self._measuring = None
            match event:
                case StepMetrics():
                    self._steps.append(event)
                    self._times.append(time.monotonic())
                    del self._times[:-RATE_WINDOW]
                case MeasuringProgress(_, seen, total):
                    self._measuring = seen / total
                    # The pause between two epochs is no training time.
                    self._times.clear()
                case EpochMetrics():
                    self._epochs.append(event)

    def _rate(self) -> float | None:
        """Images a second over the last batches; the epoch's own rate while there are too few of them."""
        if len(self._times) >= 5:
            count = len(self._times)
            images = sum(step.images for step in self._steps[-count + 1 :])
            return images / (self._times[-1] - self._times[0])
        return self._epochs[-1].images_per_second if self._epochs else None

    def _publish(self, network: nn.Module) -> None:
        tensors = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()
        }
        with self._lock:
            self._weights = Weights(len(self._steps), tensors)

    def _end(self, status: Status, message: str | None) -> None:
        saved, trouble = None, None
        if status != "failed" and self._steps:
            saved, trouble = self._save()
        with self._lock:
            self._measuring = None
            self._status = status
            self._message = message or trouble
            self._saved = saved
        self._ended.set()

    def _save(self) -> tuple[Path | None, str | None]:
        weights = self.weights
        assert weights is not None
        summary = checkpoints.Summary(
            title=self.identity,
            architecture=self.architecture,
            recipe=self.recipe,
            epochs_done=len(self._epochs),
            # An accuracy measured before the last batch is not that of these weights.
            test_accuracy=self._epochs[-1].test_accuracy
            if self._epochs and self._epochs[-1].step == weights.step
            else None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            checkpoints.save(checkpoints.Checkpoint(summary, weights.tensors), self._path)
        except checkpoints.CheckpointError as error:
            return None, str(error)
        return self._path, None


class RunManager:
    """All runs of the process: at most `slots` train at once, the others wait in the order of their start.

    What they learn is saved in `folder`.
    """

    def __init__(self, load_data: Callable[[], Dataset], folder: Path, slots: int = 1) -> None:
        self._load_data = load_data
        self._folder = folder
        self._slots = slots
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._queue: list[Run] = []
        self._training = 0

    def start(self, architecture: Architecture, recipe: Recipe) -> Run:
        """A new run, training at once where a slot is free, else queued."""
        with self._lock:
            run = Run(architecture, recipe, f"run-{len(self._runs) + 1}-{uuid4().hex[:6]}", self._folder)
            self._runs[run.identity] = run
            self._queue.append(run)
        self._fill_slots()
        return run

    def get(self, identity: str | None) -> Run | None:
        with self._lock:
            return self._runs.get(identity) if identity else None

    def runs(self) -> list[Run]:
        """Newest first."""
        with self._lock:
            return list(reversed(self._runs.values()))

    def ahead_of(self, run: Run) -> int:
        """How many runs train or wait before a queued one."""
        with self._lock:
            waiting = [other for other in self._queue if other.status == "queued"]
            return self._training + (waiting.index(run) if run in waiting else 0)

    def _fill_slots(self) -> None:
        with self._lock:
            while self._queue and self._training < self._slots:
                run = self._queue.pop(0)
                self._training += 1
                threading.Thread(target=self._work, args=(run,), name=f"training-{run.identity}", daemon=True).start()

    def _work(self, run: Run) -> None:
        try:
            run.execute(self._load_data)
        finally:
            with self._lock:
                self._training -= 1
            self._fill_slots()


def refusal(analysis: NetworkAnalysis, recipe: Recipe) -> str | None:
    """Why this machine cannot train the network, in words; None where it can, or where the system does not say."""
    needed, available = training_bytes(analysis, recipe.batch_size), _available_memory()
    if available is None or needed < available:
        return None
    return (
        f"Training this network with a batch of {recipe.batch_size:,} takes about {needed / 1e9:.0f} GB of memory, and "
        f"{available / 1e9:.0f} GB are available. Use fewer channels or a smaller batch."
    )


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


def _end_within_a_batch(network: nn.Module, stop: threading.Event) -> None:
    """Let a stop take effect between two modules: a batch of a large network takes seconds."""

    def check(*_: object) -> None:
        if stop.is_set():
            raise _StoppedInBatch

    for module in network.children():
        module.register_forward_pre_hook(check)
        module.register_full_backward_pre_hook(check)


def _in_words(error: Exception) -> str:
    if "not enough memory" in str(error) or "out of memory" in str(error):
        return "There is not enough memory. Use a smaller batch or fewer channels."
    return (
        f"The training ended with an error it did not expect ({type(error).__name__}: {error}). The log has the rest."
    )
