"""The exported PyTorch source builds the same network."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from torch import nn

from lib.design.layers import Architecture, Fork
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.export.pytorch_source import pytorch_source
from lib.nn.network import build
from tests.architectures import architectures
from tests.measure import load_in_order


@settings(deadline=None)
@given(architectures())
def test_the_source_builds_the_same_network(architecture: Architecture) -> None:
    scope: dict[str, object] = {}
    exec(pytorch_source(architecture), scope)
    exported, ours = scope["network"], build(architecture)
    assert isinstance(exported, nn.Module)
    if not any(isinstance(layer, Fork) for layer in architecture.layers):
        assert isinstance(exported, nn.Sequential)
        assert list(exported.state_dict()) == list(ours.state_dict())
    load_in_order(exported, ours)
    x = torch.rand(8, 1, 28, 28)
    without_dropout(ours)(x)
    without_dropout(exported)(x)
    torch.testing.assert_close(exported.eval()(x), ours.eval()(x))


def without_dropout(network: nn.Module) -> nn.Module:
    """The network in training mode, but for its dropout."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.eval()
    return network


def test_the_source_of_the_answer_is_as_in_the_assignment() -> None:
    source = pytorch_source(parse(PRESETS[0].text))
    lines = [line for line in source.splitlines() if line.startswith("    nn.")]
    assert lines[0].split("#")[0].strip() == "nn.Conv2d(1, 4, 3, padding=1),"
    assert lines[0].endswith("# 4 × 28 × 28, receptive field 3")
    assert [line.split("(")[0].strip() for line in lines[:3]] == ["nn.Conv2d", "nn.ReLU", "nn.BatchNorm2d"]
    assert max(len(line) for line in source.splitlines()) <= 110
