"""Work in the background after a start: import torch, and measure how fast this machine trains."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import streamlit as st

from lib.ui.cache import existing_run_manager

if TYPE_CHECKING:
    from lib.training.time_estimate import MachineProfile

_measurement = threading.Lock()
_profile: MachineProfile | None = None


@st.cache_resource(show_spinner=False)
def warm_up() -> None:
    """Start a thread that imports torch, so that Train and Draw open without a wait, and then measures the machine."""
    # Not a daemon, as Streamlit's own thread is: a process that ends while torch is at work aborts.
    threading.Thread(target=_import_and_measure, name="warm-up", daemon=False).start()


def machine_profile() -> MachineProfile | None:
    """Return how fast this machine trains, or None until `warm_up` has measured it, some seconds after a start."""
    return _profile


def _import_and_measure() -> None:
    try:
        import lib.runs.run_manager  # noqa: F401

        with _measurement:
            _measure()
    except Exception:
        # Imports fail while the process ends, when the result is not needed any more.
        if threading.main_thread().is_alive():
            raise


def _measure() -> None:
    global _profile
    from lib.training import time_estimate

    # A training at the same time would make the machine look slower than it is: wait for its end, and measure again.
    while _profile is None and threading.main_thread().is_alive():
        if not _is_training():
            profile = time_estimate.measure()
            if not _is_training():
                _profile = profile
                return
        time.sleep(1)


def _is_training() -> bool:
    manager = existing_run_manager()
    return manager is not None and any(run.active for run in manager.runs())
