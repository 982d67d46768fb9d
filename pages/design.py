"""Design: channel widths in; shape, cost and receptive field of every layer out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import streamlit as st
from pandas import DataFrame
from pandas.io.formats.style import Styler

from lib.data.dataset import DatasetError
from lib.design import edits
from lib.design.analysis import LayerAnalysis, NetworkAnalysis, activation_bytes, analyze, per_layer
from lib.design.diff import LayerDiff, diff_layers
from lib.design.exercise import COMMENTED_FIELDS, PARAMS_REQUIREMENT, Requirement, requirements
from lib.design.layers import INPUT_SHAPE, Architecture, ArchitectureError, Convolution, FullyConnected, logits_layer
from lib.design.notation import notation, parse
from lib.design.presets import PRESETS
from lib.design.recipe import RecipeError
from lib.export.pytorch_source import pytorch_source
from lib.export.tables import COLUMNS, layers_csv, layers_markdown
from lib.text.formatting import megabytes, shape_text
from lib.text.untrusted_text import escaped, visible
from lib.training.time_estimate import estimate_text
from lib.ui import guard
from lib.ui.cache import example_digits, onnx_file, trained_accuracy, trained_checkpoints
from lib.ui.charts.design import layer_sizes
from lib.ui.page import setup_page
from lib.ui.url_state import HIDEABLE_SECTIONS, MAX_LENGTH, hidden, recipe
from lib.ui.warm_up import machine_profile, warm_up
from lib.ui.widgets import live_figure, network_input, network_view, preset_pills

setup_page("design")

WIDTHS = [*range(1, 33), *range(36, 65, 4), *range(72, 129, 8), *range(160, 513, 32), 640, 768, 1024]
BADGES: dict[str, tuple[str, Literal["green", "red", "gray"]]] = {
    "met": (":material/check_circle:", "green"),
    "missed": (":material/cancel:", "red"),
    "unknown": (":material/help:", "gray"),
}
MAX_UNDO = 50
GUESSED = {"parameters", "share", "receptive_field", "jump", "center"}
ROW_PIXELS = 26
# Links, because a keyboard scrolls a table that is wider than its screen only where something in it can have the focus.
LAYER, THIS_DESIGN = "[Layer](#layers)", "[This design](#layers)"
ESTIMATE_SECONDS = 1.0
IMAGE_PIXELS = INPUT_SHAPE[1]
PAST_THE_EDGE = f" :orange-badge[> {IMAGE_PIXELS}]"


def change(text: str) -> None:
    """Take `text` as the network and keep the one before for Undo."""
    st.session_state.undo = [*st.session_state.get("undo", []), st.session_state.net][-MAX_UNDO:]
    st.session_state.net = text


def undo() -> None:
    st.session_state.net = st.session_state.undo.pop()


def load_preset() -> None:
    chosen = next((preset.text for preset in PRESETS if preset.title == st.session_state.preset), None)
    if chosen:
        change(chosen)


def set_width(architecture: Architecture, index: int) -> None:
    change(notation(edits.set_width(architecture, index, st.session_state[f"width_{index}"])))


def edit_layer(architecture: Architecture, index: int) -> None:
    change(notation(edits.apply(architecture, index, st.session_state[f"edit_{index}"])))


def layer_row(architecture: Architecture, index: int, actions: list[str]) -> None:
    """A slider for the width, if the layer has one, and a menu of the other actions."""
    layer = architecture.layers[index]
    label = f"{index + 1} · {layer.description}"
    has_width = isinstance(layer, Convolution | FullyConnected)
    control, more = st.columns([4, 1], vertical_alignment="bottom" if has_width else "center", wrap=False)
    match layer:
        case Convolution(channels=width) | FullyConnected(features=width):
            is_logits = index == logits_layer(architecture)
            st.session_state[f"width_{index}"] = width
            control.select_slider(
                label,
                options=sorted({*WIDTHS, width}),
                key=f"width_{index}",
                on_change=set_width,
                args=(architecture, index),
                disabled=is_logits,
                help="The logits: one channel for each of the ten digits." if is_logits else None,
            )
        case _:
            control.markdown(f":gray-background[{label}]")
    if actions:
        more.menu_button(
            "Edit",
            actions,
            key=f"edit_{index}",
            on_click=edit_layer,
            args=(architecture, index),
            type="tertiary",
        )


def table(analysis: NetworkAnalysis, batch_size: int, guessing: bool) -> Styler:
    """The table of layers with numeric cells, which are aligned to the right; the last row has the totals.

    The memory of a batch takes the place of the activations. While the class is `guessing`, the columns with the
    answers are left out.
    """
    labels = [row.label + ("" if guessing else badges(row)) for row in analysis.rows]
    cells: dict[str, list[object]] = {LAYER: [*labels, "**Total**"]}
    formats: dict[str, Callable[[Any], str]] = {}
    for column in COLUMNS[1:]:
        values = [column.value(row) for row in analysis.rows]
        if column.name == "activations":
            sized: tuple[LayerAnalysis | NetworkAnalysis, ...] = (*analysis.rows, analysis)
            cells["Memory"] = [activation_bytes(row, batch_size) for row in sized]
            formats["Memory"] = unbroken(megabytes)
        elif not column.is_number:
            cells[column.title] = [*map(unbroken(column.text), values), ""]
        elif not (guessing and column.name in GUESSED):
            cells[column.title] = [*values, column.total(analysis)]
            formats[column.title] = unbroken(column.text)
    return DataFrame(cells).style.format(formats, na_rep="")


def badges(row: LayerAnalysis) -> str:
    """What a row is marked with; the captions below the table say why."""
    marks = PAST_THE_EDGE if row.receptive_field > IMAGE_PIXELS else ""
    return marks + (f" :violet-badge[{row.unused_note}]" if row.unused_note else "")


def unbroken(text: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same text on one line, also in a narrow table."""
    return lambda value: text(value).replace(" ", "\u00a0")


def corrected(analysis: NetworkAnalysis) -> DataFrame:
    """What the assignment's comments say of each layer's receptive field, beside what it is."""
    return DataFrame(
        {
            "Layer": row.label,
            "Its comment says": "no comment" if claimed is None else f"{claimed}",
            "It is": f"{row.receptive_field}",
        }
        for row, claimed in zip(analysis.rows, COMMENTED_FIELDS, strict=True)
    )


def compared(found: tuple[LayerDiff, ...]) -> Styler:
    """Both designs layer by layer; rows in which they differ have their difference."""

    def side(row: LayerAnalysis | None) -> tuple[str, str]:
        return (row.label, unbroken(shape_text)(row.output_shape)) if row else ("", "")

    def field(row: LayerAnalysis | None) -> float | None:
        return row.receptive_field if row else None

    rows = [
        {
            THIS_DESIGN: side(pair.left)[0],
            "Output": side(pair.left)[1],
            "The other": side(pair.right)[0],
            "Its output": side(pair.right)[1],
            "Parameters": pair.left.num_params if pair.left else None,
            "Its parameters": pair.right.num_params if pair.right else None,
            "More or fewer": pair.num_params,
            "MACs, more or fewer": pair.macs,
            "Receptive field": field(pair.left),
            "Its field": field(pair.right),
        }
        for pair in found
    ]
    rows.append(
        {
            THIS_DESIGN: "**Total**",
            "Parameters": sum(pair.left.num_params for pair in found if pair.left),
            "Its parameters": sum(pair.right.num_params for pair in found if pair.right),
            "More or fewer": sum(pair.num_params for pair in found),
            "MACs, more or fewer": sum(pair.macs for pair in found),
        }
    )
    whole = dict.fromkeys(("Parameters", "Its parameters", "Receptive field", "Its field"), "{:,.0f}")
    signed = dict.fromkeys(("More or fewer", "MACs, more or fewer"), signed_number)
    return DataFrame(rows).style.format({**whole, **signed}, na_rep="")


def signed_number(number: float) -> str:
    return "=" if number == 0 else f"{number:+,.0f}".replace("-", "−")


def comparison(architecture: Architecture, other: Architecture) -> None:
    """The totals of the other design with their difference, then the layers."""
    one, two = analyze(architecture), analyze(other)
    batch_size = st.session_state.batch_size
    with st.grid(4, min_column_width=180):
        for label, mine, its, form in (
            ("Parameters", one.num_params, two.num_params, "{:,}".format),
            ("MACs", one.macs, two.macs, "{:,}".format),
            ("Memory", activation_bytes(one, batch_size), activation_bytes(two, batch_size), megabytes),
            ("Receptive field", one.receptive_field, two.receptive_field, "{:,}".format),
        ):
            less = f"−{form(mine - its)}" if its < mine else f"+{form(its - mine)}"
            st.metric(
                f"{label} of the other",
                form(its),
                "as this one" if its == mine else f"{less} against this one",
                delta_color="off",
                delta_arrow="off",
                border=True,
            )
    for name, analysis, shape in (("This design", one, architecture), ("The other", two, other)):
        for row in per_layer(analysis, shape).rows:
            if row.unused_note:
                st.caption(f"{name}, layer {row.label}: {row.unused_note} by the logits; the others are not.")
    st.table(
        compared(diff_layers(architecture, other)),
        border="horizontal",
        hide_index=True,
        alt="Both designs layer by layer: outputs, parameters, MACs and receptive fields, and their differences",
    )


def compare_with(text: str) -> None:
    st.session_state.compare = text


def compare_with_preset() -> None:
    chosen = st.session_state.compare_preset
    compare_with(next((preset.text for preset in PRESETS if preset.title == chosen), ""))


def compare_section(architecture: Architecture) -> None:
    """Another design, typed or taken from the presets, beside this one."""
    with st.expander("Compare with another design", expanded=bool(st.session_state.compare), icon=":material/compare:"):
        chosen = next((preset.title for preset in PRESETS if preset.text == st.session_state.compare), None)
        st.session_state.compare_preset = chosen
        titles = [preset.title for preset in PRESETS]
        preset_pills("Compare with", titles, key="compare_preset", on_change=compare_with_preset)
        text = st.text_input(
            "The other network in one line",
            key="compare",
            max_chars=MAX_LENGTH,
            placeholder="Choose one above, or type one: 4 8 M 16 10 A",
        )
        with st.container(horizontal=True):
            st.button(
                "Keep this design to compare with",
                on_click=compare_with,
                args=(notation(architecture),),
                icon=":material/push_pin:",
                help="Makes the design as it is now the other one; then change this one and see what it changes.",
            )
            st.button("Clear", on_click=compare_with, args=("",), disabled=not text, icon=":material/close:")
        if not text.strip():
            return
        try:
            other = parse(text)
        except ArchitectureError as error:
            st.error(escaped(f"The other network: {error}"), icon=":material/error:")
            return
        comparison(architecture, other)


def take_away(architecture: Architecture, shown: NetworkAnalysis) -> None:
    """Source, tables, and the trained networks of this very architecture."""
    with st.expander("Take it away", icon=":material/download:", on_change="rerun", key="take") as section:
        # Nothing is written, highlighted or read from checkpoints for who does not look.
        if not section.open:
            return
        source = pytorch_source(architecture)
        with st.container(horizontal=True):
            for label, content, name in (
                ("PyTorch source", source, "network.py"),
                ("Table as CSV", layers_csv(shown), "network.csv"),
                ("Table as Markdown", layers_markdown(shown), "network.md"),
            ):
                st.download_button(label, content, name, on_click="ignore", icon=":material/download:")
            found = trained_checkpoints(architecture)
            for title, path in found.items():
                st.download_button(
                    f"ONNX: {escaped(title)}",
                    partial(onnx_file, path),
                    f"{visible(path.stem)}.onnx",
                    on_click="ignore",
                    icon=":material/download:",
                    help="The trained network for any other program; it takes pixels from 0 to 1, white on black.",
                )
        if not found:
            st.caption("Train this network, and it can be taken away as an ONNX file too.")
        st.code(source, language="python")


def estimate(architecture: Architecture, ticking: bool) -> None:
    """What a training will take here."""
    rate = machine_profile()
    if rate is None:
        st.caption("Measuring how fast this machine trains…")
        return
    if ticking:
        # It is known now: the page must stop this fragment's ticking.
        st.rerun()
    with suppress(RecipeError):
        st.caption(estimate_text(rate, architecture, recipe()))


def verdict_card(verdict: Requirement) -> None:
    icon, colour = BADGES[verdict.status]
    with st.container(border=True, height="stretch", gap="xxsmall"):
        st.caption(verdict.limit)
        st.markdown(f"## {verdict.value}")
        st.badge(verdict.status, icon=icon, color=colour)


st.caption(
    "Choose how many channels each convolution has. The table says what every layer outputs, costs and sees: "
    "the receptive field is the square of input pixels that one value of the layer depends on."
)
guessing = st.session_state.guess
presets = st.container()
text = network_input(
    "16 is a 3×3 convolution with 16 channels. Suffixes: v no padding, p1 padding 1, k5 kernel 5×5, s2 stride 2, "
    "d2 dilation 2, n no batch norm, b batch norm before the activation. M: max-pool 2×2 (M3s2: 3×3, stride 2); "
    "A: global average pool (A3s2: 3×3, stride 2); D10: dropout 10 %; 64f: fully connected. The address holds it."
)
preset = next((preset for preset in PRESETS if preset.text == text), None)
if not hidden("presets"):
    with presets:
        st.session_state.preset = preset.title if preset else None
        preset_pills("Start from", [preset.title for preset in PRESETS], key="preset", on_change=load_preset)
        if not guessing:
            st.caption(preset.story if preset else "A network of your own.")

mistaken = False
try:
    architecture = parse(text)
    st.session_state.last_valid = architecture
except ArchitectureError as error:
    mistaken = True
    st.error(escaped(str(error)), icon=":material/error:")
    architecture = st.session_state.get("last_valid", parse(PRESETS[0].text))
    st.markdown(f"Shown below is the last network that could be built: `{notation(architecture)}`")

analysis = analyze(architecture)
folded = per_layer(analysis, architecture)
if not hidden("verdicts"):
    with st.grid(4, min_column_width=150):
        for verdict in requirements(analysis, architecture, st.session_state.epochs, trained_accuracy(architecture)):
            unknown = guessing and verdict.limit == PARAMS_REQUIREMENT
            verdict_card(Requirement(verdict.limit, "Guess", "unknown") if unknown else verdict)

with st.container(horizontal=True, vertical_alignment="center"):
    if st.button("Train this network", type="primary", icon=":material/play_arrow:", disabled=mistaken):
        st.switch_page("pages/train.py")
    st.button("Undo", icon=":material/undo:", on_click=undo, disabled=not st.session_state.get("undo"))
    if not hidden("estimate"):
        unmeasured = machine_profile() is None
        guard.fragment(estimate, ESTIMATE_SECONDS if unmeasured else None)(architecture, unmeasured)

drawing = st.container()
if hidden("layers"):
    editor, results = None, st.container()
else:
    editor, results = st.columns([4, 9], gap="large")
with results:
    every_module = st.session_state.modules
    shown = analysis if every_module else folded
    batch_size = st.session_state.batch_size
    if not hidden("table"):
        st.subheader("What each layer outputs, costs and sees")
        with st.container(horizontal=True):
            st.toggle("One row for every nn layer", key="modules")
            if not hidden("guess"):
                st.toggle(
                    "Let the class guess first",
                    key="guess",
                    help="Hides the parameters and receptive fields until you switch it off. The address keeps it.",
                )
        st.table(
            table(shown, batch_size, guessing),
            border="horizontal",
            hide_index=True,
            alt="One row a layer: output, parameters, share, MACs, memory, field, jump and center; totals last",
        )
        st.caption(
            f"{analysis.macs / 1e6:.2f} million multiply-accumulates (MACs) an image. Memory is what the outputs of a "
            f"batch of {batch_size:,} images take. Receptive field r and jump j follow r′ = r + d · (k − 1) · j and "
            "j′ = j · s, with kernel k, dilation d (else 1) and stride s; a 2×2 pool adds one jump to r, it does not "
            "double it. Center is the center of the first output's field, in pixels; 0 is the first pixel of the image."
        )
        if analysis.receptive_field > IMAGE_PIXELS and not guessing:
            st.caption(
                f"Marked{PAST_THE_EDGE}: the receptive field is wider than the image's {IMAGE_PIXELS} pixels. A layer "
                "that already sees the whole image can find no wider pattern; what it adds is depth. Richter and "
                "others call such layers unproductive."
            )
        if not guessing and any(row.unused_note for row in shown.rows):
            st.caption(
                "Marked “positions used”: no logit depends on the other positions. Where a size is not a multiple of "
                "the stride, the last rows and columns are left over."
            )
    chart = st.container()

# All else is drawn after the table, which is what somebody who moves a slider looks at.
if editor:
    with editor:
        st.subheader("Layers")
        for index, actions in enumerate(edits.available_actions(architecture)):
            layer_row(architecture, index, actions)
if not hidden("drawing"):
    with drawing:
        try:
            network_view(architecture, example_digits(), guessing=guessing)
        except DatasetError as error:
            st.error(escaped(str(error)), icon=":material/error:")
if not guessing and not hidden("costs"):
    with chart:
        st.subheader("Where the parameters and the work are")
        live_figure(
            layer_sizes(folded, architecture),
            key="costs",
            height=110 + ROW_PIXELS * len(folded.rows),
            revision=notation(architecture),
            tools=False,
            alt="Parameters and MACs of each layer, added up to the totals, beside the budget of 20,000 parameters",
        )

if not guessing:
    if preset in PRESETS[:2] and not hidden("table"):
        with st.expander("The assignment's receptive fields, corrected", icon=":material/rule:"):
            st.table(corrected(folded), border="horizontal", hide_index=True, alt="Claimed and true receptive fields")
            st.caption(
                "The comments double the field at every pool. A 2×2 pool with stride 2 adds one jump to the field and "
                "doubles the jump: 7 becomes 8, not 14, and only the layers after it grow twice as fast."
            )
            other = PRESETS[1 - PRESETS.index(preset)]
            st.caption(
                "The assignment's code and its summary table are two networks of 9,274 parameters: the code pads "
                "convolution 6 and not 7, the table the other way round, and the table's last pool reads 9 of the 16 "
                "positions below it."
            )
            st.button(
                "See the two side by side",
                on_click=compare_with,
                args=(other.text,),
                icon=":material/compare:",
                disabled=hidden("compare"),
            )
    if not hidden("compare"):
        compare_section(architecture)
    if not hidden("take"):
        take_away(architecture, shown)
if not hidden("teacher"):
    with st.expander("For the teacher", icon=":material/school:", expanded=bool(st.session_state.hide)):
        st.multiselect(
            "Hide from the pages",
            list(HIDEABLE_SECTIONS),
            key="hide",
            format_func=HIDEABLE_SECTIONS.__getitem__,
            placeholder="Nothing is hidden",
        )
        st.caption(
            "The address keeps what is hidden, the network and every switch: copy it, and a class that opens it sees "
            "the same. Hide this box too, and only the address can bring it back."
        )
warm_up()
