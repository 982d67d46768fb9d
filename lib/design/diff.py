"""Compare two designs layer by layer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from lib.design.analysis import LayerAnalysis, analyze, per_layer
from lib.design.layers import Architecture


@dataclass(frozen=True)
class LayerDiff:
    """A layer of each design, None where the other has none like it."""

    one: LayerAnalysis | None
    other: LayerAnalysis | None

    @property
    def num_params(self) -> int:
        """How many more parameters the other has; negative where it has fewer."""
        return (self.other.num_params if self.other else 0) - (self.one.num_params if self.one else 0)

    @property
    def macs(self) -> int:
        """How many more multiply-accumulates the other takes."""
        return (self.other.macs if self.other else 0) - (self.one.macs if self.one else 0)


def diff_layers(one: Architecture, other: Architecture) -> tuple[LayerDiff, ...]:
    """Every layer of both once, in order: equal layers face each other, then layers of one kind.

    Raises ArchitectureError as `operations` does.
    """
    left, right = per_layer(analyze(one), one).rows, per_layer(analyze(other), other).rows
    found = []
    for lefts, rights in _aligned(one.layers, other.layers):
        kinds, other_kinds = (list(map(type, layers)) for layers in (one.layers[lefts], other.layers[rights]))
        for some, more in _aligned(kinds, other_kinds):
            mine, theirs = left[lefts][some], right[rights][more]
            longest = max(len(mine), len(theirs))
            for index in range(longest):
                found.append(
                    LayerDiff(
                        mine[index] if index < len(mine) else None,
                        theirs[index] if index < len(theirs) else None,
                    )
                )
    return tuple(found)


def _aligned(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[slice, slice]]:
    """Stretches that face each other, in order; those that differ may differ in length."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return [(slice(a, b), slice(c, d)) for _, a, b, c, d in matcher.get_opcodes()]
