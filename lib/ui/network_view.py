"""Data for the drawing of a network, one view for each layer; `network_view.js` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from lib.design.analysis import LayerAnalysis, analyze, layers_with_rows, per_layer
from lib.design.formulas import LayerFormulas, layer_formulas
from lib.design.layers import (
    INPUT_SHAPE,
    Activation,
    Architecture,
    Convolution,
    Dropout,
    FullyConnected,
    Join,
    Layer,
    Normalization,
    Shape,
)
from lib.design.notation import tokens
from lib.design.operations import IMAGE, Operation, operations
from lib.design.receptive_field import axes_differ, input_masks, used_positions
from lib.ui.branch_layout import places

# The browser draws a square for each position: wider maps are not sent, and not drawn to scale.
MAX_DRAWN_SIDE = 96

Kind: TypeAlias = Literal["image", "convolution", "pool", "dense", "dropout", "activation", "norm", "join"]
# For each operation and each position along one axis: the set of image pixels that the position depends on.
_Masks: TypeAlias = list[tuple[int, ...]]


@dataclass(frozen=True)
class AxisView:
    """One axis of a layer's output; the first three are those of `lib.design.analysis.AxisAnalysis`.

    `input_masks` and `used` have for each position the set of image pixels that it depends on (see
    `lib.design.receptive_field`), and "1" if the logits depend on it, else "0". `used` is text because bit operations
    in JavaScript have 32 bits. Both are empty for a map wider than MAX_DRAWN_SIDE.
    """

    receptive_field: int
    jump: int
    center: float
    input_masks: tuple[int, ...]
    used: str


@dataclass(frozen=True)
class LayerView:
    """One layer; the first view is the image itself. `formulas` are pairs of a name and a formula.

    - `horizontal` is None if it is the same as `vertical`.
    - `column`, `lane`: the place in the drawing. `links`: for each input, the index of its view, and the lane along
      which the line from it is drawn.
    - `note` says what cannot be seen in the drawing, such as a map that is too wide for it.
    """

    label: str
    token: str
    kind: Kind
    shape: Shape
    vertical: AxisView
    horizontal: AxisView | None
    column: int
    lane: int
    links: tuple[tuple[int, int], ...]
    formulas: tuple[tuple[str, str], ...]
    note: str


@lru_cache(maxsize=8)
def views(architecture: Architecture) -> tuple[LayerView, ...]:
    """The image, then one view for each row of `per_layer`. Raises ArchitectureError as `operations`."""
    steps = operations(architecture)
    with_rows = layers_with_rows(architecture)
    last_step = {step.layer: index for index, step in enumerate(steps) if step.layer in with_rows}
    masks, used = [input_masks(steps)], [used_positions(steps)]
    if axes_differ(steps):
        masks.append(input_masks(steps, 1))
        used.append(used_positions(steps, 1))
    approximate = _approximate(steps, masks)
    side = INPUT_SHAPE[1]
    pixels = tuple(1 << pixel for pixel in range(side))
    found = [
        LayerView(
            label="The image",
            token="image",
            kind="image",
            shape=INPUT_SHAPE,
            vertical=AxisView(receptive_field=1, jump=1, center=0, input_masks=pixels, used="1" * side),
            horizontal=None,
            column=0,
            lane=0,
            links=(),
            formulas=(),
            note="The receptive field of a pixel is the pixel itself.",
        )
    ]
    written = row_tokens(architecture)
    placed = places(architecture.layers, with_rows)
    view_of = {IMAGE: 0, **{layer: number for number, layer in enumerate(last_step, start=1)}}
    rows = per_layer(analyze(architecture), architecture).rows
    for row, formulas, index in zip(rows, layer_formulas(architecture), last_step.values(), strict=True):
        _, height, width = row.output_shape
        drawn = max(height, width) <= MAX_DRAWN_SIDE
        vertical, horizontal = (
            AxisView(
                receptive_field=axis.receptive_field,
                jump=axis.jump,
                center=axis.center,
                input_masks=masks_of_axis[index] if drawn else (),
                used=f"{used_of_axis[index]:0{size}b}"[::-1] if drawn else "",
            )
            for axis, masks_of_axis, used_of_axis, size in (
                (row, masks[0], used[0], height),
                (row.horizontal or row, masks[-1], used[-1], width),
            )
        )
        place = placed[row.layer]
        found.append(
            LayerView(
                label=row.label,
                token=written[row.layer],
                kind=_kind(architecture.layers[row.layer]),
                shape=row.output_shape,
                vertical=vertical,
                horizontal=None if horizontal == vertical else horizontal,
                column=place.column,
                lane=place.lane,
                links=tuple((view_of[link.source], link.lane) for link in place.links),
                formulas=_formulas(formulas),
                note=_note(row, drawn=drawn, is_approximate=index in approximate),
            )
        )
    return tuple(found)


def row_tokens(architecture: Architecture) -> dict[int, str]:
    """For each layer with a row, by its index: its token, or for a join "add" or "cat". Raises as `operations`."""
    written = tokens(architecture)
    joins = {"Add": "add", "Concat": "cat"}
    kinds = {step.layer: step.kind for step in operations(architecture)}
    return {layer: joins.get(kinds[layer], written[layer]) for layer in layers_with_rows(architecture)}


def default_view(layers: Sequence[LayerView]) -> int:
    """Index of the view to start with: the deepest convolution whose field fits the image, else the first layer."""
    side = INPUT_SHAPE[1]
    fits = [
        number
        for number, view in enumerate(layers)
        if view.kind == "convolution"
        and max(axis.receptive_field for axis in (view.vertical, view.horizontal or view.vertical)) <= side
    ]
    return fits[-1] if fits else min(1, len(layers) - 1)


def _note(row: LayerAnalysis, *, drawn: bool, is_approximate: bool) -> str:
    _, height, width = row.output_shape
    side = INPUT_SHAPE[1]
    notes = []
    if not drawn:
        notes.append(
            f"The output of layer {row.label} is {height:,} × {width:,} positions: too many to be drawn. Maps up to "
            f"{MAX_DRAWN_SIDE} × {MAX_DRAWN_SIDE} are drawn to scale."
        )
    if row.unused_note:
        notes.append(
            f"The logits depend on {row.num_used} of its {height * width} positions; "
            + ("the dashed ones are not used." if drawn else "the others are not used.")
        )
    if row.largest_field > side:
        notes.append(f"The field is wider than the image's {side} pixels: deeper layers see no wider patterns.")
    if is_approximate and drawn:
        notes.append(
            "The branches see different pixels: the field is the smallest rectangle around them, and some of its "
            "pixels may have no effect."
        )
    return " ".join(notes)


def _approximate(steps: Sequence[Operation], masks: Sequence[_Masks]) -> set[int]:
    """Indexes of the operations that may depend on fewer pixels than the product of both axes' masks has.

    It begins at joins where no branch sees everything that the others see.
    """
    found: set[int] = set()
    for index, step in enumerate(steps):
        sees_all = len(step.inputs) == 1 or any(
            source != IMAGE and all(of_axis[source] == of_axis[index] for of_axis in masks) for source in step.inputs
        )
        if not sees_all or not found.isdisjoint(step.inputs):
            found.add(index)
    return found


def _formulas(formulas: LayerFormulas) -> tuple[tuple[str, str], ...]:
    return (
        ("Output side", formulas.size),
        ("Receptive field", formulas.receptive_field),
        ("Jump", formulas.jump),
        ("Center", formulas.center),
        ("Parameters", formulas.params),
        ("MACs", formulas.macs),
    )


def _kind(layer: Layer) -> Kind:
    match layer:
        case Convolution():
            return "convolution"
        case FullyConnected():
            return "dense"
        case Dropout():
            return "dropout"
        case Activation():
            return "activation"
        case Normalization():
            return "norm"
        case Join():
            return "join"
    return "pool"
