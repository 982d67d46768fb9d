"""Choose the network that predicts, and the image: the controls that several pages share."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

import streamlit as st

from lib.data import dataset
from lib.design.notation import notation
from lib.evaluation.attribution import affordable
from lib.evaluation.calibration import LIVE_IMAGES, UNCALIBRATED
from lib.inference.loaded_model import LoadedModel
from lib.nn.network import assembled
from lib.storage import checkpoints
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped, isolated
from lib.ui.cache import (
    checkpoint_calibration,
    checkpoint_network,
    checkpoint_summary,
    live_calibrator,
    run_manager,
)
from lib.ui.url_state import TEST_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

    from lib.runs.training_run import Run

NO_MODEL = "There is no trained network: checkpoints/ is empty. Restore it from the project, or train one."
NO_WEIGHTS = "The network has not finished its first batch yet."
TOO_LARGE = replace(UNCALIBRATED, problem="Too large to be calibrated during training.")


class Source(StrEnum):
    """The source of an image."""

    DRAWING = "Your drawing"
    TEST_IMAGE = "A test image"


def model_labels() -> tuple[dict[str, str], list[str]]:
    """Return all networks, name -> label, and a sentence for each file that cannot be read.

    Runs in training come first, then checkpoints by file name.
    """
    labels = {
        run.identity: f"{isolated(run.name)}, in training · {notation(run.architecture)}"
        for run in run_manager().runs()
        if run.weights and is_training(run)
    }
    # Files that were set aside when the app started, and files that have become unreadable since.
    problems = [*run_manager().set_aside, *checkpoints.passed_over(checkpoints.FOLDER, checkpoints.SAVED_FOLDER)]
    for path in checkpoints.paths():
        if path.stem in labels:
            continue
        try:
            summary = checkpoint_summary(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            # Deleted since the folder was listed.
            continue
        except (checkpoints.CheckpointError, OSError) as error:
            problems.append(error.strerror if isinstance(error, OSError) and error.strerror else str(error))
            continue
        if not summary.has_weights:
            continue
        accuracy = "not measured" if summary.test_accuracy is None else percent(summary.test_accuracy, 2)
        labels[path.stem] = f"{isolated(summary.title)} · {notation(summary.architecture)} · {accuracy}"
    return labels, problems


def is_training(run: Run) -> bool:
    """Whether a run is in training, or has ended but its file is still being written."""
    return run.active or (run.weights is not None and not run.wait(0))


def run_in_training(name: str) -> Run | None:
    """Return the run with this identity, or None if it is not in training."""
    run = run_manager().get(name)
    return run if run and is_training(run) else None


def load_model(name: str) -> LoadedModel:
    """Return a network with its current weights.

    Raises CheckpointError, also if the file is gone, and OSError if it cannot be read.
    """
    run = run_in_training(name)
    if run:
        weights = run.weights
        if weights is None:
            return LoadedModel(name, run.architecture, None, (name, 0), in_training=True)
        network = assembled(run.architecture, weights.tensors)
        calibrated_step, calibration = 0, TOO_LARGE
        if affordable(run.architecture, LIVE_IMAGES) == LIVE_IMAGES:
            calibrated_step, calibration = live_calibrator().get(name, weights.step, network)
        return LoadedModel(
            name, run.architecture, network, (name, weights.step), calibration, True, calibrated_step=calibrated_step
        )
    path = next((path for path in checkpoints.paths() if path.stem == name), None)
    try:
        modified = path.stat().st_mtime_ns if path else None
    except OSError:
        modified = None
    if path is None or modified is None:
        raise checkpoints.CheckpointError(f"The checkpoint {name} is no longer there. Choose another network.")
    summary = checkpoint_summary(path, modified)
    calibration = UNCALIBRATED
    # The network predicts without MNIST too; the page then says that it is not calibrated.
    with suppress(dataset.DatasetError):
        calibration = checkpoint_calibration(path, modified)
    return LoadedModel(name, summary.architecture, checkpoint_network(path, modified), (name, modified), calibration)


def poll_model(name: str, ticking: bool) -> LoadedModel | None:
    """Load a network in a fragment; show a sentence and return None if it cannot be read.

    `ticking` says that the fragment runs again and again because the network was in training. If it no longer is, the
    whole page is run again.
    """
    try:
        model = load_model(name)
    except (checkpoints.CheckpointError, OSError) as error:
        st.error(escaped(str(error)), icon=":material/error:")
        return None
    if ticking and not model.in_training:
        st.rerun()
    return model


def choose_model() -> str:
    """Show the control for the network and return its name; without a network, stop the page with a sentence."""
    labels, problems = model_labels()
    if not labels:
        st.error(NO_MODEL, icon=":material/error:")
        _warn(problems)
        st.stop()
    name = st.selectbox("Network", list(labels), key="reader", persist_state="session", format_func=labels.__getitem__)
    _warn(problems)
    return name


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        st.warning(escaped(sentence), icon=":material/warning:")


def choose_source() -> Source:
    """Show the control for the source of the image and return it."""
    source = st.segmented_control(
        "Image",
        list(Source),
        key="source",
        required=True,
        persist_state="session",
        format_func=":gray[{}]".format,
    )
    return Source(str(source))


def choose_test_image() -> tuple[Tensor, int]:
    """Show the controls for a test image; return the image, uint8 (28, 28), and its label.

    If there is no image with the chosen number, the page stops with a sentence. Raises DatasetError.
    """

    def go_to(number: int) -> None:
        st.session_state.image = number % TEST_IMAGES

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input("Number of the test image", step=1, key="image", width=200)
        number = st.session_state.image
        exists = 0 <= number < TEST_IMAGES
        st.button("Next", icon=":material/skip_next:", on_click=go_to, args=(number + 1 if exists else 0,))
        st.button("Random", icon=":material/casino:", on_click=go_to, args=(random.randrange(TEST_IMAGES),))
    if not exists:
        st.error(
            f"There is no test image {number}: they are numbered from 0 to {TEST_IMAGES - 1}. Type one of these.",
            icon=":material/error:",
        )
        st.stop()
    test = dataset.load_test()
    return test.images[number], int(test.labels[number])
