"""The fast training pass, against torch's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

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


def stock(network: nn.Sequential) -> nn.Sequential:
    """The same weights in torch's own modules."""
    modules = [
        nn.BatchNorm2d(module.num_features) if isinstance(module, nn.BatchNorm2d) else copy.deepcopy(module)
        for module in network
    ]
    made = nn.Sequential(*modules)
    made.load_state_dict(network.state_dict())
    return made.train()


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
    off, torchs = min(gradient_distances(network, images, chance) for _ in range(3))
    assert off <= 3e-2 + 10 * torchs


def gradient_distances(
    network: nn.Sequential, images: int, chance: torch.Generator, batches: int = 1
) -> tuple[float, float]:
    """How far the gradients of the last of some batches are from torch's in double precision, the farthest parameter,
    and how far torch's in single precision are: a norm of what hardly varies makes rounding large.

    Rounding may tip a ReLU or a max-pool whose inputs are as good as equal, among a million of them in one draw out of
    five, and then the gradient is another one on any machine, torch's own single precision included: a fault shows in
    every draw, a tie does not, so the tests ask for the closest of several.
    """
    single, reference, forward = stock(network), stock(network).double(), fused(network)
    assert forward is not None

    def excess(actual: Tensor | None, rounded: Tensor | None, expected: Tensor | None) -> float:
        return distance(actual, expected) - 10 * distance(rounded, expected)

    for _ in range(batches):
        # The work space of one batch is that of the next.
        x, weights = torch.randn(images, 1, 28, 28, generator=chance), torch.randn(images, 10, generator=chance)
        for some in (network, single, reference):
            some.zero_grad()
        logits, rounded, expected = forward(x), single(x), reference(x.double())
        # Smooth in the logits, so that rounding cannot decide there.
        for answer in (logits, rounded, expected):
            (answer * weights).sum().backward()
        assert excess(logits, rounded, expected) <= 1e-4
    for name, buffer in network.named_buffers():
        assert excess(buffer, single.state_dict()[name], reference.state_dict()[name]) <= 1e-4, name
    ours, theirs = (
        max(
            distance(parameter.grad, truth.grad)
            for parameter, truth in zip(some.parameters(), reference.parameters(), strict=True)
        )
        for some in (network, single)
    )
    return ours, theirs


def distance(actual: Tensor | None, expected: Tensor | None) -> float:
    """Between two tensors of one shape, as a part of the second's norm (or of 0.1, where that is next to nothing)."""
    assert actual is not None
    assert expected is not None
    assert actual.shape == expected.shape
    with torch.no_grad():
        return float((actual.double() - expected.double()).norm()) / (float(expected.double().norm()) + 0.1)


@pytest.mark.parametrize("images", [1, LANES, 128, 200])
def test_the_assignments_network_in_batches_of_any_size(images: int) -> None:
    network = build(parse(PRESETS[0].text), 0)
    chance = torch.Generator().manual_seed(images)
    closest, _ = min(gradient_distances(network, images, chance, batches=2) for _ in range(6))
    assert closest <= (1e-3 if images < LANES else 1e-4)


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
