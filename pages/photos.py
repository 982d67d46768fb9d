"""Your digits: predictions for photos, and sets of your own digits as test data."""

from __future__ import annotations

import io
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import streamlit as st
import torch
from PIL import Image
from streamlit.runtime.uploaded_file_manager import UploadedFile
from torch import Tensor

from lib.evaluation.proportion import interval_text
from lib.inference import photos
from lib.inference.loaded_model import LoadedModel
from lib.inference.photos import MAX_BYTES, MAX_FILES, MAX_PIXELS, MAX_SIDE, PhotoError, predictions_csv
from lib.inference.predict import CONFIDENCE_THRESHOLD, OOD_THRESHOLD
from lib.inference.preprocess import SIZE
from lib.storage import digit_sets
from lib.storage.checkpoints import CheckpointError
from lib.storage.digit_sets import DigitSet, DigitSetError
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped, isolated, spreadsheet_cell
from lib.ui import guard, rendering
from lib.ui.model_picker import choose_model, load_model
from lib.ui.page import PHOTOS, setup_page

setup_page(PHOTOS)

SHOWN_PROBLEMS, SHOWN_MISTAKES = 5, 40
# Digits of a gallery, a row, and a digit's side in pixels of the screen.
ACROSS, TILE = 8, 2 * SIZE
# Of the table, in pixels of the screen; more rows are scrolled to.
ROW_HEIGHT, HEAD_HEIGHT, SHOWN_ROWS = 2 * SIZE + 8, 37, 8
NAME_LENGTH = 80


def look(files: list[UploadedFile]) -> list[Tensor | str]:
    """Each file as 28x28, or a sentence; a file is looked at once, in memory alone."""
    known: dict[str, Tensor | str] = st.session_state.setdefault("photos", {})
    new = [file for file in files if file.file_id not in known]
    progress = st.empty()
    for number, file in enumerate(new):
        progress.progress(number / len(new), text=f"Reading photo {number + 1} of {len(new)}…")
        try:
            known[file.file_id] = photos.photo_to_image(file.getvalue())
        except PhotoError as error:
            known[file.file_id] = str(error)
    progress.empty()
    st.session_state.photos = {file.file_id: known[file.file_id] for file in files}
    return list(st.session_state.photos.values())


def short(name: str) -> str:
    """A file's name is its sender's: on one line, and no longer than a line."""
    name = " ".join(name.split()) or "a file without a name"
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def picture(image: Tensor) -> str:
    """A uint8 (28, 28) digit as an address that holds its PNG, for a cell of a table."""
    buffer = io.BytesIO()
    Image.fromarray(rendering.enlarge(image, TILE)).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def read_photos(files: list[UploadedFile], now: LoadedModel) -> tuple[Tensor, list[int]] | None:
    """The table of what the network reads; returns the digits and their labels as corrected there, None without any."""
    found = look(files)
    readable = [(file, image) for file, image in zip(files, found, strict=True) if isinstance(image, Tensor)]
    problems = [(file, sentence) for file, sentence in zip(files, found, strict=True) if isinstance(sentence, str)]
    for file, sentence in problems[:SHOWN_PROBLEMS]:
        st.warning(escaped(f"{short(file.name)}: {sentence}"), icon=":material/broken_image:")
    if len(problems) > SHOWN_PROBLEMS:
        st.warning(
            f"{len(problems) - SHOWN_PROBLEMS} more files could not be read; the table to download says why.",
            icon=":material/broken_image:",
        )
    if now.network is None:
        st.info("The network has not learnt from its first batch yet.", icon=":material/hourglass_empty:")
        return None
    digits = torch.stack([image for _, image in readable]) if readable else torch.zeros(0, SIZE, SIZE)
    predictions = now.predict(digits)
    labels = None
    if readable:
        rows = [
            {
                "Photo": picture(image),
                "Label": prediction.digit,
                "It reads": prediction.digit,
                "Probability": 100 * prediction.confidence,
                "Certainty": "" if prediction.is_confident else "uncertain",
                "File": spreadsheet_cell(isolated(short(file.name))),
            }
            for (file, image), prediction in zip(readable, predictions, strict=True)
        ]
        table = st.data_editor(
            rows,
            # What was corrected belongs to these files alone.
            key="labels-" + sha256("".join(file.file_id for file, _ in readable).encode()).hexdigest()[:16],
            disabled=["Photo", "It reads", "Probability", "Certainty", "File"],
            column_order=["Photo", "It reads", "Probability", "Certainty", "Label", "File"],
            column_config={
                "Photo": st.column_config.ImageColumn("Reduced", help="28×28 pixels: what the network gets."),
                "Probability": st.column_config.NumberColumn(format="%.1f %%"),
                "Certainty": st.column_config.TextColumn(
                    help=f"Uncertain: a probability below {percent(CONFIDENCE_THRESHOLD, 0)}, or further from the "
                    f"predicted class than {percent(OOD_THRESHOLD, 0)} of digits."
                ),
                "Label": st.column_config.SelectboxColumn(
                    options=list(range(10)),
                    required=True,
                    help="What it is, for a set of your own. Correct it where the network is wrong.",
                ),
            },
            height=HEAD_HEIGHT + ROW_HEIGHT * min(len(rows), SHOWN_ROWS),
            row_height=ROW_HEIGHT,
            hide_index=True,
            alt="What the network reads in each photo",
        )
        labels = [int(row["Label"]) for row in table]
        read = [str(prediction.digit) for prediction in predictions]
        st.caption(
            f"{len(read)} of {len(files)} photos read, as {', '.join(read[:20])}{'…' if len(read) > 20 else ''}. "
            "Where the network is wrong, correct the label before you put the photos into a set."
        )
    results = iter(predictions)
    st.download_button(
        "Table as CSV",
        predictions_csv(
            [
                (file.name, next(results) if isinstance(image, Tensor) else image)
                for file, image in zip(files, found, strict=True)
            ]
        ),
        file_name="digits.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    return (digits, labels) if labels else None


@guard.callback
def create() -> None:
    try:
        st.session_state.own_set = digit_sets.create(st.session_state.set_name)
        st.session_state.set_name = ""
    except DigitSetError as error:
        st.session_state.refused = str(error)


@guard.callback
def add(name: str, images: Tensor, labels: list[int]) -> None:
    try:
        digit_sets.add(name, images, torch.tensor(labels))
    except DigitSetError as error:
        st.session_state.refused = str(error)


@guard.callback
def remove_last(name: str) -> None:
    try:
        digit_sets.remove_last(name)
    except DigitSetError as error:
        st.session_state.refused = str(error)


@guard.callback
def delete(name: str) -> None:
    try:
        st.session_state.deleted_set = (name, digit_sets.delete(name))
    except DigitSetError as error:
        st.session_state.refused = str(error)


@guard.callback
def undelete(name: str, moved: Path) -> None:
    try:
        digit_sets.undelete(name, moved)
        st.session_state.own_set = name
    except DigitSetError as error:
        st.session_state.refused = str(error)
        st.session_state.deleted_set = (name, moved)


def choose_set() -> str | None:
    """The controls that make, choose and delete a set."""
    refused = st.session_state.pop("refused", None)
    if refused:
        st.error(escaped(refused), icon=":material/error:")
    # Said once: whatever is done next, on this page or another, is no longer the moment to undo it.
    deleted = st.session_state.pop("deleted_set", None)
    if deleted:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(f"The set {escaped(deleted[0])} was deleted.", icon=":material/delete:")
            st.button("Undo", icon=":material/undo:", on_click=undelete, args=deleted)
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
            st.button("Create", on_click=create)
        st.button("Delete set", icon=":material/delete:", on_click=delete, args=(name,), disabled=name is None)
    return name


def add_controls(name: str, from_photos: tuple[Tensor, list[int]] | None) -> None:
    drawn = st.session_state.get("drawn")
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, height="stretch"):
        st.markdown("**Your drawing**")
        if not isinstance(drawn, Tensor) or drawn.shape != (SIZE, SIZE):
            st.caption("Nothing is drawn at present. Draw a digit first, then come back to put it into the set.")
            st.page_link("pages/draw.py", label="Draw a digit", icon=":material/draw:")
        else:
            st.image(rendering.enlarge(drawn, TILE), alt="The present drawing, reduced to 28 by 28")
            label = st.pills("Its label", range(10), key="drawn_label", format_func=":gray[{}]".format)
            st.button(
                "Add the drawing",
                icon=":material/add:",
                on_click=add,
                args=(name, drawn[None], [label]),
                disabled=label is None,
                help="Choose its label first." if label is None else None,
            )
    with right, st.container(border=True, height="stretch"):
        st.markdown("**Your photos**")
        if from_photos is None:
            st.caption("No photos are read at present. Drop some above, then put them into the set with their labels.")
        else:
            images, labels = from_photos
            st.caption("With the labels of the table above: check them there first.")
            st.button(
                f"Add the {len(labels)} photos" if len(labels) > 1 else "Add the photo",
                icon=":material/add_photo_alternate:",
                on_click=add,
                args=(name, images, labels),
            )


def count_controls(digits: DigitSet) -> None:
    """How many there are, and the way back."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{len(digits):,} digit{'s' * (len(digits) != 1)}**, of {digit_sets.MAX_DIGITS:,} at most")
        st.button(
            "Remove the last",
            icon=":material/undo:",
            on_click=remove_last,
            args=(digits.name,),
            disabled=not len(digits),
            help="Takes out the digit that came last.",
        )
    if not len(digits):
        st.info("The set is empty. Add your drawing, or the photos that were read.", icon=":material/info:")


def show_set(digits: DigitSet) -> None:
    """All digits by their labels."""
    st.markdown("**All of them**")
    with st.grid(2, min_column_width=300):
        for label in range(10):
            images = digits.images[digits.labels == label]
            if len(images):
                with st.container(gap="xsmall"):
                    st.markdown(f"Label **{label}**: {len(images)}")
                    st.image(rendering.gallery(images, ACROSS, TILE), alt=f"All with the label {label}: {len(images)}")


def test_on(digits: DigitSet, now: LoadedModel) -> None:
    """Accuracy of the network on the set, and where it is wrong."""
    # An answer is that of one network to one set.
    question = (digits.name, digits.labels.tolist(), now.version)
    if st.button("Test the network on it", type="primary", icon=":material/quiz:", disabled=now.network is None):
        assert now.network is not None
        st.session_state.tested = (question, [answer.digit for answer in now.predict(digits.images)])
    asked, answers = st.session_state.get("tested", (None, []))
    if asked != question:
        st.caption("How many of the set's digits does the network that is chosen above read as their labels say?")
        return
    labels = digits.labels.tolist()
    wrong = [place for place, answer in enumerate(answers) if answer != labels[place]]
    accuracy = 1 - len(wrong) / len(answers)
    st.metric(
        f"Accuracy on {escaped(digits.name)}",
        percent(accuracy),
        f"95 % CI {interval_text(accuracy, len(answers), 1)}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        width=360,
        help="CI: confidence interval (Wilson 1927). The fewer digits, the wider it is.",
    )
    st.markdown(f"{len(answers) - len(wrong):,} of {len(answers):,} are read as their labels say.")
    if wrong:
        st.markdown("**Where it is wrong**" + (f", the first {SHOWN_MISTAKES}" * (len(wrong) > SHOWN_MISTAKES)))
        shown = wrong[:SHOWN_MISTAKES]
        with st.container(horizontal=True):
            for place in shown:
                words = f"{labels[place]}, read as {answers[place]}"
                st.image(rendering.enlarge(digits.images[place], 2 * TILE), caption=words, alt=f"A digit: {words}")


name = choose_model()
try:
    now = load_model(name)
except (CheckpointError, OSError) as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
if now.in_training:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"Still learning: weights after {now.step:,} steps.")
        st.button("Read again", icon=":material/refresh:")

st.header("Photos")
files = st.file_uploader(
    "Photos of digits, one digit each",
    type=["png", "jpg", "jpeg"],
    accept_multiple_files=True,
    key="uploaded",
    help=f"PNG or JPEG, up to {MAX_FILES} files of at most {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} million "
    f"pixels each, {MAX_SIDE:,} along a side.",
)
if len(files) > MAX_FILES:
    st.warning(
        f"{len(files)} files are more than {MAX_FILES}: the first {MAX_FILES} are read.", icon=":material/filter:"
    )
if files:
    from_photos = read_photos(files[:MAX_FILES], now)
else:
    from_photos = None
    st.caption(
        "Dark ink on light paper, or light on dark. The digit is found, made as large as those of MNIST and centred. "
        "A photo is looked at in memory and not kept, unless you put its 28×28 pixels into a set below."
    )

st.header("A set of your own")
own = choose_set()
if own is None:
    st.info(
        "Press New set to make one. Put drawings and photos into it with their labels, and test any network on it.",
        icon=":material/info:",
    )
    st.stop()
try:
    digits = digit_sets.load(own)
except DigitSetError as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
add_controls(own, from_photos)
count_controls(digits)
if len(digits):
    test_on(digits, now)
    show_set(digits)
