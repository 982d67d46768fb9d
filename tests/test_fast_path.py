"""The fast training pass, against torch's own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.design.fast_path_eligibility import has_fast_path
from lib.design.layers import Architecture, ArchitectureError
from lib.design.notation import notation, parse
from lib.design.presets import PRESETS
from lib.nn.fast_path import fast_path
from lib.nn.kernels import LANES, zeros
from lib.nn.modules import BatchNorm2d
from lib.nn.network import build
from tests.architectures import architectures


@st.composite
def plain_networks(draw: st.DrawFn) -> Architecture:
    """Networks with a fast path: 3×3 convolutions with every padding, with and without norm, and pools."""
    tokens = draw(st.sampled_from([[], [], [], ["M"], ["A2s2"], ["M3s3", "A2s1"]]))[:]
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


# Mean of a channel in standard deviations, beyond which its norm loses too many digits to compare single precision.
MAX_CONDITION = 20


def stock(network: nn.Sequential) -> nn.Sequential:
    """The same weights in torch's own modules."""
    modules = [
        nn.BatchNorm2d(module.num_features) if isinstance(module, BatchNorm2d) else copy.deepcopy(module)
        for module in network
    ]
    copied = nn.Sequential(*modules)
    copied.load_state_dict(network.state_dict())
    return copied


@settings(max_examples=60)
@given(plain_networks(), st.integers(2, 40), st.integers(0, 1000))
def test_outputs_gradients_and_running_statistics_are_those_of_torch(
    architecture: Architecture, images: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = build(architecture, seed)
    for parameter in network.parameters():
        # With the initial values of a norm, 1 and 0, an error in either would not show.
        nn.init.uniform_(parameter, -0.6, 0.6, generator=generator)
    error, torch_error = min(gradient_errors(network, images, generator) for _ in range(3))
    assert error <= 3e-2 + 10 * torch_error


def condition(network: nn.Sequential, x: Tensor) -> float:
    """Return the largest mean of a channel before a norm, in standard deviations of the channel."""
    ratios, network = [0.0], copy.deepcopy(network)
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                ratios.append(float((x.mean((0, 2, 3)).abs() / (x.var((0, 2, 3)) + module.eps).sqrt()).max()))
            x = module(x)
    return max(ratios)


def gradient_errors(
    network: nn.Sequential, images: int, generator: torch.Generator, batches: int = 1
) -> tuple[float, float]:
    """Train on some batches; return the largest relative error of a parameter's gradient in the last one.

    First that of the fast path, then that of torch's modules in single precision, both against torch in double
    precision: a norm of almost constant values makes rounding errors large. Draws with a mean of more than
    MAX_CONDITION standard deviations are not used.

    In one draw out of five, rounding changes the sign of a ReLU's input or the argmax of a max-pool where two values
    are almost equal, and the gradient differs on any machine, also with torch alone. A defect shows in every draw and
    such a tie does not, so the tests take the smallest error of several draws.
    """
    single, reference, forward = stock(network), stock(network).double(), fast_path(network)
    assert forward is not None

    def excess(actual: Tensor | None, rounded: Tensor | None, expected: Tensor | None) -> float:
        return relative_error(actual, expected) - 10 * relative_error(rounded, expected)

    for _ in range(batches):
        # Batches share the workspace.
        x = torch.randn(images, 1, 28, 28, generator=generator)
        for some in (network, single, reference):
            some.zero_grad()
        assume(condition(reference, x.double()) <= MAX_CONDITION)
        logits, rounded, expected = forward(x), single(x), reference(x.double())
        weights = torch.randn(expected.shape, generator=generator)
        # The loss is smooth in the logits, so that rounding changes it little.
        for answer in (logits, rounded, expected):
            (answer * weights).sum().backward()
        assert excess(logits, rounded, expected) <= 1e-4
    for name, buffer in network.named_buffers():
        assert excess(buffer, single.state_dict()[name], reference.state_dict()[name]) <= 1e-4, name
    ours, theirs = (
        max(
            relative_error(parameter.grad, exact.grad)
            for parameter, exact in zip(some.parameters(), reference.parameters(), strict=True)
        )
        for some in (network, single)
    )
    return ours, theirs


def relative_error(actual: Tensor | None, expected: Tensor | None) -> float:
    """Norm of the difference of two tensors of one shape, relative to the norm of the second plus 0.1."""
    assert actual is not None
    assert expected is not None
    assert actual.shape == expected.shape
    with torch.no_grad():
        return float((actual.double() - expected.double()).norm()) / (float(expected.double().norm()) + 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, LANES, 128, 200])
def test_the_assignments_network_in_batches_of_any_size(images: int) -> None:
    network = build(parse(PRESETS[0].text), 0)
    generator = torch.Generator().manual_seed(images)
    error, _ = min(gradient_errors(network, images, generator, batches=2) for _ in range(6))
    assert error <= (1e-3 if images < LANES else 1e-4)


@pytest.mark.parametrize("text", ["M4s4 10 A", "A2s2 M 4 10v A", "M8s8 10v A", "M3s3 A2s1 2 10v A"])
def test_nothing_is_written_past_the_workspace_if_a_pool_comes_first(text: str) -> None:
    """Then the images are larger than any output, and the arrays for gradients have the size of an output."""
    network = build(parse(text))
    forward = cast(Any, fast_path(network))
    x = torch.randn(LANES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    forward(x)
    beyond = LANES * 28 * 28
    rooms = [np.full(len(forward._grad_output) + beyond, 7, np.float32) for _ in range(2)]
    forward._grad_output, forward._grad_input = (room[:-beyond] for room in rooms)
    forward(x).square().sum().backward()
    assert all((room[-beyond:] == 7).all() for room in rooms)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_numbers_do_not_depend_on_the_threads() -> None:
    x = torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3, 4, 1):
        network = build(parse(PRESETS[0].text))
        forward = fast_path(network, threads=threads)
        assert forward is not None
        for _ in range(4):
            forward(x).square().sum().backward()  # type: ignore[no-untyped-call]
        results.append([parameter.grad for parameter in network.parameters()] + list(network.buffers()))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))  # type: ignore[arg-type]


@given(st.one_of(architectures(), plain_networks()))
def test_a_network_that_has_a_fast_path_gets_it(architecture: Architecture) -> None:
    if has_fast_path(architecture):
        assert fast_path(build(architecture)) is not None, notation(architecture)


@pytest.mark.parametrize("text", ["8k5 10 A", "8s2 10 A", "8d2 10 A", "8b 10 A", "8 D10 10 A", "8 M 10f", "8p3 10 A"])
def test_other_networks_are_left_to_torch(text: str) -> None:
    assert not has_fast_path(parse(text))
    assert fast_path(build(parse(text))) is None


# Values of the arguments of torch's modules; the kernels know the first of each list.
CONVOLUTION: dict[str, list[Any]] = {
    "padding": [0, 1, 2, 3, (1, 2), "same", "valid"],
    "stride": [1, 2, (1, 2)],
    "dilation": [1, 2, (1, 2)],
    "groups": [1, 2],
    "bias": [True, False],
    "padding_mode": ["zeros", "reflect", "replicate", "circular"],
}
NORM: dict[str, list[Any]] = {
    "eps": [1e-5, 1e-2],
    "momentum": [0.1, 0.5, 1.0, None],
    "affine": [True, False],
    "track_running_stats": [True, False],
}
MAX_POOL: dict[str, list[Any]] = {
    "kernel_size": [2, 3, (2, 2), (2, 3)],
    "stride": [None, 1, 2, (1, 2)],
    "padding": [0, 1],
    "dilation": [1, 2],
    "ceil_mode": [False, True],
    "return_indices": [False, True],
}
AVERAGE_POOL: dict[str, list[Any]] = {
    "kernel_size": [2, 3, (2, 2), (2, 3)],
    "stride": [None, 1, 2, (1, 2)],
    "padding": [0, 1],
    "ceil_mode": [False, True],
    "count_include_pad": [True, False],
    "divisor_override": [None, 3],
}


@st.composite
def chosen(draw: st.DrawFn, arguments: dict[str, list[Any]], odd: bool) -> dict[str, Any]:
    """The first value of each argument; if `odd`, any value for up to two of them."""
    names = draw(st.permutations(list(arguments)))[: draw(st.integers(0, 2))] if odd else []
    return {name: draw(st.sampled_from(arguments[name])) if name in names else arguments[name][0] for name in arguments}


@st.composite
def stock_networks(draw: st.DrawFn) -> nn.Sequential:
    """Networks of torch's own modules; every second one with unusual arguments, which may not fit together."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    odd = draw(st.booleans())
    modules: list[nn.Module] = []
    channels = 1
    for _ in range(draw(st.integers(1, 3))):
        arguments = draw(chosen(CONVOLUTION, odd))
        width = draw(st.sampled_from([2, 4]))
        kernel_size: Any = draw(st.sampled_from([3, 3, 3, 3, (3, 1), 5])) if odd else 3
        if channels % arguments["groups"] == 0 and not (arguments["padding"] == "same" and arguments["stride"] != 1):
            modules.append(nn.Conv2d(channels, width, kernel_size, **arguments))
            channels = width
            if draw(st.booleans()):
                modules.append(
                    draw(st.sampled_from([nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU()])) if odd else nn.ReLU()
                )
            if draw(st.booleans()) and (odd or isinstance(modules[-1], nn.ReLU)):
                modules.append(
                    nn.BatchNorm2d(channels, **draw(chosen(NORM, odd))).train(not odd or draw(st.booleans()))
                )
        if draw(st.booleans()):
            modules.append(nn.MaxPool2d(**draw(chosen(MAX_POOL, odd))))
        if draw(st.booleans()):
            modules.append(nn.AvgPool2d(**draw(chosen(AVERAGE_POOL, odd))))
    last = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AvgPool2d(2)]
    modules.append(draw(st.sampled_from(last)) if odd else last[0])
    flattened: list[list[nn.Module]] = [[nn.Flatten()], [], [nn.Flatten(2)], [nn.Flatten(0)]]
    return nn.Sequential(*modules, *(draw(st.sampled_from(flattened)) if odd else flattened[0]))


@settings(max_examples=150)
@given(stock_networks(), st.integers(2, 20), st.integers(0, 1000))
def test_modules_with_any_arguments_are_computed_as_torch_does_or_left_to_it(
    network: nn.Sequential, images: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    if fast_path(network) is not None:
        error, torch_error = min(gradient_errors(network, images, generator) for _ in range(3))
        assert error <= 3e-2 + 10 * torch_error


def known() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 10, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


UNKNOWN: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "groups": (4, lambda: nn.Conv2d(4, 10, 3, groups=2)),
    "padding mode": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")),
    "two different paddings": (0, lambda: nn.Conv2d(1, 4, 3, padding=(1, 2))),
    "no bias": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, bias=False)),
    "dilation": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, dilation=2)),
    "transposed": (0, lambda: nn.ConvTranspose2d(1, 4, 3)),
    "double precision": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, dtype=torch.float64)),
    "weight norm": (0, lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3, padding=1))),
    "a subclass": (0, lambda: type("Mine", (nn.Conv2d,), {})(1, 4, 3, padding=1)),
    "a hook": (0, lambda: hooked(nn.Conv2d(1, 4, 3, padding=1))),
    "a hook on a ReLU": (1, lambda: hooked(nn.ReLU())),
    "a ReLU in place": (1, lambda: nn.ReLU(inplace=True)),
    "no gamma and beta": (2, lambda: nn.BatchNorm2d(4, affine=False)),
    "no running statistics": (2, lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "a cumulative average": (2, lambda: nn.BatchNorm2d(4, momentum=None)),
    "a norm in eval mode": (2, lambda: nn.BatchNorm2d(4).eval()),
    "a synchronized norm": (2, lambda: nn.SyncBatchNorm(4)),
    "a norm of another width": (2, lambda: nn.BatchNorm2d(5)),
    "ceil mode": (3, lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "returned indices": (3, lambda: nn.MaxPool2d(2, return_indices=True)),
    "a dilated pool": (3, lambda: nn.MaxPool2d(2, dilation=2)),
    "a padded pool": (3, lambda: nn.MaxPool2d(2, padding=1)),
    "ceil mode of an average": (6, lambda: nn.AvgPool2d(3, 2, ceil_mode=True)),
    "another divisor": (6, lambda: nn.AvgPool2d(2, divisor_override=3)),
    "a pool wider than its input": (6, lambda: nn.AvgPool2d(13)),
    "no last flatten": (8, lambda: nn.Identity()),
    "a flatten of the batch": (8, lambda: nn.Flatten(0)),
}  # fmt: skip


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return module


@pytest.mark.parametrize("case", UNKNOWN)
def test_modules_that_the_kernels_do_not_know_are_left_to_torch(case: str) -> None:
    network = known()
    assert fast_path(network) is not None
    index, module = UNKNOWN[case]
    network[index] = module()
    assert fast_path(network) is None


def test_a_network_with_a_hook_is_left_to_torch() -> None:
    network = known()
    hooked(network)
    assert fast_path(network) is None


def test_workspace_starts_at_a_cache_line() -> None:
    for count in (1, 15, 16, 1000):
        room = zeros(count)
        assert len(room) == count
        assert room.ctypes.data % 64 == 0
