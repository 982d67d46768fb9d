"""Receptive fields as sets, compared with torch's gradients on a 28×28 image, with padding and cut-off windows."""

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


def _positive_module(step: Operation) -> nn.Module:
    """A module with the same windows, one channel and positive weights: no gradient cancels or is zero by chance."""
    match step.kind:
        case "Conv2d":
            layer = nn.Conv2d(1, 1, step.kernel_size, step.stride, step.padding, step.dilation, bias=False).double()
            nn.init.constant_(layer.weight, 1 / step.kernel_size**2)
            return layer
        case "MaxPool2d" | "AvgPool2d":
            # A max-pool passes the gradient to one pixel only; an average has the same window.
            return nn.AvgPool2d(step.kernel_size, step.stride)
        case "AdaptiveAvgPool2d" | "Flatten":
            return nn.AdaptiveAvgPool2d(1)
    return nn.Identity()


def _outputs(steps: list[Operation]) -> tuple[Tensor, list[Tensor]]:
    """The image and the output of every step, each with its gradient retained."""
    x = image = torch.ones(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    outputs = []
    for step in steps:
        x = _positive_module(step)(x)
        # An identity returns its input; a copy has a separate gradient.
        x = x.clone()
        x.retain_grad()
        outputs.append(x)
    return image, outputs


def _nonzero_rows(gradient: Tensor | None) -> list[int]:
    """Rows with a nonzero gradient; the columns must be the same."""
    assert gradient is not None
    rows, columns = gradient[0, 0].nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist()))
    return sorted(set(rows.tolist()))


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(architectures())
def test_input_masks_are_the_pixels_with_a_gradient(architecture: Architecture) -> None:
    steps = list(operations(architecture))
    image, outputs = _outputs(steps)
    found = input_masks(steps)
    for step, output, sets in zip(steps, outputs, found, strict=True):
        assert len(sets) == step.output_shape[1]
        # Padding affects the corners; the middle is the usual case.
        for position in {0, len(sets) // 2, len(sets) - 1}:
            image.grad = None
            output[0, 0, position, position].backward(retain_graph=True)  # type: ignore[no-untyped-call]
            assert set_bits(sets[position]) == _nonzero_rows(image.grad)


@settings(max_examples=500, deadline=None)
@given(architectures())
def test_used_positions_are_those_with_a_gradient(architecture: Architecture) -> None:
    steps = list(operations(architecture))
    _, outputs = _outputs(steps)
    outputs[-1].sum().backward()  # type: ignore[no-untyped-call]
    for used, output in zip(used_positions(steps), outputs, strict=True):
        assert set_bits(used) == _nonzero_rows(output.grad)


@settings(max_examples=500, deadline=None)
@given(architectures())
def test_center_and_size_are_those_of_the_gradient(architecture: Architecture) -> None:
    """On a strip without edge effects, the gradient of output i is centered at center + i * jump, with that size."""
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


def test_the_network_of_the_table_does_not_use_all_positions() -> None:
    """Its last pool uses 9 of 16 positions; that of the code uses all of them."""
    code, table = (analyze(parse(preset.text)).rows for preset in PRESETS[:2])
    assert table[-2].unused_note == "9 of 16 positions used"
    assert [row.unused_note for row in code if row.unused_note] == []
