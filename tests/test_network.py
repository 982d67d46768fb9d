"""The torch network: modules, initial weights, batch norm and dropout."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.convnext import LayerNorm2d as ConvNextLayerNorm2d

from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.nn.modules import BatchNorm2d, Dropout, Dropout2d, GhostBatchNorm2d, LayerNorm2d
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


def test_dropout_of_whole_channels_is_that_of_torch() -> None:
    x = torch.ones(500, 8, 5, 5, requires_grad=True)
    network = build(parse("8k1 D30c 10 A"), seed=1)
    dropout = next(module for module in network if isinstance(module, Dropout2d))
    y = dropout(x)
    # Each map is zero as a whole, or scaled as a whole.
    maps = y.flatten(2)
    assert torch.equal(maps.amin(2), maps.amax(2))
    values, counts = y.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7]))
    assert float(counts[0] / counts.sum()) == pytest.approx(0.3, abs=0.03)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach())
    assert dropout.eval()(x) is x


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_ghost_batch_norm_is_a_batch_norm_of_each_part(images: int, splits: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = GhostBatchNorm2d(3, splits).double()
    module.weight.data.normal_(1, 0.5)
    module.bias.data.normal_()
    x = torch.randn(images, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    y = module(x)
    parts = [nn.BatchNorm2d(3).double() for _ in torch.chunk(x, splits)]
    for part in parts:
        part.weight.data.copy_(module.weight.data)
        part.bias.data.copy_(module.bias.data)
    expected = torch.cat([part(chunk) for part, chunk in zip(parts, torch.chunk(x, splits), strict=True)])
    if images > 1:
        torch.testing.assert_close(y, expected)
        for name in ("running_mean", "running_var"):
            mean = torch.stack([part.get_buffer(name) for part in parts]).mean(0)
            torch.testing.assert_close(module.get_buffer(name), mean)
    running = nn.BatchNorm2d(3).double()
    running.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(x), running.eval()(x))


def test_layer_norm_over_channels_is_that_of_torchvision() -> None:
    ours, theirs = LayerNorm2d(5), ConvNextLayerNorm2d(5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_branches_are_added_and_concatenated() -> None:
    network = build(parse("4 add( 4n 4x / 4k1x ) R cat( / 3k5x ) cat( 2x / 5k1x / ) 10x A"), seed=5).eval()
    modules = list(network)
    x = torch.rand(3, 1, 28, 28)
    conv, relu, norm, conv2, relu2, conv3, conv4, _, relu3, conv5, _, conv6, conv7, _, conv8, pool, _ = modules
    x0 = norm(relu(conv(x)))
    x1 = relu3(conv3(relu2(conv2(x0))) + conv4(x0))
    x2 = torch.cat([x1, conv5(x1)], 1)
    x3 = torch.cat([conv6(x2), conv7(x2), x2], 1)
    expected = pool(conv8(x3)).flatten(1)
    torch.testing.assert_close(network(x), expected)
    outputs = list(network.outputs(x))
    assert len(outputs) == len(modules)
    torch.testing.assert_close(outputs[-1], expected)
