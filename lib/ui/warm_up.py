"""Work in the background after a start: import what the pages need, and measure how fast this machine trains.

The imports begin when the server does: meanwhile a browser loads the app. The measurement takes the whole machine for
some seconds, and waits until no page has been opened or changed for a while, and nothing trains.
"""

from __future__ import annotations

import gc
import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from lib.runs.free_memory import release_memory
from lib.ui.cache import existing_run_manager
from lib.ui.page import DESIGN, PAGES

if TYPE_CHECKING:
    from lib.training.time_estimate import MachineProfile

# What takes long to import: for the Design page, and for the others, which all need torch.
DESIGN_IMPORTS = ("lib.ui.layer_table", "lib.ui.network_view", "lib.ui.charts.design")
IMPORTS = (
    "torch",
    "lib.ui.model_picker",
    "lib.ui.inspect_panels",
    "lib.ui.prediction_panel",
    "lib.ui.preprocessing_panel",
    "lib.ui.recipe_form",
    "lib.ui.run_panel",
    "scipy.ndimage",
)
# After a start a browser is about to open a page. The Design page would share the interpreter with the import of torch,
# which therefore waits for it, or so long if no page is requested.
FIRST_PAGE_SECONDS = 1.0
TORCH_PAGES = {page.url_path for page in PAGES if page != DESIGN}
WAIT_SECONDS, MAX_WAIT_SECONDS = 0.02, 5.0
# So long no page may have run before the machine is measured.
QUIET_SECONDS = 3.0
PAUSE_SECONDS = 0.5

_measurement = threading.Lock()
_profile: MachineProfile | None = None
_torch_needed = threading.Event()
_running = threading.Lock()
_pages_running = 0
_last_page = 0.0


@st.cache_resource(show_spinner=False)
def warm_up() -> None:
    """Start the thread that imports what the pages need and then measures the machine."""
    # Not a daemon, as Streamlit's own thread is: a process that ends while torch is at work aborts.
    threading.Thread(target=_import_and_measure, name="warm-up", daemon=False).start()


def request_page(name: str) -> None:
    """Note that a browser asks for a page, named as in its URL: import torch now if the page needs it."""
    if name in TORCH_PAGES:
        _torch_needed.set()


@contextmanager
def page_running() -> Iterator[None]:
    """Note that a page runs: the machine is not measured meanwhile and shortly after."""
    global _pages_running, _last_page
    with _running:
        _pages_running += 1
    try:
        yield
    finally:
        with _running:
            _pages_running -= 1
            _last_page = time.monotonic()


def machine_profile() -> MachineProfile | None:
    """Return how fast this machine trains, or None until `warm_up` has measured it, some seconds after a start."""
    return _profile


def _import_and_measure() -> None:
    try:
        _import()
        with _measurement:
            _measure()
    except Exception:
        # Imports fail while the process ends, when the result is not needed any more.
        if threading.main_thread().is_alive():
            raise


def _import() -> None:
    """Import what the pages need, without the garbage collector: it takes a third of the time, and finds nothing."""
    gc.disable()
    try:
        for name in DESIGN_IMPORTS:
            importlib.import_module(name)
        _wait_for_first_page()
        for name in IMPORTS:
            importlib.import_module(name)
        # No later collection looks at what stays until the end.
        gc.freeze()
    finally:
        gc.enable()


def _wait_for_first_page() -> None:
    """Wait until a page has been requested that needs torch, or one that does not has been shown, or neither comes."""
    started = time.monotonic()
    while not _torch_needed.wait(WAIT_SECONDS):
        waited = time.monotonic() - started
        if waited > MAX_WAIT_SECONDS or (waited > FIRST_PAGE_SECONDS and not _pages_running):
            return


def _measure() -> None:
    global _profile
    from lib.training import time_estimate

    while _profile is None and threading.main_thread().is_alive():
        # A training at the same time would make the machine look slower than it is: wait for its end, and measure
        # again.
        if _is_quiet() and not _is_training():
            profile = time_estimate.measure()
            release_memory()
            if not _is_training():
                _profile = profile
                return
        time.sleep(PAUSE_SECONDS)


def _is_quiet() -> bool:
    with _running:
        return not _pages_running and time.monotonic() - _last_page > QUIET_SECONDS


def _is_training() -> bool:
    manager = existing_run_manager()
    return manager is not None and any(run.active for run in manager.runs())
