"""Data for the drawing of a network, one view for each layer; `network_view.js` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from lib.design.analysis import analyze, layers_with_rows, per_layer
from lib.design.formulas import layer_formulas
from lib.design.layers import INPUT_SHAPE, Architecture, Convolution, Dropout, FullyConnected, Layer, Shape
from lib.design.operations import operations
from lib.design.receptive_field import input_masks, used_positions

# The browser draws a square for each position: wider maps are not sent, and not drawn to scale.
MAX_DRAWN_SIDE = 96

Kind: TypeAlias = Literal["image", "convolution", "pool", "dense", "dropout"]


@dataclass(frozen=True)
class LayerView:
    """One layer; the first view is the image itself. `formulas` are pairs of a name and a formula.

    `input_masks` and `used` describe one axis of the output: for each position, the set of image pixels that it depends
    on (see `lib.design.receptive_field`), and "1" if the logits depend on it, else "0". `used` is text because bit
    operations in JavaScript have 32 bits. Both are empty for a map wider than MAX_DRAWN_SIDE, and `note` says so.
    """

    label: str
    token: str
    kind: Kind
    shape: Shape
    receptive_field: int
    jump: int
    center: float
    input_masks: tuple[int, ...]
    used: str
    formulas: tuple[tuple[str, str], ...]
    note: str


@lru_cache(maxsize=8)
def views(architecture: Architecture) -> tuple[LayerView, ...]:
    """The image, then one view for each layer. Raises ArchitectureError as `operations`."""
    steps = operations(architecture)
    with_rows = layers_with_rows(architecture)
    last_step = {step.layer: index for index, step in enumerate(steps) if step.layer in with_rows}.values()
    masks, used = input_masks(steps), used_positions(steps)
    side = INPUT_SHAPE[1]
    image = LayerView(
        label="The image",
        token="image",
        kind="image",
        shape=INPUT_SHAPE,
        receptive_field=1,
        jump=1,
        center=0,
        input_masks=tuple(1 << pixel for pixel in range(side)),
        used="1" * side,
        formulas=(),
        note="The receptive field of a pixel is the pixel itself.",
    )
    rows = per_layer(analyze(architecture), architecture).rows
    found = [image]
    for row, formulas, index in zip(rows, layer_formulas(architecture), last_step, strict=True):
        notes = []
        height = row.output_shape[1]
        drawn = height <= MAX_DRAWN_SIDE
        if not drawn:
            notes.append(
                f"The output of layer {row.label} is {height:,} × {height:,} positions: too many to be drawn. Maps up "
                f"to {MAX_DRAWN_SIDE} × {MAX_DRAWN_SIDE} are drawn to scale."
            )
        if row.unused_note:
            notes.append(
                f"The logits depend on {row.used**2} of its {height**2} positions; "
                + ("the dashed ones are not used." if drawn else "the others are not used.")
            )
        if row.receptive_field > side:
            notes.append(f"The field is wider than the image's {side} pixels: deeper layers see no wider patterns.")
        found.append(
            LayerView(
                label=row.label,
                token=architecture.layers[row.layer].token,
                kind=_kind(architecture.layers[row.layer]),
                shape=row.output_shape,
                receptive_field=row.receptive_field,
                jump=row.jump,
                center=row.center,
                input_masks=masks[index] if drawn else (),
                used=f"{used[index]:0{height}b}"[::-1] if drawn else "",
                formulas=(
                    ("Output side", formulas.size),
                    ("Receptive field", formulas.receptive_field),
                    ("Jump", formulas.jump),
                    ("Center", formulas.center),
                    ("Parameters", formulas.params),
                    ("MACs", formulas.macs),
                ),
                note=" ".join(notes),
            )
        )
    return tuple(found)


def default_view(layers: Sequence[LayerView]) -> int:
    """Index of the view to start with: the deepest convolution whose field fits the image, else the first layer."""
    side = INPUT_SHAPE[1]
    fits = [i for i, v in enumerate(layers) if v.kind == "convolution" and v.receptive_field <= side]
    return fits[-1] if fits else min(1, len(layers) - 1)


def _kind(layer: Layer) -> Kind:
    match layer:
        case Convolution():
            return "convolution"
        case FullyConnected():
            return "dense"
        case Dropout():
            return "dropout"
    return "pool"
