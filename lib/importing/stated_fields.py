"""Receptive fields that the comments of a source state, beside the correct ones.

Students write them behind their layers, as in `# 28x28x4 > 14x14x8 : RF: 14x14`. Many double the field at a pool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lib.design.analysis import analyze, per_layer
from lib.design.layers import Architecture
from lib.design.operation_specs import SPECS
from lib.design.operations import IMAGE, Operation, operations
from lib.design.receptive_field import receptive_fields
from lib.importing.module_graph import ModuleNode

_NAME = r"(?:\bR\.?\s?F\.?(?![a-z])|receptive[\s_-]*field(?:[\s_-]*size)?|\br[\s_-]?out\b)"
_OUT = r"(?:[\s_-]*(?:out|after|is|of|now|at this layer|will be|becomes))?"
_SEPARATOR = r"[\s:=|,~(\[\-–—>]*"
_NUMBER = r"(\d{1,4})(?!\s*\.\d)(?:\s*[x×X*]\s*\d{1,4}(?:\s*[x×X*]\s*\d{1,4})?)?"
# The last number of "RF: 3 -> 5" is the field after the layer.
_STATED = re.compile(rf"{_NAME}{_OUT}{_SEPARATOR}{_NUMBER}(?:\s*(?:-+>|=+>|>|→|to)\s*{_NUMBER})?", re.IGNORECASE)
_AFTER = re.compile(rf"(?:r|rf|receptive[\s_-]*field)[\s_-]*out{_SEPARATOR}{_NUMBER}", re.IGNORECASE)

DOUBLED = (
    "It doubles at a pool. A pool of size k adds (k − 1) jumps to the field, and its stride multiplies the jump: only "
    "the layers after it add more."
)
STRIDE_IGNORED = (
    "The strides before this layer are not counted. After them, one step on the map is {jump} pixels of the image."
)
DILATION_IGNORED = (
    "The dilation is not counted. A kernel of {kernel} with dilation {dilation} spans {extent} positions."
)
POOL_IGNORED = "The window of a pool is not counted. It adds (k − 1) jumps to the field."
CARRIED = "The step is right, but the value before it is wrong."


@dataclass(frozen=True)
class StatedField:
    """The receptive field that a comment states for a layer, and the correct one, in pixels.

    `layer` is the index of the layer, `label` its name in the table. `reason` says what makes it wrong; it is None if
    the field is right, or if the reason is not known.
    """

    layer: int
    label: str
    stated: int | None
    correct: int
    reason: str | None

    @property
    def is_right(self) -> bool | None:
        """Whether the stated field is the correct one; None if none is stated."""
        return None if self.stated is None else self.stated == self.correct


def stated_in(comment: str) -> int | None:
    """The receptive field that a comment states: "# 26x26x8, RF: 5x5" -> 5; None if it states none."""
    match = _AFTER.search(comment) or _STATED.search(comment)
    if match is None:
        return None
    numbers = [number for number in match.groups() if number]
    return int(numbers[-1])


def stated_by_nodes(architecture: Architecture, nodes: Sequence[ModuleNode]) -> tuple[int | None, ...]:
    """What the comments state for each row of `per_layer`; `nodes` has the node of each row of `analyze`.

    If several modules of a layer have a comment, the last one counts.
    """
    found: dict[int, int | None] = {}
    for row, node in zip(analyze(architecture).rows, nodes, strict=True):
        stated = stated_in(node.comment)
        found[row.layer] = found.get(row.layer) if stated is None else stated
    return tuple(found.values())


def checked(architecture: Architecture, stated: Sequence[int | None]) -> tuple[StatedField, ...]:
    """Compare the stated fields, one for each row of `per_layer`, with the correct ones."""
    rows = per_layer(analyze(architecture), architecture).rows
    steps = operations(architecture)
    layers = {layer: list(group) for layer, group in groupby(_with_input_jumps(steps), key=lambda pair: pair[0].layer)}
    found: list[StatedField] = []
    # The last stated field with its correct value, and the modules since then; at first, those of a pixel.
    last = (1, 1)
    between: list[tuple[Operation, int]] = []
    for row, value in zip(rows, stated, strict=True):
        between += layers[row.layer]
        correct = row.receptive_field
        reason = None
        if value is not None and value != correct:
            reason = _reason(value, correct, last, between)
        found.append(StatedField(row.layer, row.label, value, correct, reason))
        if value is not None:
            last = (value, correct)
            between = []
    return tuple(found)


def _with_input_jumps(steps: Sequence[Operation]) -> list[tuple[Operation, int]]:
    """Each module with the jump of its first input."""
    fields = receptive_fields(steps)
    return [(step, 1 if step.inputs[0] == IMAGE else fields[step.inputs[0]].jump) for step in steps]


def _reason(stated: int, correct: int, last: tuple[int, int], between: Sequence[tuple[Operation, int]]) -> str | None:
    """What mistake leads from the last stated field to this one, if it is a known one.

    `between` are the modules after the last stated field, each with the jump of its input.
    """
    before, correct_before = last
    if any(SPECS[step.kind].is_join for step, _ in between):
        return None
    if before != correct_before and stated - before == correct - correct_before:
        return CARRIED
    pools = [(step.kernel_size[0] - 1, jump) for step, jump in between if "Pool" in step.kind]
    convolutions = [(step, step.kernel_size[0] - 1, jump) for step, jump in between if "Pool" not in step.kind]
    plain = sum(step.dilation * reach for step, reach, _ in convolutions)
    # The convolution of the line may be added before or after the doubling, or not at all; some add one more.
    doubled = 2 ** len(pools) * before
    if pools and stated in (doubled, doubled + 1, doubled + plain, 2 ** len(pools) * (before + plain)):
        return DOUBLED
    dilated = next((step for step, _, _ in convolutions if step.dilation > 1), None)
    of_pools = sum(reach * jump for reach, jump in pools)
    if dilated and stated == before + of_pools + sum(reach * jump for _, reach, jump in convolutions):
        kernel = dilated.kernel_size[0]
        extent = dilated.dilation * (kernel - 1) + 1
        return DILATION_IGNORED.format(kernel=kernel, dilation=dilated.dilation, extent=extent)
    jump = max(jump for _, jump in between)
    if jump > 1 and stated in (before + plain, before + plain + sum(reach for reach, _ in pools)):
        return STRIDE_IGNORED.format(jump=jump)
    if pools and stated == before + sum(step.dilation * reach * jump for step, reach, jump in convolutions):
        return POOL_IGNORED
    return None
