"""A design to take away: PyTorch source, CSV, Markdown."""

from __future__ import annotations

from decimal import Decimal

from lib.analysis import NetworkAnalysis, analyse
from lib.architecture import Architecture, Operation, notation, operations, shape_text
from lib.untrusted_text import csv_text

HEADER = ("layer", "output", "parameters", "share", "macs", "activations", "receptive_field", "jump", "center")


def pytorch_source(architecture: Architecture) -> str:
    """A runnable module that defines `network`, of torch's stock layers; shape and field stand beside each line."""
    analysis = analyse(architecture)
    rows = iter(analysis.rows)
    calls = [(operation.kind, f"    {_call(operation)},") for operation in operations(architecture)]
    width = max(len(call) for _, call in calls)
    lines = []
    for kind, call in calls:
        if kind == "Flatten":
            lines.append(call)
            continue
        row = next(rows)
        lines.append(f"{call:<{width}}  # {shape_text(row.output_shape)}, receptive field {row.receptive_field}")
    return "\n".join(
        [
            f"# {notation(architecture)}",
            f"# {analysis.num_params:,} parameters, {analysis.macs:,} multiply-accumulates an image.",
            "# Images (N, 1, 28, 28), normalised by mean 0.1307 and deviation 0.3081, to logits (N, 10).",
            "from torch import nn",
            "",
            "network = nn.Sequential(",
            *lines,
            ")",
            "",
        ]
    )


def table_csv(analysis: NetworkAnalysis) -> str:
    """One line a row of the table, numbers plain; the totals are left to whoever adds."""
    return csv_text([HEADER, *_cells(analysis)])


def table_markdown(analysis: NetworkAnalysis) -> str:
    """The table for a lesson or a README, the sums last."""
    total = [
        "**Total**",
        "",
        f"**{analysis.num_params:,}**",
        "",
        f"**{analysis.macs:,}**",
        f"**{analysis.activations:,}**",
        "",
        "",
        "",
    ]
    shown = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in _cells(analysis)]
    marks = ["---", "---", *["---:"] * 7]
    return "".join(f"| {' | '.join(row)} |\n" for row in [HEADER, marks, *shown, total])


def _cells(analysis: NetworkAnalysis) -> list[list[str | int | Decimal]]:
    return [
        [
            row.label,
            "x".join(str(n) for n in row.output_shape),
            row.num_params,
            Decimal(f"{row.share:.4f}"),
            row.macs,
            row.activations,
            row.receptive_field,
            row.jump,
            Decimal(f"{row.center:g}"),
        ]
        for row in analysis.rows
    ]


def _call(operation: Operation) -> str:
    inputs, outputs = operation.input_shape[0], operation.output_shape[0]
    size, stride = operation.kernel_size, operation.stride
    match operation.kind:
        case "Conv2d":
            options = [f"stride={stride}"] * (stride != 1) + [f"padding={operation.padding}"] * (operation.padding != 0)
            options += [f"dilation={operation.dilation}"] * (operation.dilation != 1)
            return f"nn.Conv2d({', '.join([str(inputs), str(outputs), str(size), *options])})"
        case "BatchNorm2d":
            return f"nn.BatchNorm2d({outputs})"
        case "MaxPool2d" | "AvgPool2d":
            return f"nn.{operation.kind}({size}" + (f", {stride})" if stride != size else ")")
        case "AdaptiveAvgPool2d":
            return "nn.AdaptiveAvgPool2d(1)"
        case "Dropout":
            return f"nn.Dropout({operation.chance:g})"
        case "Linear":
            return f"nn.Linear({inputs}, {outputs})"
        case "ReLU" | "Flatten":
            return f"nn.{operation.kind}()"
