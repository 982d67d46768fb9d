"""PyTorch source of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lib.design.analysis import LayerAnalysis, NetworkAnalysis, analyze
from lib.design.layers import ACTIVATIONS, Architecture
from lib.design.notation import notation
from lib.design.operation_specs import SPECS
from lib.design.operations import IMAGE, Operation, operations
from lib.text.formatting import shape_text

# The same module as `lib.nn.modules.GhostBatchNorm2d`, for those who do not have this project's code.
GHOST_BATCH_NORM = '''
class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over each of num_splits parts of a batch."""

    def __init__(self, num_features, num_splits):
        super().__init__(num_features)
        self.num_splits = num_splits

    def forward(self, x):
        if not self.training or len(x) == 1:
            return super().forward(x)
        outputs, means, variances = [], [], []
        for part in torch.chunk(x, self.num_splits):
            mean, variance = part.new_zeros(self.num_features), part.new_zeros(self.num_features)
            outputs.append(nn.functional.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            means.append(mean)
            variances.append(variance)
        self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)
        self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)
        return torch.cat(outputs)
'''
# Classes that torch.nn does not have.
_OWN_NAMES = {"GhostBatchNorm2d": "GhostBatchNorm2d", "LayerNorm2d": "LayerNorm2d"}
_SHORT_NAMES = {
    "Conv2d": "conv",
    "Linear": "linear",
    "Dropout": "dropout",
    "Dropout2d": "dropout",
    "Flatten": "flatten",
    **{spec.module: spec.module.lower() for spec in ACTIVATIONS.values()},
}


def pytorch_source(architecture: Architecture) -> str:
    """Python source that defines `network` from torch's own layers; a comment on each line has shape and field.

    Without branches it is an `nn.Sequential`, otherwise a class.
    """
    analysis = analyze(architecture)
    steps = operations(architecture)
    kinds = {step.kind for step in steps}
    is_sequential = all(step.inputs == (index - 1,) for index, step in enumerate(steps))
    body = _sequential(steps, analysis) if is_sequential else _class(steps, analysis)
    imports = ["import torch"] if kinds & {"GhostBatchNorm2d", "Concat"} else []
    imports += ["from torch import nn"]
    imports += ["from torchvision.models.convnext import LayerNorm2d"] if "LayerNorm2d" in kinds else []
    gap = [""] if is_sequential else ["", ""]
    if "GhostBatchNorm2d" in kinds:
        gap = ["", *GHOST_BATCH_NORM.splitlines(), "", ""]
    return "\n".join(
        [
            f"# {notation(architecture)}",
            f"# {analysis.num_params:,} parameters, {analysis.macs:,} multiply-accumulates an image.",
            "# Images (N, 1, 28, 28), normalized with mean 0.1307 and standard deviation 0.3081, to logits (N, 10).",
            *imports,
            *gap,
            *body,
            "",
        ]
    )


def _sequential(steps: Sequence[Operation], analysis: NetworkAnalysis) -> list[str]:
    lines = [(f"    {_call(step)},", step) for step in steps]
    return ["network = nn.Sequential(", *_commented(lines, analysis), ")"]


def _class(steps: Sequence[Operation], analysis: NetworkAnalysis) -> list[str]:
    """A class with an attribute for each module, and a `forward` with a line for each of them."""
    names = _attribute_names(steps)
    modules = [
        f"        self.{name} = {_call(step)}"
        for name, step in zip(names, steps, strict=True)
        if not SPECS[step.kind].is_join
    ]
    last_use = {source: index for index, step in enumerate(steps) for source in step.inputs}
    # Outputs that are needed later than in the next line have a name of their own.
    saved: dict[int, str] = {}
    lines: list[tuple[str, Operation | None]] = []
    if last_use[IMAGE] > 0:
        saved[IMAGE] = "image"
        lines.append(("        image = x", None))
    for index, (name, step) in enumerate(zip(names, steps, strict=True)):
        inputs = ["x" if source == index - 1 else saved[source] for source in step.inputs]
        match step.kind:
            case "Add":
                # One operation for any number of inputs; a + b + c would be two.
                result = " + ".join(inputs) if len(inputs) == 2 else f"sum([{', '.join(inputs)}])"
            case "Concat":
                result = f"torch.cat([{', '.join(inputs)}], 1)"
            case _:
                result = f"self.{name}({inputs[0]})"
        lines.append((f"        x = {result}", step))
        if last_use.get(index, 0) > index + 1:
            saved[index] = f"y{len(saved) + 1}"
            lines.append((f"        {saved[index]} = x", None))
    return [
        "class Network(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *modules,
        "",
        "    def forward(self, x):",
        *_commented(lines, analysis),
        "        return x",
        "",
        "",
        "network = Network()",
    ]


def _attribute_names(steps: Sequence[Operation]) -> list[str]:
    """A name for each module, such as "conv3"."""
    counts: Counter[str] = Counter()
    names = []
    for step in steps:
        short = _SHORT_NAMES.get(step.kind, "pool" if "Pool" in step.kind else "norm")
        counts[short] += 1
        names.append(f"{short}{counts[short]}")
    return names


def _call(step: Operation) -> str:
    return SPECS[step.kind].module(step).source(_OWN_NAMES.get(step.kind, f"nn.{step.kind}"))


def _commented(lines: Sequence[tuple[str, Operation | None]], analysis: NetworkAnalysis) -> list[str]:
    """The lines; those that belong to an operation with a row in the table have a comment."""
    rows = iter(analysis.rows)
    width = max(len(line) for line, _ in lines)
    return [
        f"{line:<{width}}  # {_comment(next(rows))}" if step and not SPECS[step.kind].is_view else line
        for line, step in lines
    ]


def _comment(row: LayerAnalysis) -> str:
    field = f"{row.receptive_field}"
    if row.horizontal and row.horizontal.receptive_field != row.receptive_field:
        field = f"{field} × {row.horizontal.receptive_field}"
    return f"{shape_text(row.output_shape)}, receptive field {field}"
