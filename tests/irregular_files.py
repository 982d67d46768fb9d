"""Everything that may be in the place of a file and is not a regular file."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


def _socket(path: Path) -> None:
    before = os.getcwd()
    # The whole path may be longer than a socket's address.
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("a-pipe"))
    path.symlink_to("a-pipe")


def _loop(path: Path) -> None:
    path.symlink_to("another-end")
    path.with_name("another-end").symlink_to(path.name)


# A function that makes one at a path, and the message about it.
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda path: path.mkdir(), "it is a folder, not a regular file"),
    "pipe": (os.mkfifo, "it is a named pipe, not a regular file"),
    "socket": (_socket, "it is a socket, not a regular file"),
    "link to nothing": (lambda path: path.symlink_to("/nonexistent/file"), "it is a link to nothing"),
    "link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "loop of links": (_loop, "Too many levels of symbolic links"),
    "link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
    "link to a folder": (lambda path: path.symlink_to("/"), "it is a folder, not a regular file"),
    "link to a pipe": (_link_to_pipe, "it is a named pipe, not a regular file"),
    "link through a file": (lambda path: path.symlink_to("/etc/passwd/more"), "Not a directory"),
}
if hasattr(os, "geteuid") and os.geteuid() == 0:
    # A device like /dev/zero.
    KINDS["device"] = (
        lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
        "it is a device, not a regular file",
    )


def put_all(folder: Path, suffix: str) -> dict[str, str]:
    """Make one of each kind. Returns the messages by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for kind, (make, words) in KINDS.items():
        name = f"{kind.replace('/', ' ')}{suffix}"
        with suppress(PermissionError):
            # In some containers root cannot make devices.
            make(folder / name)
            said[name] = words
    return said


def entries(folder: Path) -> dict[str, tuple[int, int]]:
    """Mode and inode of each entry of a folder: if they are equal, nothing was moved or replaced."""
    return {entry.name: (entry.stat(follow_symlinks=False).st_mode, entry.inode()) for entry in os.scandir(folder)}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise AssertionError if the body takes longer."""

    def fail(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"it still waits after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
