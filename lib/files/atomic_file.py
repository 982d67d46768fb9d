"""Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

# O_EXCL refuses an existing file, which might be a link to another place or a named pipe.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))


def write(path: Path, content: bytes) -> None:
    """Write `path` and create its folder if needed. Raises OSError; the previous file is then unchanged."""
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
    """Remove the temporary files that killed processes have left in this folder. Raises nothing."""
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
    """Whether another process has this id. A file with the id of this process is from an earlier one."""
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
    """Flush a folder to disk, which makes a rename durable. Windows cannot open folders and needs no sync."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
