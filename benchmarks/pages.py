"""Measure how soon each page is ready after the server has started, and the memory of the server.

    python -m benchmarks.pages

The server runs over a copy of the project in which it has run before, so that the files are in the cache of the
operating system, the kernels are compiled and MNIST is unpacked: this is every start but the first. Each page is opened
by a browser that has none of the files of the app, as the first page after the start.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from tools.browser import SEVEN, TIMEOUT_MS, draw, settled
from tools.chromium import LAUNCH_ARGUMENTS, install
from tools.server import copy_project, start_server

ROUNDS = 3
# The background work of a start has ended after so many seconds.
QUIET_SECONDS = 30
STOP_SECONDS = 20
VIEWPORT = {"width": 1280, "height": 1000}
# What a reader comes to each page for, as selectors of Playwright: all of them must be visible.
MAIN_PARTS = {
    "design": ("tr:has-text('Total')",),
    "train": ("button:enabled:has-text('Start training')",),
    "draw": ("canvas.upper-canvas", "h2:has-text('Nothing drawn yet')", "svg.main-svg >> nth=0"),
    "inspect": ("img[alt*='feature maps of layer'] >> nth=-1",),
    "errors": ("text=/test images are misclassified/", "svg.main-svg >> nth=0"),
    "photos": ("[data-testid=stFileUploaderDropzone]", "button:has-text('New set')"),
}
PREDICTION = re.compile(r"^(Prediction: \d|Uncertain)")


def main() -> None:
    print(json.dumps({"cold_pages_seconds": cold_pages(), "resident_mb": resident_megabytes()}, indent=2))


def cold_pages() -> dict[str, float]:
    """Return the seconds from the request for each page until it is there, when it is the first after a start.

    For each page "NAME", until its main part is on the screen, and "NAME done", until its script has ended. "draw
    prediction" is the time from the end of the first stroke to its prediction. Medians of ROUNDS starts each.
    """
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        copy_project(Path(folder))
        with _server(Path(folder)) as (url, _):
            _tour(browser, url)
        for _ in range(ROUNDS):
            for name in MAIN_PARTS:
                with _server(Path(folder)) as (url, _), _new_page(browser) as page:
                    for key, seconds in _visit(page, url, name).items():
                        times.setdefault(key, []).append(seconds)
    return {key: round(statistics.median(seconds), 2) for key, seconds in times.items()}


def resident_megabytes() -> dict[str, int]:
    """Return the memory of the server in MB after a tour of all pages, a run of one epoch, and another tour.

    - `rss`: resident set size, as task managers show it.
    - `pss`: its proportional share where pages are shared with other processes; only on Linux.
    """
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        copy_project(Path(folder))
        with _server(Path(folder)) as (url, process):
            _tour(browser, url)
            _train(browser, url)
            _tour(browser, url)
            time.sleep(QUIET_SECONDS)
            found = process.memory_full_info()
            return {kind: round(getattr(found, kind) / 1e6) for kind in ("rss", "pss") if hasattr(found, kind)}


def _visit(page: Page, url: str, name: str) -> dict[str, float]:
    started = time.perf_counter()
    page.goto(f"{url}/{name if name != 'design' else ''}", wait_until="commit")
    for selector in MAIN_PARTS[name]:
        page.locator(selector).wait_for(timeout=TIMEOUT_MS)
    found = {name: time.perf_counter() - started}
    settled(page)
    found[f"{name} done"] = time.perf_counter() - started
    if name == "draw":
        draw(page, SEVEN)
        started = time.perf_counter()
        page.get_by_role("heading", name=PREDICTION).wait_for(timeout=TIMEOUT_MS)
        found["draw prediction"] = time.perf_counter() - started
    return found


def _tour(browser: Browser, url: str) -> None:
    with _new_page(browser) as page:
        for name in MAIN_PARTS:
            _visit(page, url, name)


def _train(browser: Browser, url: str) -> None:
    with _new_page(browser) as page:
        page.goto(f"{url}/train?epochs=1")
        page.get_by_role("button", name="Start training").click()
        page.get_by_text("Finished").first.wait_for(timeout=10 * TIMEOUT_MS)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A new server in `folder`, killed at the end: it would wait seconds for its threads."""
    server, url = start_server(folder)
    try:
        yield url, psutil.Process(server.pid)
    finally:
        server.kill()
        server.wait(STOP_SECONDS)


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=install(), args=LAUNCH_ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def _new_page(browser: Browser) -> Iterator[Page]:
    """A page in a browser profile of its own, which has nothing cached."""
    context = browser.new_context(viewport={"width": VIEWPORT["width"], "height": VIEWPORT["height"]})
    try:
        yield context.new_page()
    finally:
        context.close()


if __name__ == "__main__":
    main()
