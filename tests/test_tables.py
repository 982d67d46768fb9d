"""The table of layers as CSV, Markdown and text."""

from __future__ import annotations

import csv
import io

from hypothesis import given

from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.export.tables import COLUMNS, layers_csv, layers_markdown, layers_text
from tests.architectures import architectures


@given(architectures())
def test_csv_has_every_row_and_adds_up(architecture: Architecture) -> None:
    analysis = per_layer(analyze(architecture), architecture)
    rows = list(csv.DictReader(io.StringIO(layers_csv(analysis))))
    assert len(rows) == len(analysis.rows)
    assert sum(int(row["parameters"]) for row in rows) == analysis.num_params
    assert sum(int(row["macs"]) for row in rows) == analysis.macs
    assert [int(row["receptive_field"].split("x")[0]) for row in rows] == [row.receptive_field for row in analysis.rows]
    assert [int(row["jump"].split("x")[-1]) for row in rows] == [(row.horizontal or row).jump for row in analysis.rows]


def test_markdown_is_a_table_with_totals() -> None:
    architecture = parse(PRESETS[0].text)
    lines = layers_markdown(per_layer(analyze(architecture), architecture)).splitlines()
    assert len(lines) == 2 + 11 + 1
    assert {line.count("|") for line in lines} == {10}
    assert "| **9,274** |" in lines[-1]


def test_text_is_a_table_of_aligned_columns_with_totals() -> None:
    architecture = parse(PRESETS[0].text)
    header, rule, *rows, total = layers_text(per_layer(analyze(architecture), architecture)).splitlines()
    assert header.split("  ")[0] == "Layer"
    assert all(column.title in header for column in COLUMNS)
    assert set(rule) == {"─", " "}
    assert len(rows) == 11
    assert total.split()[:3] == ["Total", "9,274", "100.0"]
    end = header.index("Parameters") + len("Parameters")
    assert all(line[end - 1] in "0123456789" for line in [*rows, total])
