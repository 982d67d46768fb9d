"""Train: the designed network in a background thread, its curves as they grow."""

from __future__ import annotations

import streamlit as st

from lib import address
from lib.address import hidden, recipe_values
from lib.analysis import analyse, interval95, percent
from lib.architecture import ArchitectureError, notation, parse
from lib.charts import training_curves
from lib.components import enter, live_figure, network_input, preset_pills
from lib.cost import duration, epoch_seconds, estimate_text, hindsight_text
from lib.recipe import (
    OPTIMISERS,
    RECIPES,
    SCHEDULES,
    Recipe,
    RecipeError,
)
from lib.resources import machine_rate, run_manager
from lib.runs import ACTIVE, Run, Snapshot, refusal
from lib.training import EpochMetrics

enter("train")

TICK_SECONDS = 0.5
STOP_SECONDS = 0.4
TEST_IMAGES = 10_000


def load_recipe() -> None:
    recipe = next((preset.recipe for preset in RECIPES if preset.title == st.session_state.recipe), None)
    if recipe:
        st.session_state.update(recipe_values(recipe))


def recipe_inputs() -> None:
    with st.grid(4, min_column_width=150):
        st.selectbox("Optimiser", OPTIMISERS, key="optimiser")
        st.number_input(
            "Learning rate", step=0.001, format="%.4g", key="learning_rate", help="The peak of a one-cycle schedule."
        )
        st.selectbox("Schedule", SCHEDULES, key="schedule")
        st.number_input("Epochs", step=1, key="epochs", help="One epoch shows every image once.")
        st.number_input("Batch size", step=1, key="batch_size", help="Images a step.")
        st.number_input("Weight decay", step=0.001, format="%.4g", key="weight_decay")
        st.number_input("Seed", step=1, key="seed", help="The same seed gives the same run.")
        st.number_input("Rotation, ± degrees", step=1.0, format="%.4g", key="rotation")
        st.number_input("Shift, ± fraction", step=0.01, format="%.4g", key="shift")
        st.number_input("Zoom, ± fraction", step=0.01, format="%.4g", key="zoom")


def start(text: str, recipe: Recipe) -> None:
    st.session_state.run = run_manager().start(parse(text), recipe).identity


def stop(run: Run) -> None:
    """Stop, and give the batch a moment to end: what is drawn next then shows it."""
    run.stop()
    run.wait(STOP_SECONDS)


def progress_text(run: Run, snapshot: Snapshot) -> str:
    """Where the run is, in one line."""
    if snapshot.status == "queued":
        ahead = run_manager().ahead_of(run)
        return f"Waiting for {ahead} run{'s' * (ahead != 1)} to end. It starts by itself."
    if not snapshot.step:
        return "Loading the images and building the network…"
    rate, left = snapshot.images_per_second, snapshot.seconds_left
    parts = [
        f"Epoch {snapshot.steps[-1].epoch} of {run.recipe.epochs}",
        f"step {snapshot.step:,} of {snapshot.steps_total:,}",
    ]
    if snapshot.status == "stopping":
        parts.append("stopping after this batch")
    elif snapshot.measuring is not None:
        parts.append("measuring on the test images")
    elif rate and left is not None:
        parts += [f"{rate:,.0f} images/s", f"{duration(left)} left"]
    return " · ".join(parts)


def accuracy_text(epoch: EpochMetrics) -> str:
    return f"{percent(epoch.test_accuracy, 2)} ± {100 * interval95(epoch.test_accuracy, TEST_IMAGES):.2f}"


def outcome(run: Run, snapshot: Snapshot) -> None:
    """How the run ended, in a sentence."""
    match snapshot.status:
        case "failed":
            st.error(f"{snapshot.message} The curves up to that point are kept below.", icon=":material/error:")
        case "stopped" if not snapshot.steps:
            st.info("Stopped before the first batch.", icon=":material/stop_circle:")
        case "stopped":
            st.info(
                f"Stopped at step {snapshot.step:,}. The network as it was is on the Draw page.",
                icon=":material/stop_circle:",
            )
        case "finished":
            seconds = sum(epoch.seconds for epoch in snapshot.epochs)
            st.success(
                f"Finished: {accuracy_text(snapshot.epochs[-1])} on the test images after the final epoch, "
                f"trained in {duration(seconds)}.",
                icon=":material/check_circle:",
            )
            rate = machine_rate()
            if rate and not hidden("estimate"):
                estimated = epoch_seconds(rate, run.architecture, run.recipe)
                st.caption(hindsight_text(estimated, seconds / len(snapshot.epochs)))
    if snapshot.message and snapshot.status != "failed":
        st.warning(snapshot.message, icon=":material/save:")


def figures(run: Run, snapshot: Snapshot) -> None:
    """The numbers of the last epoch, and the best one marked as chosen."""
    if not snapshot.epochs:
        st.caption("The first test accuracy appears at the end of the first epoch.")
        return
    last, best = snapshot.epochs[-1], max(snapshot.epochs, key=lambda epoch: epoch.test_accuracy)
    final = last.epoch == run.recipe.epochs
    with st.grid(4, min_column_width=200):
        st.metric(
            "Test accuracy, final epoch" if final else f"Test accuracy, epoch {last.epoch}",
            accuracy_text(last),
            border=True,
            help="With the 95 % interval of a measurement on 10,000 images, in points.",
        )
        st.metric(
            "Training accuracy",
            percent(last.train_accuracy, 2),
            border=True,
            help="Over the last epoch's batches, each measured before its update.",
        )
        st.metric(
            f"Best epoch: {best.epoch}",
            percent(best.test_accuracy, 2),
            border=True,
            help="Chosen by the test images it is measured on, so it is optimistic. Report the final epoch.",
        )
        st.metric("Images a second", f"{last.images_per_second:,.0f}", border=True)


def watch(run: Run, ticking: bool) -> None:
    """Progress, numbers and curves of one run."""
    snapshot = run.snapshot()
    if ticking and snapshot.status not in ACTIVE:
        # The run has just ended: the whole page must know, and this fragment must stop ticking.
        st.rerun()
    st.subheader(f"{run.identity}: `{notation(run.architecture)}`")
    if snapshot.status in ACTIVE:
        total = max(snapshot.steps_total, 1)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(min(snapshot.step / total, 1.0), text=progress_text(run, snapshot))
            st.button(
                "Stop", icon=":material/stop:", on_click=stop, args=(run,), disabled=snapshot.status == "stopping"
            )
    else:
        outcome(run, snapshot)
    figures(run, snapshot)
    live_figure(
        training_curves(snapshot.steps, snapshot.epochs, snapshot.steps_total),
        key="curves",
        height=640,
        revision=run.identity,
        alt="Loss, accuracy and learning rate of the run over its steps",
    )


st.title("Train it")
text = network_input("The network from the Design page; it may be changed here too.")
problem = architecture = analysis = None
try:
    architecture = parse(text)
    analysis = analyse(architecture)
    st.caption(
        f"{analysis.num_params:,} parameters, {analysis.macs / 1e6:.2f} million multiply-accumulates an image, trained "
        "on all 60,000 images of MNIST. The accuracy is measured on its 10,000 test images after every epoch, as the "
        "assignment does: whoever picks the best epoch by it fools themselves a little, so the final one counts."
    )
except ArchitectureError as error:
    problem = str(error)

presets = st.container()
if not hidden("recipe"):
    with st.expander("Recipe", icon=":material/tune:"):
        recipe_inputs()
recipe: Recipe | None = None
try:
    recipe = address.recipe()
except RecipeError as error:
    problem = f"{error} Open Recipe to set it, or choose a way to train above."
if analysis and recipe:
    problem = refusal(analysis, recipe)
if not hidden("recipe"):
    with presets:
        preset = next((preset for preset in RECIPES if preset.recipe == recipe), None)
        st.session_state.recipe = preset.title if preset else None
        preset_pills("How to train", [preset.title for preset in RECIPES], key="recipe", on_change=load_recipe)
        st.caption(preset.story if preset else "A recipe of your own.")
rate = machine_rate()
if architecture and recipe and rate and not hidden("estimate"):
    st.caption(estimate_text(rate, architecture, recipe))
if problem:
    st.error(problem, icon=":material/error:")

identities = [run.identity for run in run_manager().runs()]
asked = st.session_state.run
if asked not in identities:
    st.session_state.run = None
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.button(
        "Start training",
        type="primary",
        icon=":material/play_arrow:",
        on_click=start,
        args=(text, recipe),
        disabled=problem is not None,
    )
    chosen = st.selectbox("Run", identities, index=None, key="run", placeholder="No run chosen") if identities else None

run = run_manager().get(chosen)
if run:
    active = run.active
    st.fragment(watch, run_every=TICK_SECONDS if active else None)(run, active)
else:
    if asked is not None:
        st.warning(
            f"The run {asked} is not known: Receptive was started anew since. If it had ended, what it learnt is among "
            "the networks of the Draw page.",
            icon=":material/history:",
        )
    st.info(
        "Press Start training. It goes on in the background: you may close this tab, or draw while it learns.",
        icon=":material/info:",
    )
