"""Where each layer of a network with branches is drawn: a column in reading order, and a lane for each branch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from lib.design.layers import Branch, Fork, Join, Layer
from lib.design.operations import IMAGE


@dataclass(frozen=True)
class Link:
    """The line from `source`, the index of a layer or IMAGE, to the layer that has it; it runs along `lane`."""

    source: int
    lane: int


@dataclass(frozen=True)
class Place:
    """The place of a layer, and the lines that lead to it."""

    column: int
    lane: int
    links: tuple[Link, ...]


def places(layers: tuple[Layer, ...], drawn: Collection[int]) -> dict[int, Place]:
    """The place of each layer whose index is in `drawn`; the image is in column 0 of lane 0."""
    found: dict[int, Place] = {}
    _place(_tree(layers, drawn), 1, 0, IMAGE, found)
    return found


@dataclass
class _Branches:
    """A fork with its branches, and the index of its join."""

    branches: list[_Sequence] = field(default_factory=lambda: [[]])
    join: int = 0


# Indexes of layers, and forks, in order.
_Sequence: TypeAlias = "list[int | _Branches]"


def _tree(layers: tuple[Layer, ...], drawn: Collection[int]) -> _Sequence:
    whole: _Sequence = []
    open_forks: list[_Branches] = []
    for index, layer in enumerate(layers):
        here = open_forks[-1].branches[-1] if open_forks else whole
        match layer:
            case Fork():
                open_forks.append(_Branches())
                here.append(open_forks[-1])
            case Branch():
                open_forks[-1].branches.append([])
            case Join():
                fork = open_forks.pop()
                fork.join = index
                # The other branch of a single one is the input itself.
                if len(fork.branches) == 1:
                    fork.branches.append([])
            case _ if index in drawn:
                here.append(index)
    return whole


def _lanes(sequence: _Sequence) -> int:
    """The number of lanes that a sequence takes: those of its widest fork."""
    return max([1, *(sum(map(_lanes, item.branches)) for item in sequence if isinstance(item, _Branches))])


def _place(sequence: _Sequence, column: int, lane: int, source: int, found: dict[int, Place]) -> tuple[int, int]:
    """Place a sequence that begins at a column. Return the column after it, and its last layer or `source`."""
    for item in sequence:
        if isinstance(item, int):
            found[item] = Place(column, lane, (Link(source, lane),))
            column, source = column + 1, item
            continue
        links, stop, branch_lane = [], column, lane
        for branch in item.branches:
            after, last = _place(branch, column, branch_lane, source, found)
            links.append(Link(last, branch_lane))
            stop = max(stop, after)
            branch_lane += _lanes(branch)
        found[item.join] = Place(stop, lane, tuple(links))
        column, source = stop + 1, item.join
    return column, source
