"""Networks in ONNX files: the project's own, torch's, and those that cannot be read."""

from __future__ import annotations

import importlib.util
import io
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from lib.design.analysis import analyze
from lib.design.canonical_form import canonical
from lib.design.layers import Architecture, AveragePool, Convolution, Dropout, MaxPool, Normalization
from lib.design.notation import ONNX_KEY, notation, parse
from lib.design.operations import operations
from lib.export.onnx_file import onnx_bytes
from lib.importing.conversion import converted
from lib.importing.module_graph import ImportSourceError, ModuleGraph
from lib.importing.networks import import_networks
from lib.importing.onnx_content import MAX_ONNX_BYTES
from lib.importing.onnx_model import networks_in_onnx
from lib.nn.network import build
from tests.architectures import architectures

NORMALIZED = "The normalization of the pixels is left out: every image is normalized here."
SOFTMAX = "The softmax at the end is left out: the loss computes it from the logits."


def network(data: bytes) -> ModuleGraph:
    [found] = networks_in_onnx(data)
    return found


def text(data: bytes) -> str:
    found = network(data)
    assert found.problem is None, found.problem
    return notation(converted(found).architecture)


def exported(architecture: Architecture) -> bytes:
    return onnx_bytes(architecture, build(architecture).state_dict())


# The project's own files.


@settings(max_examples=80, deadline=None)
@given(architectures())
def test_an_exported_architecture_comes_back(architecture: Architecture) -> None:
    found = network(exported(architecture))
    assert found.problem is None
    assert converted(found).architecture == architecture
    assert NORMALIZED in found.notes


def told_by_operators(architecture: Architecture) -> Architecture:
    """The architecture without what operators do not tell."""

    def plain(normalization: Normalization) -> Normalization:
        return Normalization() if normalization.name == "gbn" else normalization

    sizes = {step.layer: step for step in operations(architecture)}
    layers: list[Any] = []
    for index, layer in enumerate(architecture.layers):
        match layer:
            case Dropout():
                layers.append(replace(layer, whole_channels=False))
            case Normalization():
                layers.append(plain(layer))
            case Convolution():
                layers.append(replace(layer, normalization=plain(layer.normalization)))
            case MaxPool() | AveragePool():
                changed = Architecture(
                    tuple(
                        replace(layer, ceil_mode=False) if n == index else x for n, x in enumerate(architecture.layers)
                    )
                )
                step = sizes[index]
                room = [step.input_shape[1 + axis] + 2 * step.padding[axis] - step.kernel_size[axis] for axis in (0, 1)]
                floor = tuple(room[axis] // step.stride[axis] + 1 for axis in (0, 1))
                layers.append(changed.layers[index] if floor == step.output_shape[1:] else layer)
            case _:
                layers.append(layer)
    return canonical(Architecture(tuple(layers)))


@settings(max_examples=80, deadline=None)
@given(architectures())
def test_operators_alone_tell_all_but_kinds_of_dropout_and_ghosts(architecture: Architecture) -> None:
    model = ModelProto.FromString(exported(architecture))
    del model.metadata_props[:]
    found = network(model.SerializeToString())
    assert found.problem is None
    assert converted(found).architecture == told_by_operators(architecture)


def test_a_notation_that_is_not_that_of_the_operators_is_ignored() -> None:
    model = ModelProto.FromString(exported(parse("8 D10c M3s2c 10 A")))
    for other in ("8 D10c M3s2 10 A", "9 D10 M3s2c 10 A", "8 D20c M3s2c 10 A", "8 M3s2c 10 A", "what"):
        helper.set_model_props(model, {ONNX_KEY: other})
        assert text(model.SerializeToString()) == "8 D10 M3s2c 10 A"
    helper.set_model_props(model, {ONNX_KEY: "8.gbn2 D10c M3s2c 10 A"})
    assert text(model.SerializeToString()) == "8.gbn2 D10c M3s2c 10 A"


# Files of torch.onnx.export.


def torch_file(module: nn.Module, opset: int = 18, **options: Any) -> bytes:
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(2, 1, 28, 28),), file, dynamo=False, opset_version=opset, **options
        )
    return bytes(file.getvalue())


class FlattenedByView(nn.Module):
    """What a tutorial has: functions, a view with the size of the batch, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, stride=2)
        self.conv2 = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=2, bias=False)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(self.conv2(x), 2)
        x = self.dropout(x.view(x.size(0), -1))
        return F.log_softmax(self.fc(x), dim=1)


class Branching(nn.Module):
    """Residual and concatenated branches with activations that are several operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, 8)
        self.last = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.first(x))
        x = x + F.silu(self.norm(self.body(x)))
        x = torch.cat([x, F.hardswish(x)], 1)
        mean: torch.Tensor = self.last(x).mean(dim=(2, 3))
        return mean


ACTIVATIONS = nn.Sequential(
    *[
        layer
        for activation in (
            nn.LeakyReLU(0.1),
            nn.ELU(0.5),
            nn.CELU(2.0),
            nn.SELU(),
            nn.ReLU6(),
            nn.Softplus(),
            nn.Hardswish(),
            nn.SiLU(),
            nn.PReLU(),
            nn.Mish(),
            nn.GELU(),
            nn.Sigmoid(),
            nn.Tanh(),
            nn.ReLU(),
        )
        for layer in (nn.Conv2d(1, 1, 1), activation)
    ],
    nn.Conv2d(1, 10, 3),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
)
NORMS_AND_POOLS = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    nn.InstanceNorm2d(8),
    nn.ReLU(),
    nn.LayerNorm([8, 26, 26]),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(2, padding=1),
    nn.AvgPool2d(3, 2, ceil_mode=True),
    nn.Flatten(),
    nn.Linear(8 * 16, 32),
    nn.BatchNorm1d(32),
    nn.Tanh(),
    nn.Linear(32, 10, bias=False),
)
# Batch norm is part of a convolution in a file for inference.
ENDS = nn.Sequential(nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.LogSoftmax(1))
TORCH_NETWORKS: list[tuple[str, nn.Module, str]] = [
    ("view", FlattenedByView(), "8k5s2vn 8k3x1g2xu M 10f"),
    ("branches", Branching(), "8n.gelu add( 8bu.gn4.silu ) cat( / hardswish ) 10k1 A"),
    (
        "activations",
        ACTIVATIONS,
        "1k1n.leaky0.1 1k1n.elu0.5 1k1n.celu2 1k1n.selu 1k1n.relu6 1k1n.softplus 1k1n.hardswish 1k1n.silu 1k1n.prelu "
        "1k1n.mish 1k1n.gelu 1k1n.sigmoid 1k1n.tanh 1k1n 10v A",
    ),
    ("norms", NORMS_AND_POOLS, "8vb.in ln M3s2p1c A2s2p1 A3s2c 32fx N tanh 10fu"),
    # torch writes the global pool as a pool over the whole map.
    ("ends", ENDS, "10v M26s26"),
]


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize(
    ("module", "expected"), [case[1:] for case in TORCH_NETWORKS], ids=[c[0] for c in TORCH_NETWORKS]
)
def test_files_of_torch(module: nn.Module, expected: str, opset: int) -> None:
    data = torch_file(module, opset, dynamic_axes={"input": {0: "batch"}}, input_names=["input"])
    assert text(data) == expected


def test_batch_norm_and_dropout_of_a_file_for_training() -> None:
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Dropout(0.3), *ENDS).train()
    module[4] = nn.Conv2d(8, 10, 3)
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 1, 28, 28),),
            file,
            dynamo=False,
            opset_version=18,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
        )
    assert "is in training mode" in str(network(file.getvalue()).problem)
    model = ModelProto.FromString(file.getvalue())
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "training_mode":
                attribute.i = 0
        del node.output[1:]
    assert text(model.SerializeToString()) == "8v D30 10v N M24s24"


@pytest.mark.parametrize(
    ("module", "expected"), [case[1:] for case in TORCH_NETWORKS[:-1]], ids=[c[0] for c in TORCH_NETWORKS[:-1]]
)
def test_shapes_and_parameters_are_those_of_the_module(module: nn.Module, expected: str) -> None:
    [found] = import_networks("net.onnx", torch_file(module))
    assert found.architecture is not None
    shapes: list[tuple[str, tuple[int, ...]]] = []
    kinds = {type(part).__name__ for part in module.modules()}

    def keep(part: nn.Module, _: object, output: torch.Tensor) -> None:
        shapes.append((type(part).__name__, tuple(output.shape[1:])))

    hooks = [part.register_forward_hook(keep) for part in module.modules() if not list(part.children())]
    module.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    left_out = {"Flatten", "Dropout"}
    expected_rows = [(kind, shape) for kind, shape in shapes if kind not in left_out]
    # A row of a function has no module.
    rows = [row for row in analyze(found.architecture).rows if row.kind in kinds]
    assert [row.kind for row in rows] == [kind for kind, _ in expected_rows]
    assert [row.output_shape for row in rows] == [(*shape, 1, 1)[:3] for _, shape in expected_rows]
    assert found.num_params == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="torch's new exporter needs onnxscript")
@pytest.mark.parametrize(
    ("module", "expected"), [case[1:] for case in TORCH_NETWORKS], ids=[c[0] for c in TORCH_NETWORKS]
)
def test_files_of_torchs_new_exporter(module: nn.Module, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch.onnx.export(module.eval(), (torch.zeros(2, 1, 28, 28),), path, dynamo=True, external_data=False)
    assert text(path.read_bytes()) == expected


# Files made by hand.


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def made(
    nodes: Sequence[NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    shape: Sequence[int | str] = ("N", 1, 28, 28),
    opset: int = 21,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
) -> bytes:
    """A file with the input x."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return bytes(model.SerializeToString())


N = helper.make_node
CONV = N("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3])
POOL = N("GlobalAveragePool", ["p"], ["y"])
W = {"w": weights(10, 1, 3, 3)}


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


HAND_MADE: list[tuple[str, bytes, str]] = [
    (
        # As torch's new exporter writes it.
        "mean with axes as an input",
        made([CONV, N("ReduceMean", ["c", "axes"], ["y"], keepdims=0)], {**W, "axes": integers(-1, -2)}),
        "10vu A",
    ),
    ("mean with axes as an attribute", made([CONV, N("ReduceMean", ["c"], ["y"], axes=[2, 3])], W, opset=13), "10vu A"),
    (
        "mean, then squeezed",
        made(
            [CONV, N("ReduceMean", ["c", "axes"], ["m"]), N("Squeeze", ["m", "axes"], ["y"])],
            {**W, "axes": integers(2, 3)},
        ),
        "10vu A",
    ),
    (
        "squeezed axis by axis",
        made(
            [CONV, N("GlobalMaxPool", ["c"], ["m"]), N("Squeeze", ["m", "l"], ["s"]), N("Squeeze", ["s", "l"], ["y"])],
            {**W, "l": integers(-1)},
        ),
        "10vu G",
    ),
    (
        "a linear layer as a product and a sum",
        made(
            [
                N("Flatten", ["x"], ["f"]),
                N("MatMul", ["f", "w1"], ["m"]),
                N("Add", ["b", "m"], ["a"]),
                N("Softmax", ["a"], ["y"]),
            ],
            {"w1": weights(784, 10), "b": weights(10)},
        ),
        "10f",
    ),
    (
        "same padding",
        made([N("Conv", ["x", "w"], ["p"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"), POOL], W),
        "10u A",
    ),
    (
        "a padding that no window reaches",
        made([N("Conv", ["x", "w"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]), POOL], W),
        "10s2u A",
    ),
    (
        "a padding by an operator before the convolution",
        made(
            [N("Pad", ["x", "pads"], ["q"]), N("Conv", ["q", "w"], ["p"], kernel_shape=[3, 3]), POOL],
            {**W, "pads": integers(0, 0, 1, 1, 0, 0, 1, 1)},
        ),
        "10u A",
    ),
    (
        # As tf2onnx writes a network of Keras.
        "channels last",
        made(
            [
                N("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
                N("Conv", ["t", "w", "b"], ["c"], kernel_shape=[3, 3]),
                N("Relu", ["c"], ["r"]),
                N("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
                N("Transpose", ["m"], ["u"], perm=[0, 2, 3, 1]),
                N("Reshape", ["u", "flat"], ["f"]),
                N("MatMul", ["f", "d"], ["g"]),
                N("Add", ["g", "b"], ["y"]),
            ],
            {**W, "b": weights(10), "flat": integers(-1, 1690), "d": weights(1690, 10)},
            shape=("N", 28, 28, 1),
        ),
        "10vn M 10f",
    ),
    (
        "a bias by itself",
        made([CONV, N("Add", ["c", "b"], ["p"]), POOL], {**W, "b": weights(1, 10, 1, 1)}),
        "10v A",
    ),
    (
        "clips",
        made(
            [
                N("Clip", ["x", "zero"], ["q"]),
                N("Clip", ["q", "zero", "six"], ["r"]),
                N("Conv", ["r", "w"], ["p"], kernel_shape=[3, 3]),
                POOL,
            ],
            {**W, "zero": np.array(0, np.float32), "six": np.array(6.0, np.float32)},
        ),
        "R relu6 10vu A",
    ),
    (
        "GELU with the halving first",
        made(
            [
                CONV,
                N("Mul", ["c", "half"], ["h"]),
                N("Mul", ["c", "root"], ["s"]),
                N("Erf", ["s"], ["e"]),
                N("Add", ["e", "one"], ["o"]),
                N("Mul", ["h", "o"], ["p"]),
                POOL,
            ],
            {
                **W,
                "half": np.array([0.5], np.float32),
                "root": np.array([0.5**0.5], np.float32),
                "one": np.array([1], np.float32),
            },
        ),
        "10vu gelu A",
    ),
    (
        "values of one number",
        made([CONV, N("Identity", ["c"], ["i"]), N("Sum", ["i"], ["s"]), N("Cast", ["s"], ["p"], to=1), POOL], W),
        "10vu A",
    ),
    ("an image of any size", made([CONV, N("Relu", ["c"], ["p"]), POOL], W, shape=("N", 1, "h", "w")), "10vu R A"),
    (
        "a value that nothing needs",
        made([CONV, N("Relu", ["c"], ["z"]), N("Identity", ["c"], ["p"]), POOL], W),
        "10vu A",
    ),
]


@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in HAND_MADE], ids=[case[0] for case in HAND_MADE])
def test_files_of_other_programs(data: bytes, expected: str) -> None:
    assert text(data) == expected


def test_notes() -> None:
    data = made([CONV, N("Relu", ["c"], ["p"]), POOL], W, shape=("N", 1, "h", "w"))
    assert network(data).notes == ("The file leaves the size of the image open; it is read for 28×28 pixels.",)
    [found] = import_networks("a.onnx", torch_file(FlattenedByView()))
    assert found.notes == (SOFTMAX,)
    assert found.name == "main_graph"


def refusing(*nodes: NodeProto, **constants: np.ndarray) -> bytes:
    return made([CONV, *nodes, POOL], {**W, **constants})


REFUSED: list[tuple[bytes, str]] = [
    (refusing(N("Einsum", ["c"], ["p"], equation="nchw->nchw")), "Operator Einsum is not available here"),
    (refusing(N("Conv", ["c", "v"], ["p"], domain="custom")), "Operator custom.Conv is not available here"),
    (refusing(N("If", ["c"], ["p"])), "Operator If is not available"),
    (refusing(N("Relu", ["later"], ["p"])), "nothing computes before it"),
    (refusing(N("Mul", ["c", "c"], ["p"])), "as gates do"),
    (refusing(N("Mul", ["c", "two"], ["p"]), two=np.array([2], np.float32)), "computes with a number"),
    (refusing(N("Add", ["c", "two"], ["p"]), two=np.array([2], np.float32)), "adds constants to values"),
    (refusing(N("Add", ["c", "x"], ["p"])), "adds values of different shapes"),
    (refusing(N("Concat", ["c", "c"], ["p"], axis=2)), "concatenates other than the channels"),
    (refusing(N("Transpose", ["c"], ["p"], perm=[0, 1, 3, 2])), "puts the axes in another order"),
    (refusing(N("Selu", ["c"], ["p"], alpha=2.0)), "other numbers than SELU has"),
    (refusing(N("Dropout", ["c", "two"], ["p"]), two=np.array(2, np.float32)), "has the ratio 2"),
    (refusing(N("ReduceMean", ["c"], ["p"], axes=[1])), "reduces other axes"),
    (refusing(N("Reshape", ["c", "s"], ["p"]), s=integers(-1, 20)), "reshapes values"),
    (refusing(N("Slice", ["c", "s", "s"], ["p"]), s=integers(1)), "takes a part of the values"),
    (refusing(N("Pad", ["c", "s"], ["p"], mode="reflect"), s=integers(0, 0, 1, 1, 0, 0, 1, 1)), "pads with something"),
    (refusing(N("Pad", ["c", "s"], ["p"]), s=integers(0, 0, 1, 1, 0, 0, 1, 1)), "follows a padding with zeros"),
    (refusing(N("MaxPool", ["c"], ["p", "places"], kernel_shape=[2, 2])), "outputs places of maxima"),
    (refusing(N("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], pads=[1, 1, 0, 0])), "pads 1 at one side and 0"),
    (refusing(N("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], pads=[2, 2, 2, 2])), "at most half of the kernel"),
    (refusing(N("Gemm", ["c", "w"], ["p"])), "takes flat values"),
    (refusing(N("BatchNormalization", ["c", "c", "c", "c", "c"], ["p"])), "has weights that are computed"),
    (refusing(N("BatchNormalization", ["c", *"wwww"], ["p"])), "is made for 90 channels, and 10 reach it"),
    (refusing(N("Conv", ["c", "k"], ["p"], kernel_shape=[40, 40]), k=weights(10, 10, 40, 40)), "does not fit into"),
    (refusing(N("Conv", ["c", "k"], ["p"], strides=[0, 0]), k=weights(10, 10, 3, 3)), "has strides that do not fit"),
    (refusing(N("Conv", ["c", "k"], ["p"], pads=[1, 1, 0, 0]), k=weights(10, 10, 3, 3)), "pads 1 at one side and 0"),
    (refusing(N("Conv", ["c", "k"], ["p"]), k=weights(10, 10, 3)), "no convolution of two axes"),
    (refusing(N("Constant", [], ["d"], value_string="a"), N("Relu", ["c"], ["p"])), "has no value that can be read"),
    (
        refusing(N("Conv", ["c", "k"], ["p"], auto_pad="SAME_UPPER"), k=weights(10, 10, 2, 2)),
        "pads 0 at one side and 1",
    ),
    # The inner value of what would be a SiLU is used again.
    (
        refusing(N("Sigmoid", ["c"], ["s"]), N("Mul", ["c", "s"], ["m"]), N("Add", ["m", "s"], ["p"])),
        "as gates do",
    ),
    # What would be a convolution without its bias is used again.
    (
        refusing(N("Add", ["c", "b"], ["d"]), N("Add", ["c", "d"], ["p"]), b=weights(1, 10, 1, 1)),
        "adds constants to values",
    ),
    (
        refusing(*(N("Concat", [f"{n}" if n else "c"] * 30, [f"{n + 1}"], axis=1) for n in range(4))),
        "more than 100,000,000 outputs",
    ),
    (
        refusing(N("Flatten", ["c"], ["f"]), N("Gemm", ["f", "k"], ["p"], alpha=2.0), k=weights(6760, 10)),
        "no linear layer",
    ),
    (
        made([N("Conv", ["x", "k"], ["c"]), N("Conv", ["c", "k"], ["p"]), POOL], {"k": weights(1, 1, 3, 3)}),
        "has the weights of a layer before it",
    ),
    (
        made(
            [N("Sub", ["x", "half"], ["a"]), N("Div", ["a", "half"], ["p"]), POOL],
            {"half": np.array([0.5], np.float32)},
        ),
        "computes with the pixels",
    ),
    (made([N("Mul", ["x", "half"], ["p"]), POOL], {"half": np.array([0.5], np.float32)}), "computes with the pixels"),
    (made([N("Add", ["x", "half"], ["p"]), POOL], {"half": np.array([0.5], np.float32)}), "adds constants to values"),
    (made([CONV], W, outputs=("c", "x")), "has 2 outputs"),
    (made([CONV], W, outputs=("w",)), "does not depend on the image"),
    (made([CONV], W, outputs=("nowhere",)), "does not depend on the image"),
    (made([CONV], W, shape=("N", 3, 224, 224)), "The input is N×3×224×224, and an image of a digit is N×1×28×28"),
    (made([CONV], W, shape=("N", 784)), "The input is N×784"),
    (made([CONV], W, kind=TensorProto.UINT8), "no image of floating-point numbers"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_cannot_be_read_is_refused_in_a_sentence(data: bytes, reason: str) -> None:
    problem = network(data).problem
    assert problem is not None
    assert reason in problem
    assert problem.endswith(".")
    assert "\n" not in problem


def test_the_limit_of_the_size_is_named() -> None:
    with pytest.raises(ImportSourceError, match="at most 100 MB are read"):
        networks_in_onnx(bytes(MAX_ONNX_BYTES + 1))


def test_two_inputs_are_refused() -> None:
    model = ModelProto.FromString(made([CONV, N("Relu", ["c"], ["p"]), POOL], W))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    assert "has 2 inputs" in str(network(model.SerializeToString()).problem)


def test_weights_in_another_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = ModelProto.FromString(exported(parse("8 10 A")))
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    [found] = import_networks("net.onnx", path.read_bytes())
    assert found.problem is not None
    assert found.problem.startswith("The weights are in another file")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf with bytes."""
    size, length = bytearray(), len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def nested(depth: int) -> bytes:
    """A node whose attribute is a graph with such a node, and so on."""
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


GOOD = exported(parse("8 M 10 A"))
HOSTILE: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("text", b"import os; os.system('touch made')"),
    ("cut off", GOOD[: len(GOOD) // 2]),
    ("one byte short", GOOD[:-1]),
    ("zeros", bytes(1_000_000)),
    ("too large", bytes(MAX_ONNX_BYTES + 1)),
    ("endless length", b"\x3a" + b"\xff" * 20),
    ("many empty nodes", field(7, field(1, b"") * 2_000_000)),
    ("many empty attributes", field(7, field(1, field(5, b"") * 2_000_000))),
    ("many empty texts", field(7, field(1, field(5, field(9, b"") * 2_000_000)))),
    ("a graph of 10 MB", field(7, field(1, field(5, field(8, bytes(10_000_000)))))),
    ("nested graphs", nested(10_000)),
    (
        "a long chain",
        made([N("Sigmoid", ["x" if n == 0 else f"{n}"], [f"{n + 1}"]) for n in range(2900)], outputs=("2900",)),
    ),
    (
        "a chain of sums",
        made([N("Add", ["x" if n == 0 else f"{n}"] * 2, [f"{n + 1}"]) for n in range(900)], outputs=("900",)),
    ),
    (
        "a concatenation that doubles its input",
        made(
            [N("Concat", ["x" if n == 0 else f"{n}"] * 30, [f"{n + 1}"], axis=1) for n in range(2900)], outputs=("9",)
        ),
    ),
    (
        "a shape that doubles",
        made(
            [
                N("Shape", ["x"], ["0"]),
                *(N("Concat", [f"{n}"] * 2, [f"{n + 1}"], axis=0) for n in range(2000)),
                N("Reshape", ["x", "2000"], ["y"]),
            ]
        ),
    ),
    (
        "a huge tensor without values",
        ModelProto(
            opset_import=[helper.make_opsetid("", 18)],
            graph=helper.make_graph(
                [CONV],
                "g",
                [helper.make_tensor_value_info("x", 1, [1, 1, 28, 28])],
                [helper.make_tensor_value_info("c", 1, None)],
                [TensorProto(name="w", data_type=1, dims=[2**40, 2**40, 3, 3])],
            ),
        ).SerializeToString(),
    ),
]


@pytest.mark.parametrize("data", [case[1] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_files_give_a_sentence_within_two_seconds(data: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.perf_counter()
    [found] = import_networks("net.onnx", data)
    assert time.perf_counter() - begin < 2
    assert found.architecture is None
    assert found.problem is not None
    assert found.problem.endswith(".")
    assert not list(tmp_path.iterdir())


def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(0)
    data = exported(parse("8.gn2 D5 add( 8.gelu ) M3s2c A2s2p1 10.silu A"))
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), size=generator.integers(1, 6)):
            damaged[place] = generator.integers(0, 256)
        try:
            [found] = networks_in_onnx(bytes(damaged))
            outcomes.add(found.problem is None)
            if found.problem is None:
                converted(found)
        except ImportSourceError as error:
            outcomes.add(str(error).endswith("."))
    assert outcomes == {True, False}
