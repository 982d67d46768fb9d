"""Networks read from source, held to what torch does when it runs the same source."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.importing.module_graph import IMAGE, ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.python_source import networks_in_source
from lib.importing.source_text import MAX_SOURCE_BYTES
from lib.importing.torch_modules import num_parameters, output_shape
from tests.executed_sources import Call, executed_calls
from tests.source_styles import STYLES, Row, can_be_read, expected_rows, networks

SOURCES = Path(__file__).parent / "fixtures" / "sources"
HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def rows_of(graph: ModuleGraph) -> list[Row]:
    """Kind, output shape and parameters of each node of a graph."""
    assert graph.problem is None, graph.problem
    shapes: dict[int, tuple[int, ...]] = {IMAGE: (1, 28, 28)}
    rows = []
    for place, node in enumerate(graph.nodes):
        taken = [shapes[one] for one in node.inputs]
        if node.kind == "Add":
            shapes[place] = taken[0]
        elif node.kind == "Concat":
            shapes[place] = (sum(shape[0] for shape in taken), *taken[0][1:])
        else:
            shapes[place] = tuple(output_shape(node.kind, node.arguments, taken[0]))
        rows.append((node.kind, shapes[place], num_parameters(node.kind, node.arguments)))
    return rows


def calls_of(graph: ModuleGraph) -> list[Call]:
    """The rows with their inputs, in torch's words: it has no ghost batch norm."""
    rows = zip(rows_of(graph), graph.nodes, strict=True)
    return [(kind.replace("GhostB", "B"), shape, weights, node.inputs) for (kind, shape, weights), node in rows]


def executed(source: str) -> dict[str, Any]:
    # Dataclasses look up the module that they stand in.
    names: dict[str, Any] = {"__name__": "builtins"}
    exec(compile(source, "source", "exec"), names)
    return names


def network_class(constructor: str, forward: str, before: str = "") -> str:
    """Source of a network from the lines of its methods, separated by semicolons or line breaks."""
    body = "\n".join(f"        {line}" for line in constructor.split("\n"))
    run = "\n".join(f"        {line}" for line in forward.split("\n"))
    return (
        f"{HEAD}{before}\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{body}\n"
        f"    def forward(self, x):\n{run}\n"
    )


def only(source: str) -> ModuleGraph:
    (graph,) = networks_in_source(source)
    return graph


def read(constructor: str, forward: str, before: str = "") -> ModuleGraph:
    return only(network_class(constructor, forward, before))


NAMES = {
    "course_blocks": ["Net"], "chained_calls": ["Net"], "torch_example": ["Net"], "old_example": ["Net"],
    "norm_by_name": ["Net('BN')", "Net(norm_type='GN', dropout=0.2)", "Net('LN')"],
    "norm_class": ["DigitNet", "DigitNet(norm_layer=nn.BatchNorm2d, act=nn.GELU)"],
    "residual": ["ResNet(BasicBlock, [1, 1, 2])"], "skip_in_place": ["Net"], "inception": ["GoogLeNetMini"],
    "sequential_script": ["model"], "make_function": ["make_model()", "vgg_without_norm()"],
    "loops_and_setattr": ["Net"], "inheritance": ["WithLinear", "FullyConvolutional"], "depthwise": ["MobileNetMini"],
    "activations": ["Net"], "ghost": ["Net", "Net(batch_norm=True)"], "permuted_and_padded": ["Net"],
    "unused_and_conditional": ["Net", "Net(use_dropout=True)"], "module_list": ["Net"], "lightning_like": ["LitMNIST"],
    "groups_and_ln": ["Net"], "lazy_and_wide": ["Net"], "sequential_subclass": ["net"],
    "several_models": ["Model_1", "Model_2", "Model_3"], "match_and_dataclass": ["Net(Config(…))"],
    "functional_always_on": ["Net"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in SOURCES.glob("*.py")))
def test_a_source_is_read_as_torch_runs_it(name: str) -> None:
    source = (SOURCES / f"{name}.py").read_text(encoding="utf-8")
    found = networks_in_source(source)
    assert [graph.name for graph in found] == NAMES[name]
    names = executed(source)
    for graph in found:
        built = eval(graph.name.replace("Net(Config(…))", "make()"), names)
        network = built() if isinstance(built, type) else built
        assert calls_of(graph) == executed_calls(network)


@pytest.mark.parametrize("style", STYLES)
def test_nearly_all_public_networks_come_back_in_each_style(style: str) -> None:
    """Those that cannot scale the image, gate, or have a norm with one weight for all channels."""
    read_back: Counter[bool] = Counter()
    for network in networks():
        found = networks_in_source(STYLES[style](network))
        if can_be_read(network):
            assert len(found) == 1
            assert rows_of(found[0]) == expected_rows(network), network["id"]
        read_back[can_be_read(network)] += 1
    assert read_back[True] >= 0.97 * len(networks())


# What is told about a network


CONV = "self.conv1 = nn.Conv2d(1, 8, 3)\nself.conv2 = nn.Conv2d(8, 8, 3)\nself.fc = nn.Linear(8, 10)"
RUN = "x = self.conv1(x)\n{}\nreturn self.fc(x.mean((2, 3)))"
PROBLEMS = {
    "shared weights": (CONV, RUN.format("x = self.conv2(self.conv2(x))"), "conv2 is called a second time; shared"),
    "shared list": ("self.net = nn.Sequential(*[nn.Conv2d(1, 1, 3)] * 2)", "return self.net(x)", "a second time"),
    "tied weights": (CONV + "\nself.conv2.weight = self.conv1.weight", RUN.format("pass"), "share their weights"),
    "gating": (CONV, RUN.format("x = x * torch.sigmoid(self.conv2(x))"), "tensors are multiplied"),
    "scaled image": (CONV, "x = (x - 0.5) * 2\nreturn self.conv1(x)", "images are normalized already"),
    "negated": (CONV, RUN.format("x = -x"), "arithmetic on a tensor"),
    "channels": (CONV.replace("8, 8", "16, 8"), RUN.format("x = self.conv2(x)"), "for 16 channels, and 8 reach it"),
    "features": (CONV.replace("Linear(8", "Linear(9"), RUN.format("pass"), "made for 9 features, and 8 reach it"),
    "not flattened": (CONV, "return self.fc(self.conv1(x))", "Flatten them"),
    "after flattening": (CONV, "return self.conv2(x.flatten(1))", "Call it before the flattening"),
    "kernel": (CONV, RUN.format("x = F.max_pool2d(x, 40)"), "does not fit into 8x26x26"),
    "view": (CONV, "return self.fc(self.conv1(x).view(-1, 400))", "400 numbers are expected of each image"),
    "batch": (CONV, "return self.fc(self.conv1(x).view(1, -1))", ""),
    "slice": (CONV, RUN.format("x = x[:, :4]"), "a part of a tensor is taken"),
    "unpacked": (CONV, RUN.format("a, b = x"), "a tensor is taken apart"),
    "made tensor": (CONV, RUN.format("x = x + torch.rand(1)"), "arithmetic on a tensor"),
    "tensor decides": (CONV, RUN.format("if x.sum() > 0:\n            x = self.conv2(x)"), ""),
    "unknown function": (CONV, RUN.format("x = mystery(x)"), "mystery"),
    "unknown size": (CONV + "\nself.c = nn.Conv2d(1, SIZE, 3)", RUN.format("pass"), "`SIZE` is not known"),
    "unknown layer": (CONV + "\nself.up = nn.Upsample(2)", RUN.format("x = self.up(x)"), "self.up is an nn.Upsample"),
    "uneven padding": (CONV, RUN.format("x = self.conv2(F.pad(x, (1, 0, 1, 0)))"), "equal zero padding"),
    "pad before pool": (CONV, RUN.format("x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2)"), "no convolution"),
    "even same": ("self.c = nn.Conv2d(1, 8, 2, padding='same')", "return self.c(x)", "Use an odd kernel"),
    "strided same": ("self.c = nn.Conv2d(1, 8, 3, 2, padding='same')", "return self.c(x)", "with a stride"),
    "twice itself": (CONV, RUN.format("x = x + x"), "added to itself"),
    "unequal sum": (CONV, RUN.format("x = x + self.conv2(x)"), "8x26x26 and 8x24x24 are added"),
    "unequal cat": (CONV, RUN.format("x = torch.cat((x, self.conv2(x)), 1)"), "differ in height or width"),
    "batches joined": (CONV, RUN.format("x = torch.cat((x, x), 0)"), "only a concatenation of channels"),
    "permuted": (CONV, RUN.format("x = self.conv2(x.permute(0, 2, 3, 1))"), "Only a flattening"),
    "one mean": (CONV, RUN.format("x = self.conv2(x.mean(3, keepdim=True))"), "over the width alone"),
    "flattened mean": (CONV, "return self.conv1(x).mean(3).flatten(1)", "over the width alone"),
    "indices": (CONV, RUN.format("x = nn.MaxPool2d(2, return_indices=True)(x)"), "indices"),
    "no output": (CONV, "self.conv1(x)", "returns no single tensor"),
    "two outputs": (CONV, "x = self.conv1(x)\nreturn x, self.conv2(x)", "returns no single tensor"),
    "needed argument": ("self.c = nn.Conv2d(1, 8)", "return self.c(x)", "needs the argument kernel_size"),
    "unknown argument": ("self.c = nn.Conv2d(1, 8, 3, pad=1)", "return self.c(x)", "does not know the argument pad"),
    "list called": ("self.l = nn.ModuleList([nn.Conv2d(1, 8, 3)])", "return self.l(x)", "self.l has no forward"),
    "raises": (CONV + "\nraise ValueError", RUN.format("pass"), "raises an error"),
    "functional weights": (CONV, RUN.format("x = F.conv2d(x, self.conv2.weight)"), "conv2d"),
    "group norm": ("self.c = nn.Conv2d(1, 8, 3)\nself.n = nn.GroupNorm(3, 8)", "return self.n(self.c(x))", "3 groups"),
    "three channels": ("self.c = nn.Conv2d(3, 8, 3)", "return self.c(x)", "made for 3 channels, and 1 reach it"),
}  # fmt: skip


@pytest.mark.parametrize("what", PROBLEMS)
def test_what_cannot_be_read_is_said_with_its_line(what: str) -> None:
    constructor, forward, sentence = PROBLEMS[what]
    source = network_class(constructor, forward)
    graph = only(source)
    assert graph.nodes == ()
    assert graph.problem is not None
    match = re.fullmatch(r"Line (\d+), `(.*?)…?`: (.+\.)", graph.problem)
    assert match is not None, graph.problem
    assert match[2] in source.split("\n")[int(match[1]) - 1]
    assert sentence in match[3]


def test_a_network_for_larger_images_gets_a_padding_or_is_refused() -> None:
    layers = (
        "self.c1 = nn.Conv2d(1, 6, {})\nself.c2 = nn.Conv2d(6, 16, 5)\nself.pool = nn.MaxPool2d(2)\n"
        "self.fc = nn.Linear(400, 10)"
    )
    run = "x = self.pool(torch.tanh(self.c1(x)))\nx = self.pool(self.c2(x))\nreturn self.fc(x.view({}))"
    for view in ("-1, 400", "-1, 16 * 5 * 5", "x.size(0), -1"):
        graph = read(layers.format("5"), run.format(view))
        assert [shape for _, shape, _ in rows_of(graph)][:2] == [(6, 28, 28), (6, 28, 28)]
        assert graph.nodes[0].arguments["padding"] == 2
        assert "for 32x32 images; with padding 2" in graph.notes[0]
        refused = read(layers.format("3, padding=1, stride=1") + "\nself.c2 = nn.Conv2d(6, 16, 7)", run.format(view))
        assert refused.problem is not None
        assert "the network is for 32x32 images" in refused.problem


def test_notes_tell_what_is_left_out() -> None:
    graph = read(
        "self.conv1 = nn.Conv2d(1, 8, 3)\nself.bn = nn.BatchNorm2d(8, momentum=0.2)\n"
        "self.conv8 = nn.Conv2d(16, 10, 3, bias=False)\nself.never = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "self.relu = nn.ReLU()",
        "x = self.bn(self.conv1(x))\nF.relu(x)\nif self.training:\n            x = F.dropout(x, 0.1)\nreturn x",
    )
    assert [node.kind for node in graph.nodes] == ["Conv2d", "BatchNorm2d", "Dropout"]
    assert list(graph.notes) == [
        "Line 9: BatchNorm2d has momentum 0.2 instead of torch's 0.1.",
        "Line 16: what is done in training alone is read.",
        "Line 17: F.dropout without training=self.training is always on, in evaluation too. "
        "Here it is on in training alone.",
        "Line 15: the output of ReLU is not used; it is left out.",
        "self.conv8, 1,440 parameters, is built and never called.",
        "self.never, 40 parameters, is built and never called.",
    ]


def test_arguments_are_complete_and_sizes_are_numbers() -> None:
    graph = read(
        "self.c = nn.Conv2d(1, 8, (3, 3), padding='same', dilation=(2, 1))\nself.d = nn.Conv2d(8, 8, (1, 3))",
        "x = F.max_pool2d(self.d(self.c(x)), (2, 2))\nreturn x",
    )
    first, second, pool = graph.nodes
    assert first.arguments == {
        "in_channels": 1, "out_channels": 8, "kernel_size": 3, "stride": 1, "padding": (2, 1), "dilation": (2, 1),
        "groups": 1, "bias": True, "padding_mode": "zeros",
    }  # fmt: skip
    assert second.arguments["kernel_size"] == (1, 3)
    assert pool.arguments == {
        "kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "return_indices": False, "ceil_mode": False,
    }  # fmt: skip


def test_comments_and_lines_belong_to_their_layers() -> None:
    graph = read(
        "self.c1 = nn.Conv2d(1, 8, 3)  # 26x26, RF 3\nself.c2 = nn.Conv2d(8, 8, 3)\n# receptive field 14\n"
        "self.c3 = nn.Conv2d(8, 8, 3)\nself.block = nn.Sequential(\n            nn.Conv2d(8, 10, 3),\n"
        "            nn.ReLU(),\n        )  # output 6 # RF 22\nself.t = nn.Tanh()",
        "x = self.c1(x)\nx = self.c2(x)  # RF: 5x5\nx = F.max_pool2d(x, 2)  #RF: 10\nx = self.c3(self.t(x))\n"
        "return self.block(x)  # all",
    )
    assert [(node.kind, node.line, node.comment) for node in graph.nodes] == [
        ("Conv2d", 8, "26x26, RF 3"), ("Conv2d", 9, "RF: 5x5"), ("MaxPool2d", 20, "RF: 10"), ("Tanh", 16, ""),
        ("Conv2d", 11, "receptive field 14"), ("Conv2d", 13, "output 6 # RF 22"), ("ReLU", 14, ""),
    ]  # fmt: skip
    assert graph.notes == ()


# Texts that are not all Python


LISTING = """# A solution

It's a network of our own. The layers (there are five) are:

            nn.Conv2d(1, 4, 3, padding=1), #28x28x1 > 28x28x4 : RF: 3x3
            nn.ReLU(),

            nn.BatchNorm2d(4),
            nn.MaxPool2d(2,2), # and so on, see (below
            nn.Conv2d(4, 10, 3) # 14x14x8  > 12x12x10 : RF: 14x14

There are two convolution layers, don't you see?
"""


def test_a_bare_list_of_layers_is_a_network() -> None:
    graph = only(LISTING)
    assert [node.kind for node in graph.nodes] == ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "Conv2d"]
    assert [node.line for node in graph.nodes] == [5, 6, 8, 9, 10]
    assert graph.nodes[0].comment == "28x28x1 > 28x28x4 : RF: 3x3"
    listed = "nn.Conv2d(1, 8, 3),\nnn.ReLU(),\nnn.Conv2d(8, 10, 26)"
    assert [node.kind for node in only(listed).nodes] == ["Conv2d", "ReLU", "Conv2d"]
    printed = "Net(\n  (conv1): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))\n  (relu): ReLU()\n)"
    assert [node.kind for node in only(printed).nodes] == ["Conv2d", "ReLU"]


BROKEN = {
    "prose": "This is our network, isn't it:\n\n{}\nIt reached 99.4 %!\n",
    "print": 'print "epoch", 1\n{}\nprint "done"\n',
    "print in a class": "{}\n    def show(self):\n        print self.conv1\n",
    "shell": "!pip install torchsummary\n%matplotlib inline\n{}\nls -l\n",
    "broken function": "def broken(:\n    pass\n\n{}\n\ndef other(x:\n    return",
    "bracket": "x = (1, 2\n\n{}\n",
    "unindented": "   stray\n{}\n  stray again\n",
    "CRLF and BOM": "\ufeff{}",
    "except": "try:\n    pass\nexcept ValueError, e:\n    pass\n{}",
    "prompt": "{}",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_python_does_no_harm_elsewhere(what: str) -> None:
    plain = network_class(CONV, RUN.format("x = self.conv2(x)"))
    source = BROKEN[what].replace("{}", plain)
    if what == "CRLF and BOM":
        source = source.replace("\n", "\r\n").replace("    ", "\t")
    if what == "prompt":
        source = "\n".join(f">>> {line}" if line[:1].strip() else f"... {line}" for line in plain.split("\n"))
    graph = only(source)
    assert rows_of(graph) == rows_of(only(plain))
    lines = source.replace("\r\n", "\n").split("\n")
    assert all(re.search("conv|fc|mean", lines[node.line - 1]) for node in graph.nodes if node.line)


def test_an_indented_class_is_found_in_a_page_of_text() -> None:
    plain = network_class(CONV, RUN.format("x = self.conv2(x)"))
    page = "# Title\n\nSome text:\n\n" + "\n".join(f"    {line}" for line in plain.split("\n")) + "\n\nMore (text.\n"
    assert rows_of(only(page)) == rows_of(only(plain))


# Bad input


def write(path: Path) -> str:
    return f"open({str(path)!r}, 'w').write('x')"


HOSTILE: dict[str, Callable[[Path], str]] = {
    "large": lambda path: "x = 1\n" * 1_700_000,
    "brackets": lambda path: "(" * 10_000 + ")" * 10_000,
    "dense": lambda path: "x = [1,2,3,(4,5),{6:7}]\n" * 12_900,
    "lists": lambda path: "x = " + "[" * 10_000 + "]" * 10_000,
    "signs": lambda path: "x = " + "-" * 100_000 + "1",
    "sum": lambda path: "x = " + "1+" * 50_000 + "1",
    "attributes": lambda path: "x = a" + ".a" * 50_000,
    "calls": lambda path: "x = a" + "()" * 50_000,
    "lambdas": lambda path: "x = " + "lambda: " * 10_000 + "1",
    "blocks": lambda path: "\n".join(" " * place + "if x:" for place in range(99)) + "\n" + " " * 99 + "x",
    "range": lambda path: "for i in range(10**9):\n    x = i",
    "list of range": lambda path: "x = list(range(10**9))\ny = [i for i in range(10**9)]",
    "power": lambda path: "x = 10**10**10\ny = 2**-10**9\nz = (-3)**(10**8)",
    "shift": lambda path: "x = 1 << 10**9",
    "text": lambda path: "x = 'a' * 10**10\ny = f'{1:1000000000}'\nz = '%1000000000d' % 1\n'{:999999999}'.format(1)",
    "list": lambda path: "x = [0] * 10**10\n" + "y = [0]\n" + "y += y\n" * 60,
    "shared lists": lambda path: "x = (1, 1)\ny = (1, 1)\n" + "x = (x, x)\ny = (y, y)\n" * 80 + "x == y\nz = {x: 1}",
    "recursion": lambda path: "def f(x):\n    return f(x)\nf(1)\ng = lambda: g()\ng()",
    "mutual": lambda path: "def f():\n    return g()\ndef g():\n    return f()\nx = f()",
    "tree": lambda path: "def f(n):\n    return f(n - 1) + f(n - 1)\nx = f(10**6)",
    "while": lambda path: "while True:\n    pass",
    "while appending": lambda path: "x = [1]\nwhile True:\n    x.extend(x)\n    x.append(x)",
    "itself": lambda path: "x = []\nx.append(x)\nx == x\nstr(x)\n[x] == [x]\nx in x",
    "import": lambda path: f"__import__('os').system('touch {path}')",
    "system": lambda path: f"import os\nos.system('touch {path}')",
    "subprocess": lambda path: f"import subprocess\nsubprocess.run(['touch', {str(path)!r}])",
    "eval": lambda path: f"eval({write(path)!r})\nexec({write(path)!r})",
    "open": write,
    "class": lambda path: f"().__class__.__base__.__subclasses__()\n{write(path)}",
    "default": lambda path: f"def f(x={write(path)}):\n    pass\nf()",
    "decorator": lambda path: f"@{write(path)}\nclass A:\n    y = {write(path)}",
    "text of print": lambda path: f"f'{{{write(path)}}}'".replace("'w'", '"w"'),
    "syntax": lambda path: "class Net(nn.Module:\n    pass",
    "Python 2": lambda path: "print 'hello'\nexec 'x'",
    "null": lambda path: "x = 1\0",
    "empty": lambda path: "",
    "prose": lambda path: "Dear reader, don't (worry.\n" * 5000,
    "open brackets": lambda path: "x = (\n" * 50_000,
    "open texts": lambda path: "x = '''\n\"\"\"'" * 50_000,
    "statements": lambda path: "x = 1\n" * 49_000,
    "classes": lambda path: "class A(B):\n    pass\n" * 12_000,
    "bases": lambda path: "class A: pass\nclass B: pass\n" + "class A(A, B): pass\nclass B(A, B): pass\n" * 40,
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_bad_input_is_a_sentence_in_time_and_runs_nothing(what: str, tmp_path: Path) -> None:
    path = tmp_path / "written"
    source = HOSTILE[what](path)
    began = time.thread_time()
    with pytest.raises(ImportSourceError, match=r"\.$"):
        networks_in_source(source)
    assert time.thread_time() - began < 2
    assert not path.exists()


# The same within a network: what is built and called is bad.
HOSTILE_NETWORKS = {
    "recursion": ("self.net = Net()", "return self.net(x)"),
    "calls itself": ("self.c = nn.Conv2d(1, 8, 3)", "return self.forward(x)"),
    "range": ("for i in range(10**9):\n            self.c = nn.Conv2d(1, 8, 3)", "return self.c(x)"),
    "while": ("self.c = nn.Conv2d(1, 8, 3)\nwhile True:\n            pass", "return self.c(x)"),
    "forward": ("self.c = nn.Conv2d(1, 1, 3, padding=1)", "while True:\n            x = F.relu(x)\nreturn x"),
    "contains itself": ("self.c = nn.Sequential(nn.Conv2d(1, 8, 3))\nself.c.append(self.c)", "return self.c(x)"),
    "attribute itself": ("self.me = self\nself.c = nn.Conv2d(1, 8, 3)", "return self.me.me.me(x)"),
    "huge": ("self.c = nn.Conv2d(1, 10**9, 3)", "return self.c(x)"),
    "negative": ("self.c = nn.Conv2d(1, -8, 3)", "return self.c(x)"),
    "zero stride": ("self.c = nn.Conv2d(1, 8, 3, stride=0)", "return self.c(x)"),
    "system": ("import os\nself.c = nn.Conv2d(1, os.system('touch {path}'), 3)", "return self.c(x)"),
    "getattr": ("getattr(__builtins__, 'open')('{path}', 'w')\nself.c = nn.Conv2d(1, x, 3)", "return self.c(x)"),
    "deep": ("self.c = nn.Conv2d(1, 1" + " + 1" * 3000 + ", 3)", "return self.c(x)"),
}


@pytest.mark.parametrize("what", HOSTILE_NETWORKS)
def test_a_bad_network_is_a_sentence_in_time_and_runs_nothing(what: str, tmp_path: Path) -> None:
    path = tmp_path / "written"
    constructor, forward = (text.replace("{path}", str(path)) for text in HOSTILE_NETWORKS[what])
    began = time.thread_time()
    try:
        problem = read(constructor, forward).problem
    except ImportSourceError as error:
        problem = str(error)
    assert time.thread_time() - began < 2
    assert problem is not None
    assert problem.endswith(".")
    assert not path.exists()


def test_an_error_carries_its_line() -> None:
    with pytest.raises(ImportSourceError) as caught:
        networks_in_source("x = 1\nclass Net(nn.Module:\n    pass")
    assert caught.value.line == 2
    assert caught.value.code == "class Net(nn.Module:"
    assert str(caught.value).startswith("Line 2, `class Net(nn.Module:`: ")
    with pytest.raises(ImportSourceError, match="at most 300 kB"):
        networks_in_source("#" * (MAX_SOURCE_BYTES + 1))


def test_the_second_definition_of_a_class_is_another_network() -> None:
    first = network_class(CONV, RUN.format("pass"), before="WIDTH = 8")
    second = first.replace("Conv2d(1, 8, 3)", "Conv2d(1, 2 * WIDTH, 3)").replace("(8, ", "(16, ")
    found = networks_in_source(f"{first}\n{second}")
    assert [graph.name for graph in found] == ["Net", "Net (2)"]
    assert [rows_of(graph)[0] for graph in found] == [("Conv2d", (8, 26, 26), 80), ("Conv2d", (16, 26, 26), 160)]


def test_a_block_that_stands_below_its_network_is_found() -> None:
    block = "class Block(nn.Module):\n    def __init__(self, c):\n        super().__init__()\n"
    block += "        self.c = nn.Conv2d(c, 10, 3)\n    def forward(self, x):\n        return self.c(x)\n"
    graph = only(network_class("self.block = Block(1)", "return self.block(x)") + block)
    assert [node.kind for node in graph.nodes] == ["Conv2d"]
    # Alone, the block is what there is.
    with pytest.raises(ImportSourceError):
        networks_in_source("")
    assert "argument `c` of Block" in str(only(HEAD + block).problem)


def test_a_choice_that_the_file_does_not_make_is_read_both_ways() -> None:
    source = network_class(
        "if norm == 'BN':\n    self.n = nn.BatchNorm2d(8)\n"
        "elif norm == 'GN':\n    self.n = nn.GroupNorm(2, 8)\nself.c = nn.Conv2d(1, 8, 3)",
        "return self.n(self.c(x))",
    ).replace("__init__(self)", "__init__(self, norm)", 1)
    found = networks_in_source(source)
    assert [graph.name for graph in found] == ["Net(norm='BN')", "Net(norm='GN')"]
    assert [graph.nodes[1].kind for graph in found] == ["BatchNorm2d", "GroupNorm"]


def test_a_node_is_plain_data() -> None:
    (node,) = read("self.c = nn.Conv2d(1, 8, 3)", "return self.c(x)").nodes
    assert node == ModuleNode("Conv2d", (IMAGE,), node.arguments, 8, "")


IDIOMS = {
    "len": (CONV, "return self.fc(self.conv1(x).mean((2, 3), keepdim=True).view(len(x), -1))"),
    "index": (CONV, "return self.fc(F.adaptive_avg_pool2d(self.conv1(x), 1)[:, :, 0, 0])"),
    "product": (
        CONV,
        "x = F.adaptive_avg_pool2d(self.conv1(x), 1)\nn = 1\nfor s in x.size()[1:]:\n    n *= s\n"
        "return self.fc(x.view(-1, n))",
    ),
    "batch of the loader": (CONV, "return self.fc(F.avg_pool2d(self.conv1(x), 26).view(2, -1))"),
    "one mean after the other": (CONV, "return self.fc(self.conv1(x).mean(-1).mean(-1))"),
    "both kept": (CONV, "return self.conv1(x).mean(3, keepdim=True).mean(2, keepdim=True)"),
    "another name": (CONV, "y = self.conv1(x)\nz = y\nz += torch.tanh(y)\nreturn torch.relu(y)"),
    "in place": (CONV, "y = self.conv1(x)\nF.relu(y, inplace=True)\nreturn torch.tanh(y)"),
    "window in the padding": (
        "self.c = nn.Conv2d(1, 8, 5)",
        "return F.max_pool2d(F.avg_pool2d(self.c(x), 2, 3, ceil_mode=True), 2, 2, 1, ceil_mode=True)",
    ),
    "list of two names": (
        "a = []\nb = a\nb += [nn.Conv2d(1, 8, 3)]\nself.n = nn.Sequential(*a)", "return self.n(x)",
    ),
    "bias of None": ("self.conv1 = nn.Conv2d(1, 8, 28, bias=None)", "return self.conv1(x).flatten(1)"),
    "bias as a number": ("self.conv1 = nn.Conv2d(1, 8, 28, 1, 0, 1, 1, 0)", "return self.conv1(x).flatten(1)"),
    "named input": (CONV, "return self.fc(F.max_pool2d(input=self.conv1(x), kernel_size=26).flatten(1))"),
    "list of parts": (CONV, "parts = [self.conv1(x), F.relu(self.conv1.forward(x)) if False else x]\nreturn parts[0]"),
    "sum": (CONV, "x = self.conv1(x)\nreturn sum([F.relu(x), torch.tanh(x)])"),
    "annotation": (CONV, "y: torch.Tensor = self.conv1(x)\nreturn y"),
    "walrus": (CONV, "return F.relu(y) if (y := self.conv1(x)).shape[1] == 8 else y"),
    "try": (CONV, "try:\n    x = self.conv1(x)\nexcept RuntimeError:\n    pass\nreturn x"),
    "with": (CONV, "with torch.no_grad():\n    x = self.conv1(x)\nreturn x"),
    "yield": ("self.net = nn.Sequential(*self.parts())", "return self.net(x)"),
    "no bias": (CONV + "\nself.conv1.bias = None", "return self.conv1(x)"),
    "deep copy": (
        "import copy\nc = nn.Conv2d(1, 1, 3)\nself.n = nn.Sequential(c, copy.deepcopy(c))", "return self.n(x)",
    ),
    "children": (CONV, "return nn.Sequential(*list(self.children())[:2])(x)"),
    "ordered": (
        "from collections import OrderedDict\nself.n = nn.Sequential(OrderedDict(a=nn.Conv2d(1, 8, 3), b=nn.ReLU()))",
        "return self.n.b(self.n.a(x))",
    ),
    "dictionary": (
        "self.acts = nn.ModuleDict([['relu', nn.ReLU()], ['elu', nn.ELU()]])\nself.c = nn.Conv2d(1, 8, 3)",
        "x = self.c(x)\nfor name, act in self.acts.items():\n    x = act(x) if name in self.acts else x\nreturn x",
    ),
    "plus equals": (
        "self.l = nn.ModuleList([nn.Conv2d(1, 8, 3)])\nself.l += [nn.ReLU()]", "return self.l[-1](self.l[0](x))",
    ),
    "inserted": (
        "self.l = nn.ModuleList([nn.ReLU()])\nself.l.insert(0, nn.Conv2d(1, 8, 3))",
        "for i in range(len(self.l)):\n    x = self.l[i](x)\nreturn x",
    ),
    "set item": ("self.n = nn.Sequential(nn.ReLU(), nn.ReLU())\nself.n[0] = nn.Conv2d(1, 8, 3)", "return self.n(x)"),
    "transposed": (CONV, "x = self.conv1(x).flatten(2).mean(2)\nreturn self.fc(x)"),
}  # fmt: skip


@pytest.mark.parametrize("what", IDIOMS)
def test_an_idiom_is_read_as_torch_runs_it(what: str) -> None:
    constructor, forward = IDIOMS[what]
    source = network_class(constructor, forward)
    source += "    def parts(self):\n        yield nn.Conv2d(1, 8, 3)\n        yield nn.ReLU()\n"
    assert calls_of(networks_in_source(source)[0]) == executed_calls(executed(source)["Net"]())


def test_a_class_within_a_function_and_layers_outside_of_the_class_are_read() -> None:
    inner = "def make():\n" + "\n".join(
        f"    {line}" for line in network_class(CONV, RUN.format("x = self.conv2(x)")).split("\n")[4:]
    )
    assert [graph.name for graph in networks_in_source(f"{HEAD}{inner}\n    return Net()\n")] == ["Net()"]
    outside = network_class("self.p = p", "return conv(x)", before="conv = nn.Conv2d(1, 8, 3)")
    outside = outside.replace("__init__(self)", "__init__(self, p=1)", 1) + "\nnet = Net(2)\n"
    assert [graph.problem for graph in networks_in_source(outside)] == [None, None]


def test_a_ghost_batch_norm_is_told_from_a_batch_norm() -> None:
    ghost, plain = networks_in_source((SOURCES / "ghost.py").read_text(encoding="utf-8"))
    assert [node.kind for node in ghost.nodes[1:6:4]] == ["GhostBatchNorm2d", "GhostBatchNorm2d"]
    assert [node.arguments["num_splits"] for node in ghost.nodes[1:6:4]] == [2, 2]
    assert [node.kind for node in plain.nodes[1:6:4]] == ["BatchNorm2d", "BatchNorm2d"]


def test_a_base_class_of_another_file_is_a_module() -> None:
    source = network_class(
        "self.add_module('c', nn.Conv2d(1, 8, 3))", "return self.c(x)", before="from base import Base"
    )
    assert [node.kind for node in only(source.replace("nn.Module", "Base")).nodes] == ["Conv2d"]


def test_a_network_is_read_with_the_block_of_its_time() -> None:
    def block(width: int) -> str:
        return f"def block():\n    return nn.Conv2d(1, {width}, 3)\n"

    net = network_class("self.c = block()", "return self.c(x)")
    found = networks_in_source(net + block(8) + net + block(16))
    assert [graph.nodes[0].arguments["out_channels"] for graph in found] == [8, 8]


def test_a_print_of_python_2_within_a_network_is_passed_over() -> None:
    plain = network_class(CONV, "x = self.conv1(x)\npass\nreturn x")
    printing = plain.replace("        pass\n", "        print x.size(), 'after conv1'\n")
    assert rows_of(only(printing)) == rows_of(only(plain))
    assert [node.kind for node in only(printing).nodes] == ["Conv2d"]


def test_lists_of_layers_are_joined_by_sum() -> None:
    [graph] = networks_in_source(
        "from torch import nn\n"
        "def block(i, o):\n    return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]\n"
        "blocks = (block(i, o) for i, o in [(1, 4), (4, 8)])\n"
        "net = nn.Sequential(*sum(blocks, []), nn.Conv2d(8, 10, 28), nn.Flatten())\n"
    )
    assert graph.problem is None
    assert [node.kind for node in graph.nodes] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "Flatten"]
