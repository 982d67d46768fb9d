"""Receptive fields as sets, compared with torch's gradients on a 28×28 image, with padding and cut-off windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.operation_specs import SPECS
from lib.design.operations import operations
from lib.design.presets import PRESETS
from lib.design.receptive_field import Axis, input_masks, receptive_fields, set_bits, used_positions
from tests.architectures import architectures
from tests.positive_network import along, outputs, positive_module, unbounded_module

AXES: tuple[Axis, Axis] = (0, 1)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(architectures(), st.sampled_from(AXES))
def test_input_masks_are_the_pixels_with_a_gradient(architecture: Architecture, axis: Axis) -> None:
    steps = operations(architecture)
    strip = torch.ones(1, 1, 28, 1, dtype=torch.float64, requires_grad=True)
    found = outputs(along(steps, axis), strip, positive_module)
    for step, output, sets in zip(steps, found, input_masks(steps, axis), strict=True):
        assert len(sets) == step.output_shape[1 + axis]
        # Padding affects the corners; the middle is the usual case.
        for position in {0, len(sets) // 2, len(sets) - 1}:
            strip.grad = None
            output[0, 0, position, 0].backward(retain_graph=True)  # type: ignore[no-untyped-call]
            assert strip.grad is not None
            assert set_bits(sets[position]) == strip.grad[0, 0, :, 0].nonzero()[:, 0].tolist()


@settings(max_examples=200, deadline=None)
@given(architectures())
def test_the_pixels_with_a_gradient_are_the_product_of_both_axes(architecture: Architecture) -> None:
    """Where branches join, the product contains them: a cross is not a product."""
    steps = operations(architecture)
    image = torch.ones(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    last = outputs(steps, image, positive_module)[-1]
    last[0, 0, 0, 0].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    rows, columns = torch.zeros(2, 28, dtype=torch.bool)
    rows[set_bits(input_masks(steps, 0)[-1][0])] = True
    columns[set_bits(input_masks(steps, 1)[-1][0])] = True
    seen, product = image.grad[0, 0] != 0, rows[:, None] & columns
    if any(SPECS[step.kind].is_join for step in steps):
        assert not (seen & ~product).any()
    else:
        assert torch.equal(seen, product)


@settings(max_examples=500, deadline=None)
@given(architectures(), st.sampled_from(AXES))
def test_used_positions_are_those_with_a_gradient(architecture: Architecture, axis: Axis) -> None:
    steps = operations(architecture)
    strip = torch.ones(1, 1, 28, 1, dtype=torch.float64, requires_grad=True)
    found = outputs(along(steps, axis), strip, positive_module)
    found[-1].sum().backward()  # type: ignore[no-untyped-call]
    for used, output in zip(used_positions(steps, axis), found, strict=True):
        assert output.grad is not None
        assert set_bits(used) == output.grad[0, 0, :, 0].nonzero()[:, 0].tolist()


@settings(max_examples=500, deadline=None)
@given(architectures(), st.sampled_from(AXES))
def test_center_and_size_are_those_of_the_gradient(architecture: Architecture, axis: Axis) -> None:
    """On a strip without edge effects, the gradient of output i is centered at center + i * jump, with that size."""
    steps = operations(architecture)
    fields = receptive_fields(steps, axis)
    length = 3 * fields[-1].size + 10 * fields[-1].jump + 28
    strip = torch.ones(1, 1, length, 1, dtype=torch.float64, requires_grad=True)
    found = outputs(along(steps, axis), strip, unbounded_module)
    for field, output in zip(fields, found, strict=True):
        i = round((length / 2 - field.center) / field.jump)
        strip.grad = None
        output[0, 0, i, 0].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert strip.grad is not None
        pixels = strip.grad[0, 0, :, 0].nonzero()
        assert float(pixels.min() + pixels.max()) / 2 == field.center + i * field.jump
        assert int(pixels.max() - pixels.min()) + 1 == field.size


def test_the_network_of_the_table_does_not_use_all_positions() -> None:
    """Its last pool uses 9 of 16 positions; that of the code uses all of them."""
    code, table = (analyze(parse(preset.text)).rows for preset in PRESETS[:2])
    assert table[-2].unused_note == "9 of 16 positions used"
    assert [row.unused_note for row in code if row.unused_note] == []
