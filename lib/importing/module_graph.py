"""A network as a file describes it: torch modules in the order of execution, with where each stands in the file.

The readers of this package make it; `lib.importing.conversion` makes an architecture of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

# What an argument of a module may be after it has been read: sizes as ints or pairs (height, width).
Argument: TypeAlias = int | float | bool | str | tuple[int, ...] | None

# Index of the image among the inputs of a node.
IMAGE = -1


class ImportSourceError(ValueError):
    """A network that cannot be imported. The message is a sentence with a remedy; `line` counts from 1."""

    def __init__(self, sentence: str, line: int | None = None, code: str = "") -> None:
        super().__init__(sentence)
        self.line = line
        self.code = code


@dataclass(frozen=True)
class ModuleNode:
    """One call of a module or a function of torch.

    - `kind`: the name of the torch.nn class that does the same ("Conv2d" also for F.conv2d's module, "ReLU" for F.relu,
      "Flatten" for view, reshape, flatten and squeeze, "LogSoftmax"), or "Add" and "Concat" for joins.
    - `inputs`: indexes of the nodes whose outputs it takes, IMAGE for the image. More than one only for joins.
    - `arguments`: all arguments of the class by torch's names, defaults included. Sizes of two equal numbers are ints.
    - `line`: number of its line in the file, from 1; `comment`: the comments on this line, "" if it has none.
    """

    kind: str
    inputs: tuple[int, ...]
    arguments: Mapping[str, Argument]
    line: int | None = None
    comment: str = ""


@dataclass(frozen=True)
class ModuleGraph:
    """One network found in a file; the last node gives the output.

    `problem` is a sentence if it cannot be read; `nodes` is then empty. `notes` are sentences about what was left out,
    such as a module that is never called.
    """

    name: str
    nodes: tuple[ModuleNode, ...]
    problem: str | None = None
    notes: tuple[str, ...] = ()
