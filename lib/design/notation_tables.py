"""What the notation can say, as tables for people: the Design page and docs/notation.md show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from lib.design.layers import ACTIVATIONS, NORMALIZATIONS

# (text in the notation, what it means).
Rows: TypeAlias = tuple[tuple[str, str], ...]


def _list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_ACTIVATIONS = _list([*ACTIVATIONS])
_NORMS = _list([name + ("4" if spec.is_grouped else "") for name, spec in NORMALIZATIONS.items()])

TABLES: Mapping[str, Rows] = {
    "Layers": (
        ("16", "3×3 convolution with 16 output channels, padded so that the size stays; then ReLU and batch norm"),
        ("M", "2×2 max-pool with stride 2"),
        ("M3s2", "3×3 max-pool with stride 2; `M3s2p1` with padding; `M2s2c` keeps windows that the edge cuts off"),
        ("A", "global average pool"),
        ("A3s2", "3×3 average pool with stride 2"),
        ("G", "global max-pool"),
        ("D10", "dropout of 10 %"),
        ("D5c", "dropout of 5 % of the channels"),
        ("64f", "fully connected layer with 64 outputs, then ReLU"),
        ("64fx", "fully connected layer without activation; `64fu` without bias; `64f.tanh` with tanh"),
        ("F", "flattens a map, for a norm or a dropout before a fully connected layer"),
        ("R", f"ReLU by itself. Others by their names: {_ACTIVATIONS}; with a number: `leaky0.1`"),
        ("N", f"batch norm by itself. Others by their names: {_NORMS}"),
    ),
    "Suffixes": (
        ("16k5", "5×5 kernel; `16k3x1` is 3 high and 1 wide"),
        ("16s2", "stride 2"),
        ("16d2", "dilation 2"),
        ("16v", "no padding (“valid”)"),
        ("16p2", "padding of 2 pixels on each side"),
        ("16g4", "4 groups of channels"),
        ("16n", "no norm"),
        ("16b", "norm before the activation"),
        ("16a", "norm after the activation"),
        ("16x", "neither activation nor norm"),
        ("16u", "no bias"),
        ("16w", "with bias"),
        ("16.gelu", "another activation"),
        ("16.gn4", "another norm, here over 4 groups; `16.gn4.gelu` for both"),
    ),
    "Branches": (
        ("add( 16b 16x N )", "residual block: the input is added to the output of the layers"),
        ("add( 16 16x / 16k1x )", "the outputs of two branches are added"),
        ("cat( 8k1 / 8k3 / 8k5 )", "the outputs of three branches are concatenated"),
        ("cat( 8 / 8k5 / )", "an empty branch is the input itself"),
    ),
    "Settings": (
        ("bias=off", "no layer has a bias"),
        ("norm=before", "norm before the activation; `norm=none`, `norm=gn4`, `norm=before.gn4`"),
        ("act=gelu", "another activation than ReLU"),
        ("dropout=5", "dropout of 5 % after each convolution; `dropout=5c` of whole channels"),
    ),
}


def markdown_table(title: str) -> str:
    """One of TABLES in Markdown, without its title."""
    rows = [f"| `{text}` | {meaning} |" for text, meaning in TABLES[title]]
    return "\n".join(["| text | meaning |", "|---|---|", *rows])
