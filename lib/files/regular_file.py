"""Read files of unknown origin: regular files only, up to a size limit.

Opening a FIFO waits for a writer, reading /dev/zero never ends, and opening a device may have side effects. A link to a
regular file counts as one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from lib.text.untrusted_text import visible

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# O_NONBLOCK keeps pipes from waiting, and also files that only look regular, such as some in Linux's /proc.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


class NotRegularError(OSError):
    """The path is not a regular file but, for example, a folder, a named pipe or a device."""


class TooLargeError(OSError):
    """The file is larger than the limit."""


@contextmanager
def opened(path: Path | str) -> Iterator[FileIO]:
    """Open a regular file for reading, unbuffered. Raises OSError; `strerror` says what the path is instead."""
    # Checked before it is opened, because opening alone has an effect on some devices.
    _check(os.stat(path).st_mode, path)
    with open(os.open(path, _FLAGS), "rb", buffering=0) as file:
        # The path may have been replaced in the meantime.
        _check(os.fstat(file.fileno()).st_mode, path)
        yield file


def read(path: Path | str, limit: int) -> bytes:
    """Return the whole content, at most `limit` bytes. Raises OSError, such as TooLargeError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _too_large(path, limit)
        return _all(file, path, size, limit)


def _all(file: FileIO, path: Path | str, size: int, limit: int) -> bytes:
    """Read to the end, which may differ from the size: a file may grow, and some files report no size."""
    parts, room = [], limit + 1
    wanted = size + 1
    while room:
        part = file.read(min(wanted, room))
        if part is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        if not part:
            break
        parts.append(part)
        room -= len(part)
        wanted = max(wanted - len(part), 65_536)
    if not room:
        raise _too_large(path, limit)
    return b"".join(parts)


@dataclass(frozen=True)
class Listing:
    """The regular files of a folder, including links to them, with their modification time in ns, and a sentence for
    each entry that is skipped.
    """

    files: tuple[tuple[Path, int], ...]
    passed_over: tuple[str, ...]


def listing(folder: Path, suffix: str) -> Listing:
    """List the entries of a folder with this suffix, sorted by name. Opens no file and raises nothing."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except FileNotFoundError:
        return Listing((), ())
    except OSError as error:
        return Listing((), (f"The folder {visible(folder.name)} cannot be read ({error.strerror}).",))
    files, sentences = [], []
    for name in names:
        path = folder / name
        problem = None
        if visible(name) != name:
            # It could be mistaken for another file, and not every such name can be part of a URL.
            problem = "its name has a character that cannot be seen"
        else:
            try:
                found = os.stat(path)
                _check(found.st_mode, path)
                files.append((path, found.st_mtime_ns))
            except OSError as error:
                # A file that was deleted after the folder was read is ignored; a broken link is reported.
                if os.path.lexists(path):
                    nowhere = isinstance(error, FileNotFoundError)
                    problem = "it is a link to nothing" if nowhere else str(error.strerror)
        if problem:
            sentences.append(
                f"{visible(folder.name)}/{visible(name)} was passed over ({problem}). Move it out of the folder."
            )
    return Listing(tuple(files), tuple(sentences))


def _check(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotRegularError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def _too_large(path: Path | str, limit: int) -> TooLargeError:
    return TooLargeError(errno.EFBIG, f"it is larger than {limit / 1e6:,.1f} MB", str(path))
