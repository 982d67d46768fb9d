"""The chosen run on the Train page: progress, controls, accuracies and curves; and the list of all runs."""

from __future__ import annotations

import sys
from urllib.parse import quote

import streamlit as st

from lib.design.notation import notation
from lib.evaluation.proportion import accuracy_text, interval_text
from lib.runs.run_record import ACTIVE
from lib.runs.training_run import Run, RunStatus
from lib.text.formatting import percent
from lib.text.untrusted_text import escaped
from lib.training.time_estimate import duration, epoch_seconds, estimate_error_text
from lib.ui import guard
from lib.ui.browser_identity import browser_id
from lib.ui.cache import run_manager
from lib.ui.charts.training import RunCurves, training_curves
from lib.ui.notices import has_error
from lib.ui.run_actions import fork_run, pending_request, pop_stepped, request_action, restart_run
from lib.ui.run_text import owner_text, progress_text, reported_accuracy, started_text
from lib.ui.url_state import hidden
from lib.ui.warm_up import machine_profile
from lib.ui.widgets import live_figure

# A click is answered immediately, a change from elsewhere at the next tick. More ticks would slow the training,
# mostly by drawing the curves.
TICK_SECONDS, CURVES_SECONDS = 1.0, 4.0
LR_MULTIPLIERS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def run_panel(run: Run, reference: Run | None) -> None:
    """Show a run, whose status and curves are updated while it is active, and the curves of a reference run."""
    with st.container(horizontal=True):
        st.button(
            "Fork",
            icon=":material/fork_right:",
            on_click=fork_run,
            args=(run,),
            help="A new run with the same initial weights and the same order of images, to change one thing.",
        )
        with st.popover("Rename", icon=":material/edit:"):
            st.session_state.new_name = run.name
            st.text_input(
                "Name of the run", key="new_name", max_chars=60, on_change=request_action, args=(run, "rename")
            )
        st.button(
            "Delete", icon=":material/delete:", on_click=request_action, args=(run, "delete"), disabled=run.active
        )
    active = run.active
    asking = pending_request() is not None
    guard.fragment(_status_panel, TICK_SECONDS if active else None)(run, ticking=active, asking=asking)
    guard.fragment(_curves_panel, CURVES_SECONDS if active else None)(run, reference)


def run_list(runs: list[Run]) -> None:
    """Show all runs with their state and accuracy, in an expander."""
    with st.expander(f"All runs ({len(runs)})", icon=":material/list:", key="all_runs", on_change="rerun") as section:
        if section.open:
            st.table([_run_row(run) for run in runs])


def _status_panel(run: Run, *, ticking: bool, asking: bool) -> None:
    """Progress and numbers of a run; `asking` while the page shows the confirmation dialog."""
    status = run.snapshot()
    if (
        # A step may have ended already, and then the curves do not tick.
        pop_stepped()
        or ticking != (status.status in ACTIVE)
        or run_manager().get(run.identity) is not run
        or has_error()
        or (pending_request() and not asking)
    ):
        # The run has ended, goes on or was deleted, or an action was refused or must be confirmed: the whole page must
        # show it, and this fragment stop or begin to tick.
        st.rerun()
    st.subheader(f"{escaped(run.name)}: `{notation(run.architecture)}`")
    if status.status in ACTIVE or status.status == "paused":
        st.progress(min(status.step / max(status.steps_total, 1), 1.0), text=progress_text(run, status))
    if status.status not in ACTIVE:
        _outcome(run, status)
    _diagnosis(run, status)
    _controls(run, status)
    if status.save_error:
        st.warning(escaped(status.save_error), icon=":material/save:")
    _accuracies(run, status)


def _curves_panel(run: Run, reference: Run | None) -> None:
    status = run.snapshot()
    other = reference.snapshot() if reference else None
    live_figure(
        training_curves(
            RunCurves(status.curves, status.epochs, run.recipe.validation),
            max(status.steps_total, other.step if other else 0),
            RunCurves(other.curves, other.epochs, reference.recipe.validation, reference.name)
            if reference and other
            else None,
        ),
        key="curves",
        height=640,
        revision=run.identity,
        alt="Loss, accuracy and learning rate of the run over its steps",
    )


def _outcome(run: Run, status: RunStatus) -> None:
    """Say how a run that is not active has ended, or where it is paused."""
    match status.status:
        case "failed":
            st.error(escaped(f"{status.message} The curves up to that point are kept below."), icon=":material/error:")
        case "paused":
            st.info(
                "Paused. Resume it, or continue by one step or one epoch. Meanwhile another run can train.",
                icon=":material/pause_circle:",
            )
        case "interrupted":
            st.warning(
                f"Receptive was closed while this run was in training. It was saved at step {status.step:,}. Resume "
                "it, and it continues as if nothing had happened.",
                icon=":material/power_settings_new:",
            )
        case "stopped" if not status.step:
            st.info("Stopped before the first batch.", icon=":material/stop_circle:")
        case "stopped":
            st.info(
                f"Stopped at step {status.step:,}. Its network is on the Draw page. You can resume the run.",
                icon=":material/stop_circle:",
            )
        case "finished" if status.epochs:
            seconds = sum(epoch.seconds for epoch in status.epochs)
            accuracy = accuracy_text(*reported_accuracy(status.epochs[-1]))
            # A training that has not learned is no success, and `_diagnosis` says why.
            show, icon = (st.info, ":material/flag:") if status.diagnosis else (st.success, ":material/check_circle:")
            show(
                f"Finished: {accuracy} on the test images after the final epoch, trained in {duration(seconds)}.",
                icon=icon,
            )
            profile = machine_profile()
            if profile and not hidden("estimate"):
                estimated = epoch_seconds(profile, run.architecture, run.recipe)
                st.caption(estimate_error_text(estimated, seconds / len(status.epochs)))


def _diagnosis(run: Run, status: RunStatus) -> None:
    """Say why the run does not learn, and offer to start again with another learning rate if that is the remedy."""
    if not status.diagnosis:
        return
    st.warning(status.diagnosis.text, icon=":material/troubleshoot:")
    rate = status.diagnosis.learning_rate
    if rate is not None:
        st.button(
            f"Start again with a learning rate of {rate:g}",
            icon=":material/replay:",
            on_click=restart_run,
            args=(run, rate),
            help="Stops this run if it is yours, and starts a new one with the same initial weights.",
        )


def _controls(run: Run, status: RunStatus) -> None:
    active = status.status in ACTIVE
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if active:
            ending = status.status in ("stopping", "pausing")
            st.button("Pause", icon=":material/pause:", on_click=request_action, args=(run, "pause"), disabled=ending)
            st.button("Stop", icon=":material/stop:", on_click=request_action, args=(run, "stop"), disabled=ending)
        elif run.resumable:
            st.button("Resume", icon=":material/play_arrow:", on_click=request_action, args=(run, "resume"))
            st.button("One step", icon=":material/skip_next:", on_click=request_action, args=(run, "step"))
            st.button("One epoch", icon=":material/fast_forward:", on_click=request_action, args=(run, "epoch"))
            if status.status == "paused":
                st.button("Stop", icon=":material/stop:", on_click=request_action, args=(run, "stop"))
        if (active and status.status != "queued") or run.resumable:
            st.session_state.lr_multiplier = min(LR_MULTIPLIERS, key=lambda scale: abs(scale - status.lr_scale))
            st.select_slider(
                "Learning-rate multiplier",
                LR_MULTIPLIERS,
                key="lr_multiplier",
                format_func="{:g}".format,
                on_change=request_action,
                args=(run, "learning rate"),
                width=220,
                help="Multiplies the learning rate of the schedule from the next batch on.",
            )


def _accuracies(run: Run, status: RunStatus) -> None:
    """Metrics of the last epoch, and the best epoch, marked as chosen by its validation images."""
    if not status.epochs:
        st.caption("The first accuracy appears at the end of the first epoch.")
        return
    last = status.epochs[-1]
    best = max(status.epochs, key=lambda epoch: epoch.validation_accuracy)
    is_final, on_test = last.epoch == run.recipe.epochs, run.recipe.validation == "test"
    measured = "Test" if on_test or last.test_accuracy is not None else "Held-out"
    with st.grid(4, min_column_width=200):
        _accuracy_metric(
            f"{measured} accuracy, final epoch" if is_final else f"{measured} accuracy, epoch {last.epoch}",
            *reported_accuracy(last),
            help="The one to report. CI: confidence interval for this number of images (Wilson 1927).",
        )
        _accuracy_metric(
            "Training accuracy",
            last.train_accuracy,
            round(last.images_per_second * last.seconds),
            help="Of the batches of the last epoch, each measured before its update.",
        )
        _accuracy_metric(
            f"Best epoch: {best.epoch}",
            best.validation_accuracy,
            best.validation_images,
            help=f"Chosen by the {'test' if on_test else 'held-out'} images that it is measured on, so it is "
            "optimistic. Report the final epoch.",
        )
        st.metric("Images per second", f"{last.images_per_second:,.0f}", border=True)


def _accuracy_metric(label: str, accuracy: float, images: int, *, help: str) -> None:
    st.metric(
        label,
        percent(accuracy, 2),
        f"95 % CI {interval_text(accuracy, images)}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        help=help,
    )


def _run_row(run: Run) -> dict[str, str]:
    status = run.snapshot(since_step=sys.maxsize)
    last = status.epochs[-1] if status.epochs else None
    return {
        "Run": f"[{escaped(run.name)}](/train?run={quote(run.identity, safe='')})",
        "State": status.status,
        "Accuracy, last epoch": accuracy_text(*reported_accuracy(last)) if last else "–",
        "Epochs": f"{len(status.epochs)} of {run.recipe.epochs}",
        "Network": f"`{notation(run.architecture)}`",
        "Started": started_text(run),
        "Started by": "this browser" if run.owner == browser_id() else owner_text(run),
    }
