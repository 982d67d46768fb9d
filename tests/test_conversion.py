"""The architecture that is made of the modules of a file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from lib.design.analysis import analyze
from lib.design.layers import MAX_LAYERS, Architecture
from lib.design.notation import notation
from lib.importing.architecture_graph import graph_nodes
from lib.importing.conversion import converted
from lib.importing.module_graph import IMAGE, Argument, ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.torch_modules import SIGNATURES, bound_arguments
from tests.architectures import architectures


def node(kind: str, inputs: tuple[int, ...] = (IMAGE,), **given: Any) -> ModuleNode:
    arguments: dict[str, Argument] = bound_arguments(kind, (), given) if kind in SIGNATURES else dict(given)
    return ModuleNode(kind, inputs, arguments, line=7)


def conv(channels: int = 8, source: int = IMAGE, **given: Any) -> ModuleNode:
    usual = {"in_channels": 1, "out_channels": channels, "kernel_size": 3, "padding": 1}
    return node("Conv2d", (source,), **{**usual, **given})


def text(*nodes: ModuleNode) -> str:
    return notation(converted(ModuleGraph("Net", nodes)).architecture)


def in_sequence(*nodes: ModuleNode) -> list[ModuleNode]:
    return [ModuleNode(n.kind, (place - 1,), n.arguments, n.line) for place, n in enumerate(nodes)]


HEAD = (conv(10), node("AdaptiveAvgPool2d", output_size=1), node("Flatten"))


@settings(max_examples=200, deadline=None)
@given(architectures())
def test_the_graph_of_an_architecture_gives_the_architecture(architecture: Architecture) -> None:
    nodes = graph_nodes(architecture)
    found = converted(ModuleGraph("Net", nodes))
    assert found.architecture == architecture
    # One node for each row of the table.
    rows = analyze(architecture).rows
    assert [node.kind for node in found.nodes] == [row.kind for row in rows]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (conv(), "8x"),
        (conv(bias=False), "8xu"),
        (conv(padding=0, stride=2, dilation=2), "8s2d2vx"),
        (conv(padding=(0, 1)), "8p0x1x"),
        (node("BatchNorm2d", num_features=1), "N"),
        (node("GhostBatchNorm2d", num_features=1, num_splits=2), "gbn2"),
        (node("GroupNorm", num_groups=1, num_channels=1), "gn1"),
        (node("LayerNorm", normalized_shape=(1, 28, 28)), "ln"),
        (node("LayerNorm2d", normalized_shape=1), "ln2d"),
        (node("InstanceNorm2d", num_features=1), "in"),
        (node("ReLU"), "R"),
        (node("ReLU6"), "relu6"),
        (node("LeakyReLU", negative_slope=0.1), "leaky0.1"),
        (node("PReLU"), "prelu"),
        (node("ELU", alpha=0.5), "elu0.5"),
        (node("CELU"), "celu"),
        (node("SELU"), "selu"),
        (node("GELU"), "gelu"),
        (node("SiLU"), "silu"),
        (node("Mish"), "mish"),
        (node("Hardswish"), "hardswish"),
        (node("Softplus"), "softplus"),
        (node("Tanh"), "tanh"),
        (node("Sigmoid"), "sigmoid"),
        (node("MaxPool2d", kernel_size=2), "M"),
        (node("MaxPool2d", kernel_size=3, stride=2, padding=1, ceil_mode=True), "M3s2p1c"),
        (node("AvgPool2d", kernel_size=(2, 3)), "A2x3s2x3"),
        (node("AvgPool2d", kernel_size=2, count_include_pad=False), "A2s2"),
        (node("AdaptiveMaxPool2d", output_size=7), "M4s4"),
        (node("AdaptiveAvgPool2d", output_size=(14, 7)), "A2x4s2x4"),
        (node("Dropout", p=0.029), "D2.9"),
        (node("Dropout2d", p=0.05), "D5c"),
    ],
)
def test_every_kind_of_module(module: ModuleNode, expected: str) -> None:
    assert text(*in_sequence(module, *HEAD)) == f"{expected} 10 A"


def test_modules_that_change_nothing_are_left_out() -> None:
    assert text(*in_sequence(node("Identity"), *HEAD, node("Identity"))) == "10 A"
    found = converted(ModuleGraph("Net", tuple(in_sequence(node("AdaptiveAvgPool2d", output_size=28), *HEAD))))
    assert notation(found.architecture) == "10 A"
    assert found.notes == ("AdaptiveAvgPool2d(28) is left out: its input has this size already.",)


def test_linear_layers() -> None:
    linear = [
        node("Flatten"),
        node("Linear", in_features=784, out_features=32, bias=False),
        node("BatchNorm1d", num_features=32),
        node("Tanh"),
        node("Linear", in_features=32, out_features=10),
    ]
    assert text(*in_sequence(*linear)) == "32fxu N tanh 10f"
    with_norm = [node("Flatten"), node("LayerNorm", normalized_shape=(784,)), *linear[1:]]
    assert text(*in_sequence(*with_norm)) == "F ln 32fxu N tanh 10f"


@pytest.mark.parametrize("kind", ["LogSoftmax", "Softmax"])
def test_a_softmax_at_the_end_belongs_to_the_loss(kind: str) -> None:
    found = converted(ModuleGraph("Net", tuple(in_sequence(*HEAD, node(kind, dim=1)))))
    assert notation(found.architecture) == "10 A"
    assert found.notes == ("The softmax at the end is left out: the loss computes it from the logits.",)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (node("Softmax", dim=1), "A softmax that is not at the end"),
        (node("Hardtanh"), "Hardtanh cannot be written in the notation"),
        (conv(4096), "out_channels=4096 is out of range"),
        (conv(padding_mode="reflect"), "Padding with reflect"),
        (conv(dilation=(1, 2)), "A dilation that differs between the axes"),
        (conv(kernel_size=29), "kernel_size=29 is not available"),
        (conv(padding=40), "padding=40 is not available"),
        (node("BatchNorm2d", num_features=1, affine=False), "BatchNorm2d without weights"),
        (node("BatchNorm2d", num_features=1, track_running_stats=False), "Batch norm without running statistics"),
        (node("LayerNorm", normalized_shape=(28,)), "LayerNorm over (28,)"),
        (node("LayerNorm", normalized_shape=(1, 28, 28), elementwise_affine=False), "LayerNorm without weights"),
        (node("InstanceNorm2d", num_features=1, affine=True), "Instance norm with weights"),
        (node("PReLU", num_parameters=8), "PReLU with a number for each channel"),
        (node("GELU", approximate="tanh"), "GELU with approximate='tanh'"),
        (node("LeakyReLU", negative_slope=-0.1), "negative_slope=-0.1 is not available"),
        (node("MaxPool2d", kernel_size=2, dilation=2), "A pool with dilation"),
        (node("AvgPool2d", kernel_size=2, divisor_override=3), "divisor_override is not available"),
        (node("AvgPool2d", kernel_size=2, padding=1, count_include_pad=False), "count_include_pad=False"),
        (node("AdaptiveAvgPool2d", output_size=5), "An adaptive pool from 28×28 to 5"),
        (node("Dropout", p=0.95), "A dropout of 95 %"),
    ],
)
def test_what_the_notation_does_not_have_is_refused_with_its_line(module: ModuleNode, reason: str) -> None:
    with pytest.raises(ImportSourceError) as caught:
        text(*in_sequence(module, *HEAD))
    assert str(caught.value).startswith(reason)
    assert caught.value.line == 7


def test_a_network_that_does_not_classify_digits_is_refused() -> None:
    with pytest.raises(ImportSourceError, match="ends in 8 × 28 × 28"):
        text(conv())
    with pytest.raises(ImportSourceError, match="has no layers"):
        text()
    with pytest.raises(ImportSourceError, match=f"limit is {MAX_LAYERS}"):
        text(*in_sequence(*[conv() for _ in range(300)], *HEAD))
    with pytest.raises(ImportSourceError, match="limit is 640"):
        text(*in_sequence(*[node("ReLU") for _ in range(5000)]))


def ending(nodes: list[ModuleNode]) -> list[ModuleNode]:
    """The nodes with the head behind them."""
    last = len(nodes) - 1
    return [*nodes, *(ModuleNode(n.kind, (last + place,), n.arguments, 7) for place, n in enumerate(HEAD))]


ADD = "Add"
CAT = "Concat"
BRANCHES: list[tuple[list[ModuleNode], str]] = [
    # Residual: the input is added, in either order.
    ([conv(), conv(8, 0), node(ADD, (0, 1))], "8x add( 8x ) 10 A"),
    ([conv(), conv(8, 0), node(ADD, (1, 0))], "8x add( 8x ) 10 A"),
    # A shortcut with a convolution; the order is that of the file, whatever the sum says.
    (
        [conv(), conv(8, 0), node("ReLU", (1,)), conv(16, 2), conv(16, 0), node(ADD, (3, 4))],
        "8x add( 8n 16x / 16x ) 10 A",
    ),
    ([conv(), conv(16, 0), conv(8, 0), conv(16, 2), node(ADD, (3, 1))], "8x add( 16x / 8x 16x ) 10 A"),
    # Inception: branches of the image itself, concatenated in the order of the file's argument.
    ([conv(4), conv(6), node("ReLU", (1,)), conv(8, 2), node(CAT, (3, 0))], "cat( 6n 8x / 4x ) 10 A"),
    ([conv(4), node(CAT, (IMAGE, 0))], "cat( / 4x ) 10 A"),
    ([conv(4), node(CAT, (0, IMAGE))], "cat( 4x ) 10 A"),
    # A residual block within a branch.
    (
        [conv(), conv(8, 0), conv(8, 1), node(ADD, (2, 1)), conv(8, 0), node(CAT, (3, 4))],
        "8x cat( 8x add( 8x ) / 8x ) 10 A",
    ),
    # Two blocks one after the other, and a sum of three.
    ([conv(), conv(8, 0), node(ADD, (1, 0)), conv(8, 2), node(ADD, (2, 3))], "8x add( 8x ) add( 8x ) 10 A"),
    ([conv(), conv(8, 0), conv(8, 0), node(ADD, (0, 1, 2))], "8x add( 8x / 8x / ) 10 A"),
    # DenseNet: each layer sees the concatenation of all before it, as (a, f(a)), then (b, g(b)).
    ([conv(4), conv(4, 0), node(CAT, (0, 1)), conv(4, 2), node(CAT, (2, 3))], "4x cat( / 4x ) cat( / 4x ) 10 A"),
    # The same, with the parts of the first concatenation named again by the second; the newest part may come first.
    ([conv(4), conv(4, 0), node(CAT, (0, 1)), conv(4, 2), node(CAT, (0, 1, 3))], "4x cat( / 4x ) cat( / 4x ) 10 A"),
    ([conv(4), conv(4, 0), node(CAT, (1, 0)), conv(4, 2), node(CAT, (3, 1, 0))], "4x cat( 4x ) cat( 4x ) 10 A"),
    # A residual block around another one.
    ([conv(), conv(8, 0), conv(8, 1), node(ADD, (1, 2)), node(ADD, (3, 0))], "8x add( 8x add( 8x ) ) 10 A"),
]


@pytest.mark.parametrize(("nodes", "expected"), BRANCHES, ids=[expected for _, expected in BRANCHES])
def test_branches(nodes: list[ModuleNode], expected: str) -> None:
    assert text(*ending(nodes)) == expected


@pytest.mark.parametrize(
    "nodes",
    [
        # Skips that cross: the second begins within the first.
        [conv(), conv(8, 0), conv(8, 1), node(ADD, (0, 2)), conv(8, 3), node(ADD, (4, 1))],
        # The same node in both branches.
        [conv(), conv(8, 0), node("ReLU", (1,)), node("Tanh", (1,)), node(CAT, (2, 3)), node(CAT, (4, 1, 0))],
    ],
)
def test_branches_that_cross_are_refused(nodes: list[ModuleNode]) -> None:
    with pytest.raises(ImportSourceError, match="cross each other"):
        text(*ending(nodes))


def test_a_value_that_is_added_to_itself_is_refused() -> None:
    with pytest.raises(ImportSourceError, match="added to itself"):
        text(*ending([conv(), node(ADD, (0, 0))]))
    with pytest.raises(ImportSourceError, match="Mul of several values"):
        text(*ending([conv(), conv(), node("Mul", (0, 1))]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ImportSourceError, match="cannot add"):
        text(*ending([conv(8), conv(4), node(ADD, (0, 1))]))


def test_a_lattice_of_crossing_branches_is_refused_at_once() -> None:
    # Without a limit, the number of ways through it is 2 to the power of its height.
    nodes = [conv(), conv()]
    for _ in range(40):
        last = len(nodes)
        nodes += [conv(8, last - 2), conv(8, last - 1), node(ADD, (last, last + 1)), node(ADD, (last + 1, last))]
    nodes.append(node(ADD, (len(nodes) - 2, len(nodes) - 1)))
    with pytest.raises(ImportSourceError, match="cross each other"):
        text(*nodes)


def test_blocks_within_blocks_are_limited() -> None:
    deep = [conv() if place == 0 else conv(8, place - 1) for place in range(200)]
    inner = len(deep) - 1
    for outer in range(198, -1, -1):
        deep.append(node(ADD, (inner, outer)))
        inner = len(deep) - 1
    with pytest.raises(ImportSourceError, match="branches within each other"):
        text(*ending(deep))
