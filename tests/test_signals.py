"""SIGTERM and Ctrl-C end `python -m lib` within a second during any wait, and keep what was saved."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

try:
    import fcntl
    import termios
except ImportError:
    pytest.skip("Windows has other signals", allow_module_level=True)

from lib.runs import run_store
from lib.storage.checkpoints import SUFFIX
from tools import ROOT
from tools.waiting import until

pytestmark = pytest.mark.slow


SMALL = ["2 10 A", "--recipe", '{"batch_size": 1000, "epochs": 50}']
PATIENCE = 90
# The command, with one function replaced by one that says so and then waits forever.
WAITING = """
import importlib, os, sys
from lib.__main__ import main
def wait(*_):
    os.write(2, b"waiting\\n")
    os.read(os.pipe()[0], 1)
setattr(importlib.import_module("{module}"), "{function}", wait)
sys.exit(main())
"""


@dataclass(frozen=True)
class Wait:
    """A command that waits, and a function that returns whether it does."""

    command: list[str]
    waits: Callable[[subprocess.Popen[bytes], Path], bool]


def plain(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lib", "train", *arguments]


def in_function(module: str, function: str) -> list[str]:
    return [sys.executable, "-c", WAITING.format(module=module, function=function), "train", *SMALL]


def says_so(process: subprocess.Popen[bytes], _: Path) -> bool:
    assert process.stderr
    return process.stderr.readline() == b"waiting\n"


def after(seconds: float) -> Callable[[subprocess.Popen[bytes], Path], bool]:
    def wait(*_: object) -> bool:
        time.sleep(seconds)
        return True

    return wait


def has_filled_its_pipe(process: subprocess.Popen[bytes], _: Path) -> bool:
    """The pipe holds 65,536 bytes and a line has about 150: half a second later the process blocks in a write."""
    assert process.stdout
    held = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4))[0]
    if held > 60_000:
        time.sleep(0.5)
    return bool(held > 60_000)


def in_a_batch(_: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether the run was first saved some seconds ago."""
    return any(time.time() - path.stat().st_mtime > 2.5 for path in folder.glob(f"*{SUFFIX}"))


WAITS = {
    "its imports": Wait(plain(*SMALL), after(0.4)),
    "a scan of the folder": Wait(in_function("lib.runs.run_store", "scan"), says_so),
    "a save that does not end": Wait(in_function("lib.files.atomic_file", "_sync_folder"), says_so),
    "the images": Wait(in_function("lib.data.dataset", "load"), says_so),
    # Each of the two convolutions takes longer than a second.
    "a batch": Wait(plain("128k9 256k9 10 A", "--recipe", '{"batch_size": 128}'), in_a_batch),
    "a reader of its output": Wait(plain("2 10 A", "--recipe", '{"batch_size": 32}', "--json"), has_filled_its_pipe),
}


def interrupted(wait: Wait, folder: Path, number: signal.Signals) -> tuple[float, int, bytes]:
    """Seconds from the signal to the end, exit status, and standard error."""
    process = subprocess.Popen(
        [*wait.command, "--runs-dir", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: wait.waits(process, folder) or process.poll() is not None, PATIENCE)
        assert process.poll() is None, process.stderr and process.stderr.read()
        sent = time.monotonic()
        process.send_signal(number)
        # Its output is not read meanwhile.
        status = process.wait(timeout=PATIENCE)
        taken = time.monotonic() - sent
        assert process.stderr
        return taken, status, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("what", WAITS)
def test_a_signal_ends_a_training_within_a_second_during_any_wait(what: str, tmp_path: Path) -> None:
    number = signal.SIGTERM if len(what) % 2 else signal.SIGINT
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        taken, status, errors = interrupted(WAITS[what], folder, number)
        assert status == 128 + number
        assert b"Traceback" not in errors
        records = [run_store.load(path) for path in folder.glob(f"*{SUFFIX}")]
        if what == "a reader of its output":
            assert [record.status for record in records] == ["stopped"]
            # The pipe holds 436 lines: nothing that was printed is lost.
            assert records[0].history.steps > 300
            assert b"was stopped and saved, but its output was not read to the end." in errors
        if what in ("a batch", "the images"):
            assert [record.history.steps for record in records] == [0]
            ended = b"had not stopped in time and was ended: it is as it was last saved." in errors
            # If a convolution happens to end in time, the training stops between two modules, as usual.
            assert ended or (what == "a batch" and [record.status for record in records] == ["stopped"])
        # A busy machine may take longer, but not three times in a row.
        if taken < 1:
            return
        print(f"{taken:.2f} s")
    raise AssertionError(f"it took {taken:.2f} s")


def test_ctrl_c_ends_another_command_without_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lib", "predict", "x.png"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # While torch is imported.
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (-signal.SIGINT, b"")
