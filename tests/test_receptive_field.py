"""What an output depends on, held to torch's gradient on the real 28x28 image, padding and ceil effects included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.operations import Operation, operations
from lib.design.presets import PRESETS
from lib.design.receptive_field import input_masks, set_bits, used_positions
from tests.architectures import architectures


def _reader(step: Operation) -> nn.Module:
    """The step's geometry with positive weights on one channel: no gradient cancels, none is zero by chance."""
    match step.kind:
        case "Conv2d":
            layer = nn.Conv2d(1, 1, step.kernel_size, step.stride, step.padding, step.dilation, bias=False).double()
            nn.init.constant_(layer.weight, 1 / step.kernel_size**2)
            return layer
        case "MaxPool2d" | "AvgPool2d":
            # A max-pool passes the gradient to one pixel alone; an average has the same geometry.
            return nn.AvgPool2d(step.kernel_size, step.stride)
        case "AdaptiveAvgPool2d" | "Flatten":
            return nn.AdaptiveAvgPool2d(1)
    return nn.Identity()


def _outputs(steps: list[Operation]) -> tuple[Tensor, list[Tensor]]:
    """The image and what every step makes of it, each keeping its gradient."""
    x = image = torch.ones(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    outputs = []
    for step in steps:
        x = _reader(step)(x)
        # A copy, so that a step which changes nothing has a gradient of its own.
        x = x.clone()
        x.retain_grad()
        outputs.append(x)
    return image, outputs


def _touched(gradient: Tensor | None) -> list[int]:
    """Rows with a gradient; the columns must be the same."""
    assert gradient is not None
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist()))
    return sorted(set(rows.tolist()))


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(architectures())
def test_every_output_reads_the_pixels_that_torch_says(architecture: Architecture) -> None:
    steps = list(operations(architecture))
    image, outputs = _outputs(steps)
    found = input_masks(steps)
    for step, output, sets in zip(steps, outputs, found, strict=True):
        assert len(sets) == step.output_shape[1]
        # The corners feel the padding; the middle is everybody's.
        for position in {0, len(sets) // 2, len(sets) - 1}:
            image.grad = None
            output[0, 0, position, position].backward(retain_graph=True)  # type: ignore[no-untyped-call]
            assert set_bits(sets[position]) == _touched(image.grad)


@settings(max_examples=500, deadline=None)
@given(architectures())
def test_the_logits_read_the_positions_that_torch_says(architecture: Architecture) -> None:
    steps = list(operations(architecture))
    _, outputs = _outputs(steps)
    outputs[-1].sum().backward()  # type: ignore[no-untyped-call]
    for read, output in zip(used_positions(steps), outputs, strict=True):
        assert set_bits(read) == _touched(output.grad)


@settings(max_examples=500, deadline=None)
@given(architectures())
def test_a_field_stands_where_its_centre_says(architecture: Architecture) -> None:
    """On a strip too long for its ends to matter, output i has its field around centre + i jump, with that span."""
    rows = iter(analyze(architecture).rows)
    last = analyze(architecture).rows[-1]
    length = 3 * last.receptive_field + 10 * last.jump + 28
    strip = torch.ones(1, 1, length, 1, dtype=torch.float64, requires_grad=True)
    x = strip
    for step in operations(architecture):
        kernel = torch.full((1, 1, step.kernel_size, 1), 1 / step.kernel_size, dtype=torch.float64)
        x = nn.functional.conv2d(x, kernel, None, (step.stride, 1), (step.padding, 0), (step.dilation, 1))
        if step.kind == "Flatten":
            continue
        row = next(rows)
        i = round((length / 2 - row.center) / row.jump)
        strip.grad = None
        x[0, 0, i, 0].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert strip.grad is not None
        pixels = strip.grad[0, 0, :, 0].nonzero()
        assert float(pixels.min() + pixels.max()) / 2 == row.center + i * row.jump
        assert int(pixels.max() - pixels.min()) + 1 == row.receptive_field


def test_the_network_of_the_table_leaves_a_row_and_a_column_unused() -> None:
    """DESIGN: its last pool reads 9 of the 16 positions; the code's reads all of them."""
    code, table = (analyze(parse(preset.text)).rows for preset in PRESETS[:2])
    assert table[-2].unused_note == "9 of 16 positions used"
    assert [row.unused_note for row in code if row.unused_note] == []
