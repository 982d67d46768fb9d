"""The uploaded photos on the Photos page: predictions in a table with labels to correct, and as CSV."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import streamlit as st
import torch
from PIL import Image
from streamlit.runtime.uploaded_file_manager import UploadedFile
from torch import Tensor

from lib.inference.loaded_model import LoadedModel
from lib.inference.photos import PhotoError, photo_to_image, predictions_csv
from lib.inference.predict import CONFIDENCE_THRESHOLD, OOD_THRESHOLD, Prediction
from lib.inference.preprocess import SIZE
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped, isolated, spreadsheet_cell
from lib.ui import rendering
from lib.ui.model_picker import NO_WEIGHTS

MAX_WARNINGS, MAX_NAMED = 5, 20
MAX_NAME_LENGTH = 80
# Sizes of the table in screen pixels; longer tables scroll.
IMAGE_PIXELS = 2 * SIZE
ROW_PIXELS, HEADER_PIXELS, VISIBLE_ROWS = IMAGE_PIXELS + 8, 37, 8


@dataclass(frozen=True, eq=False)
class Photo:
    """An uploaded file: its image, uint8 (28, 28), or the reason why it could not be read."""

    file: UploadedFile
    image: Tensor | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images uint8 (N, 28, 28) with a label for each."""

    images: Tensor
    labels: list[int]


def photo_panel(files: list[UploadedFile], model: LoadedModel) -> LabeledImages | None:
    """Show the predictions for photos; return the images with their corrected labels, None if there are none."""
    photos = _read(files)
    _show_problems(photos)
    if model.network is None:
        st.info(NO_WEIGHTS, icon=":material/hourglass_empty:")
        return None
    readable = [(photo, photo.image) for photo in photos if photo.image is not None]
    images = torch.stack([image for _, image in readable]) if readable else torch.zeros(0, SIZE, SIZE)
    predictions = dict(zip((photo.file.file_id for photo, _ in readable), model.predict(images), strict=True))
    labels = _table(photos, predictions) if readable else []
    st.download_button(
        "Table as CSV",
        predictions_csv([(photo.file.name, predictions.get(photo.file.file_id, photo.problem)) for photo in photos]),
        file_name="digits.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    return LabeledImages(images, labels) if readable else None


def _read(files: list[UploadedFile]) -> list[Photo]:
    """Read each file once, in memory; the session keeps the results for the files that are still uploaded."""
    known: dict[str, Tensor | str] = st.session_state.setdefault("photos", {})
    new = [file for file in files if file.file_id not in known]
    progress = st.empty()
    for number, file in enumerate(new):
        progress.progress(number / len(new), text=f"Reading photo {number + 1} of {len(new)}…")
        try:
            known[file.file_id] = photo_to_image(file.getvalue())
        except PhotoError as error:
            known[file.file_id] = str(error)
    progress.empty()
    st.session_state.photos = {file.file_id: known[file.file_id] for file in files}
    results = [(file, known[file.file_id]) for file in files]
    return [Photo(file, None, found) if isinstance(found, str) else Photo(file, found) for file, found in results]


def _show_problems(photos: list[Photo]) -> None:
    problems = [photo for photo in photos if photo.image is None]
    for photo in problems[:MAX_WARNINGS]:
        st.warning(escaped(f"{_short_name(photo.file)}: {photo.problem}"), icon=":material/broken_image:")
    if len(problems) > MAX_WARNINGS:
        st.warning(
            f"{len(problems) - MAX_WARNINGS} more files could not be read; the table to download gives the reasons.",
            icon=":material/broken_image:",
        )


def _table(photos: list[Photo], predictions: dict[str, Prediction]) -> list[int]:
    """Show the table of the photos that could be read; return their labels, which the reader may have corrected."""
    readable = [photo for photo in photos if photo.image is not None]
    rows = [_row(photo, predictions[photo.file.file_id]) for photo in readable]
    edited = st.data_editor(
        rows,
        # The corrections belong to these files.
        key="labels-" + sha256("".join(photo.file.file_id for photo in readable).encode()).hexdigest()[:16],
        disabled=["Photo", "Prediction", "Probability", "Certainty", "File"],
        column_order=["Photo", "Prediction", "Probability", "Certainty", "Label", "File"],
        column_config={
            "Photo": st.column_config.ImageColumn("Input", help="28×28 pixels: the network's input."),
            "Probability": st.column_config.NumberColumn(format="%.1f %%"),
            "Certainty": st.column_config.TextColumn(
                help=f"Uncertain: a probability below {percent(CONFIDENCE_THRESHOLD, 0)}, or an OOD percentile above "
                f"{100 * OOD_THRESHOLD:.0f}: further from the predicted class than that share of digits."
            ),
            "Label": st.column_config.SelectboxColumn(
                options=list(range(10)),
                required=True,
                help="The true digit, for a digit set. Correct it if the prediction is wrong.",
            ),
        },
        height=HEADER_PIXELS + ROW_PIXELS * min(len(rows), VISIBLE_ROWS),
        row_height=ROW_PIXELS,
        hide_index=True,
        alt="The predictions for the photos",
    )
    digits = [str(prediction.digit) for prediction in predictions.values()]
    st.caption(
        f"{len(digits)} of {len(photos)} photos read, as "
        f"{', '.join(digits[:MAX_NAMED])}{'…' if len(digits) > MAX_NAMED else ''}. If a prediction is wrong, correct "
        "the label before you add the photos to a set."
    )
    return [int(row["Label"]) for row in edited]


def _row(photo: Photo, prediction: Prediction) -> dict[str, Any]:
    assert photo.image is not None
    return {
        "Photo": _data_url(photo.image),
        "Label": prediction.digit,
        "Prediction": prediction.digit,
        "Probability": 100 * prediction.confidence,
        "Certainty": "" if prediction.is_confident else "uncertain",
        "File": spreadsheet_cell(isolated(_short_name(photo.file))),
    }


def _data_url(image: Tensor) -> str:
    """The PNG of an image uint8 (28, 28), enlarged, as a URL for the cell of a table."""
    buffer = io.BytesIO()
    Image.fromarray(rendering.enlarge(image, IMAGE_PIXELS)).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _short_name(file: UploadedFile) -> str:
    """The name of a file, which may be any text, on one line of limited length."""
    name = " ".join(file.name.split()) or "a file without a name"
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"
