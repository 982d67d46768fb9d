"""A Streamlit server over a copy of the project."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools import ROOT

LOG = "server.log"
START_SECONDS = 60
STOP_SECONDS = 20
_PARTS = ("app.py", "lib", "pages", "checkpoints", "data", "docs", "static", ".streamlit")
# Made on this machine: a clone does not have it.
_UNCLONED = shutil.ignore_patterns("MNIST", "own", "predictions", "saved", "__pycache__", "plotly-*")
_STREAMLIT = ("-m", "streamlit")


def copy_project(folder: Path) -> Path:
    """Copy into `folder` what a clone has and the app needs, and the compiled kernels. Returns `folder`."""
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=_UNCLONED)
        else:
            shutil.copy(ROOT / part, folder / part)
    # numba finds a compiled kernel by the time of its source, which a copy keeps.
    if (ROOT / "lib" / "nn" / "__pycache__").is_dir():
        shutil.copytree(ROOT / "lib" / "nn" / "__pycache__", folder / "lib" / "nn" / "__pycache__")
    return folder


@contextmanager
def serving(folder: Path, *options: str, kill: bool = False) -> Iterator[str]:
    """Run `streamlit run app.py` in `folder`; yields its address.

    With `kill`, the server is killed at the end: it would wait seconds for its threads. Raises AssertionError if the
    server does not start within START_SECONDS, and at the end if its log has a traceback.
    """
    server, url = start_server(folder, *options)
    try:
        yield url
    finally:
        if kill:
            server.kill()
        else:
            server.terminate()
        server.wait(timeout=STOP_SECONDS)
    log = (folder / LOG).read_text()
    assert "Traceback" not in log, log


def start_server(
    folder: Path, *options: str, python: Sequence[str] = _STREAMLIT, seconds: float = START_SECONDS
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `streamlit run app.py` in `folder` and wait until it answers. Returns the process and the address.

    `python` are the arguments of Python that start Streamlit. Appends the output to `LOG` in `folder`. Raises
    AssertionError if the server ends, or does not answer within `seconds`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *python, "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    log = folder / LOG
    with log.open("a") as output:
        server = subprocess.Popen([*command, *options], cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return server, url
        except OSError:
            time.sleep(0.1)
    status = server.poll()
    server.kill()
    server.wait(STOP_SECONDS)
    raise AssertionError(f"the server did not start (exit status {status}): {log.read_text()}")
