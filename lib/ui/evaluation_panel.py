"""The panels of the Errors page: confusion matrix, misclassified images, accuracy per class, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import streamlit as st

from lib.data import dataset
from lib.evaluation.metrics import Bin, Evaluation
from lib.evaluation.proportion import Proportion, accuracy_text, interval_text
from lib.text.formatting import percent
from lib.ui import rendering
from lib.ui.charts.errors import class_accuracy, confusion_matrix, reliability
from lib.ui.model_picker import Source
from lib.ui.page import INSPECT
from lib.ui.url_state import TEST_IMAGES
from lib.ui.widgets import live_figure

DIGITS = tuple(range(10))
# Images that a gallery shows at first, and how many each click adds.
GALLERY_STEP = 60
# A difference of mean confidence and accuracy, as a fraction, that is not worth mentioning.
WELL_CALIBRATED = 0.0005


def summary_panel(evaluation: Evaluation) -> None:
    """Show how many test images are misclassified."""
    accuracy = evaluation.accuracy
    if accuracy.count < TEST_IMAGES:
        st.caption(
            f"Measured on the first {accuracy.count:,} of the {TEST_IMAGES:,} test images: with this large network all "
            "of them would take minutes. The intervals are for this number of images."
        )
    st.markdown(
        f"**{accuracy.count - accuracy.correct:,} of {accuracy.count:,}** test images are misclassified: an accuracy "
        f"of {accuracy_text(accuracy.share, accuracy.count)}."
    )


def confusion_panel(evaluation: Evaluation) -> None:
    """Show the confusion matrix and the images of the chosen cell, at first of the most frequent error."""
    counts: list[list[int]] = evaluation.confusion.tolist()
    errors = evaluation.confusion.clone().fill_diagonal_(-1)
    worst = divmod(int(errors.argmax()), len(DIGITS))
    if "true_digit" not in st.session_state:
        st.session_state.true_digit, st.session_state.predicted_digit = worst
    matrix_place, cell_place = st.columns([3, 2], gap="large")
    with cell_place:
        true = st.selectbox("True digit", DIGITS, key="true_digit", persist_state="session")
        predicted = st.selectbox("Predicted digit", DIGITS, key="predicted_digit", persist_state="session")
        what = "correctly" if true == predicted else f"as a {predicted}"
        total = sum(counts[true])
        st.markdown(f"**{counts[true][predicted]:,} of {total:,}** images of a {true} are classified {what}.")
        st.caption(
            "Click a cell of the matrix, or choose it above, to see its images below, lowest probability of the true "
            "digit first. Rows are true digits, columns predicted digits. Correct predictions are on the diagonal, in "
            "bold."
        )
    with matrix_place:
        live_figure(
            confusion_matrix(counts, (true, predicted)),
            key="confusion",
            height=440,
            tools=False,
            on_pick=_choose_cell,
            alt=f"Confusion matrix, ten by ten: {sum(map(sum, counts)) - int(evaluation.confusion.trace())} images are "
            f"off the diagonal. The largest number, {counts[worst[0]][worst[1]]}, is of a {worst[0]} classified as a "
            f"{worst[1]}",
        )
    _gallery(evaluation, evaluation.cell(true, predicted), "cell")


def errors_panel(evaluation: Evaluation) -> None:
    """Show all misclassified images."""
    if not evaluation.errors:
        st.caption("There are none.")
        return
    st.caption(
        "Sorted by the probability of the true digit, lowest first. Click a number to inspect the network for that "
        "image."
    )
    _gallery(evaluation, evaluation.errors, "errors")


def class_panel(evaluation: Evaluation) -> None:
    """Show the accuracy of each digit, as a chart and a table."""
    _chart_and_table(
        "classes",
        class_accuracy(evaluation.by_class),
        [_class_row(digit, of) for digit, of in enumerate(evaluation.by_class)],
        "Accuracy of each digit with its interval",
    )
    st.caption(
        "There are only about a thousand images of each digit: if two intervals overlap widely, the digits may not "
        "differ. CI: confidence interval (Wilson 1927)."
    )


def calibration_panel(evaluation: Evaluation) -> None:
    """Show how well confidence and accuracy agree, as a sentence, a reliability diagram and a table."""
    st.markdown(_calibration_text(evaluation))
    _chart_and_table(
        "calibration",
        reliability(evaluation.calibration),
        [_bin_row(of) for of in evaluation.calibration],
        "Accuracy over confidence in ten bins",
    )
    st.caption(
        "Below the dashed line the network is overconfident, above it underconfident. Bins with few images have wide "
        "intervals. (Guo et al. 2017)"
    )


def _chart_and_table(key: str, figure: str, rows: Sequence[Mapping[str, object]], alt: str) -> None:
    """Show a figure, with its alternative text, beside the table of its numbers."""
    chart_place, table_place = st.columns([3, 2], gap="large")
    with chart_place:
        live_figure(figure, key=key, height=400, tools=False, alt=f"{alt}; the same numbers are in the table")
    table_place.table(rows, hide_index=True)


def _choose_cell(column: str, row: str) -> None:
    # The browser may send anything.
    if column.isdecimal() and row.isdecimal() and int(column) in DIGITS and int(row) in DIGITS:
        st.session_state.true_digit, st.session_state.predicted_digit = int(row), int(column)


def _gallery(evaluation: Evaluation, indices: Sequence[int], key: str) -> None:
    """Images with their label, prediction and the probability of their label; more of them on request."""
    limit = st.session_state.get(f"{key}_limit", GALLERY_STEP)
    with st.grid(10, min_column_width=100):
        for index in indices[:limit]:
            label, predicted = int(evaluation.labels[index]), int(evaluation.predicted[index])
            with st.container(gap="xxsmall"):
                st.image(rendering.enlarge(dataset.load_test().images[index], 84), alt=f"Test image {index}, a {label}")
                what = f"{label}" if label == predicted else f"{label}, predicted {predicted}"
                st.caption(f"{what}  \nP({label}) = {percent(float(evaluation.label_probability[index]))}")
                if st.button(
                    f"No. {index}", key=f"{key}_{index}", type="tertiary", on_click=_choose_image, args=(index,)
                ):
                    st.switch_page(INSPECT.file)
    if len(indices) > limit:
        st.button(
            f"Show {min(GALLERY_STEP, len(indices) - limit)} more",
            key=f"{key}_more",
            on_click=_set_limit,
            args=(key, limit + GALLERY_STEP),
        )


def _choose_image(index: int) -> None:
    st.session_state.image, st.session_state.source = index, Source.TEST_IMAGE


def _set_limit(key: str, limit: int) -> None:
    st.session_state[f"{key}_limit"] = limit


def _class_row(digit: int, accuracy: Proportion) -> dict[str, object]:
    return {
        "Digit": digit,
        "Correct": f"{accuracy.correct:,} of {accuracy.count:,}",
        "Accuracy": percent(accuracy.share, 2) if accuracy.count else "–",
        "95 % CI": interval_text(accuracy.share, accuracy.count),
    }


def _calibration_text(evaluation: Evaluation) -> str:
    confidence = float(evaluation.probabilities.amax(1).double().mean())
    difference = confidence - evaluation.accuracy.share
    kind = "overconfident" if difference > 0 else "underconfident"
    return (
        f"The mean confidence is {percent(confidence, 2)} and the accuracy {percent(evaluation.accuracy.share, 2)}: on "
        f"average the network is {'well calibrated' if abs(difference) < WELL_CALIBRATED else kind}. The expected "
        "calibration error, the mean difference of the two over the bins, weighted by their images, is "
        f"**{100 * evaluation.calibration_error:.2f} percentage points**."
    )


def _bin_row(part: Bin) -> dict[str, str]:
    return {
        "Confidence": f"{100 * part.low:.0f} to {100 * part.high:.0f} %",
        "Images": f"{part.accuracy.count:,}",
        "Mean confidence": "–" if math.isnan(part.confidence) else percent(part.confidence),
        "Accuracy": percent(part.accuracy.share) if part.accuracy.count else "–",
    }
