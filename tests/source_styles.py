"""Networks, given as layers, written as PyTorch source in four styles of students."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Layer = dict[str, Any]
Network = dict[str, Any]
Row = tuple[str, tuple[int, ...], int]

NETWORKS = Path(__file__).parent / "fixtures" / "networks.json"
IMPORTS = (
    "from collections import OrderedDict\n\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
)
GHOST = """class BatchNorm(nn.BatchNorm2d):
    def __init__(self, num_features, eps=1e-05, momentum=0.1, weight=True, bias=True):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.weight.data.fill_(1.0)
        self.bias.data.fill_(0.0)
        self.weight.requires_grad = weight
        self.bias.requires_grad = bias


class GhostBatchNorm(BatchNorm):
    def __init__(self, num_features, num_splits, **kw):
        super().__init__(num_features, **kw)
        self.num_splits = num_splits
        self.register_buffer("running_mean", torch.zeros(num_features * self.num_splits))
        self.register_buffer("running_var", torch.ones(num_features * self.num_splits))

    def train(self, mode=True):
        if (self.training is True) and (mode is False):
            self.running_mean = torch.mean(self.running_mean.view(self.num_splits, self.num_features), dim=0).repeat(
                self.num_splits
            )
        return super().train(mode)

    def forward(self, input):
        N, C, H, W = input.shape
        if self.training or not self.track_running_stats:
            return F.batch_norm(
                input.view(-1, C * self.num_splits, H, W), self.running_mean, self.running_var,
                self.weight.repeat(self.num_splits), self.bias.repeat(self.num_splits), True, self.momentum, self.eps,
            ).view(N, C, H, W)
        return F.batch_norm(input, self.running_mean[: self.num_features], self.running_var[: self.num_features],
                            self.weight, self.bias, False, self.momentum, self.eps)


"""

# What cannot be said in a network of this lab: arithmetic on the image, gating, a norm with one weight for all.
REFUSED = frozenset({"mul", "sub"})


@cache
def networks() -> tuple[Network, ...]:
    """The public networks; the file is described in shared/NETWORKS.md of the project."""
    return tuple(json.loads(NETWORKS.read_text(encoding="utf-8")))


def can_be_read(network: Network) -> bool:
    """Whether the importer should read a network."""
    layers = network["layers"]
    return not any(layer["op"] in REFUSED or (layer["op"] == "ln" and layer["params"] == 2) for layer in layers)


def inputs_of(network: Network) -> list[list[int]]:
    """Indexes of the layers that each layer takes."""
    return [layer.get("from", [place - 1]) for place, layer in enumerate(network["layers"])]


def is_chain(network: Network) -> bool:
    return all(taken == [place - 1] for place, taken in enumerate(inputs_of(network)))


def input_shapes(network: Network) -> list[list[int]]:
    """Shape of what reaches each layer."""
    shapes = [layer["shape"] for layer in network["layers"]]
    return [shapes[taken[0]] if taken[0] >= 0 else [1, 28, 28] for taken in inputs_of(network)]


def expected_rows(network: Network) -> list[Row]:
    """Kind, output shape and parameters of each layer, as the importer should find them."""
    rows: list[Row] = []
    for layer, shape in zip(network["layers"], input_shapes(network), strict=True):
        if layer["op"] not in ("clamp", "reshape"):
            rows.append((kind_of(layer, shape), tuple(layer["shape"]), layer.get("params", 0)))
    return rows


def kind_of(layer: Layer, shape: list[int]) -> str:
    kinds = {
        "conv": "Conv2d", "linear": "Linear", "bn": "BatchNorm2d", "bn1d": "BatchNorm1d", "in": "InstanceNorm2d",
        "gn": "GroupNorm", "ghostbn": "GhostBatchNorm2d", "relu": "ReLU", "dropout": "Dropout",
        "dropout2d": "Dropout2d",
        "maxpool": "MaxPool2d", "avgpool": "AvgPool2d", "gap": "AdaptiveAvgPool2d", "gmp": "AdaptiveMaxPool2d",
        "flatten": "Flatten", "log_softmax": "LogSoftmax", "add": "Add", "cat": "Concat",
    }  # fmt: skip
    if layer["op"] == "ln":
        return "GroupNorm" if per_channel(layer, shape) else "LayerNorm"
    return str(layer["kind"]) if layer["op"] == "act" else kinds[layer["op"]]


def per_channel(layer: Layer, shape: list[int]) -> bool:
    return len(shape) == 3 and layer["params"] == 2 * shape[0]


def size(value: int | list[int]) -> str:
    return str(value) if isinstance(value, int) else f"({value[0]}, {value[1]})"


def module(layer: Layer, shape: list[int]) -> str:
    """The module that a layer is, as source."""
    op = layer["op"]
    if op == "conv":
        given = [f"{shape[0]}, {layer['out']}, {size(layer['k'])}"]
        for name, key, usual in (
            ("stride", "s", 1),
            ("padding", "p", 0),
            ("dilation", "d", 1),
            ("groups", "groups", 1),
        ):
            if layer[key] != usual:
                given.append(f"{name}={size(layer[key])}")
        given += [] if layer["bias"] else ["bias=False"]
        given += [] if layer["mode"] == "zeros" else [f"padding_mode={layer['mode']!r}"]
        return f"nn.Conv2d({', '.join(given)})"
    if op == "linear":
        return f"nn.Linear({shape[0]}, {layer['out']}{'' if layer['bias'] else ', bias=False'})"
    if op in ("bn", "bn1d", "in"):
        kind = {"bn": "BatchNorm2d", "bn1d": "BatchNorm1d", "in": "InstanceNorm2d"}[op]
        usual = op != "in"
        return f"nn.{kind}({shape[0]}{'' if layer['affine'] == usual else f', affine={not usual}'})"
    if op in ("maxpool", "avgpool"):
        kind = "MaxPool2d" if op == "maxpool" else "AvgPool2d"
        padding = f", padding={size(layer['p'])}" if layer["p"] else ""
        ceil = ", ceil_mode=True" if layer["ceil"] else ""
        return f"nn.{kind}({size(layer['k'])}, {size(layer['s'])}{padding}{ceil})"
    if op == "ln" and per_channel(layer, shape):
        return f"nn.GroupNorm(1, {shape[0]})"
    simple: dict[str, str] = {
        "gn": f"nn.GroupNorm({layer.get('groups')}, {shape[0]}{'' if layer.get('affine', True) else ', affine=False'})",
        "ln": f"nn.LayerNorm({shape}{'' if layer.get('params') else ', elementwise_affine=False'})",
        "ghostbn": f"GhostBatchNorm({shape[0]}, num_splits=2)",
        "relu": "nn.ReLU()",
        "act": f"nn.{layer.get('kind')}()",
        "dropout": f"nn.Dropout({layer.get('p')})",
        "dropout2d": f"nn.Dropout2d(p={layer.get('p')})",
        "gap": "nn.AdaptiveAvgPool2d(1)",
        "gmp": "nn.AdaptiveMaxPool2d((1, 1))",
        "flatten": "nn.Flatten()",
        "log_softmax": "nn.LogSoftmax(dim=1)",
    }
    return simple[op]


def call(layer: Layer, shape: list[int], value: str) -> str | None:
    """The call of a function that does what a layer without weights does; None if it has weights."""
    op = layer["op"]
    if op in ("maxpool", "avgpool"):
        padding = f", padding={size(layer['p'])}" if layer["p"] else ""
        ceil = ", ceil_mode=True" if layer["ceil"] else ""
        name = "max_pool2d" if op == "maxpool" else "avg_pool2d"
        return f"F.{name}({value}, {size(layer['k'])}, stride={size(layer['s'])}{padding}{ceil})"
    if op in ("dropout", "dropout2d"):
        training = "" if layer.get("always_on") else ", training=self.training"
        return f"F.{op}({value}, {layer['p']}{training})"
    functions = {
        "relu": f"F.relu({value})",
        "act": f"torch.tanh({value})"
        if layer.get("kind") == "Tanh"
        else f"F.{str(layer.get('kind')).lower()}({value})",
        "gap": f"{value}.mean([2, 3], keepdim=True)",
        "gmp": f"F.adaptive_max_pool2d({value}, 1)",
        "flatten": f"{value}.view({value}.size(0), -1)",
        "log_softmax": f"F.log_softmax({value}, dim=-1)",
        "clamp": f"torch.clamp({value}, -100, 0)",
        "reshape": f"{value}.permute(0, 2, 3, 1)",
        "sub": f"({value} - {layer.get('by')})",
        "mul": f"({value} * {layer.get('by')})",
    }
    return functions.get(op)


def joined(layer: Layer, values: list[str]) -> str:
    if layer["op"] == "cat":
        return f"torch.cat(({', '.join(values)}), 1)"
    return (" * " if layer["op"] == "mul" else " + ").join(values)


def value_name(place: int) -> str:
    return "x" if place < 0 else f"x{place}"


def forward_lines(network: Network, attribute: Callable[[int], str], functional: bool) -> list[str]:
    """The lines of forward with a variable for each layer."""
    lines = []
    for place, (layer, shape, taken) in enumerate(
        zip(network["layers"], input_shapes(network), inputs_of(network), strict=True)
    ):
        values = [value_name(one) for one in taken]
        called = call(layer, shape, values[0]) if functional or not has_module(layer) else None
        if layer["op"] in ("add", "cat", "mul") and len(values) > 1:
            called = joined(layer, values)
        lines.append(f"{value_name(place)} = {called or f'{attribute(place)}({values[0]})'}")
    return [*lines, f"return {value_name(len(network['layers']) - 1)}"]


def has_module(layer: Layer) -> bool:
    return layer["op"] not in ("clamp", "reshape", "sub", "mul", "add", "cat")


def class_source(constructor: list[str], forward: list[str], name: str = "Net") -> str:
    body = "\n".join(f"        {line}" for line in constructor)
    run = "\n".join(f"        {line}" for line in forward)
    return (
        f"class {name}(nn.Module):\n    def __init__(self):\n        super({name}, self).__init__()\n{body}\n\n"
        f"    def forward(self, x):\n{run}\n"
    )


def head(network: Network) -> str:
    return IMPORTS + (GHOST if any(layer["op"] == "ghostbn" for layer in network["layers"]) else "")


def modules(network: Network) -> list[str | None]:
    pairs = zip(network["layers"], input_shapes(network), strict=True)
    return [module(layer, shape) if has_module(layer) else None for layer, shape in pairs]


def plain_sequential(network: Network) -> str:
    """One nn.Sequential, or one for each layer that branches."""
    made = modules(network)
    if is_chain(network) and None not in made:
        lines = ["self.net = nn.Sequential(", *(f"    {text}," for text in made), ")"]
        return head(network) + class_source(lines, ["return self.net(x)"])
    lines = [f"self.part{place} = nn.Sequential({text})" for place, text in enumerate(made) if text]
    return head(network) + class_source(lines, forward_lines(network, lambda place: f"self.part{place}", False))


def attributes_and_functions(network: Network) -> str:
    """Layers with weights as attributes, functions for everything else, x assigned again and again."""
    pairs = list(zip(network["layers"], input_shapes(network), strict=True))
    lines = [
        f"self.layer{place} = {module(layer, shape)}"
        for place, (layer, shape) in enumerate(pairs)
        if has_module(layer) and call(layer, shape, "x") is None
    ]
    if not is_chain(network):
        return head(network) + class_source(lines, forward_lines(network, lambda place: f"self.layer{place}", True))
    forward = []
    for place, (layer, shape) in enumerate(pairs):
        forward.append(f"x = {call(layer, shape, 'x') or f'self.layer{place}(x)'}")
    return head(network) + class_source(lines, [*forward, "return x"])


HELPERS = """def conv_block(in_channels, out_channels, kernel_size=3, norm=None, act=True, p=0, **kwargs):
    layers = [nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs)]
    if norm == "BN":
        layers += [nn.BatchNorm2d(out_channels)]
    elif norm == "GN":
        layers += [nn.GroupNorm(2, out_channels)]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def make(layer, *sizes, **options):
    return layer(*sizes, **options)


"""


def helper_functions(network: Network) -> str:
    """Convolutions by a function with arguments and defaults, made in a loop, set by setattr."""
    pairs = list(zip(network["layers"], input_shapes(network), strict=True))
    entries: list[tuple[int, str]] = []
    place = 0
    steps: list[tuple[int, int]] = []
    while place < len(pairs):
        layer, shape = pairs[place]
        first = place
        if layer["op"] == "conv":
            options = [f"in_channels={shape[0]}, out_channels={layer['out']}, kernel_size={size(layer['k'])}"]
            for name, key in (("stride", "s"), ("padding", "p"), ("dilation", "d"), ("groups", "groups")):
                options.append(f"{name}={size(layer[key])}")
            options.append(f"bias={layer['bias']}, padding_mode={layer['mode']!r}")
            following = [one["op"] for one, _ in pairs[place + 1 : place + 3]] if is_chain(network) else []
            norm = following[:1] == ["bn"] and bool(pairs[place + 1][0]["affine"])
            place += norm
            act = following[norm : norm + 1] == ["relu"]
            place += act
            entries.append((first, f"conv_block({', '.join(options)}, norm={'BN' if norm else 'none'!r}, act={act})"))
        elif has_module(layer):
            name, _, given = module(layer, shape).partition("(")
            entries.append((first, f"make({name}, {given}" if given != ")" else f"make({name})"))
        steps.append((first, place))
        place += 1
    lines = ["blocks = {", *(f"    {first}: {text}," for first, text in entries), "}"]
    lines += ["for number, block in blocks.items():", '    setattr(self, f"block{number}", block)']
    if not is_chain(network):
        run = forward_lines(network, lambda one: f'getattr(self, "block%d" % {one})', False)
        return head(network) + HELPERS + class_source(lines, run)
    run = []
    for first, _ in steps:
        layer, shape = pairs[first]
        run.append(f"x = self.block{first}(x)" if has_module(layer) else f"x = {call(layer, shape, 'x')}")
    return head(network) + HELPERS + class_source(lines, [*run, "return x"])


def named_modules(network: Network) -> str:
    """An OrderedDict, add_module and a ModuleList."""
    made = modules(network)
    if not is_chain(network) or None in made:
        lines = ["self.layers = nn.ModuleDict()"]
        lines += [f'self.layers["l{place}"] = {text}' for place, text in enumerate(made) if text]
        return head(network) + class_source(lines, forward_lines(network, lambda one: f'self.layers["l{one}"]', False))
    third = max(len(made) // 3, 1)
    lines = ["self.features = nn.Sequential(OrderedDict(["]
    lines += [f'    ("layer{place}", {text}),' for place, text in enumerate(made[:third])]
    lines += ["]))", "self.middle = nn.Sequential()"]
    lines += [
        f'self.middle.add_module("layer{place}", {text})' for place, text in enumerate(made[third : 2 * third], third)
    ]
    lines += ["self.tail = nn.ModuleList([", *(f"    {text}," for text in made[2 * third :]), "])"]
    run = ["x = self.middle(self.features(x))", "for layer in self.tail:", "    x = layer(x)", "return x"]
    return head(network) + class_source(lines, run)


STYLES: dict[str, Callable[[Network], str]] = {
    "plain Sequential": plain_sequential,
    "attributes and functions": attributes_and_functions,
    "helper functions": helper_functions,
    "named modules": named_modules,
}
