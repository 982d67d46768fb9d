"""Edit the network on the Design page: presets, a slider and a menu for each layer, and undo."""

from __future__ import annotations

from typing import cast

import streamlit as st

from lib.design import edits
from lib.design.layers import (
    JOIN_NAMES,
    Architecture,
    Branch,
    Convolution,
    Fork,
    FullyConnected,
    Join,
    Layer,
    logits_layer,
)
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


def network_menu(architecture: Architecture) -> None:
    """Show the menu of the edits of all layers at once."""
    st.menu_button(
        "All layers",
        edits.available_network_actions(architecture),
        key="edit_network",
        on_click=_edit_network,
        args=(architecture,),
        type="tertiary",
    )


def layer_editor(architecture: Architecture) -> None:
    """Show a row for each layer: a slider for the width, if it has one, and a menu of the other edits.

    Branches are in a box, from their fork to their join.
    """
    labels = layer_labels(architecture.layers)
    boxes = [st.container()]
    for index, (layer, actions) in enumerate(
        zip(architecture.layers, edits.available_actions(architecture), strict=True)
    ):
        if isinstance(layer, Fork):
            boxes.append(boxes[-1].container(border=True))
        with boxes[-1]:
            _layer_row(architecture, index, f"{index + 1} · {labels[index]}", actions, in_box=len(boxes) > 1)
        if isinstance(layer, Join):
            boxes.pop()


def layer_labels(layers: tuple[Layer, ...]) -> list[str]:
    """The descriptions of the layers; those of forks, branches and joins say what they belong to."""
    found: list[str] = []
    # For each open fork: its index, and the number of its branches so far.
    open_forks: list[tuple[int, int]] = []
    for index, layer in enumerate(layers):
        label = layer.description
        if isinstance(layer, Fork):
            open_forks.append((index, 1))
        elif isinstance(layer, Branch):
            fork, count = open_forks.pop()
            open_forks.append((fork, count + 1))
            is_empty = isinstance(layers[index + 1], Branch | Join)
            label = f"Branch {count + 1}" + (": the input itself" if is_empty else "")
        elif isinstance(layer, Join):
            fork, count = open_forks.pop()
            join = cast(Fork, layers[fork]).join
            label = JOIN_NAMES[join]
            if count == 1 and join == "add":
                found[fork], label = "Residual block", "Sum with the input"
            elif count == 1:
                found[fork], label = "Dense block", "Concatenation with the input"
        found.append(label)
    return found


def _layer_row(architecture: Architecture, index: int, label: str, actions: list[str], *, in_box: bool) -> None:
    layer = architecture.layers[index]
    has_width = isinstance(layer, Convolution | FullyConnected)
    # A box is narrower, and a menu needs the same room in it.
    widths = [2, 1] if in_box else [4, 1]
    slider, menu = st.columns(widths, vertical_alignment="bottom" if has_width else "center", wrap=False)
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


def _edit_network(architecture: Architecture) -> None:
    set_network(notation(edits.apply_to_network(architecture, st.session_state.edit_network)))


def _edit_layer(architecture: Architecture, index: int) -> None:
    set_network(notation(edits.apply(architecture, index, st.session_state[f"edit_{index}"])))
