"""Compare two designs layer by layer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

from lib.design.analysis import LayerAnalysis, analyze, per_layer
from lib.design.layers import Architecture


@dataclass(frozen=True)
class LayerDiff:
    """One layer of the left design and its counterpart in the right design; one of the two may be None."""

    left: LayerAnalysis | None
    right: LayerAnalysis | None

    @property
    def num_params(self) -> int:
        """Parameters of the right layer minus those of the left layer."""
        return (self.right.num_params if self.right else 0) - (self.left.num_params if self.left else 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the right layer minus those of the left layer."""
        return (self.right.macs if self.right else 0) - (self.left.macs if self.left else 0)


def diff_layers(left: Architecture, right: Architecture) -> tuple[LayerDiff, ...]:
    """Align the layers of two designs: equal layers first, then layers of the same class.

    Each row of both designs occurs once, in order. Raises ArchitectureError as `operations`.
    """
    left_rows, right_rows = (
        {row.layer: row for row in per_layer(analyze(design), design).rows} for design in (left, right)
    )
    found: list[LayerDiff] = []
    for left_block, right_block in _aligned(left.layers, right.layers):
        left_classes, right_classes = map(type, left.layers[left_block]), map(type, right.layers[right_block])
        for left_part, right_part in _aligned(tuple(left_classes), tuple(right_classes)):
            # Layers that compute nothing, as the begin of a branch, have no row.
            ones, others = (
                [rows[layer] for layer in range(len(design.layers))[block][part] if layer in rows]
                for design, rows, block, part in (
                    (left, left_rows, left_block, left_part),
                    (right, right_rows, right_block, right_part),
                )
            )
            found += [LayerDiff(left=one, right=other) for one, other in zip_longest(ones, others)]
    return tuple(found)


def _aligned(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[slice, slice]]:
    """Pairs of slices that cover both sequences in order. Slices with different items may differ in length."""
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    return [(slice(a, b), slice(c, d)) for _, a, b, c, d in matcher.get_opcodes()]
