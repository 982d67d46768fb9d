"""The fast training pass, against torch's own modules."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import lib.nn.fast_path
from lib.data import public_results
from lib.data.dataset import Dataset, normalize
from lib.design.analysis import analyze
from lib.design.layers import Architecture, Shape
from lib.design.notation import notation, parse
from lib.design.operations import operations
from lib.design.presets import PRESETS
from lib.nn.fast_path import MAX_THREADS, fast_path
from lib.nn.kernels import zeros
from lib.nn.modules import Dropout
from lib.nn.network import Network, build
from lib.nn.plan import build_plan
from lib.nn.vectors import LANES
from tests.architectures import architectures
from tests.fast_path_networks import networks
from tests.fast_path_reference import MAX_CONDITION, Comparison, excess

ASSIGNMENT = PRESETS[0].text
# Together they have every feature.
FEATURES = [
    ASSIGNMENT,
    "bias=off norm=before.gn2 | 4k5s2 D20 6k7g2 M3s2p1c 8k4s3 10w A",
    "D10 4.gbn3 D30c add( 4b 4x N ) R cat( 4k3x1 D20 / M3s1p1 4.in / ) N A3s2p1 16f N D20 10f R N",
    "6k6s3x R 6g6k2x5p1 N N D5c 4d2v R D10 D10c gn2 G 10fu",
    "act=gelu norm=before | 4k2 6k3x1g2.ln2d M prelu 4.gn1.relu 8v 10 R G",
    "A2s2 M4s2 2 R add( N 2x / R 2k1n / D20 M3s1p1 ) gbn2 10v A N",
]


@pytest.fixture(autouse=True)
def no_onednn() -> Iterator[None]:
    """With some odd convolutions, oneDNN writes outside its memory, and the process ends at some later moment."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def random_network(text: str) -> tuple[Network, torch.Generator]:
    """A network with random parameters, and the generator for what follows."""
    network = build(parse(text))
    return network, randomize(network, 0)


def randomize(network: nn.Sequential, seed: int) -> torch.Generator:
    """Set random parameters: with the initial values of a norm, 1 and 0, an error in either would not show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6, generator=generator)
    return generator


def require_agreement(
    comparison: Comparison, images: int, generator: torch.Generator, max_condition: float = MAX_CONDITION
) -> None:
    """Compare with torch on several draws; one without a tie must agree (see `Comparison.errors`).

    Where a norm makes the gradient of the weights before it vanish, random networks may leave rounding errors of 1 %.
    """
    tolerance = 1e-3
    excesses: list[float] = []
    while len(excesses) < 6 and min(excesses, default=math.inf) > tolerance:
        error, torch_error = comparison.errors(images, generator, max_condition)
        if not math.isfinite(torch_error):
            # Few networks have so large means that their draws cannot be compared.
            assume(False)
        excesses.append(error - 10 * torch_error)
    assert min(excesses) <= (tolerance if max_condition == math.inf else 3e-2)


def is_refused(network: nn.Sequential, images: int) -> bool:
    """Whether torch refuses a batch because a norm has one value; the fast path must do the same."""
    x = torch.zeros(images, 1, 28, 28)
    some, other = copy.deepcopy(network), copy.deepcopy(network)
    try:
        some(x)
    except ValueError:
        forward = fast_path(other)
        assert forward is not None
        with pytest.raises(ValueError, match="more than 1"):
            forward(x)
        return True
    return False


@settings(max_examples=150)
@given(networks(), st.sampled_from([2, 3, 5, 15, 16, 17, 20, 33]), st.integers(0, 1000), st.sampled_from([0, 0.3, 1]))
def test_outputs_gradients_and_running_statistics_are_those_of_torch(
    architecture: Architecture, images: int, seed: int, external: float
) -> None:
    """Also if torch computes any convolutions and linear layers."""
    network, choice = build(architecture, seed), random.Random(seed)
    generator = randomize(network, seed)
    comparison = Comparison(network, lambda _module, _shape: choice.random() < external)
    if not is_refused(network, images):
        require_agreement(comparison, images, generator)


@pytest.mark.parametrize("text", FEATURES)
def test_batches_may_change_their_size(text: str) -> None:
    network, generator = random_network(text)
    comparison = Comparison(network)
    for images in (128, 15, 16, 17, 200, 1, 128):
        if not is_refused(network, images):
            require_agreement(comparison, images, generator, math.inf)


@pytest.mark.parametrize("text", FEATURES)
def test_torch_may_compute_all_convolutions_and_linear_layers(text: str) -> None:
    network, generator = random_network(text)
    require_agreement(Comparison(network, lambda _module, _shape: True), 20, generator, math.inf)


SHARED = [
    "4x add( D0 R 4 / 4x ) 10 A",
    "4n add( R N 4x / 4x ) 10 A",
    "4x cat( D30 R 4x / D0 N / D20c ) 10 A",
    "4n M M add( F N 196f / F R / D0 F ) 10f",
    "M M add( F / 49f / F R N ) 10f",
    "cat( N / D30 4 / M3s1p1 / R ) 10 A",
    "M M add( F / 49f.gelu ) gelu R 10f",
    "gelu R N 4 gelu R N 10f",
    "M2s2p1c F D30c N D30c 10f",
]  # fmt: skip


@pytest.mark.parametrize("text", SHARED)
@pytest.mark.parametrize("external", [False, True])
def test_what_one_branch_does_to_its_input_does_not_reach_another(text: str, external: bool) -> None:
    network, generator = random_network(text)
    require_agreement(Comparison(network, lambda _module, _shape: external), 20, generator, math.inf)


def test_real_digits(small: Dataset) -> None:
    """Their background is constant, so that most maxima are ties."""
    comparison = Comparison(build(parse(ASSIGNMENT)))
    x, labels = normalize(small.train_images[:128]), small.train_labels[:128]
    for answer in comparison.outputs(x):
        F.cross_entropy(answer, labels).backward()  # type: ignore[no-untyped-call]
    parameters = (some.parameters() for some in (comparison.network, comparison.single, comparison.double))
    for parameter, rounded, exact in zip(*parameters, strict=True):
        assert excess(parameter.grad, rounded.grad, exact.grad) <= 1e-4


@given(architectures())
def test_every_architecture_has_a_fast_path(architecture: Architecture) -> None:
    assert fast_path(build(architecture)) is not None, notation(architecture)


def test_the_decision_for_torch_sees_each_convolution_and_linear_layer_with_its_input() -> None:
    architecture = parse("4k5s2 gelu M 6b 16f D20 10f")
    network = build(architecture)
    asked: list[tuple[nn.Module, Shape]] = []

    def note(module: nn.Module, shape: Shape) -> bool:
        asked.append((module, shape))
        return False

    fast_path(network, is_external=note)
    steps = zip(network, operations(architecture), strict=True)
    expected = [(module, step.input_shape) for module, step in steps if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [module for module, _ in asked] == [module for module, _ in expected]
    # A linear layer sees the map that was flattened.
    assert asked[2][1] == (6, 7, 7)
    assert [math.prod(shape) for _, shape in asked] == [math.prod(shape) for _, shape in expected]


# Memory


def trained(forward: Any, network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The logits, the gradients, and the running statistics after one step."""
    for parameter in network.parameters():
        parameter.grad = None
    logits = forward(x)
    logits.square().sum().backward()
    grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [logits.detach(), *grads, *(buffer.clone() for buffer in network.buffers())]


def guarded(array: Any, clear: bool) -> tuple[Any, Any]:
    """A copy within an array that is longer on both sides, and that array; the rest is NaN, or the lowest integer."""
    room = 64 * LANES
    unset = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min
    whole = np.full(array.size + 2 * room, unset, array.dtype)
    inner = whole[room:-room].reshape(array.shape)
    if not clear:
        inner[...] = array
    return inner, whole


def is_unset(values: Any) -> bool:
    return bool((np.isnan(values) if values.dtype.kind == "f" else values == np.iinfo(values.dtype).min).all())


@pytest.mark.parametrize("text", [*FEATURES, *SHARED, "M4s4 10 A", "M8s8 10v A", "M3s3 A2s1 2 10v A"])
@pytest.mark.parametrize("external", [False, True])
def test_nothing_is_read_or_written_outside_the_workspace_and_nothing_old_is_read(text: str, external: bool) -> None:
    """NaN around each array, and in those that a step overwrites, reaches no result."""
    x = torch.randn(35, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    results, rooms = [], []
    for is_guarded in (False, True):
        network = build(parse(text))
        forward: Any = fast_path(network, 2, lambda _module, _shape: external)
        forward._allocate(len(x))
        if is_guarded:
            arrays = {}
            overwritten = {"params", "packed", "seeds", "values", "argmax", "param_grads", "grads"}
            for name, array in forward._work._asdict().items():
                if isinstance(array, np.ndarray):
                    arrays[name], whole = guarded(array, name in overwritten)
                    rooms.append((name, whole))
            # One number more than there are parameters, for missing biases.
            arrays["params"][-1] = 0
            arrays["param_grads"].reshape(-1, len(arrays["params"]))[:, -1] = 0
            forward._work = forward._work._replace(**arrays)
            for number, scratch in enumerate(forward._scratch):
                pairs = [guarded(array, True) for array in scratch]
                forward._scratch[number] = tuple(inner for inner, _ in pairs)
                rooms += [("scratch", whole) for _, whole in pairs]
        results.append(trained(forward, network, x))
    for name, whole in rooms:
        assert is_unset(whole[: 64 * LANES]), name
        assert is_unset(whole[-64 * LANES :]), name
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_padding_of_a_batch_does_not_grow_to_infinity() -> None:
    """A norm after each layer makes any weights safe, but has no statistics of the lanes without an image."""
    for text in ("4 4 4 4 4 10 A", "norm=before.gn2 | 4 4 4 4 4 10 A", "4v 4v 4v 4v 4v 10v A"):
        network = build(parse(text))
        with torch.no_grad():
            for module in network:
                if isinstance(module, nn.Conv2d):
                    module.weight.mul_(1e12)
        comparison = Comparison(network)
        x = torch.randn(17, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        logits, _, expected = comparison.outputs(x)
        torch.testing.assert_close(logits.double() / 1e12, expected / 1e12, rtol=1e-3, atol=1e-3)
        (logits / 1e12).square().sum().backward()  # type: ignore[no-untyped-call]
        assert all(
            torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None
        )


def test_workspace_starts_at_a_cache_line() -> None:
    for count in (1, 15, 16, 1000):
        room = zeros(count)
        assert len(room) == count
        assert room.ctypes.data % 64 == 0


# Threads


@pytest.mark.parametrize("text", FEATURES)
def test_the_numbers_do_not_depend_on_the_threads(text: str) -> None:
    x = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3, 5, MAX_THREADS, 1):
        network = build(parse(text))
        forward = fast_path(network, threads=threads)
        trained(forward, network, x)
        results.append(trained(forward, network, x))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_networks_that_train_at_once_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    # The first calls start the threads.
    monkeypatch.setattr(lib.nn.fast_path, "_workers", [])

    def results(text: str) -> list[Tensor]:
        network = build(parse(text))
        forward = fast_path(network, threads=3)
        for _ in range(4):
            found = trained(forward, network, x)
        return found

    texts = [text for text in FEATURES for _ in range(2)]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = [future.result(timeout=120) for future in [pool.submit(results, text) for text in texts]]
    for text, found in zip(texts, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results(text), found, strict=True)), text


# Errors


@pytest.mark.parametrize("text", ["M 4 G N 10f", "4 G gbn2 10f"])
def test_a_norm_of_one_value_is_refused_as_torch_does_and_the_next_batch_is_not(text: str) -> None:
    network, generator = random_network(text)
    comparison = Comparison(network)
    require_agreement(comparison, 20, generator, math.inf)
    assert is_refused(network, 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 1"):
            comparison.forward(torch.zeros(1, 1, 28, 28))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    require_agreement(comparison, 20, generator, math.inf)


def test_an_empty_batch_is_refused() -> None:
    forward = fast_path(build(parse("4 10 A")))
    assert forward is not None
    with pytest.raises(ValueError, match="at least one image"):
        forward(torch.zeros(0, 1, 28, 28))


@pytest.mark.parametrize(
    "text", [*FEATURES, "4n M 10n G", "M3s2 4n R 10f R", "4x R D90 M3s1p1 10f", "A3s1p1 D90c R 10 G"]
)
@pytest.mark.parametrize("external", [False, True])
def test_nan_reaches_the_logits(text: str, external: bool) -> None:
    """Neither a ReLU, nor a max-pool, nor a dropout hides a training that has diverged."""
    for row in (0, 13, 14):
        forward = fast_path(build(parse(text)), is_external=lambda _module, _shape: external)
        assert forward is not None
        x = torch.zeros(20, 1, 28, 28)
        x[3, 0, row, row] = math.nan
        assert torch.isnan(forward(x)[3]).any()


# Modules that the kernels do not know


def test_the_kernels_compute_all_of_nearly_every_public_network() -> None:
    texts = {result.notation for result in public_results.load() if result.notation}
    small = [parse(text) for text in texts]
    small = [architecture for architecture in small if analyze(architecture).macs < 5_000_000]
    assert len(small) > 150
    plans = [build_plan(build(architecture).train(), lambda _layer, _shape: False) for architecture in small]
    assert sum(not plan.externals for plan in plans) >= 0.95 * len(small)


# Values of the arguments of torch's modules; the first of each list is the usual one.
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
GROUP_NORM: dict[str, list[Any]] = {"eps": [1e-5, 1e-2], "affine": [True, False]}
INSTANCE_NORM: dict[str, list[Any]] = {
    "eps": [1e-5, 1e-2],
    "momentum": [0.1, 0.5],
    "affine": [False, True],
    "track_running_stats": [False, True],
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
            match draw(st.sampled_from(["", "batch", "batch", "group", "instance"])):
                case "batch":
                    norm: nn.Module = nn.BatchNorm2d(channels, **draw(chosen(NORM, odd)))
                    modules.append(norm.train(not odd or draw(st.booleans())))
                case "group":
                    modules.append(nn.GroupNorm(2, channels, **draw(chosen(GROUP_NORM, odd))))
                case "instance":
                    modules.append(nn.InstanceNorm2d(channels, **draw(chosen(INSTANCE_NORM, odd))))
        if draw(st.booleans()):
            modules.append(nn.MaxPool2d(**draw(chosen(MAX_POOL, odd))))
        if draw(st.booleans()):
            modules.append(nn.AvgPool2d(**draw(chosen(AVERAGE_POOL, odd))))
    last = [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AvgPool2d(2)]
    modules.append(draw(st.sampled_from(last if odd else last[:2])))
    flattened: list[list[nn.Module]] = [[nn.Flatten()], [], [nn.Flatten(2)], [nn.Flatten(0)]]
    return nn.Sequential(*modules, *(draw(st.sampled_from(flattened)) if odd else flattened[0]))


@settings(max_examples=120)
@given(stock_networks(), st.integers(2, 20), st.integers(0, 1000))
def test_modules_with_any_arguments_are_computed_as_torch_does_or_left_to_it(
    network: nn.Sequential, images: int, seed: int
) -> None:
    if fast_path(network) is not None:
        require_agreement(Comparison(network), images, torch.Generator().manual_seed(seed))


def known() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 10, 3, groups=2),
        nn.ReLU(), nn.AvgPool2d(2), nn.GroupNorm(2, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10),
    )  # fmt: skip


UNKNOWN: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "padding mode": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")),
    "padding in words": (0, lambda: nn.Conv2d(1, 4, 3, padding="same")),
    "transposed": (0, lambda: nn.ConvTranspose2d(1, 4, 3)),
    "double precision": (0, lambda: nn.Conv2d(1, 4, 3, padding=1, dtype=torch.float64)),
    "weight norm": (0, lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3, padding=1))),
    "a convolution of another width": (0, lambda: nn.Conv2d(2, 4, 3)),
    "a convolution larger than its input": (0, lambda: nn.Conv2d(1, 4, 29)),
    "a subclass": (0, lambda: type("Mine", (nn.Conv2d,), {})(1, 4, 3, padding=1)),
    "a hook": (0, lambda: hooked(nn.Conv2d(1, 4, 3, padding=1))),
    "a hook on a ReLU": (1, lambda: hooked(nn.ReLU())),
    "a ReLU in place": (1, lambda: nn.ReLU(inplace=True)),
    "another activation": (1, lambda: nn.GELU()),
    "torch's own dropout": (1, lambda: nn.Dropout(0.1)),
    "a dropout of all values": (1, lambda: Dropout(1.0, torch.Generator())),
    "no gamma and beta": (2, lambda: nn.BatchNorm2d(4, affine=False)),
    "no running statistics": (2, lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "a cumulative average": (2, lambda: nn.BatchNorm2d(4, momentum=None)),
    "a norm in eval mode": (2, lambda: nn.BatchNorm2d(4).eval()),
    "a synchronized norm": (2, lambda: nn.SyncBatchNorm(4)),
    "a norm of another width": (2, lambda: nn.BatchNorm2d(5)),
    "an instance norm with gamma and beta": (2, lambda: nn.InstanceNorm2d(4, affine=True)),
    "an instance norm with running statistics": (2, lambda: nn.InstanceNorm2d(4, track_running_stats=True)),
    "returned indices": (3, lambda: nn.MaxPool2d(2, return_indices=True)),
    "a dilated pool": (3, lambda: nn.MaxPool2d(2, dilation=2)),
    "another divisor": (6, lambda: nn.AvgPool2d(2, divisor_override=3)),
    "padding that is not counted": (6, lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False)),
    "a pool wider than its input": (6, lambda: nn.AvgPool2d(13)),
    "a group norm without gamma and beta": (7, lambda: nn.GroupNorm(2, 10, affine=False)),
    "a pool to a larger map": (8, lambda: nn.AdaptiveAvgPool2d(2)),
    "no flatten": (9, lambda: nn.Identity()),
    "a flatten of the batch": (9, lambda: nn.Flatten(0)),
    "a linear layer of another width": (10, lambda: nn.Linear(11, 10)),
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
    for network in (known(), build(parse("4 10 A"))):
        hooked(network)
        assert fast_path(network) is None


def test_a_hook_of_a_module_that_torch_computes_is_called() -> None:
    network = build(parse("4.gelu 10 A"))
    forward = fast_path(network)
    assert forward is not None
    gelu = next(module for module in network if isinstance(module, nn.GELU))
    hooked(gelu)
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_subclass_of_network_is_left_to_torch() -> None:
    class Mine(Network):
        pass

    network = build(parse("4 10 A"))
    network.__class__ = Mine
    assert fast_path(network) is None
