"""What is exported as PyTorch source is imported as the same network."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS, Preset
from lib.export.pytorch_source import pytorch_source
from lib.importing.conversion import converted
from lib.importing.python_source import networks_in_source
from tests.architectures import architectures


@settings(max_examples=500, deadline=None)
@given(architectures())
def test_export_and_import_give_the_same_network(architecture: Architecture) -> None:
    assert imported(pytorch_source(architecture)) == architecture


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_presets_come_back(preset: Preset) -> None:
    assert imported(pytorch_source(parse(preset.text))) == parse(preset.text)


def imported(source: str) -> Architecture:
    [graph] = networks_in_source(source)
    assert graph.problem is None, graph.problem
    return converted(graph).architecture
