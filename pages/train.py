"""Train a network: its recipe, the run in a background thread, and its curves as they grow."""

from __future__ import annotations

import streamlit as st

from lib.data.dataset import DatasetError
from lib.design.analysis import NetworkAnalysis, analyze
from lib.design.layers import ArchitectureError
from lib.design.notation import parse
from lib.design.recipe import RECIPES, Recipe, RecipeError
from lib.runs.preflight import preflight_error, trained_images
from lib.runs.training_run import Run
from lib.storage.checkpoints import SAVED_FOLDER, passed_over
from lib.text.untrusted_text import escaped, isolated
from lib.training.time_estimate import estimate_text
from lib.ui import url_state
from lib.ui.browser_identity import set_browser_cookie
from lib.ui.cache import run_manager
from lib.ui.notices import show_notices
from lib.ui.page import TRAIN, setup_page
from lib.ui.recipe_form import augmentation_preview, load_preset, recipe_form
from lib.ui.run_actions import cancel_fork, confirmation_dialog, fork_parent, pending_request, start_run
from lib.ui.run_panel import run_list, run_panel
from lib.ui.run_text import fork_text
from lib.ui.url_state import hidden
from lib.ui.warm_up import machine_profile
from lib.ui.widgets import network_input, preset_pills

setup_page(TRAIN)

MAX_WARNINGS = 3


def measurement_caption(analysis: NetworkAnalysis, recipe: Recipe | None) -> None:
    """Show the size of the network, and on which images its accuracy is measured."""
    measured = (
        "The accuracy is measured on the 10,000 test images after every epoch, as in the assignment. Choosing the best "
        "epoch by it is optimistic, so report the final one."
        if recipe is None or recipe.validation == "test"
        else "5,000 of them are held out to measure the accuracy after every epoch; the test images are used once, "
        "after the final epoch."
    )
    st.caption(
        f"{analysis.num_params:,} parameters, {analysis.macs / 1e6:.2f} million multiply-accumulates per image, "
        f"trained on the 60,000 images of MNIST. {measured}"
    )


def recipe_presets(recipe: Recipe | None, text: str) -> None:
    """Show the recipes to start from, with the current one selected."""
    preset = next((p for p in RECIPES if p.recipe == recipe and p.network in (None, text)), None)
    st.session_state.recipe = preset.title if preset else None
    preset_pills("Start from", [preset.title for preset in RECIPES], key="recipe", on_change=load_preset)
    st.caption(preset.description if preset else "A custom recipe.")


def fork_notice(text: str, recipe: Recipe | None) -> None:
    """Show what the next run will be a fork of."""
    parent = fork_parent()
    if parent:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(fork_text(parent, text, recipe), icon=":material/fork_right:")
            st.button("Cancel fork", on_click=cancel_fork)


def file_warnings() -> None:
    """Show which files of runs could not be read."""
    sentences = [*run_manager().set_aside, *passed_over(SAVED_FOLDER)]
    for sentence in sentences[:MAX_WARNINGS]:
        st.warning(escaped(sentence), icon=":material/broken_image:")
    if len(sentences) > MAX_WARNINGS:
        more = len(sentences) - MAX_WARNINGS
        st.warning(f"{more} more files of runs could not be read.", icon=":material/broken_image:")


def start_and_choose(text: str, recipe: Recipe | None, *, can_start: bool) -> tuple[Run | None, Run | None]:
    """Show the Start button and the choice of a run; return the chosen run and the one to compare it with."""
    names = {run.identity: isolated(run.name) for run in run_manager().runs()}
    missing = st.session_state.run if st.session_state.run not in names else None
    for key in ("run", "ghost"):
        if st.session_state[key] not in names:
            st.session_state[key] = None
    chosen = reference = None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "Start training",
            type="primary",
            icon=":material/play_arrow:",
            on_click=start_run,
            args=(text, recipe),
            disabled=not can_start,
        )
        if names:
            name_of = names.__getitem__
            chosen = st.selectbox("Run", names, index=None, key="run", format_func=name_of, placeholder="No run chosen")
            reference = st.selectbox(
                "Compare with run", names, index=None, key="ghost", format_func=name_of, placeholder="None"
            )
    if missing is not None:
        st.warning(
            f"The run {escaped(missing)} is not known here: it was deleted, or belongs to another installation.",
            icon=":material/history:",
        )
    return run_manager().get(chosen), run_manager().get(reference if reference != chosen else None)


text = network_input("The network from the Design page. You can change it here, too.")
problem = architecture = None
try:
    architecture = parse(text)
except ArchitectureError as error:
    problem = str(error)
measurement_place = st.container()
presets_place = st.container()

recipe: Recipe | None = None
form = None if hidden("recipe") else st.expander("Recipe", icon=":material/tune:")
if form:
    with form:
        recipe_form()
try:
    recipe = url_state.recipe()
except RecipeError as error:
    problem = f"{error} Open Recipe to change it, or choose a preset above."
if form:
    with presets_place:
        recipe_presets(recipe, text)
    if recipe:
        with form:
            try:
                augmentation_preview(recipe)
            except DatasetError as error:
                st.error(escaped(str(error)), icon=":material/error:")
if architecture:
    with measurement_place:
        measurement_caption(analyze(architecture), recipe)
if architecture and recipe:
    problem = problem or preflight_error(architecture, recipe, SAVED_FOLDER, trained_images(recipe))
    profile = machine_profile()
    if profile and not hidden("estimate"):
        st.caption(estimate_text(profile, architecture, recipe))
if problem:
    st.error(escaped(problem), icon=":material/error:")

fork_notice(text, recipe)
request = pending_request()
if request:
    confirmation_dialog(request)
show_notices()
file_warnings()
run, reference = start_and_choose(text, recipe, can_start=problem is None)
if run:
    run_panel(run, reference)
else:
    st.info(
        "Press Start training. The training runs in the background: meanwhile you can close this tab, or draw digits.",
        icon=":material/info:",
    )
runs = run_manager().runs()
if runs:
    run_list(runs)
set_browser_cookie()
