"""Errors: confusion matrix, accuracy of each class, calibration and all misclassified test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import streamlit as st
from torch import nn

from lib.data import dataset
from lib.data.dataset import DatasetError
from lib.design.layers import Architecture
from lib.evaluation.metrics import Bin, Evaluation, evaluate, measurable
from lib.evaluation.proportion import accuracy_text, interval_text
from lib.inference.loaded_model import LoadedModel
from lib.storage.checkpoints import CheckpointError
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped
from lib.ui import guard, rendering
from lib.ui.charts.errors import class_accuracy, confusion_matrix, reliability
from lib.ui.model_picker import Source, choose_model, load_model, run_in_training
from lib.ui.page import ERRORS, setup_page
from lib.ui.url_state import TEST_IMAGES
from lib.ui.widgets import live_figure

setup_page(ERRORS)

TICK_SECONDS = 2.0
# Images that a gallery shows at first, and that each press adds.
SHOWN = 60
DIGITS = tuple(range(10))


class Measurement(NamedTuple):
    """What was found of the weights of this version; `training` where they were a run's in training."""

    version: tuple[str, int]
    training: bool
    found: Evaluation


@st.cache_resource(max_entries=8, show_spinner="Reading the test images…")
def measured(
    version: tuple[str, int], _network: nn.Module, _architecture: Architecture, temperature: float
) -> Evaluation:
    data = dataset.load()
    count = measurable(_architecture, len(data.test_images))
    return evaluate(_network, _architecture, data.test_images[:count], data.test_labels[:count], temperature)


def held() -> Measurement | None:
    """The session's last measurement."""
    return cast("Measurement | None", st.session_state.get("measured"))


def due(now: LoadedModel) -> bool:
    """Whether the last measurement is not of these weights nor, while they are in training, less than an epoch old."""
    last = held()
    if last is None or (last.version[0], last.training) != (now.name, now.in_training):
        return True
    if not now.in_training:
        return last.version != now.version
    run = run_in_training(now.name)
    if run is None:
        return True
    return now.step - last.version[1] >= run.snapshot(since_step=now.step).steps_total / run.recipe.epochs


def forget() -> None:
    st.session_state.measured = None


def watch(name: str) -> None:
    """How old the measurement of a run in training is; measures again, with the whole page, when it is due."""
    try:
        now = load_model(name)
    except (CheckpointError, OSError):
        st.rerun()
    if not now.in_training or (now.network is not None and due(now)):
        st.rerun()
    last = held()
    if now.network is None or last is None:
        st.caption("The network has not learnt from its first batch yet.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"In training: measured after step {last.version[1]:,}, now at step {now.step:,}. It is "
            "measured again after every epoch.",
            width="content",
        )
        st.button("Measure again", icon=":material/refresh:", on_click=forget)


def choose_cell(column: str, row: str) -> None:
    """A click on the matrix; both come from the browser."""
    if column.isdecimal() and row.isdecimal() and int(column) in DIGITS and int(row) in DIGITS:
        st.session_state.truth, st.session_state.read_as = int(row), int(column)


def open_image(number: int) -> None:
    st.session_state.image = number
    st.session_state.source = Source.TEST_IMAGE


def gallery(found: Evaluation, numbers: Sequence[int], key: str) -> None:
    """Images with what they are, what they are read as and the probability of the truth; more of them on request."""
    limit = st.session_state.get(f"{key}_limit", SHOWN)
    with st.grid(10, min_column_width=100):
        for number in numbers[:limit]:
            label, read = int(found.labels[number]), int(found.predicted[number])
            with st.container(gap="xxsmall"):
                st.image(
                    rendering.enlarge(dataset.load().test_images[number], 84), alt=f"Test image {number}, a {label}"
                )
                what = f"a {label}" if label == read else f"{label}, read as {read}"
                st.caption(f"{what}  \ntruth: {percent(float(found.label_probability[number]))}")
                if st.button(
                    f"No. {number}",
                    key=f"{key}_{number}",
                    type="tertiary",
                    on_click=open_image,
                    args=(number,),
                ):
                    st.switch_page("pages/inspect.py")
    if len(numbers) > limit:

        def show_more() -> None:
            st.session_state[f"{key}_limit"] = limit + SHOWN

        st.button(f"Show {min(SHOWN, len(numbers) - limit)} more", key=f"{key}_more", on_click=show_more)


def confusion(found: Evaluation) -> None:
    st.header("What is taken for what")
    counts: list[list[int]] = found.confusion.tolist()
    off = found.confusion.clone().fill_diagonal_(-1)
    worst = divmod(int(off.argmax()), len(DIGITS))
    if "truth" not in st.session_state:
        st.session_state.truth, st.session_state.read_as = worst
    matrix, cell = st.columns([3, 2], gap="large")
    with cell:
        truth = st.selectbox("Truth", DIGITS, key="truth", persist_state="session")
        read_as = st.selectbox("Read as", DIGITS, key="read_as", persist_state="session")
        numbers = found.cell(truth, read_as)
        count = counts[truth][read_as]
        if truth == read_as:
            st.markdown(f"**{count:,} of {sum(counts[truth]):,}** images of a {truth} are read right.")
        else:
            st.markdown(f"**{count:,} of {sum(counts[truth]):,}** images of a {truth} are read as a {read_as}.")
        st.caption(
            "Click a cell of the matrix, or choose it above: its images are below, those first for which the network "
            "gave the truth the lowest probability. Rows are the truth, columns what was read; what is read right is "
            "on the diagonal, in bold."
        )
    with matrix:
        live_figure(
            confusion_matrix(counts, (truth, read_as)),
            key="confusion",
            height=440,
            tools=False,
            on_pick=choose_cell,
            alt=f"Confusion matrix, ten by ten: {sum(map(sum, counts)) - int(found.confusion.trace())} images are off "
            f"the diagonal, most of them, {counts[worst[0]][worst[1]]}, a {worst[0]} read as a {worst[1]}",
        )
    gallery(found, numbers, "cell")


def classes(found: Evaluation) -> None:
    st.header("Which digits it reads best")
    chart, table = st.columns([3, 2], gap="large")
    with chart:
        live_figure(
            class_accuracy(found.by_class),
            key="classes",
            height=400,
            tools=False,
            alt="Accuracy of each digit with its interval; the same numbers are in the table",
        )
    table.table(
        [
            {
                "Digit": digit,
                "Right": f"{of.correct:,} of {of.count:,}",
                "Accuracy": percent(of.share, 2) if of.count else "–",
                "95 % CI": interval_text(of.share, of.count),
            }
            for digit, of in enumerate(found.by_class)
        ],
        hide_index=True,
    )
    st.caption(
        "Each digit has only about a thousand images: where intervals overlap widely, the digits may not differ. "
        "CI: confidence interval (Wilson 1927)."
    )


def calibration_text(found: Evaluation) -> str:
    confidence = float(found.probabilities.amax(1).double().mean())
    gap = confidence - found.accuracy.share
    word = "a little too sure of itself" if gap > 0 else "a little too modest"
    verdict = "it knows well how often it is right" if abs(gap) < 0.0005 else f"on the whole it is {word}"
    return (
        f"It gives the digit that it reads a probability of {percent(confidence, 2)} on average, and "
        f"{percent(found.accuracy.share, 2)} of the images are read right: {verdict}. The expected calibration error, "
        f"the gap between the two bin by bin, weighted by the images in the bin, is "
        f"**{100 * found.calibration_error:.2f} points**."
    )


def bin_row(of: Bin) -> dict[str, Any]:
    return {
        "Confidence": f"{100 * of.low:.0f} to {100 * of.high:.0f} %",
        "Images": f"{of.accuracy.count:,}",
        "On average": "–" if math.isnan(of.confidence) else percent(of.confidence),
        "Read right": percent(of.accuracy.share) if of.accuracy.count else "–",
    }


def calibration(found: Evaluation) -> None:
    st.header("Does it know when it is wrong?")
    st.markdown(calibration_text(found))
    chart, table = st.columns([3, 2], gap="large")
    with chart:
        live_figure(
            reliability(found.calibration),
            key="calibration",
            height=400,
            tools=False,
            alt="Accuracy over confidence in ten bins; the same numbers are in the table",
        )
    table.table([bin_row(of) for of in found.calibration], hide_index=True)
    st.caption(
        "Below the dashed line it is surer than it should be, above it more modest. Bins with few images have wide "
        "intervals. (Guo et al. 2017)"
    )


def show(found: Evaluation) -> None:
    wrong = found.accuracy.count - found.accuracy.correct
    if found.accuracy.count < TEST_IMAGES:
        st.caption(
            f"Measured on the first {found.accuracy.count:,} of the {TEST_IMAGES:,} test images: this network is so "
            "large that all of them would take minutes. The intervals are those of so many images."
        )
    st.markdown(
        f"**{wrong:,} of {found.accuracy.count:,}** test images are read wrong: an accuracy of "
        f"{accuracy_text(found.accuracy.share, found.accuracy.count)}."
    )
    confusion(found)
    st.header("All errors")
    st.caption(
        "Those first for which the network gave the truth the lowest probability. Press a number to look inside the "
        "network for that image."
    )
    if found.errors:
        gallery(found, found.errors, "errors")
    else:
        st.caption("There are none.")
    classes(found)
    calibration(found)


name = choose_model()
try:
    now = load_model(name)
    # Before the fragment, which says how old it is.
    if now.network is not None and due(now):
        found = measured(now.version, now.network, now.architecture, now.calibration.temperature)
        st.session_state.measured = Measurement(now.version, now.in_training, found)
except (CheckpointError, DatasetError, OSError) as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
if run_in_training(name):
    guard.fragment(watch, TICK_SECONDS)(name)
last = held()
if now.network is None or last is None:
    st.markdown("## Not yet")
else:
    show(last.found)
