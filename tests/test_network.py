"""The torch network: modules, initial weights, batch norm and dropout."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.nn.modules import BatchNorm2d, Dropout
from lib.nn.network import build
from tests.measure import count_params

ARCHITECTURE = parse(PRESETS[0].text)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_gives_ten_logits(preset: object) -> None:
    logits = build(parse(preset.text))(torch.zeros(2, 1, 28, 28))  # type: ignore[attr-defined]
    assert logits.shape == (2, 10)


def test_the_assignments_module_order() -> None:
    """Convolution, ReLU, batch norm; only a pool after the last convolution."""
    kinds = [type(module) for module in build(ARCHITECTURE)]
    block = [nn.Conv2d, nn.ReLU, BatchNorm2d]
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


def test_initial_weights_have_the_distribution_of_torchs() -> None:
    ours, torchs = build(parse("64n 64n 10 A"))[2], nn.Conv2d(64, 64, 3)
    assert isinstance(ours, nn.Conv2d)
    assert float(ours.weight.detach().std()) == pytest.approx(float(torchs.weight.detach().std()), rel=0.03)
    assert float(ours.weight.detach().abs().max()) <= 1 / (64 * 9) ** 0.5


@settings(max_examples=50)
@given(
    st.integers(1, 8), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**31)
)
def test_batch_norm_is_that_of_torch(
    images: int, channels: int, height: int, width: int, last: bool, seed: int
) -> None:
    """Outputs, gradients and running statistics over two batches, then outputs in eval mode."""
    assume(images * height * width > 1)
    torch.manual_seed(seed)
    ours, torchs = BatchNorm2d(channels).double(), nn.BatchNorm2d(channels).double()
    for parameter, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        parameter.data.normal_(1, 0.5)
        other.data.copy_(parameter.data)
    for _ in range(2):
        x = torch.randn(images, channels, height, width, dtype=torch.float64) * 3 + 5
        if last:
            x = x.to(memory_format=torch.channels_last)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(given_x) for module, given_x in zip((ours, torchs), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        gradient = torch.randn_like(x)
        for output in outputs:
            output.backward(gradient)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        for parameter, other in zip(ours.parameters(), torchs.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for name, tensor in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)
    torchs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))


def test_batch_norm_in_single_precision_is_close_to_torch_in_double_precision() -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 8, 28, 28) * 0.1 + 10
    module = BatchNorm2d(8)
    exact = nn.BatchNorm2d(8).double()(x.double())
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)).double(), exact, atol=2e-4, rtol=0)


def test_batch_norm_refuses_one_value_per_channel_as_torch_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


def test_dropout_is_that_of_torch() -> None:
    x = torch.ones(200, 4, 10, 10, requires_grad=True)
    network = build(parse("4k1 D30 10 A"), seed=1)
    dropout = next(module for module in network if isinstance(module, Dropout))
    y = dropout(x)
    values, counts = y.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7]))
    assert float(counts[0] / counts.sum()) == pytest.approx(0.3, abs=0.01)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach())
    assert dropout.eval()(x) is x


def test_dropout_does_not_depend_on_the_global_generator() -> None:
    text, x = "4 D50 10 A", torch.rand(8, 1, 28, 28)
    first = build(parse(text), seed=2)(x)
    torch.rand(100)
    torch.testing.assert_close(build(parse(text), seed=2)(x), first)
    assert not torch.equal(build(parse(text), seed=3)(x), first)
