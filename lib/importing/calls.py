"""Calls of functions, classes and modules, and attributes of values, while source is read."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from lib.importing import expressions
from lib.importing.evaluator import Evaluator
from lib.importing.source_text import SourceText
from lib.importing.torch_modules import CONTAINERS, LAZY, SIGNATURES, ArgumentsError, bound_arguments
from lib.importing.tracer import TENSOR_FUNCTIONS
from lib.importing.values import (
    BATCH,
    MISSING,
    TRAINING,
    BoundFunction,
    Builtin,
    Class,
    Function,
    Instance,
    Leaf,
    LibraryName,
    Method,
    Partial,
    Super,
    Tensor,
    Unknown,
    Value,
    Weights,
    holds_tensor,
)

MAX_DEPTH = 25
_ITSELF = frozenset({
    "to", "cuda", "cpu", "eval", "train", "apply", "float", "double", "half", "requires_grad_", "share_memory",
    "compile", "to_empty",
})  # fmt: skip
_MODULE_METHODS = _ITSELF | {
    "append", "extend", "insert", "add_module", "register_module", "pop", "keys", "values", "items", "children",
    "update", "modules", "named_children", "named_modules", "forward", "register_buffer", "register_parameter",
    "__init__", "__call__", "__len__", "get_submodule",
}  # fmt: skip
_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "compile", "script"})
_GHOSTS = frozenset({"GhostBatchNorm", "GhostBatchNorm2d"})
_PYTHON_CLASSES: dict[str, type | tuple[type, ...]] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict,
}  # fmt: skip


class Calls(Evaluator):
    """Calls and attributes. `reading` is true while a network is built and called, false elsewhere in the file."""

    def __init__(self, source: SourceText, steps: int) -> None:
        super().__init__(source, steps)
        self.reading = False
        self.depth = 0
        # How many constructors and forward methods are under way.
        self.building = 0
        self.forwarding = 0
        self.built: list[Leaf] = []
        self.used: set[Class] = set()
        self.instantiated: list[tuple[Instance, tuple[Value, ...], dict[str, Value]]] = []

    @abstractmethod
    def call_function(self, function: Function, given: Sequence[Value], named: Mapping[str, Value]) -> Value:
        """Call a function of the source."""

    def call(self, function: Value, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        self.depth += 1
        try:
            if self.depth > MAX_DEPTH:
                raise self.problem(f"calls are nested more than {MAX_DEPTH} deep. Write the layers out.")
            return self._call_value(function, given, named, node)
        finally:
            self.depth -= 1

    def _call_value(self, function: Value, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        line = node.lineno
        if isinstance(function, Unknown):
            return Unknown(f"the result of calling {function.what}", line)
        if isinstance(function, LibraryName):
            return self._call_library(function, given, dict(named), node)
        if isinstance(function, Function):
            return self.call_function(function, given, named)
        if isinstance(function, BoundFunction):
            return self.call_function(function.function, [function.owner, *given], named)
        if isinstance(function, Leaf | Instance):
            return self.call_module(function, given, named, line)
        if isinstance(function, Class):
            return self.instantiate(function, given, named, node)
        if isinstance(function, Method):
            return self._call_method(function.owner, function.name, given, named, node)
        if isinstance(function, Builtin):
            return self._call_builtin(function.name, given, named, node)
        if isinstance(function, Partial):
            return self.call(function.function, [*function.arguments, *given], {**function.named, **named}, node)
        raise self.problem("what is called here is no function and no layer. Call a layer.", line)

    # Modules

    def call_module(
        self,
        module: Leaf | Instance,
        given: Sequence[Value],
        named: Mapping[str, Value],
        line: int,
        commented: bool = True,
    ) -> Value:
        """Call a module: its forward method, or the layer itself; `commented` if the line's comment is about it."""
        comment = self.source.comment_at(line) if commented else ""
        values = [*given, *named.values()]
        if not any(map(holds_tensor, values)):
            return next((value for value in values if isinstance(value, Unknown)), Unknown("this layer's input", line))
        if isinstance(module, Leaf):
            return self.tracer.apply(module, self._one_tensor(values, line), line, comment)
        forward = module.cls.find("forward") if module.cls else MISSING
        if module.leaf is not None and (forward is MISSING or self._is_ghost(module)):
            if forward is not MISSING:
                self._make_ghost(module)
            return self.tracer.apply(module.leaf, self._one_tensor(values, line), line, comment)
        if isinstance(forward, Function):
            self.forwarding += 1
            result = self.call_function(forward, [module, *given], named)
            self.forwarding -= 1
            return result
        if module.base == "Sequential":
            result = self._one_tensor(values, line)
            for name, child in module.children.items():
                if isinstance(child, Unknown):
                    raise self.tracer.unknown(child, line)
                if not isinstance(child, Leaf | Instance):
                    raise self.problem(f"part {name} of this nn.Sequential is no layer. Put layers into it.", line)
                result = self.call_module(child, [result], {}, line, commented=False)
            return result
        name = self.tracer.name_of(module) or module.base
        raise self.problem(f"{name} has no forward method. Call the layers in it.", line)

    def _one_tensor(self, values: Sequence[Value], line: int) -> Tensor:
        if len(values) != 1 or not isinstance(values[0], Tensor):
            raise self.problem("a layer is called with more than one input. Call it with one tensor.", line)
        return values[0]

    def _is_ghost(self, module: Instance) -> bool:
        leaf = module.leaf
        return (
            leaf is not None and leaf.kind in ("BatchNorm2d", "GhostBatchNorm2d") and "num_splits" in module.attributes
        )

    def _make_ghost(self, module: Instance) -> None:
        leaf, splits = module.leaf, module.attributes["num_splits"]
        assert leaf is not None
        if not isinstance(splits, int):
            raise self.problem("the number of splits of this batch norm is not known. Write it as a number.", leaf.line)
        leaf.kind = "GhostBatchNorm2d"
        leaf.arguments = {**leaf.arguments, "num_splits": splits}

    def instantiate(self, cls: Class, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        """An object of a class of the source."""
        base = self.base_of(cls)
        instance = Instance(cls, base, line=node.lineno)
        if self.building or self.forwarding:
            self.used.add(cls)
        elif not self.reading:
            self.instantiated.append((instance, tuple(given), dict(named)))
        constructor = cls.find("__init__")
        if isinstance(constructor, Function):
            self.building += 1
            self.call_function(constructor, [instance, *given], named)
            self.building -= 1
        elif base == "object":
            self._set_fields(instance, cls, given, named)
        else:
            self._construct_base(instance, given, named, node)
        return instance

    def base_of(self, cls: Class) -> str:
        """The class of torch.nn that a class of the source is derived from; "object" if it is none."""
        found = "object"
        for ancestor in cls.ancestors():
            if isinstance(ancestor, LibraryName):
                if ancestor.last in CONTAINERS or ancestor.last in SIGNATURES:
                    return ancestor.last
                # A class of another file may be a module too.
                found = "Module"
            elif isinstance(ancestor, Unknown):
                found = "Module"
        return found

    def _set_fields(self, instance: Instance, cls: Class, given: Sequence[Value], named: Mapping[str, Value]) -> None:
        names = [
            statement.target.id
            for statement in cls.node.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        ]
        instance.attributes.update(zip(names, given, strict=False))
        instance.attributes.update(named)

    def _construct_base(
        self, instance: Instance, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr
    ) -> None:
        """Initialize an object as what torch's class at its base does."""
        if instance.base in CONTAINERS:
            self._fill(instance, given, node.lineno)
        elif instance.base in SIGNATURES:
            instance.leaf = self._leaf(instance.base, given, named, node)

    def construct(self, kind: str, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        """A module of torch."""
        if kind in CONTAINERS:
            container = Instance(None, kind, line=node.lineno)
            self._fill(container, [*given, *named.values()], node.lineno)
            return container
        return self._leaf(kind, given, named, node)

    def _leaf(self, kind: str, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Leaf:
        line = node.lineno
        lazy = kind in LAZY
        kind = LAZY.get(kind, kind)
        if kind in SIGNATURES:
            if kind == "Identity":
                given, named = (), {}
            for value in [*given, *named.values()]:
                parts = value if isinstance(value, tuple | list) else (value,)
                for part in parts:
                    if isinstance(part, Unknown):
                        raise self.tracer.unknown(part, line)
            try:
                arguments = bound_arguments(kind, [1, *given] if lazy else given, named)
            except ArgumentsError as error:
                raise self.problem(str(error), line) from None
            leaf = Leaf(kind, arguments, line, open=lazy)
        else:
            leaf = Leaf(kind, {}, line, supported=False)
        leaf.comment = self.source.comment_of(line, node.end_lineno)
        leaf.near = self.source.comment_near(line, node.end_lineno)
        leaf.built_in_forward = self.forwarding > 0
        self.built.append(leaf)
        return leaf

    def _fill(self, container: Instance, given: Sequence[Value], line: int) -> None:
        """Put modules into a container."""
        if container.base == "Sequential" and not (len(given) == 1 and isinstance(given[0], dict)):
            self._extend(container, given)
            return
        for value in given[:1]:
            if isinstance(value, dict):
                self.spend(len(value))
                container.children.update({str(name): module for name, module in value.items()})
                continue
            known = self.known_items(value)
            if known is None:
                raise self.problem(f"the layers of this nn.{container.base} are not known. Write them out.", line)
            if container.base == "ModuleDict":
                known = [tuple(pair) for pair in known if isinstance(pair, list | tuple) and len(pair) == 2]
                container.children.update({str(name): module for name, module in known})
            else:
                self._extend(container, known)

    def _extend(self, container: Instance, modules: Sequence[Value]) -> None:
        self.spend(len(modules))
        for module in modules:
            container.children[str(len(container.children))] = module

    # Libraries

    def _call_library(
        self, name: LibraryName, given: Sequence[Value], named: dict[str, Value], node: ast.expr
    ) -> Value:
        path, last, line = name.path, name.last, node.lineno
        root = path.partition(".")[0]
        if last == "OrderedDict":
            return expressions.builtin("dict", given, named, line)
        if path == "functools.partial" and given:
            return Partial(given[0], tuple(given[1:]), named)
        if path in ("copy.deepcopy", "copy.copy") and given:
            return self._copy(given[0])
        if root in ("math", "numpy"):
            return expressions.mathematics(last, given, line)
        if last == "is_available":
            return False
        if last in _GHOSTS:
            return self._library_ghost(given, named, node)
        if root != "torch":
            return Unknown(f"the result of {path}()", line)
        if last in _WRAPPERS and given:
            return given[0]
        if path == "torch.utils.checkpoint.checkpoint" and given:
            return self.call(given[0], given[1:], {}, node)
        if last == "__init__":
            return self._call_constructor(path, given, named, node)
        if path.startswith("torch.nn.") and not path.startswith(
            ("torch.nn.functional", "torch.nn.init", "torch.nn.utils")
        ):
            if last in ("Parameter", "ParameterList", "Module"):
                return Unknown(f"nn.{last}", line)
            return self.construct(last, given, named, node)
        if path.startswith("torch.nn.init"):
            return None
        return self._call_torch_function(last, list(given), named, node)

    def _library_ghost(self, given: Sequence[Value], named: dict[str, Value], node: ast.expr) -> Value:
        splits = named.get("num_splits", given[1] if len(given) > 1 else None)
        features = named.get("num_features", given[0] if given else None)
        leaf = self._leaf("BatchNorm2d", (features,), {}, node)
        module = Instance(None, "BatchNorm2d", {"num_splits": splits}, leaf=leaf, line=node.lineno)
        self._make_ghost(module)
        return leaf

    def _call_constructor(self, path: str, given: Sequence[Value], named: dict[str, Value], node: ast.expr) -> Value:
        """`nn.Module.__init__(self)`."""
        if given and isinstance(given[0], Instance) and not path.endswith("Module.__init__"):
            self._construct_base(given[0], given[1:], named, node)
        return None

    def _call_torch_function(self, name: str, given: list[Value], named: dict[str, Value], node: ast.expr) -> Value:
        line = node.lineno
        if name in ("cat", "concat", "concatenate"):
            tensors = given.pop(0) if given else named.get("tensors")
            axis = named.get("dim", named.get("axis", given[0] if given else 0))
            parts = tensors if isinstance(tensors, list | tuple) else ()
            if not any(isinstance(part, Tensor) for part in parts):
                return Unknown("this concatenation", line)
            return self.tracer.concatenation(tensors, axis, line)
        if not given and isinstance(named.get("input"), Tensor):
            given = [named.pop("input")]
        operators: dict[str, ast.operator] = {
            "add": ast.Add(), "mul": ast.Mult(), "multiply": ast.Mult(), "sub": ast.Sub(), "div": ast.Div(),
        }  # fmt: skip
        if name in operators and len(given) == 2 and not named:
            return self.binary(operators[name], given[0], given[1], line)
        if given and isinstance(given[0], Tensor):
            return self.tracer.call(name, given[0], given[1:], named, line)
        if any(map(holds_tensor, [*given, *named.values()])):
            raise self.problem(f"torch's {name} cannot be written in the notation. Leave it out.", line)
        return next((value for value in given if isinstance(value, Unknown)), Unknown(f"the result of {name}()", line))

    def _copy(self, value: Value, depth: int = 0) -> Value:
        self.spend()
        if depth > MAX_DEPTH:
            raise self.problem("modules are nested too deeply. Write the layers out.")
        if isinstance(value, Leaf):
            copied = Leaf(
                value.kind, dict(value.arguments), value.line, value.comment, value.near, supported=value.supported
            )
            copied.open = value.open
            return copied
        if isinstance(value, Instance):
            attributes = {name: self._copy(part, depth + 1) for name, part in value.attributes.items()}
            children = {name: self._copy(part, depth + 1) for name, part in value.children.items()}
            leaf = self._copy(value.leaf, depth + 1) if value.leaf else None
            return Instance(value.cls, value.base, attributes, children, leaf, value.line)
        if isinstance(value, list | tuple):
            parts = [self._copy(part, depth + 1) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        return {key: self._copy(part, depth + 1) for key, part in value.items()} if isinstance(value, dict) else value

    # Python's own functions

    def _call_builtin(self, name: str, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr) -> Value:
        line = node.lineno
        for value in given:
            if isinstance(value, list | tuple | dict | str):
                self.spend(len(value) // 4)
        if name == "len" and len(given) == 1 and isinstance(given[0], Tensor):
            return BATCH
        if name == "isinstance" and len(given) == 2:
            return self._is_instance(given[0], given[1], line)
        if name == "setattr" and len(given) == 3 and isinstance(given[1], str):
            self.set_attribute(given[0], given[1], given[2], line)
            return None
        if name in ("getattr", "hasattr") and len(given) > 1 and isinstance(given[1], str):
            found = self.attribute(given[0], given[1], line)
            known = not isinstance(found, Unknown)
            if name == "hasattr":
                return known if known or isinstance(given[0], Instance) else Unknown("the result of hasattr()", line)
            return given[2] if len(given) > 2 and not known and isinstance(given[0], Instance) else found
        if name == "super" and len(given) == 2 and isinstance(given[0], Class):
            return Super(given[0], given[1])
        if name in ("map", "filter") and len(given) == 2:
            known_items = self.known_items(given[1])
            if known_items is None:
                return Unknown(f"the result of {name}()", line)
            results = [
                self.call(given[0], [value], {}, node) if given[0] is not None else value for value in known_items
            ]
            if name == "map":
                return results
            return [value for value, kept in zip(known_items, results, strict=True) if expressions.truth(kept)]
        if name == "type" and len(given) == 1:
            return given[0].cls if isinstance(given[0], Instance) and given[0].cls else Unknown("this type", line)
        if name == "sum" and given and (terms := self.known_items(given[0])) and any(map(holds_tensor, terms)):
            total: Value = 0
            for value in terms:
                total = self.binary(ast.Add(), total, value, line)
            return total
        return expressions.builtin(name, given, named, line)

    def _is_instance(self, value: Value, cls: Value, line: int) -> Value:
        unknown = Unknown("the result of isinstance()", line)
        if isinstance(value, Unknown) or isinstance(cls, Unknown):
            return unknown
        if isinstance(cls, tuple):
            answers = [self._is_instance(value, one, line) for one in cls[:50]]
            return True if True in answers else unknown if any(isinstance(one, Unknown) for one in answers) else False
        if isinstance(cls, Builtin):
            python = _PYTHON_CLASSES.get(cls.name)
            return unknown if python is None else isinstance(value, python)
        if isinstance(cls, Class):
            return isinstance(value, Instance) and value.cls is not None and cls in value.cls.ancestors()
        if isinstance(cls, LibraryName):
            kind = value.kind if isinstance(value, Leaf) else value.base if isinstance(value, Instance) else None
            if kind is not None:
                return cls.last in (kind, "Module") or (cls.last == "_BatchNorm" and kind.startswith("BatchNorm"))
            return isinstance(value, Tensor) and cls.last == "Tensor"
        return unknown

    # Methods

    def _call_method(
        self, owner: Value, name: str, given: Sequence[Value], named: Mapping[str, Value], node: ast.expr
    ) -> Value:
        line = node.lineno
        if isinstance(owner, Tensor):
            if name in ("add", "mul", "sub", "div", "add_", "mul_") and len(given) == 1 and not named:
                operators = {"add": ast.Add(), "mul": ast.Mult(), "sub": ast.Sub(), "div": ast.Div()}
                in_place = name.endswith("_")
                return self.binary(operators[name.removesuffix("_")], owner, given[0], line, in_place)
            return self.tracer.call(name, owner, given, named, line)
        if isinstance(owner, Super):
            if name == "__init__" and isinstance(owner.owner, Instance):
                self._construct_base(owner.owner, given, named, node)
                return None
            if name == "forward" and isinstance(owner.owner, Instance):
                plain = Instance(None, owner.owner.base, children=owner.owner.children, leaf=owner.owner.leaf)
                return self.call_module(plain.leaf or plain, given, named, line)
            return Unknown(f"super().{name}()", line)
        if isinstance(owner, Leaf | Instance):
            return self._call_module_method(owner, name, list(given), named, line)
        for value in [owner, *given]:
            if isinstance(value, list | tuple | dict | str):
                self.spend(len(value) // 4)
        return expressions.method(owner, name, given, named, line)

    def _call_module_method(
        self, module: Leaf | Instance, name: str, given: list[Value], named: Mapping[str, Value], line: int
    ) -> Value:
        if name in _ITSELF:
            return module
        if name in ("forward", "__call__"):
            return self.call_module(module, given, named, line)
        children = module.modules() if isinstance(module, Instance) else {}
        if name in ("children", "named_children"):
            return list(children.values()) if name == "children" else list(children.items())
        if name in ("modules", "named_modules"):
            found = list(self._all_modules(module, "", 0))
            return found if name == "named_modules" else [one for _, one in found]
        given += [named[key] for key in ("name", "module", "modules", "index") if key in named]
        if not isinstance(module, Instance):
            return None
        if name in ("add_module", "register_module") and len(given) == 2 and isinstance(given[0], str):
            held = module.children if module.base in CONTAINERS else module.attributes
            held[given[0]] = given[1]
            return None
        if module.base in CONTAINERS:
            return self._call_container_method(module, name, given, line)
        return Unknown(f"the result of .{name}()", line) if name not in _MODULE_METHODS else None

    def _call_container_method(self, module: Instance, name: str, given: list[Value], line: int) -> Value:
        values = list(module.children.values())
        if name == "append" and given:
            self._extend(module, given[:1])
            return module
        if name == "extend" and given and (known := self.known_items(given[0])) is not None:
            self._extend(module, known)
            return module
        if name == "insert" and len(given) == 2 and isinstance(given[0], int):
            values.insert(given[0], given[1])
            module.children = {str(place): value for place, value in enumerate(values)}
            return module
        if name in ("keys", "values", "items"):
            return list(getattr(module.children, name)())
        if name == "update" and given:
            self._fill(module, given, line)
            return None
        return Unknown(f"the result of .{name}()", line)

    def _all_modules(self, module: Value, name: str, depth: int) -> Iterator[tuple[str, Value]]:
        self.spend()
        yield name, module
        if isinstance(module, Instance) and depth < MAX_DEPTH:
            for key, child in module.modules().items():
                yield from self._all_modules(child, f"{name}.{key}".lstrip("."), depth + 1)

    # Attributes and items

    def attribute(self, value: Value, name: str, line: int | None) -> Value:
        if isinstance(value, Unknown):
            return Unknown(f"{value.what.strip('`')}.{name}" if len(value.what) < 60 else value.what, line)
        if isinstance(value, LibraryName):
            return LibraryName(f"{value.path}.{name}") if len(value.path) < 200 else Unknown("this name", line)
        if isinstance(value, Instance):
            return self._instance_attribute(value, name, line)
        if isinstance(value, Tensor):
            if name == "shape":
                return (BATCH, *value.shape)
            if name == "ndim":
                return 1 + len(value.shape)
            if name == "data":
                return value
            return (
                Method(value, name) if name in TENSOR_FUNCTIONS or name == "unsqueeze" else Unknown(f"x.{name}", line)
            )
        if isinstance(value, Leaf):
            if name in ("weight", "bias"):
                return None if name == "bias" and value.arguments.get("bias") is False else Weights(value)
            if name in value.arguments:
                return value.arguments[name]
            if name == "training":
                return TRAINING
            return Method(value, name) if name in _MODULE_METHODS else Unknown(f"the layer's {name}", line)
        if isinstance(value, Class):
            found = value.find(name)
            if found is MISSING:
                return value.name if name == "__name__" else Unknown(f"{value.name}.{name}", line)
            return found
        if isinstance(value, Super):
            found = self._super_attribute(value, name)
            return Method(value, name) if found is MISSING else found
        if isinstance(value, str | list | dict | tuple | set):
            return Method(value, name)
        return Unknown(f"the attribute {name}", line)

    def _super_attribute(self, value: Super, name: str) -> Value:
        owner = value.owner
        cls = owner.cls if isinstance(owner, Instance) else None
        found = cls.find(name, after=value.cls) if cls is not None else MISSING
        return BoundFunction(found, owner) if isinstance(found, Function) else found

    def _instance_attribute(self, instance: Instance, name: str, line: int | None) -> Value:
        if name in instance.attributes:
            return instance.attributes[name]
        if name in instance.children:
            return instance.children[name]
        found = instance.cls.find(name) if instance.cls else MISSING
        if isinstance(found, Function):
            if "staticmethod" in found.decorators:
                return found
            if "property" in found.decorators:
                return self.call_function(found, [instance], {})
            return BoundFunction(found, instance.cls if "classmethod" in found.decorators else instance)
        if found is not MISSING:
            return found
        if name == "training":
            return TRAINING
        if name == "_modules":
            return instance.modules()
        if name == "__class__" and instance.cls:
            return instance.cls
        if name in _MODULE_METHODS and instance.base != "object":
            return Method(instance, name)
        if instance.leaf is not None and name in instance.leaf.arguments and name != "bias":
            return instance.leaf.arguments[name]
        return Unknown(f"self.{name}", line)

    def set_attribute(self, owner: Value, name: str, value: Value, line: int | None) -> None:
        """owner.name = value."""
        if isinstance(owner, Instance):
            held = owner.children if name in owner.children else owner.attributes
            held[name] = value
        elif isinstance(owner, Class):
            owner.namespace[name] = value
        elif isinstance(owner, Leaf):
            if name == "bias" and value is None and "bias" in owner.arguments:
                owner.arguments["bias"] = False
            elif name == "weight" and isinstance(value, Weights) and value.leaf is not owner:
                raise self.problem(
                    "two layers share their weights, which the notation cannot say. Give each its own.", line
                )

    def item(self, value: Value, key: Value, line: int | None) -> Value:
        unknown = Unknown("this item", line)
        if isinstance(value, Unknown | LibraryName | Builtin):
            return unknown
        if isinstance(value, Tensor):
            keys = key if isinstance(key, tuple) else (key,)
            axes = [axis for axis, part in enumerate(keys) if not isinstance(part, slice)]
            whole = all(part == slice(None) for part in keys if isinstance(part, slice))
            single = all(keys[axis] in (0, -1) and value.shape[axis - 1 : axis] == (1,) for axis in axes)
            if whole and single and len(keys) <= 1 + len(value.shape):
                # x[:, :, 0, 0] of maps of one pixel takes nothing away.
                return self.tracer.call("squeeze", value, [tuple(axes)], {}, line or 0) if axes else value
            raise self.problem("a part of a tensor is taken, which the notation cannot say. Leave it out.", line)
        if isinstance(key, Unknown):
            return key
        try:
            if isinstance(value, Instance):
                return self._child(value, key)
            if isinstance(value, dict):
                return value[key] if expressions.is_key(key) and key in value else Unknown(f"the key {key}"[:60], line)
            if isinstance(value, list | tuple | str | range):
                if isinstance(key, slice):
                    self.spend(len(value) // 10)
                return value[key]
        except (LookupError, TypeError, ValueError):
            return unknown
        return unknown

    def _child(self, container: Instance, key: Value) -> Value:
        if isinstance(key, str):
            return container.children[key]
        values = list(container.children.items())
        if not isinstance(key, slice):
            return values[key][1]
        if container.base == "Sequential":
            return Instance(None, "Sequential", children=dict(values[key]), line=container.line)
        parts = [value for _, value in values[key]]
        return Instance(None, container.base, children={str(place): part for place, part in enumerate(parts)})
