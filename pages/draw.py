"""Draw: predict a digit that is drawn by hand, also with a network in training."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from torch import Tensor

from lib.data.dataset import DatasetError
from lib.evaluation.attribution import affordable
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import (
    CONFIDENCE_THRESHOLD,
    OOD_THRESHOLD,
    Prediction,
    predict,
    prediction_caption,
    prediction_heading,
)
from lib.inference.preprocess import BOX, SIZE, PreprocessingSteps, center_bounding_box, preprocess_steps, resize_whole
from lib.nn.network import assembled
from lib.runs.training_run import Run, WeightsCopy
from lib.storage.checkpoints import CheckpointError
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped
from lib.ui import guard, rendering
from lib.ui.cache import run_manager
from lib.ui.charts.draw import probability_bars, probability_curves
from lib.ui.model_picker import (
    Source,
    choose_model,
    choose_source,
    choose_test_image,
    load_model,
    poll_model,
    run_in_training,
)
from lib.ui.page import DRAW, setup_page
from lib.ui.widgets import drawing_canvas, live_figure

setup_page(DRAW)

# More ticks cost the training more.
TICK_SECONDS, CURVES_SECONDS = 1.0, 2.0
# The entropy of ten probabilities that are all alike: log2 10.
MOST_BITS = 3.32
# Of every picture of 28x28, in pixels of the screen.
DIGIT = 6 * SIZE


def words(prediction: Prediction | None, image: Tensor | None) -> None:
    """What is read, in a heading and a sentence."""
    if prediction is None and image is None:
        st.markdown("## Nothing drawn yet")
        st.caption("Draw a digit, 0 to 9, in the black square. It is read as soon as you lift the pen.")
    elif prediction is None:
        st.markdown("## Not yet")
        st.caption("The network has not learnt from its first batch yet.")
    else:
        st.markdown(f"## {prediction_heading(prediction)}")
        st.caption(f"{prediction_caption(prediction)} · entropy {prediction.entropy:.2f} of {MOST_BITS} bits")


def trust(now: LoadedModel) -> None:
    """How far the numbers can be trusted, and how that was found."""
    found = now.calibration
    if now.in_training:
        when = (
            f"Calibrated after step {now.calibrated_step:,}."
            if found.images
            else found.problem or "Not calibrated yet."
        )
        st.caption(escaped(f"Still learning: weights after {now.step:,} steps. {when}"))
    elif not found.images:
        st.caption(
            escaped(found.problem) if found.problem else "Not calibrated: the digits that this needs could not be read."
        )
    if not found.images:
        return
    with st.expander("What these numbers mean"):
        st.markdown(
            f"**Probability.** Calibrated: the logits are divided by a temperature of {found.temperature:.2f}, which "
            f"makes {found.images:,} images of the training set, moved about a little, as likely as possible. There "
            f"the probabilities were off by {percent(found.error_before)} on average before, and are by "
            f"{percent(found.error_after)} since. Below {percent(CONFIDENCE_THRESHOLD, 0)} the answer is uncertain."
        )
        if found.known:
            st.markdown(
                "**OOD percentile.** Probabilities only compare ten digits with each other, even for a scribble. "
                "So the means of all feature maps are compared with those of real digits. The OOD (out-of-"
                f"distribution) percentile says how many of {len(found.known.distances):,} real digits, in percent, "
                f"are closer to their class. Above {100 * OOD_THRESHOLD:.0f} the prediction is uncertain."
            )
        st.markdown(
            f"**Entropy.** 0 bits where one digit has all the probability, {MOST_BITS} where all ten have the same."
        )


def read(name: str, image: Tensor | None, ticking: bool) -> None:
    """What the chosen network says of the image; ticks while that network is in training."""
    now = poll_model(name, ticking)
    if now is None:
        return
    prediction = None
    if image is not None and now.network is not None:
        [prediction] = now.predict(image[None])
    words(prediction, image)
    live_figure(
        probability_bars(prediction),
        key="bars",
        height=330,
        tools=False,
        at_once=True,
        alt="No digit drawn yet"
        if prediction is None
        else "Probabilities: "
        + ", ".join(f"{digit}: {percent(p)}" for digit, p in enumerate(prediction.probabilities)),
    )
    trust(now)


def as_it_learned(run: Run, image: Tensor) -> dict[int, Prediction]:
    """What the run said of the image after how many steps, from the copies of its weights."""
    key = (run.identity, image.numpy().tobytes())
    if st.session_state.get("learned_of") != key:
        st.session_state.learned_of, st.session_state.learned = key, {}
    known: dict[int, Prediction] = st.session_state.learned
    trail = some_of(run.weight_history, affordable(run.architecture, len(run.weight_history)))
    for weights in trail:
        if weights.step not in known:
            known[weights.step] = predict(assembled(run.architecture, weights.tensors), image)
    st.session_state.learned = {weights.step: known[weights.step] for weights in trail}
    return dict(st.session_state.learned)


def some_of(trail: Sequence[WeightsCopy], count: int) -> list[WeightsCopy]:
    """So many of the copies, evenly spaced, the last of them always: a large network takes its time for each."""
    if count >= len(trail):
        return list(trail)
    return [trail[round((number + 1) * len(trail) / count) - 1] for number in range(count)]


def learning(name: str, image: Tensor | None) -> None:
    """The ten probabilities of the image over the steps of the training; ticks while it goes on."""
    run = run_manager().get(name)
    if run is None or not run.weight_history:
        return
    st.subheader("As it learned")
    if image is None:
        st.caption("Draw a digit: its ten probabilities are drawn over the steps of the training.")
        return
    predictions = as_it_learned(run, image)
    if len(predictions) < 2:
        st.caption(
            "The curves begin with the second batch."
            if len(run.weight_history) < 2
            else "This network is too large for that: it would be read once for every copy of its weights."
        )
        return
    last = list(predictions.values())[-1]
    since = next(
        step
        for index, step in enumerate(predictions)
        if all(p.digit == last.digit for p in list(predictions.values())[index:])
    )
    st.caption(f"It reads {last.digit} since step {since:,}. Every point is a copy of the weights, not yet calibrated.")
    live_figure(
        probability_curves(list(predictions), list(predictions.values())),
        key="learning",
        height=320,
        revision=name,
        tools=False,
        alt=f"Probabilities of the ten digits over the steps; {last.digit} leads since step {since:,}",
    )


def steps_of(steps: PreprocessingSteps) -> None:
    """The way from the drawing to 28x28, in pictures."""
    with st.grid(4, min_column_width=150):
        with st.container():
            st.markdown("**1. Cut out**")
            st.image(rendering.fit_in_square(steps.box, DIGIT), alt="The part of the drawing that holds ink")
            height, width = steps.box.shape
            st.caption(f"The smallest box around the ink: {width} by {height} of the drawing's pixels.")
        with st.container():
            st.markdown(f"**2. Fit into {BOX}×{BOX}**")
            st.image(rendering.center_in_square(steps.fitted, SIZE, DIGIT), alt="The box made small")
            st.caption("Height and width keep their ratio, and every small pixel is the mean of what it covers.")
        with st.container():
            st.markdown("**3. Adapt the stroke**")
            st.image(rendering.center_in_square(steps.stroked, SIZE, DIGIT), alt="The box with its stroke adapted")
            st.caption(
                f"The stroke is {steps.before:.1f} pixels thick, as MNIST's are: left as it is."
                if steps.before == steps.after
                else f"From {steps.before:.1f} pixels to {steps.after:.1f}: the nearest that MNIST's strokes have."
            )
        with st.container():
            st.markdown("**4. Centre the mass**")
            st.image(rendering.enlarge(steps.image, DIGIT), alt="The image that the network gets")
            st.caption("The ink's centre of mass goes to the middle of 28×28. This is what the network gets.")


def other_ways(drawing: Tensor, name: str) -> None:
    """What simpler reductions would have given, and what the network would have read there."""
    try:
        now = load_model(name)
    except (CheckpointError, OSError):
        return
    ways = {
        "As MNIST was made": preprocess_steps(drawing),
        "The canvas shrunk": resize_whole(drawing),
        "The box in the middle": center_bounding_box(drawing),
    }
    with st.grid(3, min_column_width=150):
        for title, made in ways.items():
            image = made.image if isinstance(made, PreprocessingSteps) else made
            if image is None:
                continue
            with st.container():
                st.markdown(f"**{title}**")
                st.image(rendering.enlarge(image, DIGIT), alt=title)
                if now.network is not None:
                    [prediction] = now.predict(image[None])
                    st.caption(f"Read as {prediction.digit}, with a probability of {percent(prediction.confidence)}.")


name = choose_model()
st.session_state.setdefault("source", Source.DRAWING)
source = choose_source()

# On a phone they come one below the other: the answer first, in sight while one draws.
canvas, answer, seen = st.columns([3, 4, 2], gap="medium")
steps = drawing = None
with canvas:
    if source == Source.DRAWING:
        # The canvas shows its buttons above itself, beside this line and not over what stands higher.
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
        st.caption(f"One of MNIST's 10,000 test images, for whoever cannot draw. Its writer meant {label}.")
ticking = run_in_training(name) is not None
with answer:
    guard.fragment(read, TICK_SECONDS if ticking else None)(name, image, ticking)
with seen:
    st.markdown("**What the network gets**")
    if image is None:
        st.caption("28×28 pixels, made from the drawing as MNIST's were.")
    else:
        st.image(rendering.enlarge(image, DIGIT), alt="The digit in 28 by 28 pixels")
guard.fragment(learning, CURVES_SECONDS if ticking else None)(name, image)
if steps is not None and drawing is not None:
    st.subheader("From the drawing to 28×28")
    steps_of(steps)
    if st.toggle("Show what simpler ways would have given", key="ways"):
        other_ways(drawing, name)
