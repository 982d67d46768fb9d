"""Statements, functions and classes of the source, followed step by step without running anything."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lib.importing import expressions
from lib.importing.calls import MAX_DEPTH, Calls
from lib.importing.module_graph import ImportSourceError
from lib.importing.values import (
    MISSING,
    TRAINING,
    Class,
    Function,
    Instance,
    LibraryName,
    Scope,
    Super,
    Tensor,
    Unknown,
    Value,
    holds_tensor,
)

_YIELDED = "<yielded>"
_HARMLESS_CALLS = frozenset({"print", "warn", "warning", "info", "debug", "log", "cuda", "manual_seed"})


class RaisedError(ImportSourceError):
    """The source itself raises an exception."""


@dataclass(frozen=True)
class Returned:
    """A function has returned."""

    value: Value


# How a statement ends: normally, by leaving a loop or its turn, or by leaving the function.
End = Returned | Literal["break", "continue"] | None


class Interpreter(Calls):
    """Follows statements. Raises ImportSourceError for what cannot be read."""

    def execute_all(self, statements: Sequence[ast.stmt], scope: Scope) -> End:
        for statement in statements:
            end = self.execute(statement, scope)
            if end is not None:
                return end
        return None

    def execute(self, statement: ast.stmt, scope: Scope) -> End:
        """Follow one statement."""
        self.spend()
        self.line = line = statement.lineno
        match statement:
            case ast.Expr(value=ast.Yield(value=value)):
                scope.names.setdefault(_YIELDED, []).append(self.evaluate(value, scope) if value else None)
            case ast.Expr(value=value):
                if not isinstance(value, ast.Constant):
                    self.evaluate(value, scope)
            case ast.Assign(targets=targets, value=value):
                built = len(self.built)
                result = self.evaluate(value, scope)
                for target in targets:
                    self.assign(target, result, scope)
                self._comment_block(statement, built)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, self.evaluate(value, scope), scope)
            case ast.AugAssign(target=target, op=operation, value=value):
                self._augment(target, operation, self.evaluate(value, scope), scope, line)
            case ast.Return(value=value):
                return Returned(self.evaluate(value, scope) if value else None)
            case ast.If(test=test, body=body, orelse=otherwise):
                return self._choose(statement, self.evaluate(test, scope), body, otherwise, scope)
            case ast.For():
                return self._for(statement, scope)
            case ast.While():
                return self._while(statement, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._bind(statement.name, self._define(statement, scope), scope)
            case ast.ClassDef():
                self._bind(statement.name, self.define_class(statement, scope), scope)
            case ast.Import(names=names):
                for alias in names:
                    root = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._bind(alias.asname or root, LibraryName(root), scope)
            case ast.ImportFrom(module=module, names=names):
                self._import_from(module or "", statement.level, names, scope)
            case ast.With(items=items, body=body):
                for item in items:
                    if item.optional_vars is not None:
                        self.assign(item.optional_vars, Unknown("what stands after `as`", line), scope)
                return self.execute_all(body, scope)
            case ast.Try():
                return self._try(statement, scope)
            case ast.Raise():
                raise RaisedError(
                    f"{self.source.at(line)}the file itself raises an error here. Give other arguments.", line
                )
            case ast.Break():
                return "break"
            case ast.Continue():
                return "continue"
            case ast.Global(names=names):
                scope.globals |= set(names)
            case ast.Match(subject=subject, cases=cases):
                return self._match(self.evaluate(subject, scope), cases, scope, line)
            case ast.Delete(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Attribute):
                        owner = self.evaluate(target.value, scope)
                        if isinstance(owner, Instance):
                            owner.attributes.pop(target.attr, None)
        return None

    def _comment_block(self, statement: ast.Assign, built: int) -> None:
        """Give the comment behind a block to the only convolution or pool in it."""
        last = statement.end_lineno or statement.lineno
        comment = self.source.comment_at(last) or self.source.comment_at(statement.lineno)
        if comment:
            windows = [leaf for leaf in self.built[built:] if leaf.kind in ("Conv2d", "MaxPool2d", "AvgPool2d")]
            if len(windows) == 1 and not windows[0].comment:
                windows[0].comment = comment

    def _bind(self, name: str, value: Value, scope: Scope) -> None:
        (self.globals if name in scope.globals else scope).names[name] = value

    def _import_from(self, module: str, level: int, names: Sequence[ast.alias], scope: Scope) -> None:
        for alias in names:
            if alias.name != "*":
                path = f"{module}.{alias.name}"
                value: Value = LibraryName(path) if not level else Unknown(f"`{alias.name}` of another file", self.line)
                self._bind(alias.asname or alias.name, value, scope)

    # Assignments

    def assign(self, target: ast.expr, value: Value, scope: Scope) -> None:
        line = target.lineno
        match target:
            case ast.Name(id=name):
                self._bind(name, value, scope)
            case ast.Attribute(value=owner, attr=name):
                self.set_attribute(self.evaluate(owner, scope), name, value, line)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self._unpack(targets, value, scope, line)
            case ast.Subscript(value=owner_node, slice=key_node):
                owner, key = self.evaluate(owner_node, scope), self.evaluate(key_node, scope)
                self._set_item(owner, key, value, line)
            case ast.Starred(value=inner):
                self.assign(inner, value, scope)

    def _unpack(self, targets: Sequence[ast.expr], value: Value, scope: Scope, line: int) -> None:
        known = None if isinstance(value, Unknown) else self.known_items(value)
        if isinstance(value, Tensor):
            raise self.problem("a tensor is taken apart, which the notation cannot say. Leave it out.", line)
        stars = [place for place, target in enumerate(targets) if isinstance(target, ast.Starred)]
        fits = known is not None and (len(known) == len(targets) if not stars else len(known) >= len(targets) - 1)
        if known is None or not fits:
            for target in targets:
                self.assign(target, Unknown("a value of this assignment", line), scope)
            return
        parts: list[Value] = list(known)
        if stars:
            first, after = stars[0], len(targets) - stars[0] - 1
            parts[first : len(parts) - after] = [parts[first : len(parts) - after]]
        for target, part in zip(targets, parts, strict=True):
            self.assign(target, part, scope)

    def _set_item(self, owner: Value, key: Value, value: Value, line: int) -> None:
        if isinstance(owner, Tensor):
            raise self.problem("a part of a tensor is set, which the notation cannot say. Leave it out.", line)
        if (isinstance(owner, dict) and expressions.is_key(key)) or (
            isinstance(owner, list) and isinstance(key, int) and -len(owner) <= key < len(owner)
        ):
            owner[key] = value
        elif isinstance(owner, Instance) and isinstance(key, int):
            names = list(owner.children)
            if -len(names) <= key < len(names):
                owner.children[names[key]] = value
        elif isinstance(owner, Instance) and isinstance(key, str):
            owner.children[key] = value

    def _augment(self, target: ast.expr, operation: ast.operator, value: Value, scope: Scope, line: int) -> None:
        old = self.evaluate(target, scope)
        if isinstance(old, list) and isinstance(operation, ast.Add):
            more = self.known_items(value)
            if more is not None and len(old) + len(more) <= expressions.MAX_LENGTH:
                self.spend(len(more))
                # Like Python, this changes the list wherever it is named.
                old.extend(more)
                return
            self.assign(target, Unknown("the result of this calculation", line), scope)
            return
        self.assign(target, self.binary(operation, old, value, line, in_place=True), scope)

    # Control flow

    def _choose(
        self, node: ast.stmt, test: Value, body: list[ast.stmt], otherwise: list[ast.stmt], scope: Scope
    ) -> End:
        held = expressions.truth(test)
        if test is TRAINING:
            self.tracer.note(f"Line {node.lineno}: what is done in training alone is read.")
        if held is not None:
            return self.execute_all(body if held else otherwise, scope)
        if not self.reading:
            self.execute_all(body, scope)
            self.execute_all(otherwise, scope)
            return None
        if all(map(_is_harmless, [*body, *otherwise])):
            return None
        if isinstance(test, Tensor):
            raise self.problem("the way depends on a tensor's values. Leave the condition out.", node.lineno)
        what = test.what if isinstance(test, Unknown) else "the condition"
        raise self.problem(f"{what} decides here and is not known from the source. Write its value.", node.lineno)

    def _for(self, node: ast.For, scope: Scope) -> End:
        value = self.evaluate(node.iter, scope)
        known = self.known_items(value)
        if known is None:
            if self.reading:
                raise self.problem("what this loop goes over is not known from the source. Write it out.", node.lineno)
            return None
        for part in known:
            self.spend()
            self.assign(node.target, part, scope)
            end = self.execute_all(node.body, scope)
            if end == "break":
                return None
            if isinstance(end, Returned):
                return end
        return self.execute_all(node.orelse, scope)

    def _while(self, node: ast.While, scope: Scope) -> End:
        while True:
            held = expressions.truth(self.evaluate(node.test, scope))
            if held is None:
                if self.reading:
                    raise self.problem("whether this loop goes on is not known from the source.", node.lineno)
                return None
            if not held:
                return self.execute_all(node.orelse, scope)
            end = self.execute_all(node.body, scope)
            if end == "break":
                return None
            if isinstance(end, Returned):
                return end

    def _try(self, node: ast.Try, scope: Scope) -> End:
        counters = self.depth, self.building, self.forwarding
        try:
            end = self.execute_all(node.body, scope)
            if end is None:
                end = self.execute_all(node.orelse, scope)
        except RaisedError:
            self.depth, self.building, self.forwarding = counters
            end = self.execute_all(node.handlers[0].body, scope) if node.handlers else None
        return self.execute_all(node.finalbody, scope) or end

    def _match(self, subject: Value, cases: Sequence[ast.match_case], scope: Scope, line: int) -> End:
        for case in cases:
            held = self._matches(case.pattern, subject, scope, line)
            if held and case.guard is not None:
                held = expressions.truth(self.evaluate(case.guard, scope))
            if held is None:
                if self.reading:
                    raise self.problem("which case holds is not known from the source. Write its value.", line)
                return None
            if held:
                return self.execute_all(case.body, scope)
        return None

    def _matches(self, pattern: ast.pattern, subject: Value, scope: Scope, line: int) -> bool | None:
        match pattern:
            case ast.MatchValue(value=value):
                return expressions.truth(expressions.compare(ast.Eq(), subject, self.evaluate(value, scope), line))
            case ast.MatchSingleton(value=value):
                return expressions.truth(expressions.compare(ast.Is(), subject, value, line))
            case ast.MatchOr(patterns=patterns):
                answers = [self._matches(one, subject, scope, line) for one in patterns]
                return True if True in answers else None if None in answers else False
            case ast.MatchAs(pattern=None, name=name):
                if name is not None:
                    self._bind(name, subject, scope)
                return True
        return None

    # Functions and classes

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> Function:
        function = self.function(node, node.args, scope)
        function.decorators = frozenset(
            decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
            for decorator in node.decorator_list
        )
        return function

    def define_class(self, node: ast.ClassDef, scope: Scope) -> Class:
        """Make a class; the statements in its body are followed now."""
        bases = tuple(self.evaluate(base, scope) for base in node.bases)
        inner = Scope(parent=scope)
        cls = Class(node, bases, inner.names)
        for statement in node.body:
            self.execute(statement, inner)
        # Methods do not see the names of the class around them.
        cls.namespace = dict(inner.names)
        for value in cls.namespace.values():
            if isinstance(value, Function) and value.scope is inner:
                value.scope, value.cls = scope, cls
        return cls

    def current_super(self, scope: Scope) -> Value:
        inner: Scope | None = scope
        while inner is not None:
            function = inner.function
            if function is not None and function.cls is not None and not isinstance(function.node, ast.Lambda):
                arguments = [*function.node.args.posonlyargs, *function.node.args.args]
                owner = self.name(arguments[0].arg, scope, self.line) if arguments else None
                return Super(function.cls, owner)
            inner = inner.parent
        return Unknown("super()", self.line)

    def call_function(self, function: Function, given: Sequence[Value], named: Mapping[str, Value]) -> Value:
        self.depth += 1
        self.spend(3)
        if self.depth > 2 * MAX_DEPTH:
            raise self.problem("functions call each other without end. Write the layers out.")
        scope = Scope(self._bound(function, given, named), function.scope, function)
        line = self.line
        if isinstance(function.node, ast.Lambda):
            result = self.evaluate(function.node.body, scope)
        else:
            end = self.execute_all(function.node.body, scope)
            result = end.value if isinstance(end, Returned) else None
            if _YIELDED in scope.names:
                result = scope.names[_YIELDED]
            elif isinstance(function.node, ast.AsyncFunctionDef):
                result = Unknown("what an async function returns", line)
        self.line = line
        self.depth -= 1
        return result

    def _bound(self, function: Function, given: Sequence[Value], named: Mapping[str, Value]) -> dict[str, Value]:
        """The arguments of a call by their names."""
        arguments = function.node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        bound: dict[str, Value] = dict(zip(names, given, strict=False))
        if len(given) > len(names) and arguments.vararg is None:
            raise self.problem(f"{function.name}() takes {len(names)} arguments and gets {len(given)}. Remove some.")
        if arguments.vararg is not None:
            bound[arguments.vararg.arg] = tuple(given[len(names) :])
        keyword = [argument.arg for argument in arguments.kwonlyargs]
        others: dict[str, Value] = {}
        for name, value in named.items():
            if name in names or name in keyword:
                bound[name] = value
            elif arguments.kwarg is not None:
                others[name] = value
            else:
                raise self.problem(f"{function.name}() does not know the argument {name}. Remove it.")
        if arguments.kwarg is not None:
            bound[arguments.kwarg.arg] = others
        defaults = dict(zip(names[len(names) - len(function.defaults) :], function.defaults, strict=True))
        defaults |= dict(zip(keyword, function.keyword_defaults, strict=True))
        for name in (*names, *keyword):
            if name not in bound:
                if defaults.get(name, MISSING) is MISSING:
                    raise self.problem(f"{function.name}() needs the argument {name}. Give it a value.")
                bound[name] = defaults[name]
        return bound


def _is_harmless(statement: ast.stmt) -> bool:
    """Whether a statement can be passed over: it prints, raises or asserts."""
    match statement:
        case ast.Pass() | ast.Raise() | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            # The initialization of weights ends with an underscore by convention.
            return name in _HARMLESS_CALLS or name.endswith("_")
        case ast.Expr(value=ast.Constant()):
            return True
    return False


def returned_tensor(value: Value) -> Value:
    """The tensor that a forward method returns, also from a tuple that holds one."""
    if isinstance(value, list | tuple) and holds_tensor(value):
        tensors = [part for part in value if isinstance(part, Tensor)]
        return tensors[0] if len(tensors) == 1 else value
    return value
