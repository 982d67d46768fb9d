"""The fast training pass, against torch's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lib.analysis import fusable
from lib.architecture import PRESETS, Architecture, ArchitectureError, notation, parse
from lib.fused_network import fused
from lib.kernels import LANES, zeros
from lib.network import build
from tests.architectures import architectures


@st.composite
def plain_networks(draw: st.DrawFn) -> Architecture:
    """What the fast pass takes: 3x3 convolutions with every padding, with and without norm, and pools."""
    tokens = []
    for _ in range(draw(st.integers(0, 4))):
        width = draw(st.integers(1, 9))
        tokens.append(f"{width}{draw(st.sampled_from(['', 'v', 'p2']))}{draw(st.sampled_from(['', 'n']))}")
        if draw(st.booleans()):
            tokens.append(draw(st.sampled_from(["M", "M3s2", "A2s2", "M3s3", "M2s1"])))
    tokens += [draw(st.sampled_from(["10", "10v", "10p2"])), "A"]
    try:
        return parse(" ".join(tokens))
    except ArchitectureError:
        return parse("4 M 10 A")


def references(network: nn.Sequential) -> nn.Sequential:
    """The same weights in torch's own modules, in double precision."""
    stock = [
        nn.BatchNorm2d(module.num_features) if isinstance(module, nn.BatchNorm2d) else copy.deepcopy(module)
        for module in network
    ]
    reference = nn.Sequential(*stock)
    reference.load_state_dict(network.state_dict())
    return reference.double().train()


@settings(max_examples=60)
@given(plain_networks(), st.integers(2, 40), st.integers(0, 1000))
def test_outputs_gradients_and_running_statistics_are_those_of_torch(
    architecture: Architecture, images: int, seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    network = build(architecture, seed)
    for parameter in network.parameters():
        # Norms begin as 1 and 0, where an error in either would not show.
        nn.init.uniform_(parameter, -0.6, 0.6, generator=chance)
    reference = references(network)
    forward = fused(network)
    assert forward is not None
    x, weights = torch.randn(images, 1, 28, 28, generator=chance), torch.randn(images, 10, generator=chance)
    logits, expected = forward(x), reference(x.double())
    # Smooth in the logits, so that rounding cannot decide; what ReLU and max-pool choose may still differ by a hair.
    (logits * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()
    close(logits, expected, 1e-4)
    for (name, parameter), truth in zip(network.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None, name
        close(parameter.grad, truth.grad, 3e-2)
    for name, buffer in network.named_buffers():
        close(buffer.double(), reference.state_dict()[name].double(), 1e-4)


def close(actual: Tensor, expected: Tensor | None, tolerance: float) -> None:
    assert expected is not None
    assert actual.shape == expected.shape
    distance = float((actual.double() - expected.double()).norm())
    assert distance <= tolerance * (float(expected.norm()) + 0.1)


@pytest.mark.parametrize("images", [1, LANES, 128, 200])
def test_the_assignments_network_in_batches_of_any_size(images: int) -> None:
    network = build(parse(PRESETS[0].text))
    reference, forward = references(network), fused(network)
    assert forward is not None
    for _ in range(3):
        # The work space of one batch is that of the next.
        x, y = torch.randn(images, 1, 28, 28), torch.randint(10, (images,))
        network.zero_grad()
        reference.zero_grad()
        loss, expected = F.cross_entropy(forward(x), y), F.cross_entropy(reference(x.double()), y)
        loss.backward()  # type: ignore[no-untyped-call]
        expected.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        for parameter, truth in zip(network.parameters(), reference.parameters(), strict=True):
            close(parameter.grad, truth.grad, 2e-2 if images < LANES else 2e-3)  # type: ignore[arg-type]


def test_the_numbers_do_not_depend_on_the_threads() -> None:
    x = torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3, 4, 1):
        network = build(parse(PRESETS[0].text))
        forward = fused(network, threads=threads)
        assert forward is not None
        for _ in range(4):
            forward(x).square().sum().backward()  # type: ignore[no-untyped-call]
        results.append([parameter.grad for parameter in network.parameters()] + list(network.buffers()))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))  # type: ignore[arg-type]


@given(st.one_of(architectures(), plain_networks()))
def test_an_architecture_says_whether_it_is_fusable(architecture: Architecture) -> None:
    if fusable(architecture):
        assert fused(build(architecture)) is not None, notation(architecture)


@pytest.mark.parametrize("text", ["8k5 10 A", "8s2 10 A", "8d2 10 A", "8b 10 A", "8 D10 10 A", "8 M 10f", "8p3 10 A"])
def test_what_the_kernels_cannot_do_is_left_to_torch(text: str) -> None:
    assert not fusable(parse(text))
    assert fused(build(parse(text))) is None


def test_work_space_begins_at_a_cache_line() -> None:
    for count in (1, 15, 16, 1000):
        room = zeros(count)
        assert len(room) == count
        assert room.ctypes.data % 64 == 0
