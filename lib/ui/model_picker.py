"""Choose the network that predicts: a saved one, or the last published weights of a run in training."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import streamlit as st

from lib.data import dataset
from lib.design.layers import Architecture
from lib.design.notation import notation
from lib.evaluation.attribution import affordable
from lib.evaluation.calibration import LIVE_IMAGES, UNCALIBRATED, Calibration
from lib.inference.predict import predict, predict_all
from lib.nn.network import Network, assembled
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

    from lib.inference.predict import Prediction
    from lib.runs.training_run import Run

DRAWING, TEST = "Your drawing", "A test image"
NO_READER = "There is no network to ask: checkpoints/ is empty. Restore it from the project, or train one."


TOO_LARGE = replace(UNCALIBRATED, problem="Too large to be calibrated while it learns.")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network as it is now, in eval mode; None before the first batch of a run. `step` counts a run's batches.

    `run` is there while the network is in training; its calibration is then of a step not long before, `calibrated`.
    Without MNIST, and at first, there is none. `version` changes whenever the weights do.
    """

    name: str
    architecture: Architecture
    network: Network | None
    version: tuple[str, int]
    calibration: Calibration = UNCALIBRATED
    run: Run | None = None
    calibrated: int = 0

    @property
    def step(self) -> int:
        return self.version[1] if self.run else 0

    def read(self, images: Tensor) -> list[Prediction]:
        """Those of uint8 (N, 28, 28) images; there must be a network. Raises TooLargeError."""
        assert self.network is not None
        how = self.calibration.temperature, self.calibration.known
        return [predict(self.network, images[0], *how)] if len(images) == 1 else predict_all(self.network, images, *how)


def model_labels() -> tuple[dict[str, str], list[str]]:
    """(name -> title of all there are, a sentence for each file that cannot be read or is none).

    Runs that have begun to learn come first, then checkpoints by their file's name.
    """
    found = {
        run.identity: f"{isolated(run.name)}, in training · {notation(run.architecture)}"
        for run in run_manager().runs()
        if run.weights and is_learning(run)
    }
    # What was set aside when Receptive began, and what has become unreadable since.
    damaged = [*run_manager().set_aside, *checkpoints.passed_over(checkpoints.FOLDER, checkpoints.SAVED_FOLDER)]
    for path in checkpoints.paths():
        if path.stem in found:
            continue
        try:
            summary = checkpoint_summary(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            # It has gone since the folder was read.
            continue
        except (checkpoints.CheckpointError, OSError) as error:
            damaged.append(error.strerror if isinstance(error, OSError) and error.strerror else str(error))
            continue
        if not summary.has_weights:
            continue
        accuracy = "not measured" if summary.test_accuracy is None else percent(summary.test_accuracy, 2)
        found[path.stem] = f"{isolated(summary.title)} · {notation(summary.architecture)} · {accuracy}"
    return found, damaged


def is_learning(run: Run) -> bool:
    """In training, or ended so lately that its file is still being written."""
    return run.active or (run.weights is not None and not run.wait(0))


def run_in_training(name: str) -> Run | None:
    """The run of that name while it is learning."""
    run = run_manager().get(name)
    return run if run and is_learning(run) else None


def poll_model(name: str, ticking: bool) -> LoadedModel | None:
    """The network as it is now, for a fragment that ticks while it is learning: the page runs anew once it has ended.

    None, with a sentence on the screen, where it cannot be read.
    """
    try:
        now = load_model(name)
    except (checkpoints.CheckpointError, OSError) as error:
        st.error(escaped(str(error)), icon=":material/error:")
        return None
    if ticking and not now.run:
        st.rerun()
    return now


def prediction_heading(prediction: Prediction) -> str:
    """What is read, for a heading."""
    return f"It reads {prediction.digit}" if prediction.is_confident else "Uncertain"


def prediction_caption(prediction: Prediction) -> str:
    """What speaks for that and against it, for the line below."""
    words = f"with a probability of {percent(prediction.confidence)}"
    if prediction.is_ood:
        words = f"Like no digit that it knows; nearest to a {prediction.digit}, {words}"
    elif not prediction.is_confident:
        words = f"Perhaps a {prediction.digit}, {words}, or no digit at all"
    return (
        words
        if prediction.ood_percentile is None
        else f"{words} · stranger than {percent(prediction.ood_percentile)} of digits"
    )


def choose_model() -> str:
    """The control that chooses one, the same on every page; stops the page with a sentence where there is none."""
    found, damaged = model_labels()
    if not found:
        st.error(NO_READER, icon=":material/error:")
        _warn(damaged)
        st.stop()
    name = st.selectbox(
        "Which network reads it?", list(found), key="reader", persist_state="session", format_func=found.__getitem__
    )
    _warn(damaged)
    return name


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        st.warning(escaped(sentence), icon=":material/warning:")


def choose_source() -> str:
    """The control that chooses what is read, the same on every page: DRAWING or TEST."""
    return str(
        st.segmented_control(
            "Which image?",
            (DRAWING, TEST),
            key="source",
            required=True,
            persist_state="session",
            format_func=":gray[{}]".format,
        )
    )


def choose_test_image() -> tuple[Tensor, int]:
    """The controls that choose one of the test images, and it, uint8 (28, 28), with its label; stops the page with a
    sentence where there is none of that number.
    """

    def go_to(number: int) -> None:
        st.session_state.image = number % TEST_IMAGES

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input("Number of the test image", step=1, key="image", width=200)
        number = st.session_state.image
        known = 0 <= number < TEST_IMAGES
        st.button("Next", icon=":material/skip_next:", on_click=go_to, args=(number + 1 if known else 0,))
        st.button("Random", icon=":material/casino:", on_click=go_to, args=(random.randrange(TEST_IMAGES),))
    if not known:
        st.error(
            f"There is no test image {number}: they are numbered from 0 to {TEST_IMAGES - 1}. Type one of these.",
            icon=":material/error:",
        )
        st.stop()
    data = dataset.load()
    return data.test_images[number], int(data.test_labels[number])


def load_model(name: str) -> LoadedModel:
    """The network of that name as it is now. Raises CheckpointError, also where its file has gone."""
    run = run_in_training(name)
    if run:
        weights = run.weights
        if weights is None:
            return LoadedModel(name, run.architecture, None, (name, 0), run=run)
        network = assembled(run.architecture, weights.tensors)
        calibrated, calibration = 0, TOO_LARGE
        if affordable(run.architecture, LIVE_IMAGES) == LIVE_IMAGES:
            calibrated, calibration = live_calibrator().get(name, weights.step, network)
        return LoadedModel(name, run.architecture, network, (name, weights.step), calibration, run, calibrated)
    path = next((path for path in checkpoints.paths() if path.stem == name), None)
    try:
        modified = path.stat().st_mtime_ns if path else None
    except OSError:
        modified = None
    if path is None or modified is None:
        raise checkpoints.CheckpointError(f"The checkpoint {name} is no longer there. Choose another network.")
    summary = checkpoint_summary(path, modified)
    calibration = UNCALIBRATED
    # A drawing can be read without MNIST; only how far to believe it is then unknown.
    with suppress(dataset.DatasetError):
        calibration = checkpoint_calibration(path, modified)
    return LoadedModel(name, summary.architecture, checkpoint_network(path, modified), (name, modified), calibration)
