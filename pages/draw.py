"""Draw: a digit by hand, read by a trained network or by the one in training."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from lib.analysis import percent
from lib.charts import probability_bars
from lib.checkpoints import CheckpointError
from lib.components import drawing_canvas, enter, live_figure
from lib.digits import predict, reduce
from lib.readers import choose_reader, reader
from lib.resources import run_manager

enter("draw")

TICK_SECONDS = 0.5


def read(name: str, image: Tensor | None, ticking: bool) -> None:
    """What the chosen network says of the image; ticks while that network is in training."""
    try:
        now = reader(name)
    except (CheckpointError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        return
    if ticking and not now.run:
        st.rerun()
    prediction = None if image is None or now.network is None else predict(now.network, image)
    if prediction is not None:
        st.markdown(f"## It reads {prediction.digit}")
        st.caption(f"with a probability of {percent(prediction.confidence)}")
    elif image is None:
        st.markdown("## Nothing drawn yet")
        st.caption("Draw a digit, 0 to 9, in the black square. It is read as soon as you lift the pen.")
    else:
        st.markdown("## Not yet")
        st.caption("The network has not learnt from its first batch yet.")
    live_figure(
        probability_bars(prediction),
        key="bars",
        height=330,
        tools=False,
        alt="No digit drawn yet"
        if prediction is None
        else "Probabilities: "
        + ", ".join(f"{digit}: {percent(p)}" for digit, p in enumerate(prediction.probabilities)),
    )
    if now.run:
        st.caption(f"Still learning: weights after {now.step:,} steps.")


st.title("Draw a digit")
name = choose_reader()

canvas, seen, answer = st.columns([3, 2, 4], gap="medium")
with canvas:
    # The canvas shows its buttons above itself, beside this line and not over what stands higher.
    st.markdown("**Your drawing**")
    drawing = drawing_canvas(key="canvas")
    st.caption("Point at the square, or tap it, for the buttons that undo a stroke or clear it.")
image = None if drawing is None else reduce(drawing)
with seen:
    st.markdown("**What the network gets**")
    if image is None:
        st.caption("28×28 pixels, made from the drawing as MNIST's were.")
    else:
        st.image(image.repeat_interleave(6, 0).repeat_interleave(6, 1).numpy(), alt="The drawing reduced to 28 by 28")
        st.caption(
            "The drawing's bounding box is fitted into 20×20 pixels and its centre of mass put at the centre of 28×28, "
            "as MNIST was made."
        )
with answer:
    run = run_manager().get(name)
    ticking = run is not None and run.active
    st.fragment(read, run_every=TICK_SECONDS if ticking else None)(name, image, ticking)
