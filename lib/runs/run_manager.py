"""The queue of training runs: one trains in a background thread, the others wait.

`RunManager` exists once in the process and owns all runs. Closing a browser tab ends no run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from lib.data.dataset import Dataset
from lib.design.layers import Architecture
from lib.design.recipe import Recipe
from lib.runs import run_store
from lib.runs.free_memory import release_memory
from lib.runs.run_record import ACTIVE, RunRecord
from lib.runs.training_run import STATE, Run, RunError, StopAt
from lib.storage.checkpoints import CheckpointError

# Limits of the queue for one browser and in total: one person may use several browsers.
MAX_WAITING, MAX_WAITING_IN_ALL = 3, 60
# Limits of the ended runs whose curves and weights stay in memory; others are read from their files again.
MAX_LOADED_RUNS, KEPT_BYTES = 8, 256 * 2**20
SHUTDOWN_TIMEOUT = 10.0

log = logging.getLogger(__name__)


class RunManager:
    """All runs of the process: one trains, the others wait in the order of their start.

    Runs are saved in `folder`. The runs of earlier processes are loaded from there; those that were in training are
    "interrupted". `set_aside` has a sentence for each file that could not be read.
    """

    def __init__(self, load_data: Callable[[], Dataset], folder: Path) -> None:
        self._load_data = load_data
        self._folder = folder
        # Acquired first, to add, remove or queue runs: that reads and writes files. Nothing slow is done under `_lock`.
        self._admission = threading.Lock()
        self._lock = threading.Lock()
        self._queue: list[Run] = []
        self._training: Run | None = None
        # The last one started; it may have ended.
        self._thread: threading.Thread | None = None
        self._closed = False
        run_store.remove_unfinished(folder)
        self._runs: dict[str, Run] = {}
        self._ended: list[Run] = []
        sentences = []
        for found in run_store.scan(folder):
            if isinstance(found, str):
                sentences.append(found)
                continue
            run = Run(found, folder)
            run.unload(frozenset({STATE}))
            self._runs[run.identity] = run
            self._ended.append(run)
            self._evict()
        self.set_aside = tuple(sentences)

    def start(
        self,
        architecture: Architecture,
        recipe: Recipe,
        owner: str = "",
        parent: str | None = None,
        stop_at: StopAt | None = None,
    ) -> Run:
        """Start a new run: it trains now if no other run does, else it waits in the queue.

        Raises RunError if too many runs are waiting, of this owner or in total.
        """
        created = datetime.now(UTC)
        with self._admission:
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
            )
            run = Run(record, self._folder)
            run.queue(stop_at=stop_at or StopAt())
            with self._lock:
                self._runs[identity] = run
                self._queue.append(run)
        run.save()
        self._train_next()
        return run

    def resume(self, run: Run, *, steps: int = 0, epochs: int = 0) -> None:
        """Continue a run to its end, or for `steps` or `epochs` and then pause.

        Raises RunError if it cannot continue, or if too many runs are waiting.
        """
        with self._admission:
            self._refuse_more(run.owner)
            run.queue(steps=steps, epochs=epochs)
            with self._lock:
                # A run that was paused while it waited is still in the queue.
                self._queue = [*(other for other in self._queue if other is not run), run]
        self._train_next()

    def get(self, identity: str | None) -> Run | None:
        with self._lock:
            return self._runs.get(identity) if identity else None

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        with self._lock:
            return sorted(self._runs.values(), key=lambda run: run.created, reverse=True)

    def runs_before(self, run: Run) -> list[Run]:
        """Return the runs that train, or wait in the queue before `run`."""
        with self._lock:
            training = [other for other in self._runs.values() if other.status in ACTIVE - {"queued"}]
            waiting = [other for other in self._queue if other.status == "queued"]
            return training + (waiting[: waiting.index(run)] if run in waiting else [])

    def delete(self, run: Run) -> None:
        """Remove a run that is not training; `undelete` restores it. Raises RunError."""
        with self._admission:
            run.delete()
            with self._lock:
                self._runs.pop(run.identity, None)
                self._queue = [other for other in self._queue if other is not run]
                self._ended = [other for other in self._ended if other is not run]

    def undelete(self, identity: str) -> Run:
        """Restore a deleted run, unless it has been restored already, and return it. Raises RunError."""
        with self._admission:
            back = self.get(identity)
            if back:
                return back
            try:
                record = run_store.undelete(identity, self._folder)
            except CheckpointError as error:
                raise RunError(f"{identity} could not be brought back. {error}") from error
            except OSError as error:
                raise RunError(f"{identity} could not be brought back ({error.strerror}).") from error
            run = Run(record, self._folder)
            with self._lock:
                self._runs[identity] = run
                self._ended.append(run)
        self._evict()
        return run

    def close(self) -> None:
        """Interrupt the training, save it at its last step, and start no other run: the process ends."""
        with self._lock:
            self._closed = True
        # `_admission` waits for a run that is just being added.
        with self._admission, self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.interrupt()
        # A run that has just ended may still be being saved.
        for run in runs:
            run.wait(SHUTDOWN_TIMEOUT)
        with self._lock:
            thread = self._thread
        # If the interpreter ends while a thread frees torch's memory, it aborts.
        if thread and thread.ident:
            thread.join(SHUTDOWN_TIMEOUT)

    def _refuse_more(self, owner: str) -> None:
        """Raise RunError if no more runs may wait. `_admission` must be held."""
        with self._lock:
            closed, waiting = self._closed, [run.owner for run in self._queue if run.status == "queued"]
        if closed:
            raise RunError("Receptive is being closed. Start it again, then the run.")
        if waiting.count(owner) >= MAX_WAITING:
            raise RunError(
                f"{waiting.count(owner)} of your runs are waiting already. Stop one of them, or wait until one has "
                "started."
            )
        if len(waiting) >= MAX_WAITING_IN_ALL:
            raise RunError(
                f"{len(waiting)} runs are waiting already, the most there may be. Try again when one has started."
            )

    def _train_next(self) -> None:
        """Start the first run of the queue unless a run is in training."""
        with self._lock:
            while self._queue and self._training is None and not self._closed:
                run = self._queue.pop(0)
                if run.status == "queued":
                    self._training = run
                    self._thread = thread = threading.Thread(
                        target=self._work, args=(run,), name=f"training-{run.identity}", daemon=True
                    )
                    break
            else:
                return
        try:
            thread.start()
        except RuntimeError:
            log.exception("Run %s has no thread", run.identity)
            self._work(run, started=False)

    def _work(self, run: Run, started: bool = True) -> None:
        try:
            if started:
                run.execute(self._load_data)
            else:
                run.give_up("The system gives this process no more threads. Close other programs, then resume the run.")
        finally:
            with self._lock:
                self._training = None
                if run.identity in self._runs:
                    self._ended = [*(other for other in self._ended if other is not run), run]
            self._evict()
            self._train_next()
            release_memory()

    def _evict(self) -> None:
        """Unload the runs that ended first; the last one stays in memory, even if it exceeds `KEPT_BYTES`."""
        with self._lock:
            ended, size, kept = self._ended, 0, 0
            for run in reversed(ended):
                size += run.bytes_kept
                if kept and (kept >= MAX_LOADED_RUNS or size > KEPT_BYTES):
                    break
                kept += 1
            old, self._ended = ended[: len(ended) - kept], ended[len(ended) - kept :]
        for run in old:
            run.unload()
