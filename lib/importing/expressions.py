"""Operators, functions and methods of Python on values, with bounded sizes.

What is too large, or not known, is an Unknown. Nothing here raises for the content of the source.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from lib.importing.values import (
    BatchSize,
    Class,
    Function,
    Instance,
    Leaf,
    LibraryName,
    Tensor,
    Training,
    Unknown,
    Value,
)

MAX_LENGTH = 10_000
_LARGEST = 10**18

BUILTINS = frozenset({
    "range", "enumerate", "zip", "len", "list", "tuple", "int", "float", "str", "max", "min", "isinstance",
    "issubclass", "bool", "dict", "set", "sum", "abs", "round", "reversed", "sorted", "print", "getattr", "setattr",
    "hasattr", "super", "type", "map", "filter", "any", "all", "callable", "iter", "next", "id", "repr", "divmod",
    "pow", "slice", "object", "property", "staticmethod", "classmethod", "vars", "frozenset",
    "Exception", "ValueError", "TypeError", "NotImplementedError", "RuntimeError", "AssertionError", "KeyError",
})  # fmt: skip

_OPERATORS: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.RShift: operator.rshift,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FAILURES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
_TEXT_METHODS = frozenset({"lower", "upper", "strip", "lstrip", "rstrip", "startswith", "endswith", "split", "title",
                           "capitalize", "isdigit", "removeprefix", "removesuffix", "find", "count"})  # fmt: skip
_MATH: dict[str, Callable[..., Value]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "log": math.log,
    "prod": math.prod,
}


def is_number(value: Value) -> bool:
    return isinstance(value, int | float)


def is_flat(value: Value) -> bool:
    """Whether a value holds no collections of collections, whose comparison may take forever."""
    if isinstance(value, dict | set | frozenset):
        return False
    if isinstance(value, list | tuple):
        return not any(isinstance(part, list | tuple | dict | set | frozenset) for part in value)
    return True


def is_key(value: Value) -> bool:
    """Whether a value may be a key of a dictionary."""
    return is_flat(value) and not isinstance(value, list | slice)


def binary(operation: ast.operator, left: Value, right: Value, line: int | None) -> Value:
    """left operation right, for values that are no tensors."""
    for value in (left, right):
        if isinstance(value, Unknown):
            return value
    unknown = Unknown("the result of this calculation", line)
    kind = type(operation)
    if is_number(left) and is_number(right):
        return _arithmetic(kind, left, right, unknown)
    if isinstance(left, dict) and isinstance(right, dict) and kind is ast.BitOr:
        return {**left, **right}
    if kind is ast.Mod and isinstance(left, str):
        return _percent_format(left, right, unknown)
    if kind is ast.Add and isinstance(left, str | list | tuple) and type(left) is type(right):
        return operator.add(left, right) if len(left) + len(right) <= MAX_LENGTH else unknown
    if kind is ast.Mult and isinstance(right, str | list | tuple):
        left, right = right, left
    if kind is ast.Mult and isinstance(left, str | list | tuple) and isinstance(right, int):
        return left * right if len(left) * max(right, 0) <= MAX_LENGTH else unknown
    return unknown


def _arithmetic(kind: type[ast.operator], left: Value, right: Value, unknown: Unknown) -> Value:
    try:
        if kind is ast.Pow:
            size = abs(left)
            if abs(right) > 1000 or (size > 1 and right > 0 and right * math.log2(size) > 60):
                return unknown
            result = left**right
        elif kind is ast.LShift:
            result = left << right if 0 <= right < 60 else unknown
        elif kind in _OPERATORS:
            result = _OPERATORS[kind](left, right)
        else:
            return unknown
    except _FAILURES:
        return unknown
    return result if is_number(result) and (isinstance(result, float) or abs(result) <= _LARGEST) else unknown


def _percent_format(text: str, value: Value, unknown: Unknown) -> Value:
    parts = value if isinstance(value, tuple) else (value,)
    if re.search(r"\d{3}|\*", text) or not all(isinstance(part, int | float | str) for part in parts):
        return unknown
    try:
        return text % value if len(text) + sum(len(str(part)) for part in parts) <= MAX_LENGTH else unknown
    except _FAILURES:
        return unknown


def formatted(value: Value, specification: str, line: int | None) -> Value:
    """A value within an f-string."""
    if isinstance(value, int | float | str | None) and not re.search(r"\d{3}", specification):
        try:
            text = format(value, specification)
            return text if len(text) <= MAX_LENGTH else Unknown("this text", line)
        except _FAILURES:
            pass
    return Unknown("this text", line)


def compare(operation: ast.cmpop, left: Value, right: Value, line: int | None) -> Value:
    """The result of a comparison, Unknown if the source does not tell it."""
    unknown = Unknown("the result of this comparison", line)
    if isinstance(operation, ast.Is | ast.IsNot):
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return unknown
        same = left is right or (isinstance(left, LibraryName | BatchSize) and left == right)
        return same if isinstance(operation, ast.Is) else not same
    if isinstance(operation, ast.In | ast.NotIn):
        if isinstance(left, Unknown) or not isinstance(right, str | list | tuple | dict | range | set):
            return unknown
        if isinstance(right, str) and not isinstance(left, str):
            return unknown
        if not is_flat(left) or (isinstance(right, list | tuple) and not all(map(is_flat, right))):
            return unknown
        try:
            inside = left in right
        except _FAILURES:
            return unknown
        if not inside and not isinstance(right, str | range) and any(isinstance(part, Unknown) for part in right):
            return unknown
        return inside if isinstance(operation, ast.In) else not inside
    if isinstance(operation, ast.Eq | ast.NotEq):
        if not is_flat(left) or not is_flat(right):
            return unknown
        for value in (left, right):
            parts = value if isinstance(value, tuple | list) else (value,)
            if any(isinstance(part, Unknown | BatchSize | Training | Tensor) for part in parts) and left != right:
                return unknown
        return (left == right) if isinstance(operation, ast.Eq) else (left != right)
    comparison = _COMPARISONS[type(operation)]
    if (is_number(left) and is_number(right)) or (
        isinstance(left, str | tuple) and type(left) is type(right) and _plain(left) and _plain(right)
    ):
        try:
            return comparison(left, right)
        except _FAILURES:
            return unknown
    return unknown


def _plain(value: Value) -> bool:
    return isinstance(value, str) or all(isinstance(part, int | float) for part in value)


def truth(value: Value) -> bool | None:
    """Whether a condition holds; None if the source does not tell."""
    if isinstance(value, Unknown | Tensor | BatchSize):
        return None
    if isinstance(value, Instance):
        return bool(value.children) if value.base in ("ModuleList", "ModuleDict", "Sequential") else True
    if isinstance(value, Leaf | Function | Class | LibraryName | Training):
        return True
    return bool(value)


def items(value: Value) -> Sequence[Value] | None:
    """The items of a known iterable; None if they are not known."""
    if isinstance(value, Instance) and value.base in ("Sequential", "ModuleList"):
        return list(value.children.values())
    if isinstance(value, Instance) and value.base == "ModuleDict":
        return list(value.children)
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, list | tuple | range | str):
        return value
    return sorted(value, key=str) if isinstance(value, set | frozenset) else None


def builtin(name: str, given: Sequence[Value], named: Mapping[str, Value], line: int | None) -> Value:
    """Call a function of Python that needs no other part of the source."""
    unknown = Unknown(f"the result of {name}()", line)
    try:
        return _builtin(name, given, named, unknown)
    except _FAILURES:
        return unknown


def _builtin(name: str, given: Sequence[Value], named: Mapping[str, Value], unknown: Unknown) -> Value:
    if name == "range":
        return range(*given)
    if name in (
        "list",
        "tuple",
        "set",
        "frozenset",
        "enumerate",
        "zip",
        "reversed",
        "sorted",
        "iter",
        "sum",
        "any",
        "all",
    ):
        return _from_items(name, given, named, unknown)
    if name == "len":
        found = items(given[0])
        return unknown if found is None else len(found)
    if name in ("int", "float", "bool", "abs", "round", "divmod", "pow"):
        if not all(is_number(value) or (isinstance(value, str) and len(value) < 30) for value in given):
            return unknown
        if name == "pow":
            return _arithmetic(ast.Pow, given[0], given[1], unknown) if len(given) == 2 else unknown
        calls: dict[str, Callable[..., Value]] = {
            "int": int, "float": float, "bool": bool, "abs": abs, "round": round, "divmod": divmod,
        }  # fmt: skip
        return calls[name](*given)
    if name in ("str", "repr"):
        return str(given[0]) if isinstance(given[0], int | float | str | None) else unknown
    if name in ("max", "min"):
        numbers = given if len(given) > 1 else items(given[0])
        if not numbers or named or len(numbers) > MAX_LENGTH or not all(map(is_number, numbers)):
            return unknown
        return max(numbers) if name == "max" else min(numbers)
    if name == "dict":
        pairs = given[0] if given else {}
        return {**_pairs(pairs), **named}
    if name == "slice":
        return slice(*given)
    if name == "callable":
        return isinstance(given[0], Function | Class | LibraryName | Leaf | Instance)
    return None if name == "print" else unknown


def _pairs(value: Value) -> dict[Value, Value]:
    if isinstance(value, dict):
        return value
    found = [tuple(pair) for pair in items(value) or ()]
    if not all(len(pair) == 2 and is_key(pair[0]) for pair in found):
        raise ValueError
    return dict(found)


def _from_items(name: str, given: Sequence[Value], named: Mapping[str, Value], unknown: Unknown) -> Value:
    lists = [items(value) for value in given[: 1 if name in ("enumerate", "sum") else None]]
    if any(found is None or len(found) > MAX_LENGTH for found in lists):
        return unknown
    known = [found for found in lists if found is not None]
    if name == "zip":
        return list(zip(*known, strict=False))
    if not known:
        return () if name == "tuple" else []
    first = known[0]
    if name == "enumerate":
        start = named.get("start", given[1] if len(given) > 1 else 0)
        return list(enumerate(first, start))
    if name in ("set", "frozenset"):
        return set(first) if all(map(is_key, first)) else unknown
    if name == "tuple":
        return tuple(first)
    if name == "reversed":
        return list(reversed(first))
    if name == "sorted":
        plain = all(map(is_number, first)) or all(isinstance(value, str) for value in first)
        return sorted(first, reverse=bool(named.get("reverse", False))) if plain and "key" not in named else unknown
    if name == "sum":
        start = named.get("start", given[1] if len(given) > 1 else 0)
        if all(map(is_number, [*first, start])):
            return sum(first, start)
        # sum(lists, []) joins lists.
        is_joined = all(isinstance(value, list) for value in [*first, start])
        joined = [value for part in [start, *first] for value in part] if is_joined else []
        return joined if is_joined and len(joined) <= MAX_LENGTH else unknown
    if name in ("any", "all"):
        truths = [truth(value) for value in first]
        return unknown if None in truths else (any if name == "any" else all)(bool(value) for value in truths)
    return list(first)


def mathematics(name: str, given: Sequence[Value], line: int | None) -> Value:
    """A function of math, or of numpy with the same name."""
    numbers = [part for value in given for part in (value if isinstance(value, list | tuple) else (value,))]
    if (
        name in _MATH
        and numbers
        and len(numbers) < 100
        and all(is_number(part) and abs(part) < 1e9 for part in numbers)
    ):
        try:
            result = _MATH[name](*given)
            return result if abs(result) <= _LARGEST else Unknown(f"the result of {name}()", line)
        except _FAILURES:
            pass
    return Unknown(f"the result of {name}()", line)


def method(owner: Value, name: str, given: Sequence[Value], named: Mapping[str, Value], line: int | None) -> Value:
    """Call a method of a text, a list, a tuple or a dictionary."""
    unknown = Unknown(f"the result of .{name}()", line)
    try:
        if isinstance(owner, str):
            return _text_method(owner, name, given, named, unknown)
        if isinstance(owner, list):
            return _list_method(owner, name, given, unknown)
        if isinstance(owner, dict):
            return _dict_method(owner, name, given, named, unknown)
        if isinstance(owner, tuple) and name == "numel":
            return math.prod(owner) if all(isinstance(part, int) for part in owner) else unknown
        if isinstance(owner, tuple) and name in ("index", "count") and all(map(is_flat, [*owner, *given])):
            return owner.index(given[0]) if name == "index" else owner.count(given[0])
        if isinstance(owner, set) and name == "add" and is_key(given[0]):
            owner.add(given[0])
            return None
    except _FAILURES:
        pass
    return unknown


def _text_method(owner: str, name: str, given: Sequence[Value], named: Mapping[str, Value], unknown: Unknown) -> Value:
    if name == "join":
        parts = items(given[0])
        if parts is None or len(parts) > 1000 or not all(isinstance(part, str) for part in parts):
            return unknown
        return owner.join(parts) if sum(map(len, parts)) + len(owner) * len(parts) <= MAX_LENGTH else unknown
    if name == "replace" and len(owner) <= 1000 and all(isinstance(part, str) and len(part) < 10 for part in given):
        return owner.replace(*given)
    if name == "format":
        values = [*given, *named.values()]
        plain = all(isinstance(value, int | float | str) for value in values)
        # A field may name attributes, and a width may be huge.
        return (
            unknown
            if not plain or re.search(r"\{[^}]*[.\[!]|\d{3}|\{[^}]*\{", owner)
            else owner.format(*given, **named)
        )
    if name in _TEXT_METHODS and all(isinstance(part, str) for part in given):
        return getattr(owner, name)(*given)
    return unknown


def _list_method(owner: list[Value], name: str, given: Sequence[Value], unknown: Unknown) -> Value:
    if name == "append" and len(owner) < MAX_LENGTH:
        return owner.append(given[0])
    if name == "extend":
        more = items(given[0])
        return owner.extend(more) if more is not None and len(owner) + len(more) <= MAX_LENGTH else unknown
    if name == "insert" and len(owner) < MAX_LENGTH:
        return owner.insert(given[0], given[1])
    if name == "pop":
        return owner.pop(*given)
    if name == "reverse":
        return owner.reverse()
    if name == "copy":
        return list(owner)
    if name == "index" and all(map(is_flat, [*owner, *given])):
        return owner.index(given[0])
    return unknown


def _dict_method(
    owner: dict[Value, Value], name: str, given: Sequence[Value], named: Mapping[str, Value], unknown: Unknown
) -> Value:
    if given and name in ("get", "pop", "setdefault") and not is_key(given[0]):
        return unknown
    if name in ("keys", "values", "items"):
        return list(getattr(owner, name)())
    if name == "get":
        return owner.get(given[0], given[1] if len(given) > 1 else named.get("default"))
    if name == "update" and len(owner) < MAX_LENGTH:
        for pairs in given:
            owner.update(_pairs(pairs))
        return owner.update(named)
    if name == "pop":
        return owner.pop(given[0], *given[1:])
    if name == "setdefault":
        return owner.setdefault(given[0], given[1] if len(given) > 1 else None)
    if name == "copy":
        return dict(owner)
    return unknown
