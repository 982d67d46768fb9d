"""The files of runs in a folder: save, load, scan, delete and undelete them.

A run has one file, a checkpoint with the weights, the state of the training and the curves. It is written completely or
not at all, so curves and weights always belong to the same step.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lib.files import regular_file
from lib.runs.process_lock import WAIT_SECONDS, RunLock, is_locked
from lib.runs.run_record import ACTIVE, RunRecord, as_interrupted, from_checkpoint, to_checkpoint
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX, Checkpoint, CheckpointError
from lib.training.history import ImpossibleValueError

DELETED = "deleted"

log = logging.getLogger(__name__)


def path_of(identity: str, folder: Path) -> Path:
    """Return the path of a run's file."""
    return folder / f"{identity}{SUFFIX}"


def save(record: RunRecord, folder: Path) -> Path:
    """Write the run's file and return its path. Raises CheckpointError; the previous file is then unchanged."""
    path = path_of(record.identity, folder)
    checkpoints.save(to_checkpoint(record), path)
    return path


def load(path: Path) -> RunRecord:
    """Read a run's file. Raises CheckpointError, one sentence that names what is wrong with it."""
    return _checked(path, checkpoints.load(path))


def _checked(path: Path, checkpoint: Checkpoint) -> RunRecord:
    """Return the run of a checkpoint that was read from `path`. Raises CheckpointError."""
    try:
        record = from_checkpoint(checkpoint)
    except ImpossibleValueError as error:
        raise CheckpointError(f"{path.name} does not hold a run that can be read ({error}).") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path.name} does not hold a run that can be read.") from error
    # A run is saved under its identity: another name, or an identity with a folder in it, would write another file.
    if path.name != f"{record.identity}{SUFFIX}":
        raise CheckpointError(f"{path.name} holds the run {record.identity}: give it back its name.")
    return record


def scan(folder: Path) -> Iterator[RunRecord | str]:
    """Read all runs of a folder, oldest first and one at a time: together they may not fit into memory.

    For a file that cannot be read, a sentence with the reason is yielded. The file is moved to the subfolder
    "set-aside", never deleted; it stays in place if the reason may be temporary. Only regular files are read.

    A run whose process was killed during training is "interrupted". Runs that another process trains are left out.
    """
    for path, _ in sorted(regular_file.listing(folder, SUFFIX).files, key=lambda found: (found[1], found[0].name)):
        try:
            checkpoint = checkpoints.load(path)
            if "identity" not in checkpoint.details:
                # The first version saved networks without their runs; the model picker lists them.
                continue
            record = _checked(path, checkpoint)
        except CheckpointError as error:
            if not os.path.lexists(path) or isinstance(error.__cause__, regular_file.NotRegularError):
                # It was deleted or replaced since the folder was listed.
                continue
            yield str(error) if _may_pass(error) else _quarantine(path, str(error))
            continue
        if record.status in ACTIVE and is_locked(record.identity, folder):
            continue
        # Free the memory before the next file is read.
        del checkpoint
        yield as_interrupted(record)
        del record


def _may_pass(error: CheckpointError) -> bool:
    """Whether the reason may be temporary: the system could not read the file, whose content may be intact."""
    cause = error.__cause__
    mine = isinstance(cause, PermissionError | regular_file.TooLargeError)
    return isinstance(cause, OSError | MemoryError) and not mine


def _quarantine(path: Path, reason: str) -> str:
    try:
        target = checkpoints.quarantine(path, path.parent / "set-aside")
    except OSError as error:
        return f"{reason} It could not be set aside ({error.strerror})."
    return f"{reason} It was set aside as {target.parent.name}/{target.name}, unchanged."


def delete(identity: str, folder: Path) -> None:
    """Move a run's file to the subfolder of deleted runs, if there is a file. The caller must hold the run's lock.

    Raises OSError.
    """
    bin_folder = folder / DELETED
    bin_folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path_of(identity, folder).replace(path_of(identity, bin_folder))


def undelete(identity: str, folder: Path) -> RunRecord:
    """Restore a deleted run's file and return the run.

    Raises CheckpointError or OSError; then no file has moved.
    """
    path, lock = path_of(identity, folder), RunLock(identity, folder)
    if not lock.acquire(WAIT_SECONDS):
        raise CheckpointError(f"Another Receptive process is using {path.name}.")
    try:
        if path.exists():
            raise CheckpointError(f"There is a file {path.name} again, and it is left as it is.")
        deleted = path_of(identity, folder / DELETED)
        record = as_interrupted(load(deleted))
        deleted.replace(path)
        return record
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Remove the incomplete files of killed processes, except those that a process is writing now."""
    for path in folder.glob(f".*{SUFFIX}.*"):
        identity = path.name.removeprefix(".").partition(SUFFIX)[0]
        if not is_locked(identity, folder):
            with suppress(OSError):
                path.unlink()


class RunFile:
    """The file of one run, and this process's right to write it.

    Hold `writing`, and among processes `lock`, to change the file. `load` may be called without them. `saved` is the
    path, None before the first save. `error` says why the last attempt to read or write failed.
    """

    def __init__(self, identity: str, folder: Path) -> None:
        self.writing = threading.RLock()
        self.lock = RunLock(identity, folder)
        self.path = path_of(identity, folder)
        self._folder = folder
        self._version = _version(self.path)
        self.saved = None if self._version is None else self.path
        self.error: str | None = None

    def load(self) -> RunRecord | None:
        """Read the run; on failure return None, with the reason in `error`."""
        try:
            record = load(self.path)
        except CheckpointError as error:
            self.error = str(error)
            return None
        self.error = None
        return record

    def load_changes(self, name: str) -> RunRecord | None:
        """Read the run if another process has written the file since this process did; else return None.

        `name` is for the messages. Raises CheckpointError if the file is missing or damaged: what is in memory is
        older.
        """
        version = _version(self.path)
        if version == self._version:
            return None
        if version is None:
            raise CheckpointError(
                f"The file of {name} is no longer there: another program has deleted or moved it. Put "
                f"{self.path.name} back, or delete the run here too."
            )
        record = as_interrupted(load(self.path))
        self._version, self.saved, self.error = version, self.path, None
        return record

    def save(self, record: RunRecord) -> None:
        """Write the run; on failure the reason is in `error`, and the previous file is unchanged."""
        version = _version(self.path)
        if self._version is not None and version is not None and version != self._version:
            self.error = _CHANGED_ELSEWHERE
            return
        try:
            self.saved = save(record, self._folder)
        except CheckpointError as error:
            self.error = str(error)
        except (MemoryError, RuntimeError) as error:
            log.exception("Run %s could not be saved", record.identity)
            self.error = f"The run could not be saved ({type(error).__name__}). The log has the details."
        else:
            self._version, self.error = _version(self.path), None


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what distinguishes two versions of a file, or None if there is no file.

    The modification time alone is not enough: its resolution may be some milliseconds.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


_CHANGED_ELSEWHERE = (
    "Another program has changed the file of this run while it trained, and what it wrote is left alone. Restart "
    "Receptive to see it here."
)
