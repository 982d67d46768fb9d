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
# From a signal to the end of the process. Below a second, because the system needs time to free its memory.
GRACE_SECONDS = 0.75


class Signals:
    """SIGINT and SIGTERM from now on: each ends the process within GRACE_SECONDS, whatever the main thread waits for,
    with 128 + the number of the first that came, which is `number`.

    Before there is a run it ends at once. A run is stopped and saved first; one that needs longer for that is left as
    it was last saved. They are not given back: a second Ctrl-C would print a traceback while the interpreter ends.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._run: Run | None = None
        self._passed_on, self._saved, self._done = threading.Event(), threading.Event(), threading.Event()
        # The system writes into it at once; a handler in Python would wait until the main thread comes back to Python.
        self._came, filled = socket.socketpair()
        filled.setblocking(False)
        self._filled = filled
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)
        signal.set_wakeup_fd(filled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def stop(self, run: Run) -> None:
        """From now on a signal stops this run."""
        self._run = run

    def settle(self) -> None:
        """Wait until a signal that came has been passed on: a run that it found queued is saved by that thread."""
        if self.number and self._run:
            self._passed_on.wait()

    def done(self) -> None:
        """The command has come to its end by itself: it needs nobody to end it."""
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
            # Not in this thread: to save a run that was queued, or to get at its lock, may take long.
            threading.Thread(target=self._pass_on, args=(run,), name="stop", daemon=True).start()
            if not self._done.wait(end - time.monotonic()):
                write_error_at_once(
                    f"{run.identity} was stopped and saved, but nobody has read all of its output."
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
    """Wait a little; says whether the run has ended and is saved."""
    # A run that is queued still has no thread to wait for, and one that has just ended is not saved yet.
    return run.wait(POLL_SECONDS) and not run.active
