"""The torch network: its weights come from its seed alone."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from lib.architecture import PRESETS, parse
from lib.network import build, count_params

ARCHITECTURE = parse(PRESETS[0].text)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_gives_ten_logits(preset: object) -> None:
    logits = build(parse(preset.text))(torch.zeros(2, 1, 28, 28))  # type: ignore[attr-defined]
    assert logits.shape == (2, 10)


def test_the_assignments_module_order() -> None:
    """Its code: convolution, ReLU, batch norm; nothing after the last convolution but the pool."""
    kinds = [type(module) for module in build(ARCHITECTURE)]
    block = [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    pool = [nn.MaxPool2d]
    assert kinds == block * 3 + pool + block * 3 + pool + block + [nn.Conv2d, nn.AdaptiveAvgPool2d, nn.Flatten]
    assert count_params(build(ARCHITECTURE)) == 9274


def test_the_same_seed_gives_the_same_weights_while_other_threads_build() -> None:
    expected = build(ARCHITECTURE, seed=3).state_dict()
    results: list[dict[str, torch.Tensor]] = []
    threads = [threading.Thread(target=lambda: results.append(build(ARCHITECTURE, 3).state_dict())) for _ in range(8)]
    for thread in threads:
        thread.start()
    torch.rand(1000)
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        assert all(torch.equal(result[name], expected[name]) for name in expected)
    assert not torch.equal(build(ARCHITECTURE, seed=4).state_dict()["0.weight"], expected["0.weight"])


def test_weights_are_spread_as_torchs_own_initialiser_spreads_them() -> None:
    ours, torchs = build(parse("64n 64n 10 A"))[2], nn.Conv2d(64, 64, 3)
    assert isinstance(ours, nn.Conv2d)
    assert float(ours.weight.detach().std()) == pytest.approx(float(torchs.weight.detach().std()), rel=0.03)
    assert float(ours.weight.detach().abs().max()) <= 1 / (64 * 9) ** 0.5
