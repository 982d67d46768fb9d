"""PyTorch source of a network."""

from __future__ import annotations

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import notation
from lib.design.operation_specs import SPECS
from lib.design.operations import operations
from lib.text.formatting import shape_text


def pytorch_source(architecture: Architecture) -> str:
    """Python source that defines `network` from torch's own layers; a comment on each line has shape and field."""
    analysis = analyze(architecture)
    rows = iter(analysis.rows)
    calls = [
        (operation.kind, f"    {SPECS[operation.kind].module(operation).source(operation.kind)},")
        for operation in operations(architecture)
    ]
    width = max(len(call) for _, call in calls)
    lines = []
    for kind, call in calls:
        if SPECS[kind].is_view:
            lines.append(call)
            continue
        row = next(rows)
        lines.append(f"{call:<{width}}  # {shape_text(row.output_shape)}, receptive field {row.receptive_field}")
    return "\n".join(
        [
            f"# {notation(architecture)}",
            f"# {analysis.num_params:,} parameters, {analysis.macs:,} multiply-accumulates an image.",
            "# Images (N, 1, 28, 28), normalized with mean 0.1307 and standard deviation 0.3081, to logits (N, 10).",
            "from torch import nn",
            "",
            "network = nn.Sequential(",
            *lines,
            ")",
            "",
        ]
    )
