"""Design a network: shape, cost and receptive field of every layer."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Literal

import streamlit as st

from lib.data.dataset import DatasetError
from lib.design.analysis import NetworkAnalysis, analyze, per_layer
from lib.design.exercise import COMMENTED_FIELDS, PARAMS_REQUIREMENT, Requirement, requirements
from lib.design.layers import Architecture, ArchitectureError
from lib.design.notation import notation, parse
from lib.design.presets import PRESETS, Preset
from lib.design.recipe import RecipeError
from lib.importing.stated_fields import checked
from lib.text.untrusted_text import escaped
from lib.training.time_estimate import estimate_text
from lib.ui import guard
from lib.ui.cache import example_digits, trained_accuracy
from lib.ui.charts.design import layer_sizes
from lib.ui.compare_panel import compare_panel, compare_with
from lib.ui.export_panel import export_panel
from lib.ui.import_panel import import_button, stated_fields, stated_fields_table
from lib.ui.layer_editor import layer_editor, network_menu, network_presets, undo_button
from lib.ui.layer_table import layer_table
from lib.ui.notation_help import SHORT_HELP, notation_popover
from lib.ui.page import DESIGN, TRAIN, setup_page
from lib.ui.public_results_panel import public_results_panel
from lib.ui.url_state import HIDEABLE_SECTIONS, hidden, recipe
from lib.ui.warm_up import machine_profile, warm_up
from lib.ui.widgets import live_figure, network_input, network_view

setup_page(DESIGN)

BADGES: dict[str, tuple[str, Literal["green", "red", "gray"]]] = {
    "met": (":material/check_circle:", "green"),
    "missed": (":material/cancel:", "red"),
    "unknown": (":material/help:", "gray"),
}
ROW_PIXELS = 26
ESTIMATE_SECONDS = 1.0
TABLE_FIRST_SECONDS = 0.02


def requirement_cards(analysis: NetworkAnalysis, architecture: Architecture, *, guessing: bool) -> None:
    """Show the four limits of the exercise and whether this network meets them."""
    with st.grid(4, min_column_width=150):
        for found in requirements(analysis, architecture, st.session_state.epochs, trained_accuracy(architecture)):
            is_guessed = guessing and found.limit == PARAMS_REQUIREMENT
            requirement = Requirement(found.limit, "Guess", "unknown") if is_guessed else found
            icon, color = BADGES[requirement.status]
            with st.container(border=True, height="stretch", gap="xxsmall"):
                st.caption(requirement.limit)
                st.markdown(f"## {requirement.value}")
                st.badge(requirement.status, icon=icon, color=color)


def time_estimate(architecture: Architecture, *, waiting: bool) -> None:
    """Show how long a training takes on this machine; `waiting` while the machine is not measured yet."""
    profile = machine_profile()
    if profile is None:
        st.caption("Measuring how fast this machine trains…")
        return
    if waiting:
        # The page must draw this fragment again as one that does not tick.
        st.rerun()
    with suppress(RecipeError):
        st.caption(estimate_text(profile, architecture, recipe()))


def exercise_corrections(preset: Preset, architecture: Architecture) -> None:
    """Show what the exercise states wrongly about its own network."""
    with st.expander("The assignment's receptive fields, corrected", icon=":material/rule:"):
        stated_fields_table(checked(architecture, COMMENTED_FIELDS))
        st.caption(
            "The assignment's code and its summary table are two networks of 9,274 parameters: the code pads "
            "convolution 6 and not 7, the table 7 and not 6, and the table's last pool uses 9 of the 16 positions "
            "below it."
        )
        st.button(
            "Compare the two",
            on_click=compare_with,
            args=(PRESETS[1 - PRESETS.index(preset)].text,),
            icon=":material/compare:",
            disabled=hidden("compare"),
        )


def teacher_panel() -> None:
    """Show the choice of the parts that the URL hides."""
    with st.expander("For the teacher", icon=":material/school:", expanded=bool(st.session_state.hide)):
        st.multiselect(
            "Hide from the pages",
            list(HIDEABLE_SECTIONS),
            key="hide",
            format_func=HIDEABLE_SECTIONS.__getitem__,
            placeholder="Nothing is hidden",
        )
        st.caption(
            "The page's address holds what is hidden, the network and every switch: a class that opens a copy of it "
            "sees the same. If you hide this box as well, only the address can bring it back."
        )


st.caption(
    "Choose the number of channels of each convolution. The table shows the output, the cost and the receptive field "
    "of every layer: the input pixels that one value of its output depends on."
)
guessing: bool = st.session_state.guess
presets_place = st.container()
text = network_input(SHORT_HELP)
if not hidden("network"):
    notation_popover()
preset = next((preset for preset in PRESETS if preset.text == text), None)
if not hidden("presets"):
    with presets_place:
        network_presets(preset, guessing=guessing)

is_valid = True
try:
    architecture = parse(text)
    st.session_state.last_valid = architecture
except ArchitectureError as error:
    is_valid = False
    st.error(escaped(str(error)), icon=":material/error:")
    architecture = st.session_state.get("last_valid", parse(PRESETS[0].text))
    st.markdown(f"Shown below is the last valid network: `{notation(architecture)}`")

analysis = analyze(architecture)
layers = per_layer(analysis, architecture)
rows = analysis if st.session_state.modules else layers
if not hidden("verdicts"):
    requirement_cards(analysis, architecture, guessing=guessing)
with st.container(horizontal=True, vertical_alignment="center"):
    if st.button("Train this network", type="primary", icon=":material/play_arrow:", disabled=not is_valid):
        st.switch_page(TRAIN.file)
    undo_button()
    import_button()
    if not hidden("estimate"):
        waiting = machine_profile() is None
        guard.fragment(time_estimate, ESTIMATE_SECONDS if waiting else None)(architecture, waiting=waiting)

drawing_place = st.container()
editor_place, results = (None, st.container()) if hidden("layers") else st.columns([4, 9], gap="large")
with results:
    if not hidden("table"):
        st.subheader("Model summary")
        with st.container(horizontal=True):
            st.toggle("Show nn modules", key="modules", help="One row for each PyTorch module instead of each layer.")
            if not hidden("guess"):
                st.toggle(
                    "Let the class guess first",
                    key="guess",
                    help="Hides the parameters and receptive fields until you switch it off. The page's address keeps "
                    "it.",
                )
        layer_table(rows, st.session_state.batch_size, guessing=guessing)
    chart_place = st.container()

# Everything else is drawn after the table: a reader who moves a slider looks there. The browser draws together what
# arrives together; after a pause the table is drawn first.
time.sleep(TABLE_FIRST_SECONDS)
if editor_place:
    with editor_place:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader("Layers", width="content")
            network_menu(architecture)
        layer_editor(architecture)
if not hidden("drawing"):
    with drawing_place:
        try:
            network_view(architecture, example_digits(), guessing=guessing)
        except DatasetError as error:
            st.error(escaped(str(error)), icon=":material/error:")
if not guessing and not hidden("costs"):
    with chart_place:
        st.subheader("Parameters and MACs per layer")
        live_figure(
            layer_sizes(layers, architecture),
            key="costs",
            height=125 + ROW_PIXELS * len(layers.rows),
            revision=notation(architecture),
            tools=False,
            alt="Cumulative parameters and MACs of the layers, beside the limit of 20,000 parameters",
        )
# It would tell the parameters.
if not guessing and not hidden("public"):
    with chart_place:
        public_results_panel(architecture, analysis.num_params)
if not guessing:
    imported_fields = stated_fields(architecture)
    if preset in PRESETS[:2] and not hidden("table"):
        exercise_corrections(preset, architecture)
    elif any(field.stated is not None for field in imported_fields) and not hidden("table"):
        with st.expander("The receptive fields in the comments", icon=":material/rule:", expanded=True):
            stated_fields_table(imported_fields)
    if not hidden("compare"):
        compare_panel(architecture)
    if not hidden("take"):
        export_panel(architecture, rows)
if not hidden("teacher"):
    teacher_panel()
warm_up()
