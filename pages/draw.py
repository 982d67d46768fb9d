"""Draw: a digit by hand, read by a trained network or by the one in training."""

from __future__ import annotations

import streamlit as st
from torch import Tensor, nn

from lib import checkpoints
from lib.analysis import percent
from lib.architecture import notation
from lib.charts import probability_bars
from lib.components import drawing_canvas, enter, live_figure
from lib.digits import predict, reduce
from lib.network import build
from lib.resources import checkpoint_network, checkpoint_summary, run_manager
from lib.runs import Run

enter("draw")

TICK_SECONDS = 0.5


def networks() -> dict[str, str]:
    """What may be chosen, name -> title: runs that have begun to learn first, then checkpoints by their file's name."""
    titles = {
        run.identity: f"{run.name}, in training · {notation(run.architecture)}"
        for run in run_manager().runs()
        if run.active and run.weights
    }
    for path in checkpoints.paths():
        if path.stem in titles:
            continue
        try:
            summary = checkpoint_summary(path, path.stat().st_mtime_ns)
        except (checkpoints.CheckpointError, OSError) as error:
            damaged.append(str(error))
            continue
        if not summary.has_weights:
            continue
        accuracy = "not measured" if summary.test_accuracy is None else percent(summary.test_accuracy, 2)
        titles[path.stem] = f"{summary.title} · {notation(summary.architecture)} · {accuracy}"
    return titles


def saved_network(name: str) -> nn.Module:
    path = next(path for path in checkpoints.paths() if path.stem == name)
    return checkpoint_network(path, path.stat().st_mtime_ns)


def learning_network(run: Run) -> nn.Module | None:
    """A network with the weights last published; the training is not touched."""
    weights = run.weights
    if weights is None:
        return None
    network = build(run.architecture)
    network.load_state_dict(weights.tensors)
    return network.eval()


def read(name: str, image: Tensor | None, ticking: bool) -> None:
    """What the chosen network says of the image; ticks while that network is in training."""
    run = run_manager().get(name) if ticking else None
    if run and not run.active:
        st.rerun()
    try:
        network = learning_network(run) if run else saved_network(name)
    except (checkpoints.CheckpointError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        return
    prediction = None if image is None or network is None else predict(network, image)
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
    if run:
        weights = run.weights
        st.caption(f"Still learning: weights after {weights.step if weights else 0:,} steps.")


st.title("Draw a digit")
# What was set aside when Receptive began, and what has become unreadable since.
damaged = list(run_manager().set_aside)
titles = networks()
if not titles:
    st.error("There is no network to ask: checkpoints/ is empty. Restore it from the project, or train one.")
    st.stop()
name = st.selectbox(
    "Which network reads it?", list(titles), key="reader", persist_state="session", format_func=titles.__getitem__
)
for sentence in damaged:
    st.warning(sentence, icon=":material/warning:")

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
