"""A real server over a copy of the project, and a real Chromium that may reach nothing else."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

ROOT = Path(__file__).parent.parent
UNCLONED = shutil.ignore_patterns("MNIST", "own", "saved", "__pycache__", "plotly-*")
PARTS = ("app.py", "lib", "pages", "checkpoints", "data", "docs", "static", ".streamlit")
START_SECONDS = 60
LOG = "server.log"


def copy_project(folder: Path) -> Path:
    """What a clone holds and a run needs, without what this machine has made of it but the compiled kernels."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=UNCLONED)
        else:
            shutil.copy(ROOT / part, folder / part)
    # numba finds a compiled kernel by its source's time, which a copy keeps.
    if (ROOT / "lib" / "nn" / "__pycache__").is_dir():
        shutil.copytree(ROOT / "lib" / "nn" / "__pycache__", folder / "lib" / "nn" / "__pycache__")
    return folder


@contextmanager
def serving(folder: Path, *options: str, kill: bool = False) -> Iterator[str]:
    """`streamlit run app.py` in `folder`; gives its address. Fails with the log where a traceback was printed.

    To `kill` it spares the wait for its threads to end, some seconds after a start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / LOG
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
        *options,
    ]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, server)
            yield url
        finally:
            if kill:
                server.kill()
            else:
                server.terminate()
            server.wait(timeout=20)
    assert "Traceback" not in log.read_text(), log.read_text()


def settled(page: Page) -> None:
    """Wait until the page is connected and its script has run."""
    app = page.get_by_test_id("stApp")
    expect(app).to_have_attribute("data-test-connection-state", "CONNECTED", timeout=60_000)
    expect(app).to_have_attribute("data-test-script-state", "notRunning", timeout=60_000)


def visit(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=60_000)
    settled(page)


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """One stroke on the canvas with the mouse, in canvas pixels."""
    canvas = page.locator("canvas.upper-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    (x, y), *rest = points
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=12)
    page.mouse.up()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start, exit status {server.poll()}")
