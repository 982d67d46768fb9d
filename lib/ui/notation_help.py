"""Help with the notation: the most frequent words beside the input, and all of it in a popover."""

from __future__ import annotations

import streamlit as st

from lib.design.notation_tables import TABLES, markdown_table

SHORT_HELP = (
    "16 is a 3×3 convolution with 16 channels, ReLU and batch norm. Suffixes: v no padding, k5 kernel 5×5, s2 stride "
    "2, n no norm, x neither activation nor norm, u no bias. M: max-pool; A: global average pool; D10: dropout 10 %; "
    "64f: fully connected. add( 16 16x N ): residual block. bias=off norm=before | holds for all layers. The page's "
    "address holds the network."
)
_INTRODUCTIONS = {
    "Layers": "Separated by spaces or commas, in upper or lower case. The last layer with weights gives the logits.",
    "Suffixes": "For a convolution, in any order: `16k5s2v`.",
    "Branches": "Between `add(` or `cat(` and `)`, separated by `/`. They can be nested.",
    "Settings": "Before a bar, for all layers; a suffix overrides them: `bias=off norm=before | 8 16 M 10w A`.",
}


def notation_popover() -> None:
    """Show a button that opens the tables of the notation."""
    with st.popover("All of the notation", type="tertiary", icon=":material/menu_book:"):
        for title in TABLES:
            st.markdown(f"**{title}.** {_INTRODUCTIONS[title]}\n\n{markdown_table(title)}")
