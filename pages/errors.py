"""Errors on the test images: confusion matrix, misclassified images, accuracy per class, calibration."""

from __future__ import annotations

import streamlit as st

from lib.data.dataset import DatasetError
from lib.storage.checkpoints import CheckpointError
from lib.text.untrusted_text import escaped
from lib.ui import guard
from lib.ui.evaluation_panel import calibration_panel, class_panel, confusion_panel, errors_panel, summary_panel
from lib.ui.measurement import measure, measurement_age_panel
from lib.ui.model_picker import choose_model, load_model, run_in_training
from lib.ui.page import ERRORS, setup_page

setup_page(ERRORS)

TICK_SECONDS = 2.0

name = choose_model()
try:
    measurement = measure(load_model(name))
except (CheckpointError, DatasetError, OSError) as error:
    st.error(escaped(str(error)), icon=":material/error:")
    st.stop()
if run_in_training(name):
    guard.fragment(measurement_age_panel, TICK_SECONDS)(name)
if measurement is None:
    st.markdown("## No predictions yet")
    st.stop()
evaluation = measurement.evaluation
summary_panel(evaluation)
st.header("Confusion matrix")
confusion_panel(evaluation)
st.header("All errors")
errors_panel(evaluation)
st.header("Accuracy per class")
class_panel(evaluation)
st.header("Calibration")
calibration_panel(evaluation)
