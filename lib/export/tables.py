"""The table of layers, as one list of columns: for the Design page, CSV, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lib.design.analysis import LayerAnalysis, NetworkAnalysis
from lib.text.formatting import percent, shape_text
from lib.text.untrusted_text import csv_text


@dataclass(frozen=True)
class Column:
    """One column.

    - `name`: header in CSV and Markdown. `title`: header on the page and in the terminal.
    - `value`: the value of a row. `total`: that of the last row, None if it has none.
    - `text`: the value for people. `plain`: the value for programs.
    """

    name: str
    title: str
    value: Callable[[LayerAnalysis], Any]
    text: Callable[[Any], str]
    plain: Callable[[Any], str | int | Decimal]
    total: Callable[[NetworkAnalysis], Any] = lambda _: None
    is_number: bool = True


def _axes_column(name: str, title: str) -> Column:
    """A column of `AxisAnalysis`: a number, or a pair (height, width) if the two axes differ."""

    def value(row: LayerAnalysis) -> float | tuple[float, float]:
        vertical = getattr(row, name)
        horizontal = getattr(row.horizontal, name) if row.horizontal else vertical
        return vertical if vertical == horizontal else (vertical, horizontal)

    def text(number: float | tuple[float, float]) -> str:
        return " × ".join(f"{side:.10g}" for side in (number if isinstance(number, tuple) else (number,)))

    def plain(number: float | tuple[float, float]) -> str | int | Decimal:
        if isinstance(number, tuple):
            return "x".join(f"{side:g}" for side in number)
        return number if isinstance(number, int) else Decimal(f"{number:g}")

    return Column(name, title, value, text, plain)


COLUMNS = (
    Column("layer", "Layer", lambda row: row.label, str, str, is_number=False),
    Column(
        "output", "Output", lambda row: row.output_shape, shape_text, lambda s: "x".join(map(str, s)), is_number=False
    ),
    Column("parameters", "Parameters", lambda row: row.num_params, "{:,}".format, int, lambda net: net.num_params),
    Column(
        "share",
        "Share",
        lambda row: row.share,
        percent,
        lambda share: Decimal(f"{share:.4f}"),
        lambda net: sum(row.share for row in net.rows),
    ),
    Column("macs", "MACs", lambda row: row.macs, "{:,}".format, int, lambda net: net.macs),
    Column("activations", "Activations", lambda row: row.activations, "{:,}".format, int, lambda net: net.activations),
    _axes_column("receptive_field", "Receptive field"),
    _axes_column("jump", "Jump"),
    _axes_column("center", "Center"),
)


_RECEPTIVE_FIELD = next(column for column in COLUMNS if column.name == "receptive_field")


def receptive_field_text(row: LayerAnalysis) -> str:
    """Return the receptive field as text: 5, or 5 × 3 for a height of 5 and a width of 3."""
    return _RECEPTIVE_FIELD.text(_RECEPTIVE_FIELD.value(row))


def layers_csv(analysis: NetworkAnalysis) -> str:
    """One line for each row, with plain numbers and without totals."""
    return csv_text([[column.name for column in COLUMNS], *_plain_rows(analysis)])


def layers_markdown(analysis: NetworkAnalysis) -> str:
    """A Markdown table; the last row has the totals."""
    header = [column.name for column in COLUMNS]
    alignment = ["---:" if column.is_number else "---" for column in COLUMNS]
    rows = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in _plain_rows(analysis)]
    # Shares in a file are fractions, whose total says nothing.
    totals = [column.total(analysis) if column.name != "share" else None for column in COLUMNS]
    total = ["**Total**", *("" if number is None else f"**{number:,}**" for number in totals[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, alignment, *rows, total])


def layers_text(analysis: NetworkAnalysis) -> str:
    """A table of aligned columns for a terminal; the last row has the totals."""
    rows = [[column.text(column.value(row)) for column in COLUMNS] for row in analysis.rows]
    totals = [column.total(analysis) for column in COLUMNS[1:]]
    total = ["" if number is None else column.text(number) for column, number in zip(COLUMNS[1:], totals, strict=True)]
    header = [column.title for column in COLUMNS]
    table = [header, *rows, ["Total", *total]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), line(["─" * width for width in widths]), *map(line, table[1:])])


def _plain_rows(analysis: NetworkAnalysis) -> list[list[str | int | Decimal]]:
    return [[column.plain(column.value(row)) for column in COLUMNS] for row in analysis.rows]
