"""The table of layers on the Design page, and its captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st
from pandas import DataFrame
from pandas.io.formats.style import Styler

from lib.design.analysis import LayerAnalysis, NetworkAnalysis, activation_bytes
from lib.design.layers import INPUT_SHAPE
from lib.export.tables import COLUMNS
from lib.text.formatting import megabytes

# A link, because a keyboard scrolls a table that is wider than its screen only if something in it can have the focus.
LAYER = "[Layer](#layers)"
# Columns with the answers, left out while the class guesses.
GUESSED = {"parameters", "share", "receptive_field", "jump", "center"}
IMAGE_PIXELS = INPUT_SHAPE[1]
WIDE_BADGE = f":orange-badge[> {IMAGE_PIXELS}]"


def layer_table(analysis: NetworkAnalysis, batch_size: int, *, guessing: bool) -> None:
    """Show the table of layers or modules with its captions; the last row has the totals."""
    st.table(
        styled_layers(analysis, batch_size, guessing=guessing),
        border="horizontal",
        hide_index=True,
        alt="A row for each layer: output, parameters, share, MACs, memory, field, jump and center; totals last",
    )
    st.caption(
        f"{analysis.macs / 1e6:.2f} million multiply-accumulates (MACs) per image. Memory is that of the outputs for a "
        f"batch of {batch_size:,} images. Receptive field r and jump j follow r′ = r + d · (k − 1) · j and j′ = j · s, "
        "with kernel size k, dilation d (1 if not given) and stride s. A 2×2 pool adds one jump to r; it does not "
        "double r. Center is that of the first output's receptive field, in pixels from the first pixel of the image."
    )
    if guessing:
        return
    if analysis.rows[-1].largest_field > IMAGE_PIXELS:
        st.caption(
            f"{WIDE_BADGE} The receptive field is wider than the image's {IMAGE_PIXELS} pixels. The layer cannot see "
            "larger patterns than the layers before it; it only adds depth. Richter et al. (2021) call such layers "
            "unproductive."
        )
    if analysis.normalizes_over_positions:
        st.caption(
            "A group, layer or instance norm takes its mean over all positions of an image. Strictly, every value "
            "after it depends on the whole image; the receptive field counts only the windows of convolutions and "
            "pools, as is usual."
        )
    if any(row.unused_note for row in analysis.rows):
        st.caption(
            ":violet-badge[positions used] No logit depends on the other positions: where a size is not a multiple of "
            "the stride, the last rows and columns are left over."
        )


def styled_layers(analysis: NetworkAnalysis, batch_size: int, *, guessing: bool) -> Styler:
    """Return the table with numeric cells, which Streamlit aligns to the right.

    The column of activations shows their memory for a batch. While the class is `guessing`, the columns in GUESSED are
    left out.
    """
    labels = [row.label + ("" if guessing else _badges(row)) for row in analysis.rows]
    cells: dict[str, list[object]] = {LAYER: [*labels, "**Total**"]}
    formats: dict[str, Callable[[Any], str]] = {}
    texts: dict[tuple[int, str], str] = {}
    for column in COLUMNS[1:]:
        values = [column.value(row) for row in analysis.rows]
        if column.name == "activations":
            sized: tuple[LayerAnalysis | NetworkAnalysis, ...] = (*analysis.rows, analysis)
            cells["Memory"] = [activation_bytes(row, batch_size) for row in sized]
            formats["Memory"] = unbroken(megabytes)
        elif not column.is_number:
            cells[column.title] = [*map(unbroken(column.text), values), ""]
        elif guessing and column.name in GUESSED:
            continue
        else:
            texts.update(
                ((index, column.title), unbroken(column.text)(value))
                for index, value in enumerate(values)
                if isinstance(value, tuple)
            )
            numbers = [value[0] if isinstance(value, tuple) else value for value in values]
            cells[column.title] = [*numbers, column.total(analysis)]
            formats[column.title] = unbroken(column.text)
    return with_texts(DataFrame(cells).style.format(formats, na_rep=""), texts)


def with_texts(table: Styler, texts: Mapping[tuple[int, str], str]) -> Styler:
    """Return the table with other texts in some cells, given by row and column.

    A column of numbers and pairs would be sent as text, and be aligned to the left. So a cell has a number, and shows
    the pair.
    """
    for cell, text in texts.items():
        table = table.format(lambda _, text=text: text, subset=cell)
    return table


def unbroken(text: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a function that gives the same text with no-break spaces, for narrow tables."""
    return lambda value: text(value).replace(" ", "\u00a0")


def _badges(row: LayerAnalysis) -> str:
    """Return the badges of a row; the captions of the table explain them."""
    badges = [WIDE_BADGE] if row.largest_field > IMAGE_PIXELS else []
    badges += [f":violet-badge[{row.unused_note}]"] if row.unused_note else []
    return "".join(f" {badge}" for badge in badges)
