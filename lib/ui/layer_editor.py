"""Edit the network on the Design page: presets, a slider and a menu for each layer, and undo."""

from __future__ import annotations

import streamlit as st

from lib.design import edits
from lib.design.layers import Architecture, Convolution, FullyConnected, logits_layer
from lib.design.notation import notation
from lib.design.presets import PRESETS, Preset
from lib.ui.widgets import preset_pills

WIDTHS = [*range(1, 33), *range(36, 65, 4), *range(72, 129, 8), *range(160, 513, 32), 640, 768, 1024]
MAX_UNDO = 50


def network_presets(preset: Preset | None, *, guessing: bool) -> None:
    """Show the presets, with `preset` selected and its description below."""
    st.session_state.preset = preset.title if preset else None
    preset_pills("Start from", [preset.title for preset in PRESETS], key="preset", on_change=_load_preset)
    if not guessing:
        st.caption(preset.description if preset else "A custom network.")


def undo_button() -> None:
    """Show the button that brings back the network before the last edit."""
    st.button("Undo", icon=":material/undo:", on_click=_undo, disabled=not st.session_state.get("undo"))


def layer_editor(architecture: Architecture) -> None:
    """Show a row for each layer: a slider for the width, if it has one, and a menu of the other edits."""
    for index, actions in enumerate(edits.available_actions(architecture)):
        _layer_row(architecture, index, actions)


def _layer_row(architecture: Architecture, index: int, actions: list[str]) -> None:
    layer = architecture.layers[index]
    label = f"{index + 1} · {layer.description}"
    has_width = isinstance(layer, Convolution | FullyConnected)
    slider, menu = st.columns([4, 1], vertical_alignment="bottom" if has_width else "center", wrap=False)
    match layer:
        case Convolution(channels=width) | FullyConnected(features=width):
            is_logits = index == logits_layer(architecture)
            st.session_state[f"width_{index}"] = width
            slider.select_slider(
                label,
                options=sorted({*WIDTHS, width}),
                key=f"width_{index}",
                on_change=_set_width,
                args=(architecture, index),
                disabled=is_logits,
                help="The logits: one channel for each of the ten digits." if is_logits else None,
            )
        case _:
            slider.markdown(f":gray-background[{label}]")
    if actions:
        menu.menu_button(
            "Edit",
            actions,
            key=f"edit_{index}",
            on_click=_edit_layer,
            args=(architecture, index),
            type="tertiary",
        )


def set_network(text: str) -> None:
    """Show another network; Undo brings the present one back. To be called before the page's network input is drawn."""
    st.session_state.undo = [*st.session_state.get("undo", []), st.session_state.net][-MAX_UNDO:]
    st.session_state.net = text


def _undo() -> None:
    st.session_state.net = st.session_state.undo.pop()


def _load_preset() -> None:
    chosen = next((preset.text for preset in PRESETS if preset.title == st.session_state.preset), None)
    if chosen:
        set_network(chosen)


def _set_width(architecture: Architecture, index: int) -> None:
    set_network(notation(edits.set_width(architecture, index, st.session_state[f"width_{index}"])))


def _edit_layer(architecture: Architecture, index: int) -> None:
    set_network(notation(edits.apply(architecture, index, st.session_state[f"edit_{index}"])))
