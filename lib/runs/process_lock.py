"""Lock files: one process at a time may write a run; the system releases a lock when its process ends.

A process holds a run's lock while it trains the run, and for the moment of any other change to the run's file. The
files are empty and stay: a lock file that is removed could be locked twice, under its old inode and a new one.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".locks"
# A rename or a last save elsewhere is soon over; a training is not.
WAIT_SECONDS = 1.0
POLL_SECONDS = 0.02


class RunLock:
    """The lock of one run in a folder of runs. Two objects exclude each other, also in one process.

    Not for use by two threads at once: the run's own lock guards it.
    """

    def __init__(self, identity: str, folder: Path) -> None:
        self._path = folder / FOLDER / f"{identity}.lock"
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take the lock, waiting for it for so many seconds; returns False where another holder still has it then.

        A folder in which no lock file can be made holds no file that two processes could write: True, and not held.
        """
        if self._lock:
            return True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path, thread_local=False)
            lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            return False
        except (OSError, NotImplementedError):
            return True
        self._lock = lock
        return True

    def release(self) -> None:
        """Give the lock back; of no effect where it is not held."""
        lock, self._lock = self._lock, None
        if lock:
            lock.release()


def is_locked(identity: str, folder: Path) -> bool:
    """Whether somebody else, in this process or another, holds the run's lock."""
    lock = RunLock(identity, folder)
    free = lock.acquire()
    lock.release()
    return not free
