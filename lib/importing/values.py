"""Values that the reading of source computes with, beside Python's own numbers, texts, lists and dictionaries."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lib.importing.module_graph import Argument

# Any of the classes below, or a number, a text, None, a list, a tuple, a dictionary, a range or a slice of values.
Value: TypeAlias = Any


MAX_ANCESTORS = 50


@dataclass(frozen=True, eq=False)
class Unknown:
    """A value that the source alone does not tell. `what` names it in a sentence; `line` is where it arose."""

    what: str
    line: int | None = None


@dataclass(frozen=True)
class LibraryName:
    """A name of an imported library, such as torch.nn.Conv2d."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Builtin:
    """A function of Python."""

    name: str


@dataclass(frozen=True)
class BatchSize:
    """The number of images in a batch."""


@dataclass(frozen=True)
class Training:
    """`self.training`: true in training, false in evaluation."""


@dataclass(eq=False)
class Tensor:
    """The output of a node; `shape` is without the batch. Mutable, since `x += y` changes x wherever it is named.

    - `permuted`: the channels are last.
    - `padding`: zeros on each side, which the next convolution has to take over; `shape` includes them.
    - `reduced`: "mean" or "amax" if this has been taken over the width, and not yet over the height.
    """

    node: int
    shape: tuple[int, ...]
    permuted: bool = False
    padding: int = 0
    reduced: str = ""


@dataclass(eq=False)
class Leaf:
    """A module of torch; `supported` is false if networks with it cannot be read."""

    kind: str
    arguments: dict[str, Argument]
    line: int | None
    comment: str = ""
    # A comment about its receptive field on a line of its own beside it.
    near: str = ""
    calls: int = 0
    supported: bool = True
    # Arguments of a lazy module that its first input tells.
    open: bool = False
    built_in_forward: bool = False


@dataclass(eq=False)
class Scope:
    """Names of a function, with those around it."""

    names: dict[str, Value] = field(default_factory=dict)
    parent: Scope | None = None
    function: Function | None = None
    globals: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Function:
    """A function or a lambda of the source, with its defaults."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    defaults: list[Value]
    keyword_defaults: list[Value]
    cls: Class | None = None
    decorators: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return "lambda" if isinstance(self.node, ast.Lambda) else self.node.name


@dataclass(eq=False)
class Class:
    """A class of the source."""

    node: ast.ClassDef
    bases: tuple[Value, ...]
    namespace: dict[str, Value]
    line: list[Value] = field(init=False)

    @property
    def name(self) -> str:
        return self.node.name

    def __post_init__(self) -> None:
        found: list[Value] = [self]
        for base in self.bases:
            if isinstance(base, Class | LibraryName | Unknown):
                found += base.line if isinstance(base, Class) else [base]
        # A base of several bases comes after all of them.
        self.line = list(dict.fromkeys(reversed(found)))[::-1][:MAX_ANCESTORS]

    def ancestors(self) -> list[Value]:
        """The class and its bases in the order in which Python looks for a method (for simple hierarchies)."""
        return self.line

    def find(self, name: str, after: Class | None = None) -> Value:
        """A method or a value of the class or its bases, after one of them if given; MISSING if there is none."""
        line = self.ancestors()
        if after is not None and after in line:
            line = line[line.index(after) + 1 :]
        for cls in line:
            if isinstance(cls, Class) and name in cls.namespace:
                return cls.namespace[name]
        return MISSING


@dataclass(eq=False)
class Instance:
    """An object of a class of the source, or a container of torch.

    - `base`: the class of torch.nn that it is one of ("Module", "Sequential", "BatchNorm2d"), or "object".
    - `children`: what a container holds, by key; `attributes`: everything set on the object.
    - `leaf`: what a class made from a torch module with weights is at its core.
    """

    cls: Class | None
    base: str
    attributes: dict[str, Value] = field(default_factory=dict)
    children: dict[str, Value] = field(default_factory=dict)
    leaf: Leaf | None = None
    line: int | None = None

    def modules(self) -> dict[str, Value]:
        """The modules directly in it, by name."""
        named = {**self.attributes, **self.children}
        return {name: value for name, value in named.items() if isinstance(value, Leaf | Instance)}


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a value: a text, a list, a tensor, a module."""

    owner: Value
    name: str


@dataclass(frozen=True, eq=False)
class BoundFunction:
    """A function of the source with its first argument."""

    function: Function
    owner: Value


@dataclass(frozen=True, eq=False)
class Partial:
    """functools.partial."""

    function: Value
    arguments: tuple[Value, ...]
    named: dict[str, Value]


@dataclass(frozen=True, eq=False)
class Super:
    """`super()` within a method of `cls`."""

    cls: Class
    owner: Value


@dataclass(frozen=True, eq=False)
class Weights:
    """The weight or the bias of a layer."""

    leaf: Leaf


class _Missing:
    """No such name."""


MISSING = _Missing()
BATCH = BatchSize()
TRAINING = Training()


def holds_tensor(value: Value) -> bool:
    """Whether a value is or directly holds a tensor."""
    if isinstance(value, list | tuple):
        return any(isinstance(part, Tensor) for part in value)
    return isinstance(value, Tensor)
