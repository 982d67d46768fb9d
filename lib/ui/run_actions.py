"""Actions on runs: start, fork, pause, stop, resume, rename, delete. Runs of other owners ask first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import streamlit as st

from lib.design.notation import notation, parse
from lib.design.recipe import Recipe, recipe_values
from lib.runs.training_run import Run, RunError
from lib.text.untrusted_text import escaped
from lib.ui import guard
from lib.ui.browser_identity import browser_id
from lib.ui.cache import run_manager
from lib.ui.notices import leave_deletion, leave_error
from lib.ui.run_text import origin_text, started_text

Action: TypeAlias = Literal["pause", "stop", "resume", "step", "epoch", "learning rate", "rename", "delete"]

# Names of the actions in the dialog about a run of another owner.
CONFIRMATIONS: dict[Action, str] = {
    "pause": "Pause anyway",
    "stop": "Stop anyway",
    "resume": "Resume anyway",
    "step": "Train one step anyway",
    "epoch": "Train one epoch anyway",
    "learning rate": "Change learning rate anyway",
    "rename": "Rename anyway",
    "delete": "Delete anyway",
}
# The widgets whose values are arguments of an action.
VALUE_KEYS: dict[Action, str] = {"learning rate": "lr_multiplier", "rename": "new_name"}
# The time that a page waits for the end of the current batch, so that it shows the result.
WAIT_SECONDS = 0.4
_REQUEST, _PARENT, _STEPPED = "run_request", "fork", "stepped"


@dataclass(frozen=True)
class ActionRequest:
    """An action on a run, with the value of its widget, that waits to be confirmed."""

    run: Run
    action: Action
    value: Any


@guard.callback
def start_run(text: str, recipe: Recipe) -> None:
    """Start a run, as a fork if one was prepared. A callback."""
    parent = st.session_state.get(_PARENT)
    try:
        run = run_manager().start(parse(text), recipe, owner=browser_id(), parent=parent)
    except RunError as error:
        leave_error(str(error))
        return
    st.session_state.run, st.session_state.ghost = run.identity, parent
    cancel_fork()


def fork_run(run: Run) -> None:
    """Put the run's network and recipe into the widgets, and let the next start be a fork of it. A callback."""
    st.session_state.update(recipe_values(run.recipe))
    st.session_state.net = notation(run.architecture)
    st.session_state[_PARENT] = run.identity


def restart_run(run: Run, rate: float) -> None:
    """Stop a run of this browser, and start a fork of it with another learning rate. A callback."""
    if run.active and run.owner == browser_id():
        request_action(run, "stop")
    fork_run(run)
    st.session_state.learning_rate = rate
    start_run(notation(run.architecture), replace(run.recipe, learning_rate=rate))


def cancel_fork() -> None:
    """Let the next start be no fork. A callback."""
    st.session_state[_PARENT] = None


def fork_parent() -> Run | None:
    """Return the run that the next start forks, or None."""
    return run_manager().get(st.session_state.get(_PARENT))


@guard.callback
def request_action(run: Run, action: Action) -> None:
    """Perform an action on a run of this browser; for other runs, let the page ask first. A callback."""
    value = st.session_state[VALUE_KEYS[action]] if action in VALUE_KEYS else None
    request = ActionRequest(run, action, value)
    if run.owner == browser_id():
        _perform(request)
    else:
        st.session_state[_REQUEST] = request


def pending_request() -> ActionRequest | None:
    """Return the request that the page must let the reader confirm, or None."""
    request: ActionRequest | None = st.session_state.get(_REQUEST)
    return request


def pop_stepped() -> bool:
    """Whether a single step was requested since the last call."""
    return bool(st.session_state.pop(_STEPPED, False))


def _clear_request() -> None:
    st.session_state[_REQUEST] = None


@st.dialog("This run was started elsewhere", icon=":material/group:", on_dismiss=_clear_request)
def confirmation_dialog(request: ActionRequest) -> None:
    """Say who owns the run, and perform the action if it is confirmed."""
    run, label = request.run, CONFIRMATIONS[request.action]
    st.markdown(
        f"{escaped(run.name)} was started {origin_text(run)} on {started_text(run)}. Someone else may be working with "
        "it."
    )
    with st.container(horizontal=True):
        if st.button(label, type="primary"):
            _clear_request()
            guard.callback(_perform)(request)
            st.rerun()
        if st.button("Cancel"):
            _clear_request()
            st.rerun()


def _perform(request: ActionRequest) -> None:
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
                st.session_state[_STEPPED] = True
            case "epoch":
                run_manager().resume(run, epochs=1)
            case "learning rate":
                run.set_lr_scale(float(request.value))
            case "rename":
                run.rename(str(request.value))
            case "delete":
                run_manager().delete(run)
                st.session_state.run = None
                leave_deletion(run.name, _undelete, run.identity, run.name)
    except RunError as error:
        leave_error(str(error))
        return
    if request.action in ("pause", "stop", "step"):
        run.wait(WAIT_SECONDS)


@guard.callback
def _undelete(identity: str, name: str) -> None:
    try:
        st.session_state.run = run_manager().undelete(identity).identity
    except RunError as error:
        leave_error(str(error))
        leave_deletion(name, _undelete, identity, name)
