"""Exports: the same network as source, the same table as CSV and Markdown."""

from __future__ import annotations

import csv
import io

import torch
from hypothesis import given
from torch import nn

from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.export.pytorch_source import pytorch_source
from lib.export.tables import layers_csv, layers_markdown
from lib.nn.network import build
from tests.architectures import architectures


@given(architectures())
def test_the_source_builds_the_same_network(architecture: Architecture) -> None:
    scope: dict[str, object] = {}
    exec(pytorch_source(architecture), scope)
    exported, ours = scope["network"], build(architecture).eval()
    assert isinstance(exported, nn.Sequential)
    assert all(type(module).__module__.startswith("torch.nn") for module in exported)
    exported.load_state_dict(ours.state_dict())
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(exported.eval()(x), ours(x))


def test_the_answers_source_reads_as_the_assignment_writes_it() -> None:
    source = pytorch_source(parse(PRESETS[0].text))
    lines = [line for line in source.splitlines() if line.startswith("    nn.")]
    assert lines[0].split("#")[0].strip() == "nn.Conv2d(1, 4, 3, padding=1),"
    assert lines[0].endswith("# 4 × 28 × 28, receptive field 3")
    assert [line.split("(")[0].strip() for line in lines[:3]] == ["nn.Conv2d", "nn.ReLU", "nn.BatchNorm2d"]
    assert max(len(line) for line in source.splitlines()) <= 110


@given(architectures())
def test_csv_holds_every_row_and_adds_up(architecture: Architecture) -> None:
    analysis = per_layer(analyze(architecture), architecture)
    rows = list(csv.DictReader(io.StringIO(layers_csv(analysis))))
    assert len(rows) == len(architecture.layers)
    assert sum(int(row["parameters"]) for row in rows) == analysis.num_params
    assert sum(int(row["macs"]) for row in rows) == analysis.macs
    assert [int(row["receptive_field"]) for row in rows] == [row.receptive_field for row in analysis.rows]


def test_markdown_is_a_table_with_its_sums() -> None:
    architecture = parse(PRESETS[0].text)
    lines = layers_markdown(per_layer(analyze(architecture), architecture)).splitlines()
    assert len(lines) == 2 + 11 + 1
    assert {line.count("|") for line in lines} == {10}
    assert "| **9,274** |" in lines[-1]
