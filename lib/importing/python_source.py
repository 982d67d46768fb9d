"""The networks in Python source. Nothing in it is executed: its syntax tree is followed with a limit on the steps."""

from __future__ import annotations

import ast
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lib.importing.interpreter import Interpreter, returned_tensor
from lib.importing.module_graph import IMAGE, ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.source_text import SourceText, listed_layers, statements
from lib.importing.torch_modules import num_parameters
from lib.importing.tracer import (
    IMAGE_SIZE,
    LARGE_IMAGE_SIZE,
    MismatchError,
    Tracer,
    graph_nodes,
    unused_notes,
)
from lib.importing.values import MISSING, Class, Function, Instance, Leaf, LibraryName, Unknown, Value

# Steps for the whole file, for one of its statements, and for one network.
FILE_STEPS = 250_000
STATEMENT_STEPS = 20_000
NETWORK_STEPS = 60_000
MAX_NETWORKS = 200
# What it takes to begin with a statement.
_STATEMENT_COST = 5
_WEIGHTED = frozenset({"Conv2d", "Linear"})
_NOTHING_FOUND = (
    "No network was found. Paste a class with __init__ and forward, an nn.Sequential, or its layers, one on each line."
)
_DEEP = "it is nested too deeply to be read. Write the layers out."


def networks_in_source(source: str) -> tuple[ModuleGraph, ...]:
    """Read the networks in Python source, in the order of the file.

    A network that cannot be read is one with a `problem`. Raises ImportSourceError if there is none at all.
    """
    text = SourceText(source)
    with _no_collection():
        return _Reader(text).networks()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Put off garbage collection: while a syntax tree grows, it would go through all of the process many times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class _Found:
    """A network of the file: a class with what it is called with, or a container of layers."""

    name: str
    build: Callable[[], Value]
    cls: Class | None
    line: int
    graph: ModuleGraph
    weights: int = 0
    # The object that the file itself makes of the class.
    made: Instance | None = None


class _Reader:
    """Reads one file."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.interpreter = Interpreter(source, FILE_STEPS)
        self.left = FILE_STEPS
        self.scope = self.interpreter.globals
        self.found: list[_Found] = []
        self.classes: list[Class] = []
        self.containers: list[tuple[str, Instance]] = []
        self.made: list[Instance] = []
        # Layers made by the statements of the file itself.
        self.outside: list[Leaf] = []
        # Lines of the classes.
        self.defined: set[int] = set()

    def networks(self) -> tuple[ModuleGraph, ...]:
        body, error = statements(self.source)
        for statement in body:
            if self.left <= 0:
                break
            self._follow(statement)
        self._call_makers()
        self._retry(self.found)
        self._read_uncalled(body)
        self._read_containers()
        if not any(found.graph.problem is None for found in self.found):
            self._read_lists()
        shown = self._shown()
        if not shown and error is not None:
            line = error.lineno if error.lineno is not None else None
            what = (error.msg or "it is no Python").rstrip(".")
            raise ImportSourceError(
                f"{self.source.at(line)}the syntax is not Python 3's ({what}). Correct it.",
                line,
                self.source.line(line),
            )
        if not shown:
            raise ImportSourceError(_NOTHING_FOUND)
        return _with_distinct_names([found.graph for found in sorted(shown, key=lambda found: found.line)])

    # Statements of the file

    def _within(self, steps: int, act: Callable[[], Value]) -> Value:
        """Do something with a limit on the steps. Raises ImportSourceError, also for what is nested too deeply."""
        interpreter = self.interpreter
        self.left -= _STATEMENT_COST
        interpreter.steps = allowed = max(min(steps, self.left), 0)
        interpreter.depth = interpreter.building = interpreter.forwarding = 0
        try:
            return act()
        except RecursionError:
            line = interpreter.line
            raise ImportSourceError(self.source.at(line) + _DEEP, line, self.source.line(line)) from None
        finally:
            self.left -= allowed - max(interpreter.steps, 0)

    def _follow(self, statement: ast.stmt) -> None:
        interpreter = self.interpreter
        if isinstance(statement, ast.ClassDef):
            self._retry([found for found in self.found if found.cls and found.cls.name == statement.name])
        values: list[Value] = []

        def act() -> None:
            if isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant):
                values.append(interpreter.evaluate(statement.value, self.scope))
            else:
                interpreter.execute(statement, self.scope)

        try:
            self._within(STATEMENT_STEPS, act)
        except ImportSourceError as error:
            for target in _targets(statement):
                self.scope.names[target] = Unknown(f"`{target}`", error.line or statement.lineno)
        self.outside += interpreter.built
        interpreter.built = []
        for name in _targets(statement):
            value = self.scope.names.get(name)
            if isinstance(value, Instance) and value.cls is None:
                self._keep_container(name, value)
        if values and isinstance(values[0], Instance) and values[0].cls is None:
            self._keep_container("nn.Sequential", values[0])
        for name in _defined(statement):
            value = self.scope.names.get(name)
            if isinstance(value, Class) and value.node.lineno not in self.defined:
                self.defined.add(value.node.lineno)
                self.classes.append(value)
                if self._is_network(value) and _called_without(value.find("__init__")):
                    self._read(value.name, value, (), {})
        self._read_instantiated()

    def _keep_container(self, name: str, value: Instance) -> None:
        if value.base == "Sequential" and value.children and all(value is not kept for _, kept in self.containers):
            self.containers.append((name, value))

    def _read_instantiated(self) -> None:
        instantiated, self.interpreter.instantiated = self.interpreter.instantiated, []
        for instance, given, named in instantiated:
            cls = instance.cls
            self.made.append(instance)
            values = [*given, *named.values()]
            known = any(not isinstance(value, Unknown) for value in values)
            if cls is not None and self._is_network(cls) and (known or not self._is_at_top(cls)):
                name = f"{cls.name}({_arguments_text(given, named)})"
                if all(found.name != name or found.cls is not cls for found in self.found):
                    self._read(name, cls, given, named, instance)

    def _call_makers(self) -> None:
        """Call the functions of the file that need no arguments: one may return a network."""
        makers = [value for value in self.scope.names.values() if isinstance(value, Function)]
        for function in makers:
            if _called_without(function, bound=False) and not isinstance(function.node, ast.Lambda):
                try:
                    value = self._within(STATEMENT_STEPS, lambda: self.interpreter.call_function(function, [], {}))  # noqa: B023
                except ImportSourceError:
                    value = None
                if isinstance(value, Instance) and value.cls is None:
                    self._keep_container(f"{function.name}()", value)
                self._read_instantiated()

    def _is_at_top(self, cls: Class) -> bool:
        """Whether a class is not defined within a function."""
        return cls.node.lineno in self.defined

    def _is_network(self, cls: Class) -> bool:
        base = self.interpreter.base_of(cls)
        return base == "Sequential" or (base in ("Module", "object") and isinstance(cls.find("forward"), Function))

    # Networks

    def _read(
        self,
        name: str,
        cls: Class,
        given: Sequence[Value],
        named: dict[str, Value],
        made: Instance | None = None,
    ) -> None:
        if len(self.found) >= MAX_NETWORKS:
            return

        def build() -> Value:
            return self.interpreter.instantiate(cls, given, named, ast.Name(cls.name, lineno=cls.node.lineno))

        found = _Found(name, build, cls, cls.node.lineno, ModuleGraph(name, ()), made=made)
        self.found.append(found)
        self._trace(found)

    def _trace(self, found: _Found) -> None:
        """Build and call a network."""
        graph, notes = self._attempt(found, IMAGE_SIZE, None)
        if isinstance(graph, MismatchError):
            larger, _ = self._attempt(found, LARGE_IMAGE_SIZE, None)
            if not isinstance(larger, ImportSourceError):
                graph, notes = self._for_larger_images(found, larger, graph)
        if isinstance(graph, ImportSourceError):
            found.graph = ModuleGraph(found.name, (), str(graph))
        elif not graph:
            found.graph = ModuleGraph(found.name, (), "It has no layers. Paste a network with layers.")
        else:
            found.graph = ModuleGraph(found.name, graph, None, tuple(notes))
            found.weights = max(found.weights, sum(node.kind in _WEIGHTED for node in graph))

    def _for_larger_images(
        self, found: _Found, larger: tuple[ModuleNode, ...], error: ImportSourceError
    ) -> tuple[tuple[ModuleNode, ...] | ImportSourceError, list[str]]:
        padded, notes = self._attempt(found, IMAGE_SIZE, 2)
        for_larger = f"The network is for {LARGE_IMAGE_SIZE}x{LARGE_IMAGE_SIZE} images"
        if not isinstance(padded, ImportSourceError):
            first = next(node for node in larger if node.inputs == (IMAGE,))
            return padded, [
                f"{for_larger}; with padding 2 in the convolution of line {first.line} it has the same shapes on "
                f"{IMAGE_SIZE}x{IMAGE_SIZE} ones, and is read so.",
                *notes,
            ]
        line = error.line
        return ImportSourceError(
            f"{self.source.at(line)}{for_larger[0].lower()}{for_larger[1:]}, and a digit has {IMAGE_SIZE}x{IMAGE_SIZE} "
            "pixels. Pad in the first convolution, or change the number of features here.",
            line,
            self.source.line(line),
        ), []

    def _attempt(
        self, found: _Found, image: int, first_padding: int | None
    ) -> tuple[tuple[ModuleNode, ...] | ImportSourceError, list[str]]:
        interpreter, tracer = self.interpreter, Tracer(self.source, image, first_padding)

        def act() -> tuple[ModuleNode, ...]:
            # Layers may stand outside of the network that calls them.
            for leaf in self.outside:
                leaf.calls = 0
            interpreter.built = []
            root = tracer.root = found.build()
            interpreter.line = found.line
            found.weights = sum(1 for leaf in interpreter.built if leaf.kind in _WEIGHTED)
            if not isinstance(root, Instance):
                raise tracer.problem("this is no network. Paste a class with forward.", found.line)
            output = returned_tensor(interpreter.call_module(root, [tracer.image_tensor()], {}, found.line))
            if isinstance(output, Unknown):
                raise tracer.unknown(output, found.line)
            forward = root.cls.find("forward") if root.cls else MISSING
            return graph_nodes(tracer, output, forward.node.lineno if isinstance(forward, Function) else found.line)

        before = interpreter.tracer, interpreter.reading
        interpreter.tracer, interpreter.reading = tracer, True
        try:
            nodes = self._within(NETWORK_STEPS, act)
            return nodes, [*tracer.notes, *unused_notes(tracer.root)]
        except ImportSourceError as error:
            return error, []
        finally:
            interpreter.tracer, interpreter.reading = before

    def _retry(self, tried: Sequence[_Found]) -> None:
        """Read again what could not be read when less of the file was known."""
        for found in tried:
            if found.graph.problem is not None and self.left > 0:
                self._trace(found)

    def _read_uncalled(self, body: Sequence[ast.stmt]) -> None:
        """Read the classes whose constructor needs arguments that nothing in the file gives."""
        for cls in self.classes:
            constructor = cls.find("__init__")
            if (
                not self._is_network(cls)
                or cls in self.interpreter.used
                or any(found.cls is cls for found in self.found)
                or not isinstance(constructor, Function)
            ):
                continue
            needed = _needed(constructor)
            line = constructor.node.lineno
            unknown: dict[str, Value] = {name: Unknown(f"the argument `{name}` of {cls.name}", line) for name in needed}
            self._read(cls.name, cls, (), unknown)
            found = self.found[-1]
            if found.graph.problem is None:
                continue
            choices = [(name, text) for name in needed for text in _compared(body, name)]
            readings = len(self.found)
            if len(needed) == 1:
                for name, text in choices[:10]:
                    self._read(f"{cls.name}({name}={text!r})", cls, (), {name: text})
            read = [other for other in self.found[readings:] if other.graph.problem is None]
            del self.found[readings:]
            if read:
                self.found.remove(found)
                self.found += read

    def _read_containers(self) -> None:
        inner = {id(part) for _, container in self.containers for part in _parts(container)}
        for name, container in self.containers:
            if id(container) in inner:
                continue

            def build(kept: Instance = container) -> Value:
                return _fresh(kept)

            found = _Found(name, build, None, container.line or 0, ModuleGraph(name, ()))
            self.found.append(found)
            self._trace(found)
            found.weights = sum(isinstance(part, Leaf) and part.kind in _WEIGHTED for part in _parts(container))

    def _read_lists(self) -> None:
        for line, layers in listed_layers(self.source):
            if len(self.found) >= MAX_NETWORKS or self.left <= 0:
                return

            def build(layers: list[ast.expr] = layers) -> Value:
                values = [self.interpreter.evaluate(layer, self.scope) for layer in layers]
                return Instance(None, "Sequential", children={str(place): value for place, value in enumerate(values)})

            found = _Found(f"layers from line {line}", build, None, line, ModuleGraph("", ()))
            self._trace(found)
            if found.weights:
                self.found.append(found)

    def _shown(self) -> list[_Found]:
        """The networks of the file, without the blocks that they are made of unless there is nothing else."""
        used = self.interpreter.used
        wholes = [*self.made, *(container for _, container in self.containers)]
        inner = {id(part) for whole in wholes for part in _parts(whole)}
        bases = {ancestor for cls in self.classes for ancestor in cls.ancestors()[1:] if isinstance(ancestor, Class)}
        networks = [
            found
            for found in self.found
            if found.weights
            and (found.made is None or id(found.made) not in inner)
            and (found.graph.problem is None or found.cls not in bases)
            and (found.cls not in used or (found.graph.problem is None and _classifies(found.graph)))
            and (found.graph.problem is None or not _several_inputs(found))
        ]
        read = [found for found in networks if found.graph.problem is None]
        failed = [found for found in networks if found.graph.problem is not None]
        if not networks:
            blocks = [found for found in self.found if found.weights and found.graph.problem is None]
            return blocks or [found for found in self.found if found.weights or found.graph.problem][:5]
        if any(found.cls is None for found in read) and not any(found.cls for found in read):
            failed = [found for found in failed if found.cls is not None]
        return read + failed


def _targets(statement: ast.stmt) -> list[str]:
    """Names that a statement assigns to."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _defined(statement: ast.stmt) -> list[str]:
    """Names of the classes that a statement may define."""
    if isinstance(statement, ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.If | ast.Try | ast.With):
        return [name for inner in statement.body for name in _defined(inner)]
    return []


def _needed(function: Function, bound: bool = True) -> list[str]:
    """Arguments without a default, without `self` if `bound`."""
    arguments = function.node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    names = names[bool(bound) : len(names) - len(function.defaults)]
    keyword = zip(arguments.kwonlyargs, function.keyword_defaults, strict=True)
    return names + [argument.arg for argument, default in keyword if default is MISSING]


def _called_without(function: Value, bound: bool = True) -> bool:
    """Whether a function can be called without arguments."""
    return not isinstance(function, Function) or not _needed(function, bound)


def _compared(body: Sequence[ast.stmt], name: str) -> list[str]:
    """Texts that a name is compared with anywhere in the file, in order."""
    found: dict[str, None] = {}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] in (name, f"{name}_"):
                for other in node.comparators:
                    parts = other.elts if isinstance(other, ast.List | ast.Tuple) else [other]
                    for part in parts:
                        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value) < 40:
                            found[part.value] = None
    return list(found)


def _arguments_text(given: Sequence[Value], named: dict[str, Value]) -> str:
    parts = [_value_text(value) for value in given] + [f"{name}={_value_text(value)}" for name, value in named.items()]
    text = ", ".join(parts)
    return text if len(text) <= 80 else text[:79] + "…"


def _value_text(value: Value, depth: int = 0) -> str:
    if isinstance(value, int | float | str | None):
        return repr(value if not isinstance(value, str) else value[:40])
    if isinstance(value, LibraryName):
        return value.path.replace("torch.nn.", "nn.")
    if isinstance(value, Class | Function):
        return value.name
    if isinstance(value, Instance) and value.cls is not None:
        return f"{value.cls.name}(…)"
    if isinstance(value, list | tuple) and depth < 2:
        text = ", ".join(_value_text(part, depth + 1) for part in value[:20])
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return "…"


def _parts(container: Value, depth: int = 0) -> list[Value]:
    """Everything within a container or another module."""
    if not isinstance(container, Instance) or depth > 30:
        return []
    found: list[Value] = []
    for child in container.modules().values():
        found += [child, *_parts(child, depth + 1)]
    return found


def _fresh(container: Instance) -> Instance:
    """The same container, as if nothing in it had been called yet."""
    for part in _parts(container):
        if isinstance(part, Leaf):
            part.calls = 0
        elif part.leaf is not None:
            part.leaf.calls = 0
    return container


def _classifies(graph: ModuleGraph) -> bool:
    """Whether a network takes the image and ends like a classifier: with a flattening, a softmax or a linear layer."""
    weights = sum(num_parameters(node.kind, node.arguments) for node in graph.nodes)
    last = [node.kind for node in graph.nodes[-2:]]
    return weights > 0 and bool({"Flatten", "LogSoftmax", "Softmax", "Linear"} & set(last))


def _several_inputs(found: _Found) -> bool:
    """Whether a class takes more than an image, as a loss does."""
    forward = found.cls.find("forward") if found.cls else None
    return isinstance(forward, Function) and len(_needed(forward)) > 1


def _with_distinct_names(graphs: Sequence[ModuleGraph]) -> tuple[ModuleGraph, ...]:
    """Number the networks of the same name."""
    counts: dict[str, int] = {}
    named: list[ModuleGraph] = []
    for graph in graphs:
        counts[graph.name] = count = counts.get(graph.name, 0) + 1
        named.append(graph if count == 1 else replace(graph, name=f"{graph.name} ({count})"))
    return tuple(named)
