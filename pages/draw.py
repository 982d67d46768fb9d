"""Draw a digit: what a network predicts, also while it is in training."""

from __future__ import annotations

import streamlit as st

from lib.data.dataset import DatasetError
from lib.inference.preprocess import preprocess_steps
from lib.text.untrusted_text import escaped
from lib.ui import guard, rendering
from lib.ui.model_picker import Source, choose_model, choose_source, choose_test_image, run_in_training
from lib.ui.page import DRAW, setup_page
from lib.ui.prediction_panel import prediction_panel
from lib.ui.preprocessing_panel import IMAGE_PIXELS, preprocessing_panel, simpler_methods_panel
from lib.ui.probability_history_panel import probability_history_panel
from lib.ui.widgets import drawing_canvas

setup_page(DRAW)

# More ticks would cost the training more.
TICK_SECONDS, CURVES_SECONDS = 1.0, 2.0

name = choose_model()
st.session_state.setdefault("source", Source.DRAWING)
source = choose_source()

# A phone stacks the columns: the prediction comes first, so that it stays visible while drawing.
canvas_place, prediction_place, input_place = st.columns([3, 4, 2], gap="medium")
steps = drawing = None
with canvas_place:
    if source == Source.DRAWING:
        # The canvas shows its buttons above itself: this line keeps them away from the controls.
        st.markdown("**Your drawing**")
        drawing = drawing_canvas(key="canvas")
        st.caption("Point at the square, or tap it, for the buttons that undo a stroke or clear it.")
        steps = None if drawing is None else preprocess_steps(drawing)
        image = None if steps is None else steps.image
        st.session_state.drawn = image
    else:
        try:
            image, label = choose_test_image()
        except DatasetError as error:
            st.error(escaped(str(error)), icon=":material/error:")
            st.stop()
        st.caption(f"One of MNIST's 10,000 test images. Its label is {label}.")
ticking = run_in_training(name) is not None
with prediction_place:
    guard.fragment(prediction_panel, TICK_SECONDS if ticking else None)(name, image, ticking)
with input_place:
    st.markdown("**Network input**")
    if image is None:
        st.caption("28×28 pixels, preprocessed as for MNIST.")
    else:
        st.image(rendering.enlarge(image, IMAGE_PIXELS), alt="The network's input, 28 by 28 pixels")
guard.fragment(probability_history_panel, CURVES_SECONDS if ticking else None)(name, image)
if steps is not None and drawing is not None:
    st.subheader("From the drawing to 28×28")
    preprocessing_panel(steps)
    if st.toggle("Show simpler methods", key="ways"):
        simpler_methods_panel(drawing, name)
