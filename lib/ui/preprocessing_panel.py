"""The steps from a drawing to the network's input, on the Draw page, and what simpler methods give."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from lib.inference.preprocess import BOX, SIZE, PreprocessingSteps, center_bounding_box, preprocess_steps, resize_whole
from lib.storage.checkpoints import CheckpointError
from lib.text.formatting import percent
from lib.ui import rendering
from lib.ui.model_picker import load_model

# The side of a 28×28 image in screen pixels.
IMAGE_PIXELS = 6 * SIZE


def preprocessing_panel(steps: PreprocessingSteps) -> None:
    """Show the steps from the drawing to 28×28."""
    height, width = steps.box.shape
    with st.grid(4, min_column_width=150):
        with st.container():
            st.markdown("**1. Crop**")
            st.image(rendering.fit_in_square(steps.box, IMAGE_PIXELS), alt="The part of the drawing that has ink")
            st.caption(f"The bounding box of the ink: {width} × {height} pixels of the drawing.")
        with st.container():
            st.markdown(f"**2. Resize to {BOX}×{BOX}**")
            st.image(rendering.center_in_square(steps.fitted, SIZE, IMAGE_PIXELS), alt="The box, resized")
            st.caption("The aspect ratio is kept. Each new pixel is the mean of the area that it covers.")
        with st.container():
            st.markdown("**3. Adjust the stroke width**")
            st.image(
                rendering.center_in_square(steps.stroked, SIZE, IMAGE_PIXELS),
                alt="The box with its stroke width adjusted",
            )
            st.caption(
                f"{steps.before:.1f} pixels is a stroke width of MNIST, so it stays."
                if steps.before == steps.after
                else f"From {steps.before:.1f} to {steps.after:.1f} pixels, the closest stroke width of MNIST."
            )
        with st.container():
            st.markdown("**4. Center the mass**")
            st.image(rendering.enlarge(steps.image, IMAGE_PIXELS), alt="The network's input")
            st.caption("The center of mass of the ink goes to the center of 28×28. This is the network's input.")


def simpler_methods_panel(drawing: Tensor, name: str) -> None:
    """Show what simpler preprocessing gives for a drawing (H, W), 0 to 1, and what the network predicts for it."""
    try:
        model = load_model(name)
    except (CheckpointError, OSError):
        return
    steps = preprocess_steps(drawing)
    methods = {
        "As for MNIST": None if steps is None else steps.image,
        "Whole canvas resized": resize_whole(drawing),
        "Bounding box centered": center_bounding_box(drawing),
    }
    with st.grid(3, min_column_width=150):
        for title, image in methods.items():
            if image is None:
                continue
            with st.container():
                st.markdown(f"**{title}**")
                st.image(rendering.enlarge(image, IMAGE_PIXELS), alt=title)
                if model.network is not None:
                    [prediction] = model.predict(image[None])
                    st.caption(f"Predicted {prediction.digit}, probability {percent(prediction.confidence)}.")
