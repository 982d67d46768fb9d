"""Photos and digit sets: predictions for photos of digits, and sets of digits as test data."""

from __future__ import annotations

import streamlit as st

from lib.inference.photos import MAX_BYTES, MAX_FILES, MAX_PIXELS, MAX_SIDE
from lib.storage import digit_sets
from lib.storage.checkpoints import CheckpointError
from lib.storage.digit_sets import DigitSetError
from lib.text.untrusted_text import escaped
from lib.ui.digit_set_panel import accuracy_panel, add_panel, choose_digit_set, gallery_panel, size_panel
from lib.ui.model_picker import choose_model, load_model
from lib.ui.page import PHOTOS, setup_page
from lib.ui.photo_panel import photo_panel

setup_page(PHOTOS)

name = choose_model()
try:
    model = load_model(name)
except (CheckpointError, OSError) as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
if model.in_training:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"In training: weights after {model.step:,} steps.")
        st.button("Predict again", icon=":material/refresh:")

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
    photos = photo_panel(files[:MAX_FILES], model)
else:
    photos = None
    st.caption(
        "Dark ink on light paper, or light on dark. The digit is found, resized to the size of MNIST's digits and "
        "centered. A photo is processed in memory and not stored; only if you add it to a digit set below, its 28×28 "
        "pixels are."
    )

st.header("Digit sets")
set_name = choose_digit_set()
if set_name is None:
    st.info(
        "Press New set to make one. Add drawings and photos with their labels, and test any network on it.",
        icon=":material/info:",
    )
    st.stop()
try:
    digits = digit_sets.load(set_name)
except DigitSetError as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
add_panel(set_name, photos)
size_panel(digits)
if len(digits):
    accuracy_panel(digits, model)
    gallery_panel(digits)
