"""Objects that all sessions share: the run manager, loaded networks, Plotly's script."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import streamlit as st

if TYPE_CHECKING:
    from lib.design.layers import Architecture
    from lib.evaluation.calibration import Calibration, LiveCalibrator
    from lib.nn.network import Network
    from lib.runs.run_manager import RunManager
    from lib.storage.checkpoints import Summary
    from lib.training.time_estimate import MachineProfile

# What the weights of all saved networks that are kept may take; the one asked for last stays whatever it takes.
NETWORK_BYTES = 256 * 2**20
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_manager_made = threading.Event()
_rates: list[MachineProfile] = []
_measuring = threading.Lock()


class BoundedCache(Generic[Key, Value]):
    """Values by key, as long as their sizes together are within `most`; those not asked for longest go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._found: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key, load: Callable[[], tuple[Value, int]]) -> Value:
        """The value of this key; `load` makes it and says its size. One is loaded at a time."""
        held = self._held(key)
        if held is None:
            with self._loading:
                held = self._held(key)
                if held is None:
                    held = self._keep(key, *load())
        return held[0]

    def _held(self, key: Key) -> tuple[Value] | None:
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key][:1]

    def _keep(self, key: Key, value: Value, size: int) -> tuple[Value]:
        with self._lock:
            self._found[key] = (value, size)
            while len(self._found) > 1 and sum(size for _, size in self._found.values()) > self._most:
                self._found.popitem(last=False)
        return (value,)


@st.cache_resource(show_spinner="Starting PyTorch…")
def run_manager() -> RunManager:
    """One manager for all tabs; it outlives every one of them."""
    from lib.data import dataset
    from lib.runs.run_manager import RunManager
    from lib.storage import checkpoints

    manager = RunManager(dataset.load, checkpoints.SAVED_FOLDER)
    _manager_made.set()
    # What trains when the server is stopped is saved at its last batch.
    atexit.register(manager.close)
    return manager


@st.cache_resource(show_spinner=False)
def warm_up() -> None:
    """While the first visitor designs, in the background: import torch, so that Train and Draw open without a wait, and
    measure what a training costs on this machine.
    """

    def load() -> None:
        try:
            import_and_measure()
        except Exception:
            # What is imported while the process ends fails, and then nobody needs it.
            if threading.main_thread().is_alive():
                raise

    def import_and_measure() -> None:
        import torchvision.datasets  # noqa: F401

        import lib.runs.run_manager  # noqa: F401
        from lib.training import time_estimate

        with _measuring:
            if _rates:
                return
            # A training beside it would make the machine look slower than it is: measured again when that has ended.
            while threading.main_thread().is_alive():
                if not _training():
                    rate = time_estimate.measure()
                    if not _training():
                        _rates.append(rate)
                        return
                time.sleep(1)

    # Not a daemon, as its parent is: a process that ends in the middle of torch's work aborts.
    threading.Thread(target=load, name="warm-up", daemon=False).start()


@st.cache_resource(show_spinner=False)
def example_digits() -> tuple[bytes, ...]:
    """A test image of each digit. Raises DatasetError."""
    from lib.data import dataset

    return dataset.examples()


@st.cache_resource(show_spinner=False)
def _networks() -> BoundedCache[tuple[Path, int], Network]:
    return BoundedCache(NETWORK_BYTES)


def checkpoint_network(path: Path, modified: int) -> Network:
    """A saved network in eval mode; `modified` is the file's time in ns, so that a new file is read again."""
    from lib.storage import checkpoints

    def load() -> tuple[Network, int]:
        network = checkpoints.network(checkpoints.load(path))
        return network, sum(tensor.nbytes for tensor in network.state_dict().values())

    return _networks().get((path, modified), load)


@st.cache_data(max_entries=256, show_spinner=False)
def checkpoint_summary(path: Path, modified: int) -> Summary:
    from lib.storage import checkpoints

    return checkpoints.load_summary(path)


@st.cache_resource(max_entries=64, show_spinner="Calibrating…")
def checkpoint_calibration(path: Path, modified: int) -> Calibration:
    """How far a saved network's probabilities are to be trusted. Raises CheckpointError, DatasetError."""
    from lib.data import dataset
    from lib.evaluation.calibration import calibrate

    return calibrate(checkpoint_network(path, modified), dataset.load())


@st.cache_resource(show_spinner=False)
def live_calibrator() -> LiveCalibrator:
    """The calibrations of the networks in training, for all tabs."""
    from lib.data import dataset
    from lib.evaluation.calibration import LiveCalibrator

    return LiveCalibrator(dataset.load)


def _training() -> bool:
    return _manager_made.is_set() and any(run.active for run in run_manager().runs())


def machine_rate() -> MachineProfile | None:
    """What a training costs on this machine; None until `warm_up` has measured it, some seconds after the start."""
    return _rates[-1] if _rates else None


def trained(architecture: Architecture) -> dict[str, Path]:
    """Checkpoints of this very network, title -> file, shipped ones first. The Draw page names damaged ones."""
    from lib.storage import checkpoints

    found = {}
    for path in checkpoints.paths():
        with suppress(checkpoints.CheckpointError, OSError):
            summary = checkpoint_summary(path, path.stat().st_mtime_ns)
            if summary.architecture == architecture and summary.has_weights:
                found[summary.title if path.parent == checkpoints.FOLDER else path.stem] = path
    return found


def onnx_file(path: Path) -> bytes:
    """A checkpoint as ONNX. Raises CheckpointError, and RuntimeError, in a sentence, without the memory for it."""
    from lib.export.onnx_file import onnx_bytes
    from lib.nn.memory import OUT_OF_MEMORY, is_out_of_memory
    from lib.storage import checkpoints

    try:
        checkpoint = checkpoints.load(path)
        return onnx_bytes(checkpoint.summary.architecture, checkpoint.weights)
    except Exception as error:
        # A browser shows what a download raises.
        if is_out_of_memory(error):
            raise RuntimeError(OUT_OF_MEMORY) from error
        raise


def final_accuracy(architecture: Architecture) -> float | None:
    """Test accuracy at the final epoch of the newest finished run of this network; None before there is one.

    Makes no manager, which would import torch: where there is none yet, nothing was trained.
    """
    if not _manager_made.is_set():
        return None
    for run in run_manager().runs():
        if run.architecture == architecture and run.status == "finished":
            epochs = run.snapshot(since_step=sys.maxsize).epochs
            # The file of a run that is no longer in memory may have gone.
            if epochs:
                return epochs[-1].test_accuracy
    return None
