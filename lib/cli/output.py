"""Standard output and error of the command line: one line at a time, and no traceback if they cannot be written."""

from __future__ import annotations

import argparse
import io
import json
import os
import select
import sys
from contextlib import suppress
from typing import Any, NoReturn, TextIO, TypeAlias

from lib.text.untrusted_text import visible

# Shells report 128 + this number for a process that SIGPIPE has ended; Windows has no such signal.
SIGPIPE = 13

Event: TypeAlias = dict[str, Any]


class UsageError(ValueError):
    """Invalid arguments. The message is one sentence with the remedy."""


class OutputError(Exception):
    """Standard output cannot be written. `status` is the exit status; `sentence` is None for a closed pipe."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.closed = isinstance(error, BrokenPipeError)
        self.sentence = None if self.closed else f"The output could not be written ({error.strerror})."
        self.status = 128 + SIGPIPE if self.closed else 1


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors contain no control characters; it raises OutputError if help cannot be written."""

    def print_help(self, _: object = None) -> None:
        write_line(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        write_error(f"{self.format_usage()}{self.prog}: error: {message}")
        sys.exit(2)


def prepare_standard_streams() -> None:
    for number in range(3):
        # A file that is opened later must not get the number of a closed stream: everything that is printed, also by
        # libraries, would be written into it.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show must not end a training.
            stream.reconfigure(errors="replace")


def write_line(text: str) -> None:
    """Print a text and flush. Raises OutputError."""
    try:
        print(_printable(text), flush=True)
    except OSError as error:
        raise OutputError(error) from error


def json_text(values: Event, **options: Any) -> str:
    """Return ASCII JSON without control characters; `options` are passed to `json.dumps`."""
    return json.dumps(values, **options).replace("\x7f", "\\u007f")


def write_error(sentence: str) -> None:
    # Without an error stream, print would write to standard output.
    if sys.stderr is None:
        return
    try:
        print(_printable(sentence), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def write_error_at_once(sentence: str) -> None:
    """Write to the error stream if that is possible without waiting."""
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{sentence}\n".encode())


def discard(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that the interpreter's last flush of it does not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would obey, and keep the line breaks."""
    return "\n".join(map(visible, text.split("\n")))
