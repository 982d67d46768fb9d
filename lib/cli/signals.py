"""SIGINT and SIGTERM end a training within a second."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from lib.cli.output import write_error_at_once

if TYPE_CHECKING:
    from lib.runs.training_run import Run


POLL_SECONDS = 0.1
# The time from a signal to the end of the process. The system needs the rest of the second to free the memory.
GRACE_SECONDS = 0.75


class Signals:
    """Handlers for SIGINT and SIGTERM: each ends the process within GRACE_SECONDS, even if the main thread waits.

    The exit status is 128 + `number`, the number of the first signal. Without a run the process ends immediately. A run
    is stopped and saved first; if that takes too long, it is left as it was last saved. The handlers stay installed,
    because a second Ctrl-C would print a traceback while the interpreter shuts down.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._run: Run | None = None
        self._passed_on, self._saved, self._done = threading.Event(), threading.Event(), threading.Event()
        # The system writes to this socket immediately; a Python handler waits until the main thread runs Python code.
        self._came, filled = socket.socketpair()
        filled.setblocking(False)
        self._filled = filled
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)
        signal.set_wakeup_fd(filled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def stop(self, run: Run) -> None:
        """Let the next signal stop this run."""
        self._run = run

    def settle(self) -> None:
        """Wait until a received signal has been passed on to the run: the other thread saves a queued run."""
        if self.number and self._run:
            self._passed_on.wait()

    def done(self) -> None:
        """Mark the command as finished, so that a signal no longer ends the process."""
        self._done.set()

    def _take(self, number: int, _: object) -> None:
        self.number = self.number or number

    def _wait(self) -> None:
        number = 0
        while number not in (signal.SIGINT, signal.SIGTERM):
            number = self._came.recv(1)[0]
        end = time.monotonic() + GRACE_SECONDS
        self.number = self.number or number
        run = self._run
        if run is not None:
            # In another thread, because saving a queued run, or waiting for its lock, may take long.
            threading.Thread(target=self._pass_on, args=(run,), name="stop", daemon=True).start()
            if not self._done.wait(end - time.monotonic()):
                write_error_at_once(
                    f"{run.identity} was stopped and saved, but its output was not read to the end."
                    if self._saved.is_set()
                    else f"{run.identity} had not stopped in time and was ended: it is as it was last saved."
                )
        if not self._done.is_set():
            os._exit(128 + self.number)

    def _pass_on(self, run: Run) -> None:
        run.stop()
        self._passed_on.set()
        while not has_ended(run):
            pass
        self._saved.set()


def has_ended(run: Run) -> bool:
    """Wait up to POLL_SECONDS; return whether the run has ended and is saved."""
    # A queued run has no thread to wait for yet, and a run that has just ended may not be saved yet.
    return run.wait(POLL_SECONDS) and not run.active
