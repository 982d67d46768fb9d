"""Read files of unknown origin: regular files only, up to a size limit.

To open a FIFO waits for a writer, to read /dev/zero never ends, and to open a device may do something. A link to a
regular file is one.
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
# A pipe does not wait then, nor does what only looks like a regular file, as some of Linux's /proc.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


class NotRegularError(OSError):
    """What stands there is not a file with content of its own: a folder, a named pipe, a device."""


class TooLargeError(OSError):
    """The file is larger than the limit."""


@contextmanager
def opened(path: Path | str) -> Iterator[FileIO]:
    """The file, to be read, unbuffered. Raises OSError; its `strerror` says what stands there instead of a file."""
    # Before it is opened: that alone has an effect on some devices.
    _check(os.stat(path).st_mode, path)
    with open(os.open(path, _FLAGS), "rb", buffering=0) as file:
        # Something else may have taken its name meanwhile.
        _check(os.fstat(file.fileno()).st_mode, path)
        yield file


def read(path: Path | str, limit: int) -> bytes:
    """The whole content, of at most `limit` bytes. Raises OSError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _too_large(path, limit)
        return _all(file, path, size, limit)


def _all(file: FileIO, path: Path | str, size: int, limit: int) -> bytes:
    """Up to the end, which need not be where the file's size says: it may grow, and some files have no size."""
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
    """The regular files of a folder, links to them included, with the time of their last change in ns; and a sentence
    for each entry that is passed over.
    """

    files: tuple[tuple[Path, int], ...]
    passed_over: tuple[str, ...]


def listing(folder: Path, suffix: str) -> Listing:
    """What a folder has under names with that suffix, by name. Nothing is opened; nothing is raised."""
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
            # It might be taken for another one, and not every such name can be a part of an address.
            problem = "its name has a character that cannot be seen"
        else:
            try:
                found = os.stat(path)
                _check(found.st_mode, path)
                files.append((path, found.st_mtime_ns))
            except OSError as error:
                # One that has gone since the folder was read is not missed; a link that leads nowhere is.
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
