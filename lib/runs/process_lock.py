"""Lock files: one process at a time may write a run; the system releases a lock when its process ends.

A process holds a run's lock while it trains the run, and briefly for any other change of the run's file. The lock files
are empty and stay: after a removal the file could be locked twice, under its old inode and a new one.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

FOLDER = ".locks"
# Long enough for a rename or a save in another process, but not for a training.
WAIT_SECONDS = 1.0
POLL_SECONDS = 0.02


class RunLock:
    """The lock of one run in a folder of runs. Two objects exclude each other, also in one process.

    One object is not thread-safe; `RunFile.writing` guards it.
    """

    def __init__(self, identity: str, folder: Path) -> None:
        self._path = folder / FOLDER / f"{identity}.lock"
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Acquire the lock, waiting `seconds` for it; return False if another holder still has it.

        Where no lock file can be created, two processes cannot write the run either: True, but the lock is not held.
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
        """Release the lock if it is held."""
        lock, self._lock = self._lock, None
        if lock:
            lock.release()


def is_locked(identity: str, folder: Path) -> bool:
    """Whether another holder, in this process or another one, has the run's lock."""
    lock = RunLock(identity, folder)
    free = lock.acquire()
    lock.release()
    return not free
