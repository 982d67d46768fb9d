"""Compare two designs: the current one, A, and another one, B, which the URL's `compare` holds."""

from __future__ import annotations

import streamlit as st
from pandas import DataFrame
from pandas.io.formats.style import Styler

from lib.design.analysis import LayerAnalysis, activation_bytes, analyze, per_layer
from lib.design.diff import LayerDiff, diff_layers
from lib.design.layers import Architecture, ArchitectureError
from lib.design.notation import notation, parse
from lib.design.presets import PRESETS
from lib.export.tables import receptive_field_text
from lib.text.formatting import megabytes, shape_text
from lib.text.untrusted_text import escaped
from lib.ui.layer_table import unbroken, with_texts
from lib.ui.url_state import MAX_LENGTH
from lib.ui.widgets import preset_pills

# A link, for the reason that is given at `lib.ui.layer_table.LAYER`.
DESIGN_A = "[Design A](#layers)"


def compare_panel(architecture: Architecture) -> None:
    """Show the input of design B and, if it holds a network, the differences."""
    with st.expander("Compare with another design", expanded=bool(st.session_state.compare), icon=":material/compare:"):
        chosen = next((preset.title for preset in PRESETS if preset.text == st.session_state.compare), None)
        st.session_state.compare_preset = chosen
        titles = [preset.title for preset in PRESETS]
        preset_pills("Design B", titles, key="compare_preset", on_change=_compare_with_preset)
        text = st.text_input(
            "Design B in one line",
            key="compare",
            max_chars=MAX_LENGTH,
            placeholder="Choose a preset above, or type a network: 4 8 M 16 10 A",
        )
        with st.container(horizontal=True):
            st.button(
                "Use the current design as B",
                on_click=compare_with,
                args=(notation(architecture),),
                icon=":material/push_pin:",
                help="Then change the current design, and see the differences.",
            )
            st.button("Clear", on_click=compare_with, args=("",), disabled=not text, icon=":material/close:")
        if not text.strip():
            return
        try:
            other = parse(text)
        except ArchitectureError as error:
            st.error(escaped(f"Design B: {error}"), icon=":material/error:")
            return
        _differences(architecture, other)


def compare_with(text: str) -> None:
    """Make the network of this notation design B; empty text closes the comparison. A callback."""
    st.session_state.compare = text


def _compare_with_preset() -> None:
    chosen = st.session_state.compare_preset
    compare_with(next((preset.text for preset in PRESETS if preset.title == chosen), ""))


def _differences(design_a: Architecture, design_b: Architecture) -> None:
    """Show the totals of B with their differences from A, then both networks layer by layer."""
    a, b = analyze(design_a), analyze(design_b)
    batch_size = st.session_state.batch_size
    with st.grid(4, min_column_width=180):
        for label, value_a, value_b, text in (
            ("Parameters", a.num_params, b.num_params, "{:,}".format),
            ("MACs", a.macs, b.macs, "{:,}".format),
            ("Memory", activation_bytes(a, batch_size), activation_bytes(b, batch_size), megabytes),
        ):
            difference = f"−{text(value_a - value_b)}" if value_b < value_a else f"+{text(value_b - value_a)}"
            _metric(label, text(value_b), "same as A" if value_b == value_a else f"{difference} from A")
        field_a, field_b = (receptive_field_text(analysis.rows[-1]) for analysis in (a, b))
        _metric("Receptive field", field_b, "same as A" if field_b == field_a else f"{field_a} in A")
    for name, analysis, architecture in (("Design A", a, design_a), ("Design B", b, design_b)):
        for row in per_layer(analysis, architecture).rows:
            if row.unused_note:
                st.caption(f"{name}, layer {row.label}: {row.unused_note} by the logits.")
    st.table(
        _difference_table(diff_layers(design_a, design_b)),
        border="horizontal",
        hide_index=True,
        alt="Both designs layer by layer: outputs, parameters, MACs and receptive fields, and their differences",
    )


def _metric(label: str, value: str, note: str) -> None:
    st.metric(f"{label} of B", value, note, delta_color="off", delta_arrow="off", border=True)


def _difference_table(diffs: tuple[LayerDiff, ...]) -> Styler:
    def layer_and_output(row: LayerAnalysis | None) -> tuple[str, str]:
        return (row.label, unbroken(shape_text)(row.output_shape)) if row else ("", "")

    rows: list[dict[str, object]] = [
        {
            DESIGN_A: layer_and_output(diff.left)[0],
            "Output (A)": layer_and_output(diff.left)[1],
            "Design B": layer_and_output(diff.right)[0],
            "Output (B)": layer_and_output(diff.right)[1],
            "Parameters (A)": diff.left.num_params if diff.left else None,
            "Parameters (B)": diff.right.num_params if diff.right else None,
            "Δ parameters": diff.num_params,
            "Δ MACs": diff.macs,
            "Receptive field (A)": diff.left.receptive_field if diff.left else None,
            "Receptive field (B)": diff.right.receptive_field if diff.right else None,
        }
        for diff in diffs
    ]
    rows.append(
        {
            DESIGN_A: "**Total**",
            "Parameters (A)": sum(diff.left.num_params for diff in diffs if diff.left),
            "Parameters (B)": sum(diff.right.num_params for diff in diffs if diff.right),
            "Δ parameters": sum(diff.num_params for diff in diffs),
            "Δ MACs": sum(diff.macs for diff in diffs),
        }
    )
    plain = [f"{name} ({design})" for name in ("Parameters", "Receptive field") for design in "AB"]
    formats = {**dict.fromkeys(plain, "{:,.0f}".format), **dict.fromkeys(("Δ parameters", "Δ MACs"), _signed)}
    pairs = {
        (index, f"Receptive field ({design})"): unbroken(receptive_field_text)(row)
        for index, diff in enumerate(diffs)
        for design, row in (("A", diff.left), ("B", diff.right))
        if row and row.horizontal
    }
    return with_texts(DataFrame(rows).style.format(formats, na_rep=""), pairs)


def _signed(number: float) -> str:
    return "=" if number == 0 else f"{number:+,.0f}".replace("-", "−")
