"""What the drawing of a network shows of each layer; no screen here, `lib/network_view.js` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal, TypeAlias

from lib import footprint
from lib.analysis import analyse, fold
from lib.architecture import (
    INPUT_SHAPE,
    Architecture,
    Convolution,
    Dropout,
    FullyConnected,
    Layer,
    Shape,
    operations,
    token,
)
from lib.formulas import workings

# A wider map is neither sent position by position nor drawn to scale: a browser draws every position as a square.
WIDEST = 96

Kind: TypeAlias = Literal["image", "convolution", "pool", "dense", "dropout"]


@dataclass(frozen=True)
class LayerView:
    """One layer, the image being the first. `formulas` are pairs of a name and a sum.

    Along an axis, `pixels` has the set of pixels, as `lib.footprint` has it, that each position of the output depends
    on, and `read` a 1 for each position that the logits depend on, else a 0: a browser's integers have 32 bits only.
    Both are empty for a map wider than WIDEST, and `note` says so.
    """

    label: str
    token: str
    kind: Kind
    shape: Shape
    receptive_field: int
    jump: int
    center: float
    pixels: tuple[int, ...]
    read: str
    formulas: tuple[tuple[str, str], ...]
    note: str


@lru_cache(maxsize=8)
def views(architecture: Architecture) -> tuple[LayerView, ...]:
    """The image and one view a layer. Raises ArchitectureError as `operations` does."""
    steps = list(operations(architecture))
    last_step = [list(group)[-1] for _, group in groupby(range(len(steps)), key=lambda index: steps[index].layer)]
    pixels, read = footprint.pixels(steps), footprint.read(steps)
    side = INPUT_SHAPE[1]
    image = LayerView(
        label="The image",
        token="image",
        kind="image",
        shape=INPUT_SHAPE,
        receptive_field=1,
        jump=1,
        center=0,
        pixels=tuple(1 << pixel for pixel in range(side)),
        read="1" * side,
        formulas=(),
        note="A pixel sees itself.",
    )
    rows = fold(analyse(architecture), architecture).rows
    found = [image]
    for row, working, index in zip(rows, workings(architecture), last_step, strict=True):
        notes = []
        height = row.output_shape[1]
        drawn = height <= WIDEST
        if not drawn:
            notes.append(
                f"The output of layer {row.label} is {height:,} × {height:,} positions: too many to be drawn. Up to "
                f"{WIDEST} × {WIDEST} are drawn, and no larger one to scale."
            )
        if row.unread:
            notes.append(
                f"The logits depend on {row.read**2} of its {height**2} positions; "
                + ("the dashed ones are lost." if drawn else "the others are lost.")
            )
        if row.receptive_field > side:
            notes.append(f"The field is wider than the image's {side} pixels: no wider pattern can be found from here.")
        found.append(
            LayerView(
                label=row.label,
                token=token(architecture.layers[row.layer]),
                kind=_kind(architecture.layers[row.layer]),
                shape=row.output_shape,
                receptive_field=row.receptive_field,
                jump=row.jump,
                center=row.center,
                pixels=pixels[index] if drawn else (),
                read=f"{read[index]:0{height}b}"[::-1] if drawn else "",
                formulas=(
                    ("Output side", working.size),
                    ("Receptive field", working.receptive_field),
                    ("Jump", working.jump),
                    ("Centre", working.center),
                    ("Parameters", working.parameters),
                    ("MACs", working.macs),
                ),
                note=" ".join(notes),
            )
        )
    return tuple(found)


def telling(layers: Sequence[LayerView]) -> int:
    """The view to begin with: the deepest convolution whose field still fits the image, else the first layer."""
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
