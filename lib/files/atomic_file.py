"""Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

# Not one that somebody else has made there: it may be a link to anywhere, or a named pipe.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))


def write(path: Path, content: bytes) -> None:
    """Write `path`, making its folder. Raises OSError; what stood at `path` then still stands."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    try:
        with open(os.open(temporary, _FLAGS, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_remains(folder: Path) -> None:
    """Remove what processes that were killed in `write` had begun to write into this folder. Raises nothing."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        found = re.fullmatch(r"\..+\.([0-9]+)", name)
        if found and not _alive(int(found[1])):
            try:
                if stat.S_ISREG(os.lstat(folder / name).st_mode):
                    os.unlink(folder / name)
            except OSError:
                continue


def _alive(pid: int) -> bool:
    """Whether another process has this number; this process's own was used before it began to write."""
    if pid == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is; Windows can't open a folder and needs no sync."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
