"""Expressions of the source, evaluated on values. Calls and attributes are the interpreter's."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from lib.importing import expressions
from lib.importing.module_graph import ImportSourceError
from lib.importing.source_text import SourceText
from lib.importing.torch_modules import CONTAINERS, LAZY, SIGNATURES
from lib.importing.tracer import Tracer
from lib.importing.values import (
    MISSING,
    TRAINING,
    Builtin,
    Function,
    Instance,
    LibraryName,
    Scope,
    Tensor,
    Unknown,
    Value,
)

# What a pasted part of a file means by these names without its imports.
_USUAL = {
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "OrderedDict": "collections.OrderedDict",
    "partial": "functools.partial",
    "pl": "pytorch_lightning",
    "math": "math",
    "np": "numpy",
}


class BudgetError(ImportSourceError):
    """The source computes for too long."""


class Evaluator(ABC):
    """Evaluates expressions; `steps` is how many more may be taken."""

    def __init__(self, source: SourceText, steps: int) -> None:
        self.source = source
        self.steps = steps
        self.line: int | None = None
        self.globals = Scope()
        self.tracer = Tracer(source)

    @abstractmethod
    def call(self, function: Value, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        """Call a value. Raises ImportSourceError."""

    @abstractmethod
    def attribute(self, value: Value, name: str, line: int | None) -> Value:
        """An attribute of a value."""

    @abstractmethod
    def item(self, value: Value, key: Value, line: int | None) -> Value:
        """value[key]."""

    @abstractmethod
    def assign(self, target: ast.expr, value: Value, scope: Scope) -> None:
        """Bind a target of an assignment."""

    @abstractmethod
    def current_super(self, scope: Scope) -> Value:
        """`super()` in a scope."""

    def problem(self, sentence: str, line: int | None = None) -> ImportSourceError:
        return self.tracer.problem(sentence, self.line if line is None else line)

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            line = f"Line {self.line}: " if self.line else ""
            raise BudgetError(
                f"{line}the file computes too long to be read, for example in a loop. Write the layers out.", self.line
            )

    def known_items(self, value: Value) -> Sequence[Value] | None:
        """The items of an iterable, paid for when they are taken."""
        return None if isinstance(value, Tensor) else expressions.items(value)

    def evaluate(self, node: ast.expr, scope: Scope) -> Value:
        """The value of an expression."""
        self.spend()
        line = node.lineno
        match node:
            case ast.Constant(value=value):
                return value if isinstance(value, int | float | str | None) else Unknown("this constant", line)
            case ast.Name(id=name):
                return self.name(name, scope, line)
            case ast.Attribute(value=owner, attr=name):
                return self.attribute(self.evaluate(owner, scope), name, line)
            case ast.Call():
                return self._call(node, scope)
            case ast.BinOp(left=left, op=operation, right=right):
                return self.binary(operation, self.evaluate(left, scope), self.evaluate(right, scope), line)
            case ast.List():
                return self._listed(node.elts, scope)
            case ast.Tuple():
                return tuple(self._listed(node.elts, scope))
            case ast.Dict():
                return self._dictionary(node, scope)
            case ast.Subscript(value=owner, slice=key):
                return self.item(self.evaluate(owner, scope), self.evaluate(key, scope), line)
            case ast.Slice():
                parts = (node.lower, node.upper, node.step)
                return slice(*(self.evaluate(part, scope) if part else None for part in parts))
            case ast.Compare():
                return self._compare(node, scope)
            case ast.UnaryOp(op=operation, operand=operand):
                return self._unary(operation, self.evaluate(operand, scope), line)
            case ast.BoolOp():
                return self._boolean(node, scope)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                return self._choice(self.evaluate(test, scope), body, otherwise, scope, line)
            case ast.JoinedStr():
                return self._text(node, scope)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element) | ast.SetComp(elt=element):
                inner = Scope(parent=scope, function=scope.function)
                found: list[Value] = []
                if not all(
                    self._comprehended(node.generators, inner, lambda: found.append(self.evaluate(element, inner)))
                ):
                    return Unknown("this list", line)
                return found
            case ast.DictComp(key=key, value=value):
                return self._comprehended_dictionary(node, key, value, scope)
            case ast.Lambda(args=arguments):
                return self.function(node, arguments, scope)
            case ast.Starred(value=value):
                return self.evaluate(value, scope)
            case ast.NamedExpr(target=target, value=value):
                result = self.evaluate(value, scope)
                self.assign(target, result, scope)
                return result
        return Unknown("this expression", line)

    def function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, arguments: ast.arguments, scope: Scope
    ) -> Function:
        """Make a function; its defaults are evaluated now."""
        defaults = [self.evaluate(default, scope) for default in arguments.defaults]
        keyword = [self.evaluate(default, scope) if default else MISSING for default in arguments.kw_defaults]
        return Function(node, scope, defaults, keyword)

    def name(self, name: str, scope: Scope, line: int | None) -> Value:
        """The value of a name."""
        inner: Scope | None = scope
        while inner is not None:
            if name in inner.names:
                return inner.names[name]
            inner = inner.parent
        if name in expressions.BUILTINS:
            return Builtin(name)
        if name in _USUAL:
            return LibraryName(_USUAL[name])
        if name in SIGNATURES or name in CONTAINERS or name in LAZY:
            return LibraryName(f"torch.nn.{name}")
        return "__main__" if name == "__name__" else Unknown(f"`{name}`", line)

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            return self.current_super(scope)
        function = self.evaluate(node.func, scope)
        given = self._listed(node.args, scope)
        named: dict[str, Value] = {}
        for keyword in node.keywords:
            value = self.evaluate(keyword.value, scope)
            if keyword.arg is not None:
                named[keyword.arg] = value
            elif isinstance(value, dict):
                named.update({str(key): part for key, part in value.items()})
            elif not isinstance(function, Unknown):
                raise self.problem("the arguments after ** are not known. Write them out.", node.lineno)
        before, self.line = self.line, node.lineno
        result = self.call(function, given, named, node)
        self.line = before
        return result

    def _listed(self, nodes: Sequence[ast.expr], scope: Scope) -> list[Value]:
        found: list[Value] = []
        for node in nodes:
            value = self.evaluate(node, scope)
            if not isinstance(node, ast.Starred):
                found.append(value)
                continue
            known = self.known_items(value)
            if known is None:
                found.append(Unknown("what stands after *", node.lineno))
                continue
            self.spend(len(known))
            found += known
        return found

    def _dictionary(self, node: ast.Dict, scope: Scope) -> Value:
        found: dict[Value, Value] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.evaluate(value_node, scope)
            if key_node is None:
                if not isinstance(value, dict):
                    return Unknown("this dictionary", node.lineno)
                self.spend(len(value))
                found.update(value)
                continue
            key = self.evaluate(key_node, scope)
            if not expressions.is_key(key):
                return Unknown("this dictionary", node.lineno)
            found[key] = value
        return found

    def _compare(self, node: ast.Compare, scope: Scope) -> Value:
        left = self.evaluate(node.left, scope)
        for operation, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(right_node, scope)
            if isinstance(right, Instance) and isinstance(operation, ast.In | ast.NotIn):
                right = self.known_items(right)
            for value in (left, right):
                if isinstance(value, str | list | tuple | dict):
                    self.spend(len(value) // 10)
            identity = isinstance(operation, ast.Is | ast.IsNot | ast.In | ast.NotIn)
            if (isinstance(left, Tensor) or isinstance(right, Tensor)) and not identity:
                return Unknown("a comparison of a tensor's values", node.lineno)
            result = expressions.compare(operation, left, right, node.lineno)
            if result is not True:
                return result
            left = right
        return True

    def _unary(self, operation: ast.unaryop, value: Value, line: int | None) -> Value:
        if isinstance(value, Unknown):
            return value
        if isinstance(value, Tensor):
            raise self.tracer.arithmetic(line, value)
        if isinstance(operation, ast.Not):
            if value is TRAINING:
                return False
            held = expressions.truth(value)
            return Unknown("this condition", line) if held is None else not held
        if not expressions.is_number(value):
            return Unknown("this calculation", line)
        if isinstance(operation, ast.USub):
            return -value
        return value if isinstance(operation, ast.UAdd) or isinstance(value, float) else ~value

    def _boolean(self, node: ast.BoolOp, scope: Scope) -> Value:
        ends = isinstance(node.op, ast.Or)
        value: Value = None
        unknown: Value = None
        for part in node.values:
            value = self.evaluate(part, scope)
            held = expressions.truth(value)
            if held is None:
                unknown = value
            elif held is ends:
                # Whatever the unknown part is, a decisive part decides; only its value may differ.
                return value if unknown is None or isinstance(value, bool) else unknown
        return value if unknown is None else unknown

    def _choice(self, test: Value, body: ast.expr, otherwise: ast.expr, scope: Scope, line: int | None) -> Value:
        held = expressions.truth(test)
        if held is None:
            if isinstance(test, Tensor):
                raise self.problem("a choice depends on a tensor's values. Leave it out.", line)
            return test if isinstance(test, Unknown) else Unknown("the condition of this choice", line)
        if test is TRAINING:
            self.tracer.note(f"Line {line}: what is done in training alone is read.")
        return self.evaluate(body if held else otherwise, scope)

    def _text(self, node: ast.JoinedStr, scope: Scope) -> Value:
        parts: list[str] = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.evaluate(part.value, scope)
                specification = (
                    self._text(part.format_spec, scope) if isinstance(part.format_spec, ast.JoinedStr) else ""
                )
                if not isinstance(specification, str):
                    return specification
                text = expressions.formatted(value, specification, node.lineno)
            else:
                text = self.evaluate(part, scope)
            if not isinstance(text, str):
                return text
            parts.append(text)
        joined = "".join(parts)
        return joined if len(joined) <= expressions.MAX_LENGTH else Unknown("this text", node.lineno)

    def _comprehended(self, generators: Sequence[ast.comprehension], scope: Scope, take: Value) -> Iterator[bool]:
        """Call `take` for each combination; yields False where the items or a condition are not known."""
        if not generators:
            self.spend()
            take()
            return
        first, *rest = generators
        known = self.known_items(self.evaluate(first.iter, scope))
        if known is None:
            yield False
            return
        for value in known:
            self.spend()
            self.assign(first.target, value, scope)
            conditions = [expressions.truth(self.evaluate(test, scope)) for test in first.ifs]
            if None in conditions:
                yield False
                return
            if all(conditions):
                yield from self._comprehended(rest, scope, take)

    def _comprehended_dictionary(self, node: ast.DictComp, key: ast.expr, value: ast.expr, scope: Scope) -> Value:
        inner = Scope(parent=scope, function=scope.function)
        found: dict[Value, Value] = {}

        def take() -> None:
            name = self.evaluate(key, inner)
            found[name if expressions.is_key(name) else ""] = self.evaluate(value, inner)

        return found if all(self._comprehended(node.generators, inner, take)) else Unknown("this", node.lineno)

    def binary(
        self, operation: ast.operator, left: Value, right: Value, line: int | None, in_place: bool = False
    ) -> Value:
        """left operation right."""
        for value in (left, right):
            if isinstance(value, str | list | tuple | dict):
                self.spend(len(value) // 10)
        tensors = [value for value in (left, right) if isinstance(value, Tensor)]
        if not tensors:
            if isinstance(left, Instance) and isinstance(operation, ast.Add):
                return self._joined(left, right, line)
            return expressions.binary(operation, left, right, line)
        if isinstance(operation, ast.Mult):
            return self.tracer.product(left, right, line)
        if isinstance(operation, ast.Add):
            if isinstance(left, int | float) or isinstance(right, int | float):
                number = left if isinstance(left, int | float) else right
                # sum([x, y]) begins with zero.
                if number == 0:
                    return tensors[0]
            if isinstance(left, Tensor):
                return self.tracer.sum(left, right, line, in_place)
        raise self.tracer.arithmetic(line, left, right)

    def _joined(self, left: Instance, right: Value, line: int | None) -> Value:
        more = self.known_items(right)
        if left.base not in ("Sequential", "ModuleList") or more is None:
            return Unknown("the result of this calculation", line)
        parts = [*left.children.values(), *more]
        return Instance(None, left.base, children={str(place): part for place, part in enumerate(parts)}, line=line)
