"""Digit sets on the Photos page: create, fill and delete them, and test a network on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st
import torch
from torch import Tensor

from lib.evaluation.proportion import interval_text
from lib.inference.loaded_model import LoadedModel
from lib.inference.preprocess import SIZE
from lib.storage import digit_sets
from lib.storage.digit_sets import DigitSet, DigitSetError
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped, isolated
from lib.ui import guard, rendering
from lib.ui.notices import leave_deletion, leave_error, show_notices
from lib.ui.page import DRAW
from lib.ui.photo_panel import LabeledImages

MAX_ERRORS = 40
# Images in a row of a gallery, and the side of an image in screen pixels.
COLUMNS, IMAGE_PIXELS = 8, 2 * SIZE


def choose_digit_set() -> str | None:
    """Show the controls to choose, create and delete a set; return the name of the chosen one."""
    show_notices()
    for sentence in digit_sets.passed_over():
        st.warning(escaped(sentence), icon=":material/broken_image:")
    names = digit_sets.names()
    if st.session_state.get("own_set") not in names:
        st.session_state.own_set = names[0] if names else None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Set", names, key="own_set", placeholder="No set yet", persist_state="session", format_func=isolated
        )
        with st.popover("New set", icon=":material/add:"):
            st.text_input("Name of the new set", key="set_name", max_chars=digit_sets.MAX_NAME)
            st.button("Create", on_click=_create)
        st.button("Delete set", icon=":material/delete:", on_click=_delete, args=(name,), disabled=name is None)
    return name


def add_panel(name: str, photos: LabeledImages | None) -> None:
    """Show the controls to add the drawing of the Draw page, and the photos, to a set."""
    drawing_place, photos_place = st.columns(2, gap="medium")
    with drawing_place, st.container(border=True, height="stretch"):
        st.markdown("**Your drawing**")
        _add_drawing(name)
    with photos_place, st.container(border=True, height="stretch"):
        st.markdown("**Your photos**")
        if photos is None:
            st.caption("There are no photos. Drop some above to add them with their labels.")
        else:
            count = len(photos.labels)
            st.caption("With the labels in the table above: check them first.")
            st.button(
                f"Add the {count} photos" if count > 1 else "Add the photo",
                icon=":material/add_photo_alternate:",
                on_click=_add,
                args=(name, photos.images, photos.labels),
            )


def size_panel(digits: DigitSet) -> None:
    """Show the number of digits, and the button that removes the last one."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{len(digits):,} digit{'s' * (len(digits) != 1)}**, of {digit_sets.MAX_DIGITS:,} at most")
        st.button(
            "Remove the last",
            icon=":material/undo:",
            on_click=_remove_last,
            args=(digits.name,),
            disabled=not len(digits),
            help="Removes the digit that was added last.",
        )
    if not len(digits):
        st.info("The set is empty. Add your drawing, or photos.", icon=":material/info:")


def accuracy_panel(digits: DigitSet, model: LoadedModel) -> None:
    """Show the button that tests the network on the set, and then its accuracy and its errors."""
    # A result belongs to one network and one set.
    key = (digits.name, digits.labels.tolist(), model.version)
    if st.button(
        "Test the network on this set", type="primary", icon=":material/quiz:", disabled=model.network is None
    ):
        st.session_state.set_test = (key, [prediction.digit for prediction in model.predict(digits.images)])
    tested, predictions = st.session_state.get("set_test", (None, []))
    if tested != key:
        st.caption("Measures the accuracy of the network above on this set.")
        return
    labels = digits.labels.tolist()
    errors = [index for index, predicted in enumerate(predictions) if predicted != labels[index]]
    accuracy = 1 - len(errors) / len(labels)
    st.metric(
        f"Accuracy on {escaped(digits.name)}",
        percent(accuracy),
        f"95 % CI {interval_text(accuracy, len(labels), 1)}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        width=360,
        help="CI: confidence interval (Wilson 1927). The fewer digits, the wider it is.",
    )
    st.markdown(f"{len(labels) - len(errors):,} of {len(labels):,} are classified correctly.")
    if errors:
        st.markdown("**Errors**" + (f", the first {MAX_ERRORS}" * (len(errors) > MAX_ERRORS)))
        with st.container(horizontal=True):
            for index in errors[:MAX_ERRORS]:
                what = f"{labels[index]}, predicted {predictions[index]}"
                st.image(
                    rendering.enlarge(digits.images[index], 2 * IMAGE_PIXELS), caption=what, alt=f"A digit: {what}"
                )


def gallery_panel(digits: DigitSet) -> None:
    """Show all digits of a set by label."""
    st.markdown("**All digits**")
    with st.grid(2, min_column_width=300):
        for label in range(10):
            images = digits.images[digits.labels == label]
            if len(images):
                with st.container(gap="xsmall"):
                    st.markdown(f"Label **{label}**: {len(images)}")
                    st.image(
                        rendering.gallery(images, COLUMNS, IMAGE_PIXELS),
                        alt=f"All with the label {label}: {len(images)}",
                    )


def _add_drawing(name: str) -> None:
    drawing = st.session_state.get("drawn")
    if not isinstance(drawing, Tensor) or drawing.shape != (SIZE, SIZE):
        st.caption("There is no drawing. Draw a digit first, then come back to add it.")
        st.page_link(DRAW.file, label="Draw a digit", icon=":material/draw:")
        return
    st.image(rendering.enlarge(drawing, IMAGE_PIXELS), alt="Your drawing, 28 by 28 pixels")
    label = st.pills("Label of the drawing", range(10), key="drawn_label", format_func=":gray[{}]".format)
    st.button(
        "Add the drawing",
        icon=":material/add:",
        on_click=_add,
        args=(name, drawing[None], [label]),
        disabled=label is None,
        help="Choose its label first." if label is None else None,
    )


def _change(change: Callable[[], object]) -> bool:
    """Change a set; if that fails, leave the reason as a notice and return False."""
    try:
        change()
    except DigitSetError as error:
        leave_error(str(error))
        return False
    return True


@guard.callback
def _create() -> None:
    def create() -> None:
        st.session_state.own_set = digit_sets.create(st.session_state.set_name)

    if _change(create):
        st.session_state.set_name = ""


@guard.callback
def _add(name: str, images: Tensor, labels: list[int]) -> None:
    _change(lambda: digit_sets.add(name, images, torch.tensor(labels)))


@guard.callback
def _remove_last(name: str) -> None:
    _change(lambda: digit_sets.remove_last(name))


@guard.callback
def _delete(name: str) -> None:
    _change(lambda: leave_deletion(f"The set {name}", _undelete, name, digit_sets.delete(name)))


@guard.callback
def _undelete(name: str, moved: Path) -> None:
    if _change(lambda: digit_sets.undelete(name, moved)):
        st.session_state.own_set = name
    else:
        leave_deletion(f"The set {name}", _undelete, name, moved)
