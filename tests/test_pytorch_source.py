"""The exported PyTorch source builds the same network."""

from __future__ import annotations

import torch
from hypothesis import given
from torch import nn

from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.export.pytorch_source import pytorch_source
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


def test_the_source_of_the_answer_is_as_in_the_assignment() -> None:
    source = pytorch_source(parse(PRESETS[0].text))
    lines = [line for line in source.splitlines() if line.startswith("    nn.")]
    assert lines[0].split("#")[0].strip() == "nn.Conv2d(1, 4, 3, padding=1),"
    assert lines[0].endswith("# 4 × 28 × 28, receptive field 3")
    assert [line.split("(")[0].strip() for line in lines[:3]] == ["nn.Conv2d", "nn.ReLU", "nn.BatchNorm2d"]
    assert max(len(line) for line in source.splitlines()) <= 110
