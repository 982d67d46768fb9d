"""Train: the recipe, the run in its background thread, and its curves as they grow."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import streamlit as st

from lib.data.dataset import DatasetError
from lib.design.analysis import analyze
from lib.design.layers import ArchitectureError
from lib.design.notation import notation, parse
from lib.design.recipe import (
    RECIPES,
    Recipe,
    RecipeError,
    differences,
    recipe_values,
)
from lib.evaluation.proportion import accuracy_text, interval_text
from lib.runs.preflight import preflight_error, trained_images
from lib.runs.run_store import ACTIVE
from lib.runs.training_run import Run, RunError, RunStatus
from lib.storage.checkpoints import SAVED_FOLDER, passed_over
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped, isolated
from lib.training.time_estimate import duration, epoch_seconds, estimate_error_text, estimate_text
from lib.training.trainer import EpochMetrics
from lib.ui import guard, url_state
from lib.ui.browser_identity import browser_id, set_browser_cookie
from lib.ui.cache import run_manager
from lib.ui.charts.training import RunCurves, training_curves
from lib.ui.page import TRAIN, setup_page
from lib.ui.recipe_form import augmentation_preview, load_preset, recipe_form
from lib.ui.url_state import hidden
from lib.ui.warm_up import machine_profile
from lib.ui.widgets import live_figure, network_input, preset_pills

setup_page(TRAIN)

# A press is answered at once, a change from elsewhere at the next tick; more ticks cost the training more, and most of
# that is the drawing of the curves.
TICK_SECONDS, CURVES_SECONDS = 1.0, 4.0
ACT_SECONDS = 0.4
TEST_IMAGES = 10_000
FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
Action = Literal["pause", "stop", "resume", "step", "epoch", "learning rate", "rename", "delete"]
QUESTIONS: dict[Action, str] = {
    "pause": "Pause it",
    "stop": "Stop it",
    "resume": "Resume it",
    "step": "Train it for one step",
    "epoch": "Train it for one epoch",
    "learning rate": "Change its learning rate",
    "rename": "Rename it",
    "delete": "Delete it",
}
# Which widget's value an action needs.
VALUES: dict[Action, str] = {"learning rate": "factor", "rename": "new_name"}


@dataclass(frozen=True)
class Request:
    """What somebody asked to be done with a run, and the value of the widget that belongs to it."""

    run: Run
    action: Action
    value: Any


@guard.callback
def start(text: str, recipe: Recipe) -> None:
    parent = st.session_state.get("fork")
    try:
        run = run_manager().start(parse(text), recipe, owner=browser_id(), parent=parent)
    except RunError as error:
        st.session_state.refused = str(error)
        return
    st.session_state.run = run.identity
    st.session_state.ghost = parent
    st.session_state.fork = None


@guard.callback
def ask(run: Run, action: Action) -> None:
    """Do it where the run is this browser's own; otherwise the page asks first."""
    value = st.session_state[VALUES[action]] if action in VALUES else None
    request = Request(run, action, value)
    if run.owner == browser_id():
        carry_out(request)
    else:
        st.session_state.asked = request


def carry_out(request: Request) -> None:
    """Do it, and give the batch a moment to end: what is drawn next then shows it."""
    run = request.run
    try:
        match request.action:
            case "pause":
                run.pause()
            case "stop":
                run.stop()
            case "resume":
                run_manager().resume(run)
            case "step":
                run_manager().resume(run, steps=1)
                st.session_state.stepped = True
            case "epoch":
                run_manager().resume(run, epochs=1)
            case "learning rate":
                run.set_learning_rate_factor(float(request.value))
            case "rename":
                run.rename(str(request.value))
            case "delete":
                run_manager().delete(run)
                st.session_state.run = None
                st.session_state.deleted = (run.identity, run.name)
    except RunError as error:
        st.session_state.refused = str(error)
        return
    if request.action in ("pause", "stop", "step"):
        run.wait(ACT_SECONDS)


def forget_request() -> None:
    st.session_state.asked = None


@st.dialog("This run was started elsewhere", icon=":material/group:", on_dismiss=forget_request)
def confirm(request: Request) -> None:
    """Whose run it is, and whether it is meant all the same."""
    run, question = request.run, QUESTIONS[request.action]
    st.markdown(
        f"{escaped(run.name)} was started {where(run)}, on {started(run)}. {question}, although somebody else may be "
        "at work with it?"
    )
    with st.container(horizontal=True):
        if st.button(question, type="primary"):
            st.session_state.asked = None
            guard.callback(carry_out)(request)
            st.rerun()
        if st.button("Leave it as it is"):
            st.session_state.asked = None
            st.rerun()


def fork(run: Run) -> None:
    """The run's network and recipe into the controls; the next start is compared with it."""
    st.session_state.update(recipe_values(run.recipe))
    st.session_state.net = notation(run.architecture)
    st.session_state.fork = run.identity


def forget_fork() -> None:
    st.session_state.fork = None


@guard.callback
def undelete(identity: str, name: str) -> None:
    try:
        st.session_state.run = run_manager().undelete(identity).identity
    except RunError as error:
        st.session_state.refused = str(error)
        st.session_state.deleted = (identity, name)


def seconds_before(run: Run) -> float | None:
    """Estimated seconds until a queued run begins; None where one before it has no rate of its own, nor the machine."""
    rate, seconds = machine_profile(), 0.0
    for other in run_manager().runs_before(run):
        snapshot = other.snapshot(since_step=sys.maxsize)
        if snapshot.seconds_left is not None:
            seconds += snapshot.seconds_left
        elif rate:
            share = 1 - snapshot.step / snapshot.steps_total if snapshot.steps_total else 1.0
            seconds += share * other.recipe.epochs * epoch_seconds(rate, other.architecture, other.recipe)
        else:
            return None
    return seconds


def progress_text(run: Run, snapshot: RunStatus) -> str:
    """Where the run is, in one line."""
    if snapshot.status == "queued":
        ahead, seconds = len(run_manager().runs_before(run)), seconds_before(run)
        about = f", about {duration(seconds)}" if seconds else ""
        return f"Waiting for {ahead} run{'s' * (ahead != 1)} to end{about}. It starts by itself."
    if not snapshot.step:
        return "Loading the images and building the network…"
    rate, left = snapshot.images_per_second, snapshot.seconds_left
    parts = [f"Epoch {snapshot.epoch} of {run.recipe.epochs}", f"step {snapshot.step:,} of {snapshot.steps_total:,}"]
    if snapshot.status in ("stopping", "pausing"):
        parts.append(f"{snapshot.status} after this batch")
    elif snapshot.status == "paused":
        parts.append("paused")
    elif snapshot.measuring is not None:
        parts.append("measuring on the test images" if run.recipe.validation == "test" else "measuring")
    elif rate and left is not None:
        parts += [f"{rate:,.0f} images/s", f"{duration(left)} left"]
    return " · ".join(parts)


def final_accuracy(epoch: EpochMetrics) -> tuple[float, int]:
    """The accuracy to report and its number of images: on the test images where they were measured."""
    if epoch.test_accuracy is not None:
        return epoch.test_accuracy, TEST_IMAGES
    return epoch.validation_accuracy, epoch.validation_images


def accuracy_metric(label: str, accuracy: float, images: int, *, help: str) -> None:
    """Show an accuracy with its confidence interval below it."""
    st.metric(
        label,
        percent(accuracy, 2),
        f"95 % CI {interval_text(accuracy, images)}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help=help,
    )


def outcome(run: Run, snapshot: RunStatus) -> None:
    """How the run ended or stands still, in a sentence."""
    match snapshot.status:
        case "failed":
            st.error(
                escaped(f"{snapshot.message} The curves up to that point are kept below."), icon=":material/error:"
            )
        case "paused":
            st.info(
                "Paused. Resume it, or go on by one step or one epoch. Another run may use the time.",
                icon=":material/pause_circle:",
            )
        case "interrupted":
            st.warning(
                f"Receptive was closed while this run was in training. It was saved at step {snapshot.step:,}: resume "
                "it, and it goes on from there as if nothing had happened.",
                icon=":material/power_settings_new:",
            )
        case "stopped" if not snapshot.step:
            st.info("Stopped before the first batch.", icon=":material/stop_circle:")
        case "stopped":
            st.info(
                f"Stopped at step {snapshot.step:,}. The network as it was is on the Draw page; the run may go on.",
                icon=":material/stop_circle:",
            )
        case "finished" if snapshot.epochs:
            seconds = sum(epoch.seconds for epoch in snapshot.epochs)
            accuracy = accuracy_text(*final_accuracy(snapshot.epochs[-1]))
            st.success(
                f"Finished: {accuracy} on the test images after the final epoch, trained in {duration(seconds)}.",
                icon=":material/check_circle:",
            )
            rate = machine_profile()
            if rate and not hidden("estimate"):
                estimated = epoch_seconds(rate, run.architecture, run.recipe)
                st.caption(estimate_error_text(estimated, seconds / len(snapshot.epochs)))


def figures(run: Run, snapshot: RunStatus) -> None:
    """The numbers of the last epoch, and the best one marked as chosen."""
    if not snapshot.epochs:
        st.caption("The first accuracy appears at the end of the first epoch.")
        return
    last = snapshot.epochs[-1]
    best = max(snapshot.epochs, key=lambda epoch: epoch.validation_accuracy)
    final, on_test = last.epoch == run.recipe.epochs, run.recipe.validation == "test"
    measured = "Test" if on_test or last.test_accuracy is not None else "Held-out"
    with st.grid(4, min_column_width=200):
        accuracy_metric(
            f"{measured} accuracy, final epoch" if final else f"{measured} accuracy, epoch {last.epoch}",
            *final_accuracy(last),
            help="The one to report. CI: confidence interval for this number of images (Wilson 1927).",
        )
        accuracy_metric(
            "Training accuracy",
            last.train_accuracy,
            round(last.images_per_second * last.seconds),
            help="Over the last epoch's batches, each measured before its update.",
        )
        accuracy_metric(
            f"Best epoch: {best.epoch}",
            best.validation_accuracy,
            best.validation_images,
            help=f"Chosen by the {'test' if on_test else 'held-out'} images it is measured on, so it is optimistic. "
            "Report the final epoch.",
        )
        st.metric("Images a second", f"{last.images_per_second:,.0f}", border=True)


def controls(run: Run, snapshot: RunStatus) -> None:
    """What can be done with the run now."""
    active, waiting = snapshot.status in ACTIVE, snapshot.status == "queued"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if active:
            leaving = snapshot.status in ("stopping", "pausing")
            st.button("Pause", icon=":material/pause:", on_click=ask, args=(run, "pause"), disabled=leaving)
            st.button("Stop", icon=":material/stop:", on_click=ask, args=(run, "stop"), disabled=leaving)
        elif run.resumable:
            st.button("Resume", icon=":material/play_arrow:", on_click=ask, args=(run, "resume"))
            st.button("One step", icon=":material/skip_next:", on_click=ask, args=(run, "step"))
            st.button("One epoch", icon=":material/fast_forward:", on_click=ask, args=(run, "epoch"))
            if snapshot.status == "paused":
                st.button("Stop", icon=":material/stop:", on_click=ask, args=(run, "stop"))
        if (active and not waiting) or run.resumable:
            st.session_state.factor = min(FACTORS, key=lambda factor: abs(factor - snapshot.factor))
            st.select_slider(
                "Learning rate, times",
                FACTORS,
                key="factor",
                format_func="{:g}".format,
                on_change=ask,
                args=(run, "learning rate"),
                width=220,
                help="In flight: what the schedule asks for is multiplied by this from the next batch on.",
            )


def watch(run: Run, ticking: bool, asking: bool) -> None:
    """Progress and numbers of one run; `asking` while the page asks whether something is meant."""
    snapshot = run.snapshot()
    if (
        st.session_state.pop("stepped", False)
        or ticking != (snapshot.status in ACTIVE)
        or run_manager().get(run.identity) is not run
        or st.session_state.get("refused")
        or (st.session_state.get("asked") and not asking)
    ):
        # It has just ended, goes on again or was deleted, or what was pressed here was refused or needs a question: the
        # whole page must know, and this fragment stop or begin to tick. A step may have ended already, and then the
        # curves do not tick.
        st.rerun()
    st.subheader(f"{escaped(run.name)}: `{notation(run.architecture)}`")
    if snapshot.status in ACTIVE or snapshot.status == "paused":
        st.progress(min(snapshot.step / max(snapshot.steps_total, 1), 1.0), text=progress_text(run, snapshot))
    if snapshot.status not in ACTIVE:
        outcome(run, snapshot)
    controls(run, snapshot)
    if snapshot.save_error:
        st.warning(escaped(snapshot.save_error), icon=":material/save:")
    figures(run, snapshot)


def curves(run: Run, ghost: Run | None) -> None:
    """Those of one run; the page draws them anew once it has ended."""
    snapshot = run.snapshot()
    behind = ghost.snapshot() if ghost else None
    live_figure(
        training_curves(
            RunCurves(snapshot.curves, snapshot.epochs, run.recipe.validation),
            max(snapshot.steps_total, behind.step if behind else 0),
            RunCurves(behind.curves, behind.epochs, ghost.recipe.validation, ghost.name) if ghost and behind else None,
        ),
        key="curves",
        height=640,
        revision=run.identity,
        alt="Loss, accuracy and learning rate of the run over its steps",
    )


def fork_text(parent: Run, text: str, recipe: Recipe | None) -> str:
    """What the next run will differ in from the one it is forked from."""
    changes = differences(parent.recipe, recipe) if recipe else []
    if text != notation(parent.architecture):
        changes.append("the network")
    if not changes:
        return (
            f"Forked from {escaped(parent.name)}: same initial weights, same order of the images. Change one thing "
            "above and press Start training; its curves stay behind the new ones as a ghost."
        )
    if recipe is None or "the network" in changes or parent.recipe.seed != recipe.seed:
        same = "Its initial weights are others."
    elif parent.recipe.validation != recipe.validation:
        same = "Initial weights are the same; it is trained on other images."
    else:
        same = "Initial weights and the order of the images are the same."
    return f"Forked from {escaped(parent.name)}. Changed: {', '.join(changes)}. {same}"


def owner_text(run: Run) -> str:
    return f"browser {escaped(run.owner[:4])}" if run.owner else "the command line"


def where(run: Run) -> str:
    return f"in another browser ({owner_text(run)})" if run.owner else "on the command line"


def started(run: Run) -> str:
    return escaped(run.created.replace("T", " ")[:16]) + " UTC"


def run_table(runs: list[Run]) -> None:
    """All runs with their state and what they reached."""
    rows = []
    for run in runs:
        snapshot = run.snapshot(since_step=sys.maxsize)
        last = snapshot.epochs[-1] if snapshot.epochs else None
        rows.append(
            {
                "Run": f"[{escaped(run.name)}](/train?run={quote(run.identity, safe='')})",
                "State": snapshot.status,
                "Accuracy, last epoch": accuracy_text(*final_accuracy(last)) if last else "–",
                "Epochs": f"{len(snapshot.epochs)} of {run.recipe.epochs}",
                "Network": f"`{notation(run.architecture)}`",
                "Started": started(run),
                "By": "this browser" if run.owner == browser_id() else owner_text(run),
            }
        )
    st.table(rows)


text = network_input("The network from the Design page; it may be changed here too.")
problem = architecture = analysis = None
try:
    architecture = parse(text)
    analysis = analyze(architecture)
except ArchitectureError as error:
    problem = str(error)
facts = st.container()

presets = st.container()
recipe: Recipe | None = None
panel = None if hidden("recipe") else st.expander("Recipe", icon=":material/tune:")
if panel:
    with panel:
        recipe_form()
try:
    recipe = url_state.recipe()
except RecipeError as error:
    problem = f"{error} Open Recipe to set it, or choose a way to train above."
if architecture and recipe:
    problem = problem or preflight_error(architecture, recipe, SAVED_FOLDER, trained_images(recipe))
if panel:
    if recipe:
        with panel:
            try:
                augmentation_preview(recipe)
            except DatasetError as error:
                st.error(escaped(str(error)), icon=":material/error:")
    with presets:
        preset = next((p for p in RECIPES if p.recipe == recipe and p.network in (None, text)), None)
        st.session_state.recipe = preset.title if preset else None
        preset_pills("How to train", [preset.title for preset in RECIPES], key="recipe", on_change=load_preset)
        st.caption(preset.story if preset else "A recipe of your own.")
if analysis:
    measured = (
        "The accuracy is measured on the 10,000 test images after every epoch, as the assignment does: whoever picks "
        "the best epoch by it fools themselves a little, so the final one counts."
        if recipe is None or recipe.validation == "test"
        else "5,000 of them are held out: every epoch is measured on those, and the test images wait for the final one."
    )
    facts.caption(
        f"{analysis.num_params:,} parameters, {analysis.macs / 1e6:.2f} million multiply-accumulates an image, trained "
        f"on the 60,000 images of MNIST. {measured}"
    )
rate = machine_profile()
if architecture and recipe and rate and not hidden("estimate"):
    st.caption(estimate_text(rate, architecture, recipe))
if problem:
    st.error(escaped(problem), icon=":material/error:")

manager = run_manager()
parent = manager.get(st.session_state.get("fork"))
if parent:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(fork_text(parent, text, recipe), icon=":material/fork_right:")
        st.button("Not a fork", on_click=forget_fork)
asked: Request | None = st.session_state.get("asked")
if asked:
    confirm(asked)
refused = st.session_state.pop("refused", None)
if refused:
    st.error(escaped(refused), icon=":material/error:")
# Said once: whatever is done next, on this page or another, is no longer the moment to undo it.
deleted = st.session_state.pop("deleted", None)
if deleted:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(f"{escaped(deleted[1])} was deleted.", icon=":material/delete:")
        st.button("Undo", icon=":material/undo:", on_click=undelete, args=deleted)
not_read = [*manager.set_aside, *passed_over(SAVED_FOLDER)]
for sentence in not_read[:3]:
    st.warning(escaped(sentence), icon=":material/broken_image:")
if len(not_read) > 3:
    st.warning(f"{len(not_read) - 3} more files of runs could not be read.", icon=":material/broken_image:")

runs = manager.runs()
names = {run.identity: isolated(run.name) for run in runs}
chosen_before = st.session_state.run
if chosen_before not in names:
    st.session_state.run = None
if st.session_state.ghost not in names:
    st.session_state.ghost = None
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.button(
        "Start training",
        type="primary",
        icon=":material/play_arrow:",
        on_click=start,
        args=(text, recipe),
        disabled=problem is not None,
    )
    chosen = ghost = None
    if runs:
        chosen = st.selectbox(
            "Run", names, index=None, key="run", format_func=names.__getitem__, placeholder="No run chosen"
        )
        ghost = st.selectbox(
            "Behind it, as a ghost", names, index=None, key="ghost", format_func=names.__getitem__, placeholder="None"
        )

run = manager.get(chosen)
if run:
    with st.container(horizontal=True):
        st.button(
            "Fork",
            icon=":material/fork_right:",
            on_click=fork,
            args=(run,),
            help="A new run from the same initial weights, in the same order of images, with one thing changed.",
        )
        with st.popover("Name", icon=":material/edit:"):
            st.session_state.new_name = run.name
            st.text_input("Name of the run", key="new_name", max_chars=60, on_change=ask, args=(run, "rename"))
        st.button("Delete", icon=":material/delete:", on_click=ask, args=(run, "delete"), disabled=run.active)
    active = run.active
    behind = manager.get(ghost) if ghost != chosen else None
    guard.fragment(watch, TICK_SECONDS if active else None)(run, active, asked is not None)
    guard.fragment(curves, CURVES_SECONDS if active else None)(run, behind)
else:
    if chosen_before is not None:
        st.warning(
            f"The run {escaped(chosen_before)} is not known here: it was deleted, or belongs to another installation.",
            icon=":material/history:",
        )
    st.info(
        "Press Start training. It goes on in the background: you may close this tab, or draw while it learns.",
        icon=":material/info:",
    )
if runs:
    with st.expander(f"All runs ({len(runs)})", icon=":material/list:", key="all_runs", on_change="rerun") as listed:
        if listed.open:
            run_table(runs)
set_browser_cookie()
