"""Design: channel widths in, every layer's shape, cost and receptive field out."""

from __future__ import annotations

from typing import Literal

import streamlit as st
from pandas import DataFrame
from pandas.io.formats.style import Styler

from lib import edits
from lib.analysis import PARAMETER_LIMIT, NetworkAnalysis, Verdict, analyse, describe, fold, percent, verdicts
from lib.architecture import (
    ASSIGNMENT_FIELDS,
    INPUT_SHAPE,
    PRESETS,
    Architecture,
    ArchitectureError,
    Convolution,
    FullyConnected,
    logits_layer,
    notation,
    parse,
    shape_text,
)
from lib.components import enter, network_input, network_view
from lib.dataset import DatasetError
from lib.export import pytorch_source, table_csv, table_markdown
from lib.resources import example_digits, final_accuracy, warm_up

enter("design")

WIDTHS = [*range(1, 33), *range(36, 65, 4), *range(72, 129, 8), *range(160, 513, 32), 640, 768, 1024]
BADGES: dict[str, tuple[str, Literal["green", "red", "gray"]]] = {
    "met": (":material/check_circle:", "green"),
    "missed": (":material/cancel:", "red"),
    "unknown": (":material/help:", "gray"),
}
MAX_UNDO = 50
GUESSED = ["Parameters", "Share", "Receptive field", "Jump"]
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
    change(notation(edits.widen(architecture, index, st.session_state[f"width_{index}"])))


def edit_layer(architecture: Architecture, index: int) -> None:
    change(notation(edits.apply(architecture, index, st.session_state[f"edit_{index}"])))


def layer_row(architecture: Architecture, index: int) -> None:
    """A slider for the width, where the layer has one, and a menu of what else may be done."""
    layer = architecture.layers[index]
    label = f"{index + 1} · {describe(layer)}"
    has_width = isinstance(layer, Convolution | FullyConnected)
    control, more = st.columns([4, 1], vertical_alignment="bottom" if has_width else "center", wrap=False)
    match layer:
        case Convolution(width) | FullyConnected(width):
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
    if actions := edits.possible(architecture, index):
        more.menu_button(
            "Edit",
            actions,
            key=f"edit_{index}",
            on_click=edit_layer,
            args=(architecture, index),
            type="tertiary",
        )


def table(analysis: NetworkAnalysis, guessing: bool) -> Styler:
    """The rows of the table, numbers as numbers so that they stand right; the sums last.

    While the class is `guessing`, without the columns that are asked for.
    """
    rows: list[dict[str, object]] = [
        {
            "Layer": row.label + PAST_THE_EDGE * (row.receptive_field > IMAGE_PIXELS and not guessing),
            "Output": unbroken(shape_text(row.output_shape)),
            "Parameters": row.num_params,
            "Share": row.share,
            "MACs": row.macs,
            "Receptive field": row.receptive_field,
            "Jump": row.jump,
        }
        for row in analysis.rows
    ]
    rows.append(
        {
            "Layer": "**Total**",
            "Output": "",
            "Parameters": analysis.num_params,
            "Share": sum(row.share for row in analysis.rows),
            "MACs": analysis.macs,
        }
    )
    formats = {
        "Parameters": "{:,}",
        "Share": lambda share: unbroken(percent(share)),
        "MACs": "{:,}",
        "Receptive field": "{:.0f}",
        "Jump": "{:.0f}",
    }
    frame = DataFrame(rows).drop(columns=GUESSED if guessing else [])
    return frame.style.format({name: form for name, form in formats.items() if name in frame}, na_rep="")


def unbroken(text: str) -> str:
    """A figure that keeps to one line of a narrow table."""
    return text.replace(" ", "\u00a0")


def corrected(analysis: NetworkAnalysis) -> DataFrame:
    """What the assignment's comments say of each layer's receptive field, beside what it is."""
    return DataFrame(
        {
            "Layer": row.label,
            "Its comment says": "no comment" if claimed is None else f"{claimed}",
            "It is": f"{row.receptive_field}",
        }
        for row, claimed in zip(analysis.rows, ASSIGNMENT_FIELDS, strict=True)
    )


def verdict_card(verdict: Verdict) -> None:
    icon, colour = BADGES[verdict.status]
    with st.container(border=True, height="stretch", gap="xxsmall"):
        st.caption(verdict.limit)
        st.markdown(f"### {verdict.value}")
        st.badge(verdict.status, icon=icon, color=colour)


st.title("Design a network")
st.caption(
    "Choose how many channels each convolution has. The table says what every layer outputs, costs and sees: "
    "the receptive field is the square of input pixels that one value of the layer depends on."
)
presets = st.container()
text = network_input(
    "16 is a 3×3 convolution with 16 channels. Suffixes: v no padding, p1 padding 1, k5 kernel 5×5, s2 stride 2, "
    "d2 dilation 2, n no batch norm, b batch norm before the activation. M: max-pool 2×2 (M3s2: 3×3, stride 2); "
    "A: global average pool (A3s2: 3×3, stride 2); D10: dropout 10 %; 64f: fully connected. The address holds it."
)
with presets:
    preset = next((preset for preset in PRESETS if preset.text == text), None)
    st.session_state.preset = preset.title if preset else None
    st.pills("Start from", [preset.title for preset in PRESETS], key="preset", on_change=load_preset)
    if not st.session_state.guess:
        st.caption(preset.story if preset else "A network of your own.")

mistaken = False
try:
    architecture = parse(text)
    st.session_state.last_valid = architecture
except ArchitectureError as error:
    mistaken = True
    st.error(str(error), icon=":material/error:")
    architecture = st.session_state.get("last_valid", parse(PRESETS[0].text))
    st.caption(f"Shown below is the last network that could be built: `{notation(architecture)}`")

analysis = analyse(architecture)
epochs = st.session_state.epochs
with st.grid(4, min_column_width=150):
    for verdict in verdicts(analysis, architecture, epochs, final_accuracy(architecture)):
        hidden = st.session_state.guess and verdict.limit == PARAMETER_LIMIT
        verdict_card(Verdict(verdict.limit, "Guess", "unknown") if hidden else verdict)

with st.container(horizontal=True):
    if st.button("Train this network", type="primary", icon=":material/play_arrow:", disabled=mistaken):
        st.switch_page("pages/train.py")
    st.button("Undo", icon=":material/undo:", on_click=undo, disabled=not st.session_state.get("undo"))

try:
    network_view(architecture, example_digits(), guessing=st.session_state.guess)
except DatasetError as error:
    st.error(str(error), icon=":material/error:")

editor, results = st.columns([4, 8], gap="large")
with editor:
    st.subheader("Layers")
    for index in range(len(architecture.layers)):
        layer_row(architecture, index)

with results:
    st.subheader("What each layer outputs, costs and sees")
    with st.container(horizontal=True):
        every_module = st.toggle("One row for every nn layer", key="modules")
        guessing = st.toggle(
            "Let the class guess first",
            key="guess",
            help="Hides the parameters and receptive fields until you switch it off. The address keeps it.",
        )
    folded = fold(analysis, architecture)
    shown = analysis if every_module else folded
    st.table(
        table(shown, guessing),
        border="horizontal",
        hide_index=True,
        alt="One row a layer: output shape, parameters, their share, MACs, receptive field and jump; totals last",
    )
    st.caption(
        f"{analysis.macs / 1e6:.2f} million multiply-accumulates (MACs) an image. Receptive field r and jump j follow "
        "r′ = r + d · (k − 1) · j and j′ = j · s, with kernel k, dilation d (else 1) and stride s; a 2×2 pool "
        "adds one jump to r, it does not double it."
    )
    if analysis.receptive_field > IMAGE_PIXELS and not guessing:
        st.caption(
            f"Marked{PAST_THE_EDGE}: the receptive field is wider than the image's {IMAGE_PIXELS} pixels. A layer that "
            "already sees the whole image can find no wider pattern; what it adds is depth. Richter and others call "
            "such layers unproductive."
        )
    if text in (preset.text for preset in PRESETS[:2]) and not guessing:
        with st.expander("The assignment's receptive fields, corrected", icon=":material/rule:"):
            st.table(corrected(folded), border="horizontal", hide_index=True, alt="Claimed and true receptive fields")
            st.caption(
                "The comments double the field at every pool. A 2×2 pool with stride 2 adds one jump to the field and "
                "doubles the jump: 7 becomes 8, not 14, and only the layers after it grow twice as fast."
            )
    if not guessing:
        with st.expander("Take it away", icon=":material/download:"):
            source = pytorch_source(architecture)
            with st.container(horizontal=True):
                for label, content, name in (
                    ("PyTorch source", source, "network.py"),
                    ("Table as CSV", table_csv(shown), "network.csv"),
                    ("Table as Markdown", table_markdown(shown), "network.md"),
                ):
                    st.download_button(label, content, name, on_click="ignore", icon=":material/download:")
            st.code(source, language="python")
warm_up()
