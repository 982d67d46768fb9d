"""Objects that all sessions share: the run manager, loaded networks and their calibrations.

The imports of torch and of what needs it are in the functions, so that the Design page does not wait for them.
"""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from lib.ui.bounded_cache import BoundedCache

if TYPE_CHECKING:
    from lib.design.layers import Architecture
    from lib.evaluation.calibration import Calibration, LiveCalibrator
    from lib.nn.network import Network
    from lib.runs.run_manager import RunManager
    from lib.storage.checkpoints import Summary

# Bytes of the weights of all loaded networks.
MAX_NETWORK_BYTES = 256 * 2**20
_run_manager_made = threading.Event()


@st.cache_resource(show_spinner="Starting PyTorch…")
def run_manager() -> RunManager:
    """Return the run manager of the process; it outlives every session."""
    from lib.data import dataset
    from lib.runs.run_manager import RunManager
    from lib.storage import checkpoints

    manager = RunManager(dataset.load, checkpoints.SAVED_FOLDER)
    _run_manager_made.set()
    # Saves a run that is in training while the server is stopped.
    atexit.register(manager.close)
    return manager


def existing_run_manager() -> RunManager | None:
    """Return the run manager, or None if nothing has needed it yet: making it would import torch."""
    return run_manager() if _run_manager_made.is_set() else None


@st.cache_resource(show_spinner=False)
def example_digits() -> tuple[bytes, ...]:
    """Return a test image of each digit, as 28 × 28 bytes. Raises DatasetError."""
    from lib.data import dataset

    return dataset.examples()


@st.cache_resource(show_spinner=False)
def _networks() -> BoundedCache[tuple[Path, int], tuple[Network, Calibration | None]]:
    return BoundedCache(MAX_NETWORK_BYTES)


def _loaded_network(path: Path, modified: int) -> tuple[Network, Calibration | None]:
    """Return a saved network in eval mode, and its calibration if the file has it. Raises CheckpointError."""
    from lib.evaluation.stored_calibration import stored_calibration
    from lib.storage import checkpoints

    def load() -> tuple[tuple[Network, Calibration | None], int]:
        checkpoint = checkpoints.load(path)
        network = checkpoints.network(checkpoint)
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        return (network, stored_calibration(checkpoint)), size

    return _networks().get((path, modified), load)


def checkpoint_network(path: Path, modified: int) -> Network:
    """Return a saved network in eval mode. Raises CheckpointError.

    `modified` is the file's modification time in ns: a file that was replaced is read again.
    """
    return _loaded_network(path, modified)[0]


@st.cache_data(max_entries=256, show_spinner=False)
def checkpoint_summary(path: Path, modified: int) -> Summary:
    """Return what a checkpoint says of its network; `modified` as in `checkpoint_network`. Raises CheckpointError."""
    from lib.storage import checkpoints

    return checkpoints.load_summary(path)


def checkpoint_calibration(path: Path, modified: int) -> Calibration:
    """Return the calibration of a saved network: that of its file, or found now. Raises CheckpointError, DatasetError.

    A run that was stopped, or that an older version has trained, has none in its file.
    """
    return _loaded_network(path, modified)[1] or _calibrated(path, modified)


@st.cache_resource(max_entries=64, show_spinner="Calibrating…")
def _calibrated(path: Path, modified: int) -> Calibration:
    from lib.data import dataset
    from lib.evaluation.calibration import calibrate

    return calibrate(checkpoint_network(path, modified), dataset.load())


@st.cache_resource(show_spinner=False)
def live_calibrator() -> LiveCalibrator:
    """Return the calibrator of networks in training, for all sessions."""
    from lib.data import dataset
    from lib.evaluation.calibration import LiveCalibrator

    return LiveCalibrator(dataset.load)


def trained_checkpoints(architecture: Architecture) -> dict[str, Path]:
    """Return the readable checkpoints of a network, title -> file, shipped ones first."""
    from lib.storage import checkpoints

    found = {}
    for path in checkpoints.paths():
        with suppress(checkpoints.CheckpointError, OSError):
            summary = checkpoint_summary(path, path.stat().st_mtime_ns)
            if summary.architecture == architecture and summary.has_weights:
                found[summary.title if path.parent == checkpoints.FOLDER else path.stem] = path
    return found


def trained_accuracy(architecture: Architecture) -> float | None:
    """Return the test accuracy at the final epoch of the newest finished run of a network, or None if there is none."""
    manager = existing_run_manager()
    for run in manager.runs() if manager else []:
        if run.architecture == architecture and run.status == "finished":
            epochs = run.snapshot(since_step=sys.maxsize).epochs
            # A run that was unloaded has none if its file is gone.
            if epochs:
                return epochs[-1].test_accuracy
    return None


def onnx_file(path: Path) -> bytes:
    """Return a checkpoint as ONNX. Raises CheckpointError, and RuntimeError if there is not enough memory."""
    from lib.export.onnx_file import onnx_bytes
    from lib.nn.memory import OUT_OF_MEMORY, is_out_of_memory
    from lib.storage import checkpoints

    try:
        checkpoint = checkpoints.load(path)
        return onnx_bytes(checkpoint.summary.architecture, checkpoint.weights)
    except Exception as error:
        # The browser shows the message of an error that a download raises.
        if is_out_of_memory(error):
            raise RuntimeError(OUT_OF_MEMORY) from error
        raise
