"""The nodes of a network while its forward method is read: calls of modules, and of functions on tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lib.importing.module_graph import IMAGE, ImportSourceError, ModuleNode
from lib.importing.source_text import SourceText
from lib.importing.torch_modules import (
    BATCH_NORMS,
    FUNCTIONS,
    ArgumentsError,
    ShapeMismatchError,
    bound_arguments,
    num_parameters,
    output_shape,
    pair,
    shape_words,
)
from lib.importing.values import BATCH, BatchSize, Instance, Leaf, Tensor, Unknown, Value

IMAGE_SIZE = 28
LARGE_IMAGE_SIZE = 32
MAX_NODES = 2000


class MismatchError(ImportSourceError):
    """Shapes that do not fit together: another size of the image may help."""


# Methods and functions that change no number: their result is the input.
UNCHANGED = frozenset({
    "contiguous", "float", "to", "cuda", "cpu", "double", "half", "clone", "detach", "type", "requires_grad_",
    "type_as", "identity", "contiguous_format", "bfloat16", "alias", "as_tensor", "checkpoint_name",
})  # fmt: skip
_SIZES = frozenset({"size", "dim", "ndimension", "numel", "nelement"})
_VIEWS = frozenset({"view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten"})
_PRODUCTS = frozenset({"mul", "mul_", "multiply", "matmul", "mm", "bmm", "einsum"})
_SUMS = frozenset({"add", "add_"})
_JOINS = frozenset({"cat", "concat", "concatenate"})
_MEANS = frozenset({"mean", "amax"})
_CLAMPS = frozenset({"clamp", "clamp_", "clip"})
TENSOR_FUNCTIONS = (
    frozenset(FUNCTIONS) | frozenset(f"{name}_" for name in FUNCTIONS) | UNCHANGED | _SIZES | _VIEWS | _PRODUCTS | _SUMS
    | _JOINS | _MEANS | _CLAMPS | {"pad", "permute", "transpose", "movedim", "sum", "sub", "div", "chunk", "split"}
)  # fmt: skip


class Tracer:
    """Nodes, notes and problems of one network.

    `image` is the height and width of the image; `first_padding` the padding that the first convolution gets instead
    of its own.
    """

    def __init__(self, source: SourceText, image: int = IMAGE_SIZE, first_padding: int | None = None) -> None:
        self.source = source
        self.image = image
        self.first_padding = first_padding
        self.nodes: list[ModuleNode] = []
        self.shapes: list[tuple[int, ...]] = []
        self.notes: list[str] = []
        self.root: Value = None

    def image_tensor(self) -> Tensor:
        return Tensor(IMAGE, (1, self.image, self.image))

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def problem(self, sentence: str, line: int | None, mismatch: bool = False) -> ImportSourceError:
        """An error with the line of the source in front."""
        error = MismatchError if mismatch else ImportSourceError
        return error(self.source.at(line) + sentence, line, self.source.line(line))

    def name_of(self, module: Leaf | Instance) -> str:
        """The path of a module from the network, such as self.block[0]; "" if it is not part of it."""
        for path, found in paths(self.root):
            if found is module:
                return path
        return ""

    # Nodes

    def add(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        arguments: Mapping[str, Value],
        line: int | None,
        shape: tuple[int, ...],
        comment: str = "",
    ) -> Tensor:
        if len(self.nodes) >= MAX_NODES:
            raise self.problem(f"the network has more than {MAX_NODES:,} layers. Make it smaller.", line)
        comment = comment or self.source.comment_at(line)
        self.nodes.append(ModuleNode(kind, tuple(tensor.node for tensor in inputs), dict(arguments), line, comment))
        self.shapes.append(shape)
        return Tensor(len(self.nodes) - 1, shape)

    def apply(self, leaf: Leaf, tensor: Tensor, line: int | None, comment: str = "") -> Tensor:
        """Call a module on a tensor; the comment is used if there is none where it is built.

        Raises ImportSourceError.
        """
        name = self.name_of(leaf) or f"nn.{leaf.kind}"
        if not leaf.supported:
            raise self.problem(f"{name} is an nn.{leaf.kind}, which the notation cannot say. Replace it.", leaf.line)
        if leaf.kind == "Identity":
            return tensor
        leaf.calls += 1
        weights = num_parameters(leaf.kind, leaf.arguments) if not leaf.open else 1
        if leaf.calls > 1 and (weights or leaf.kind in BATCH_NORMS):
            raise self.problem(
                f"{name} is called a second time; shared weights cannot be written in the notation. "
                "Give the second call its own layer.",
                line,
            )
        if leaf.built_in_forward and weights:
            self.note(f"Line {leaf.line}: a layer is built in forward, so its weights are never trained.")
        if leaf.open:
            first = next(iter(leaf.arguments))
            leaf.arguments[first] = tensor.shape[0]
            leaf.open = False
        arguments = dict(leaf.arguments)
        return self._place(leaf.kind, arguments, tensor, leaf.line, leaf.comment or comment or leaf.near)

    def _place(
        self, kind: str, arguments: dict[str, Value], tensor: Tensor, line: int | None, comment: str = ""
    ) -> Tensor:
        self._check_reduced(tensor, line)
        if kind == "ZeroPad2d":
            return self._pad(tensor, arguments["padding"], line)
        if kind == "Conv2d":
            self._take_padding(arguments, tensor, line)
        elif tensor.padding:
            raise self.problem("zeros are padded before a layer that is no convolution. Pad in the convolution.", line)
        if tensor.permuted:
            raise self.problem(
                f"the channels are moved to the end before {kind}. Only a flattening can be read after this.", line
            )
        if arguments.get("return_indices"):
            raise self.problem("the indices of a max-pool cannot be written in the notation. Leave them out.", line)
        if kind == "Flatten":
            if (arguments["start_dim"], arguments["end_dim"]) not in ((1, -1), (1, len(tensor.shape))):
                raise self.problem("only the flattening of all but the batch is supported: Flatten(1).", line)
            return self._shaped(tensor, (math.prod(tensor.shape),), line, comment)
        if len(tensor.shape) == 2:
            raise self.problem(f"the map is flattened to two axes before {kind}. Flatten it to one.", line)
        if kind in ("Softmax", "LogSoftmax") and arguments.get("dim") is None:
            arguments["dim"] = 1
        if kind in BATCH_NORMS or kind == "InstanceNorm2d" or kind in ("GroupNorm", "LayerNorm"):
            self._note_settings(kind, arguments, line)
        try:
            shape = output_shape(kind, arguments, tensor.shape)
        except ShapeMismatchError as error:
            raise self.problem(str(error), line, mismatch=True) from None
        except ArgumentsError as error:
            raise self.problem(str(error), line) from None
        result = self.add(kind, [tensor], arguments, line, shape, comment)
        if arguments.get("inplace"):
            tensor.node, tensor.shape = result.node, result.shape
            return tensor
        return result

    def _check_reduced(self, tensor: Tensor, line: int | None) -> None:
        if tensor.reduced:
            raise self.problem("a mean over the width alone cannot be written in the notation. Take both axes.", line)

    def _note_settings(self, kind: str, arguments: Mapping[str, Value], line: int | None) -> None:
        for name, usual in (("eps", 1e-5), ("momentum", 0.1)):
            if name in arguments and arguments[name] != usual and kind != "GhostBatchNorm2d":
                self.note(f"Line {line}: {kind} has {name} {arguments[name]} instead of torch's {usual}.")

    def _pad(self, tensor: Tensor, padding: Value, line: int | None) -> Tensor:
        if isinstance(padding, tuple) and len(set(padding)) == 1:
            padding = padding[0]
        if not isinstance(padding, int) or isinstance(padding, bool) or padding < 0 or len(tensor.shape) != 3:
            raise self.problem("only equal zero padding on all four sides is supported. Pad in the convolution.", line)
        channels, height, width = tensor.shape
        shape = (channels, height + 2 * padding, width + 2 * padding)
        return Tensor(tensor.node, shape, tensor.permuted, tensor.padding + padding)

    def _take_padding(self, arguments: dict[str, Value], tensor: Tensor, line: int | None) -> None:
        """Move zeros that were padded before a convolution into it."""
        before = tensor.padding
        if before:
            if arguments["padding_mode"] != "zeros" and arguments["padding"] != 0:
                raise self.problem("zeros are padded before a convolution that pads otherwise. Use one padding.", line)
            tensor.shape = (tensor.shape[0], tensor.shape[1] - 2 * before, tensor.shape[2] - 2 * before)
            tensor.padding = 0
            self.note(f"Line {line}: the {before} zeros padded before the convolution are now part of its padding.")
        if self.first_padding is not None and tensor.node == IMAGE and not before:
            plain = (arguments["kernel_size"], arguments["padding"], arguments["stride"], arguments["dilation"])
            if plain == (5, 0, 1, 1):
                before = self.first_padding
        if before:
            height, width = (size + before for size in pair(arguments["padding"]))
            arguments["padding"] = height if height == width else (height, width)
            arguments["padding_mode"] = "zeros"

    # Functions and methods

    def call(self, name: str, tensor: Tensor, given: Sequence[Value], named: Mapping[str, Value], line: int) -> Value:
        """Call a function of torch, or a method of a tensor, on a tensor. Raises ImportSourceError."""
        if name in FUNCTIONS or name.removesuffix("_") in FUNCTIONS:
            return self._function(name, tensor, given, named, line)
        if name in UNCHANGED:
            return tensor
        if name == "size":
            sizes = (BATCH, *tensor.shape)
            return sizes if not given and not named else sizes[self._axis(tensor, [*given, *named.values()][0], line)]
        if name in ("dim", "ndimension"):
            return 1 + len(tensor.shape)
        if name in ("view", "reshape"):
            return self._view(
                tensor, given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given, line
            )
        if name == "flatten":
            start = named.get("start_dim", given[0] if given else 0)
            end = named.get("end_dim", given[1] if len(given) > 1 else -1)
            return self._flatten(tensor, start, end, line)
        if name == "squeeze":
            return self._squeeze(tensor, named.get("dim", given[0] if given else None), line)
        if name in ("permute", "transpose", "movedim"):
            return self._permute(tensor, name, [*given, *named.values()], line)
        if name in _MEANS:
            return self._mean(name, tensor, given, named, line)
        if name == "pad":
            return self._pad_call(tensor, given, named, line)
        if name in _SUMS and given and not named:
            return self.sum(tensor, given[0], line, in_place=name.endswith("_"))
        if name in _CLAMPS and tensor.node >= 0 and self.nodes[tensor.node].kind in ("LogSoftmax", "Softmax"):
            self.note(f"Line {line}: the clamp after the softmax is left out; it does not change which digit wins.")
            return tensor
        if name in _PRODUCTS:
            raise self._product(line)
        raise self.problem(f"{name}() of a tensor cannot be written in the notation. Leave it out.", line)

    def _function(
        self, name: str, tensor: Tensor, given: Sequence[Value], named: Mapping[str, Value], line: int
    ) -> Value:
        kind, names = FUNCTIONS.get(name) or FUNCTIONS[name.removesuffix("_")]
        arguments = {**dict(zip(names, given, strict=False)), **named}
        for weight in ("weight", "bias", "running_mean", "running_var"):
            if weight in names and arguments.pop(weight, None) is not None:
                raise self.problem(f"F.{name} gets weights of its own. Use nn.{kind}.", line)
        arguments.pop("use_input_stats", None)
        if name.endswith("_") and name not in FUNCTIONS:
            arguments["inplace"] = True
        if "training" in names and name != "instance_norm":
            training = arguments.pop("training", True)
            if training is False or training is None:
                self.note(f"Line {line}: F.{name} with training=False does nothing; it is left out.")
                return tensor
            if training is True:
                self.note(
                    f"Line {line}: F.{name} without training=self.training is always on, in evaluation too. "
                    "Here it is on in training alone."
                )
        if kind == "GroupNorm":
            arguments["num_channels"] = tensor.shape[0]
            arguments["affine"] = False
        if kind == "LayerNorm":
            arguments |= {"elementwise_affine": False, "bias": False}
        if kind == "InstanceNorm2d":
            arguments["num_features"] = tensor.shape[0]
        arguments = {name: self._known(value, line) for name, value in arguments.items()}
        arguments.pop("dtype", None)
        try:
            bound = bound_arguments(kind, (), arguments)
        except ArgumentsError as error:
            raise self.problem(str(error).replace(f"nn.{kind}", f"F.{name}"), line) from None
        return self._place(kind, dict(bound), tensor, line)

    def _known(self, value: Value, line: int | None) -> Value:
        if isinstance(value, Unknown):
            raise self.unknown(value, line)
        return value

    def unknown(self, value: Unknown, line: int | None) -> ImportSourceError:
        """The error for a value that is needed and not known."""
        return self.problem(
            f"{value.what} is not known from the source. Write its value into the file.", value.line or line
        )

    def _axis(self, tensor: Tensor, axis: Value, line: int | None) -> int:
        rank = 1 + len(tensor.shape)
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise self.problem(f"there is no axis {axis!r} of {rank}. Write one that there is.", line)
        return axis % rank

    def _shaped(self, tensor: Tensor, shape: tuple[int, ...], line: int | None, comment: str = "") -> Tensor:
        """The same numbers in another shape: a Flatten if only the features are left."""
        if shape == tensor.shape:
            return tensor
        self._check_reduced(tensor, line)
        if tensor.padding:
            raise self.problem("zeros are padded before a layer that is no convolution. Pad in the convolution.", line)
        if tensor.permuted and math.prod(tensor.shape) != max(tensor.shape):
            if len(shape) != 1:
                raise self.problem("channels that are moved to the end can only be flattened. Flatten them.", line)
            self.note(
                f"Line {line}: the channels are moved to the end before the flattening; "
                "this changes only the order of the next layer's weights."
            )
        if len(shape) == 1:
            return self.add("Flatten", [tensor], {"start_dim": 1, "end_dim": -1}, line, shape, comment)
        whole = self.shapes[tensor.node] if tensor.node != IMAGE else (1, self.image, self.image)
        if shape != whole and (shape[0] != whole[0] or len(shape) > 3):
            raise self.problem(f"a reshaping to {shape_words(shape)} cannot be written in the notation.", line)
        if shape != whole and len(shape) == 3 and shape[1:] != (1, 1):
            raise self.problem(f"a reshaping to {shape_words(shape)} cannot be written in the notation.", line)
        return Tensor(tensor.node, shape)

    def _view(self, tensor: Tensor, sizes: Sequence[Value], line: int | None) -> Tensor:
        numel = math.prod(tensor.shape)
        for size in sizes:
            self._known(size, line)
        if not sizes or not all(isinstance(size, int | BatchSize) and not isinstance(size, bool) for size in sizes):
            raise self.problem("the sizes of this view are not known. Write torch.flatten(x, 1).", line)
        known = math.prod(size for size in sizes[1:] if isinstance(size, int) and size != -1)
        first, rest = sizes[0], list(sizes[1:])
        if any(isinstance(size, BatchSize) for size in rest) or rest.count(-1) + (first == -1) > 1:
            raise self.problem("the batch must stay the first axis. Write torch.flatten(x, 1).", line)
        if -1 in rest:
            if known < 1 or numel % known:
                raise self.problem(
                    f"{numel} numbers cannot be shaped like this. Write torch.flatten(x, 1).", line, True
                )
            rest[rest.index(-1)] = numel // known
        if math.prod(rest) != numel or not rest:
            raise self.problem(
                f"{math.prod(rest)} numbers are expected of each image, and {numel} reach this line. "
                "Make the two equal, or write torch.flatten(x, 1).",
                line,
                mismatch=True,
            )
        return self._shaped(tensor, tuple(rest), line)

    def _flatten(self, tensor: Tensor, start: Value, end: Value, line: int | None) -> Tensor:
        first, last = self._axis(tensor, start, line), self._axis(tensor, end, line)
        if first == 0:
            raise self.problem("this flattens the batch too. Write torch.flatten(x, 1).", line)
        shape = tensor.shape
        merged = (*shape[: first - 1], math.prod(shape[first - 1 : last]), *shape[last:])
        return self._shaped(tensor, merged, line)

    def _squeeze(self, tensor: Tensor, axis: Value, line: int | None) -> Tensor:
        if axis is None:
            kept = tuple(size for size in tensor.shape if size != 1) or (1,)
            return self._shaped(tensor, kept, line)
        axes = {self._axis(tensor, one, line) for one in (axis if isinstance(axis, tuple | list) else (axis,))}
        shape = tuple(size for place, size in enumerate(tensor.shape, 1) if place not in axes or size != 1)
        return self._shaped(tensor, shape, line)

    def _permute(self, tensor: Tensor, name: str, given: list[Value], line: int | None) -> Tensor:
        axes = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
        order = list(range(1 + len(tensor.shape)))
        if name == "permute" and len(axes) == len(order):
            order = [self._axis(tensor, axis, line) for axis in axes]
        elif name == "transpose" and len(axes) == 2:
            first, second = (self._axis(tensor, axis, line) for axis in axes)
            order[first], order[second] = order[second], order[first]
        else:
            raise self.problem(f"this {name} cannot be read. Leave it out.", line)
        if order == sorted(order):
            return tensor
        if len(tensor.shape) == 3 and tuple(order) == ((0, 3, 1, 2) if tensor.permuted else (0, 2, 3, 1)):
            shape = tuple(tensor.shape[axis - 1] for axis in order[1:])
            return Tensor(tensor.node, shape, not tensor.permuted, tensor.padding)
        raise self.problem("this order of the axes cannot be written in the notation. Leave it out.", line)

    def _mean(
        self, name: str, tensor: Tensor, given: Sequence[Value], named: Mapping[str, Value], line: int | None
    ) -> Tensor:
        axes = named.get("dim", named.get("axis", given[0] if given else None))
        keep = named.get("keepdim", given[1] if len(given) > 1 else False)
        if axes is None:
            raise self.problem("this mean is over the batch too. Write x.mean((2, 3)).", line)
        reduced = {self._axis(tensor, axis, line) for axis in (axes if isinstance(axes, tuple | list) else (axes,))}
        kind = "AdaptiveAvgPool2d" if name == "mean" else "AdaptiveMaxPool2d"
        whole = (1, self.image, self.image) if tensor.node == IMAGE else self.shapes[tensor.node]
        everything = set(range(2, 2 + len(tensor.shape) - 1))
        if len(whole) == 3 and not tensor.permuted and not tensor.padding and tensor.shape[0] == whole[0]:
            if not tensor.reduced and tensor.shape == whole and reduced == {3}:
                return Tensor(tensor.node, (*whole[:2], 1) if keep else whole[:2], reduced=name)
            full = math.prod(tensor.shape) == math.prod(whole) and reduced == everything
            if (full and not tensor.reduced) or (tensor.reduced == name and reduced == {2}):
                pooled = self.add(kind, [tensor], bound_arguments(kind, (1,), {}), line, (whole[0], 1, 1))
                return pooled if keep else self._shaped(pooled, (whole[0],), line)
        raise self.problem(f"this {name} is not over height and width. Write x.{name}((2, 3)).", line)

    def _pad_call(self, tensor: Tensor, given: Sequence[Value], named: Mapping[str, Value], line: int | None) -> Tensor:
        sides = named.get("pad", given[0] if given else None)
        mode = named.get("mode", given[1] if len(given) > 1 else "constant")
        filled = named.get("value", given[2] if len(given) > 2 else 0)
        if mode != "constant" or filled not in (0, None) or not isinstance(sides, tuple | list) or len(sides) != 4:
            raise self.problem("only equal zero padding on all four sides is supported. Pad in the convolution.", line)
        return self._pad(tensor, tuple(sides), line)

    # Joins

    def sum(self, first: Tensor, second: Value, line: int | None, in_place: bool = False) -> Tensor:
        """first + second."""
        if not isinstance(second, Tensor):
            raise self.arithmetic(line, first)
        self._check_reduced(first, line)
        self._check_reduced(second, line)
        if first.permuted or second.permuted or first.padding or second.padding:
            raise self.problem("permuted or padded tensors cannot be added in the notation.", line)
        if first.node == second.node:
            raise self.problem("a tensor is added to itself, which the notation cannot say. Leave it out.", line)
        if first.shape != second.shape:
            raise self.problem(
                f"{shape_words(first.shape)} and {shape_words(second.shape)} are added. Make the two equal.", line, True
            )
        result = self.add("Add", [first, second], {}, line, first.shape)
        if in_place:
            first.node = result.node
            return first
        return result

    def concatenation(self, tensors: Value, axis: Value, line: int | None) -> Tensor:
        """torch.cat(tensors, axis)."""
        given = tensors if isinstance(tensors, list | tuple) else ()
        parts = [part for part in given if isinstance(part, Tensor)]
        if not parts or len(parts) < len(given):
            raise self.problem("the parts of this torch.cat are not known. Give it a list of tensors.", line)
        if self._axis(parts[0], axis, line) != 1:
            raise self.problem("only a concatenation of channels is supported: torch.cat(…, 1).", line)
        if any(part.permuted or part.padding or part.reduced or part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise self.problem("the parts of this torch.cat differ in height or width. Make them equal.", line, True)
        if len(parts) == 1:
            return parts[0]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return self.add("Concat", parts, {"dim": 1}, line, shape)

    def product(self, first: Value, second: Value, line: int | None) -> Tensor:
        """first * second: only x * sigmoid(x), which is nn.SiLU, and factors of 1 can be read."""
        for one, other in ((first, second), (second, first)):
            if isinstance(one, Tensor) and isinstance(other, int | float) and other == 1:
                return one
            if (
                isinstance(one, Tensor)
                and isinstance(other, Tensor)
                and other.node == len(self.nodes) - 1 >= 0
                and self.nodes[other.node].kind == "Sigmoid"
                and self.nodes[other.node].inputs == (one.node,)
            ):
                self.nodes.pop()
                self.shapes.pop()
                self.note(f"Line {line}: x * sigmoid(x) is read as nn.SiLU.")
                return self.add("SiLU", [one], {"inplace": False}, line, one.shape)
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            raise self._product(line)
        raise self.arithmetic(line, first, second)

    def _product(self, line: int | None) -> ImportSourceError:
        return self.problem(
            "tensors are multiplied (gating, attention); the notation cannot say this. Leave the product out.", line
        )

    def arithmetic(self, line: int | None, *values: Value) -> ImportSourceError:
        """The error for an operator on tensors that the notation lacks."""
        image = any(isinstance(value, Tensor) and value.node == IMAGE for value in values)
        end = "; images are normalized already." if image else "."
        return self.problem(f"arithmetic on a tensor cannot be written in the notation. Leave it out{end}", line)


def paths(module: Value, prefix: str = "self", depth: int = 0) -> Iterator[tuple[str, Value]]:
    """All modules within a module, with their paths, outer ones first."""
    if not isinstance(module, Instance) or depth > 30:
        return
    for name, child in module.attributes.items():
        if isinstance(child, Leaf | Instance):
            yield f"{prefix}.{name}", child
            yield from paths(child, f"{prefix}.{name}", depth + 1)
    for name, child in module.children.items():
        path = f"{prefix}[{name}]" if name.isdigit() else f"{prefix}[{name!r}]"
        yield path, child
        yield from paths(child, path, depth + 1)


def graph_nodes(tracer: Tracer, output: Value, line: int | None) -> tuple[ModuleNode, ...]:
    """The nodes that the output depends on, renumbered, the output last. Notes those that are left out."""
    if not isinstance(output, Tensor):
        raise tracer.problem("forward returns no single tensor. Return the output of the last layer.", line)
    if output.padding or output.reduced:
        raise tracer.problem("the network ends with a padding, or a mean over the width alone. Leave it out.", line)
    needed, open_nodes = set[int](), [output.node]
    while open_nodes:
        node = open_nodes.pop()
        if node != IMAGE and node not in needed:
            needed.add(node)
            open_nodes += tracer.nodes[node].inputs
    places = {node: place for place, node in enumerate(sorted(needed))} | {IMAGE: IMAGE}
    for place, unused in enumerate(tracer.nodes):
        if place not in needed:
            tracer.note(f"Line {unused.line}: the output of {unused.kind} is not used; it is left out.")
    return tuple(
        ModuleNode(node.kind, tuple(places[place] for place in node.inputs), node.arguments, node.line, node.comment)
        for node in (tracer.nodes[index] for index in sorted(needed))
    )


def unused_notes(root: Value) -> list[str]:
    """A sentence for each module with weights that is built and never called."""
    notes: list[str] = []

    def weights(module: Value, depth: int = 0) -> tuple[int, bool]:
        """Number of parameters within a module, and whether any of it is called."""
        if isinstance(module, Leaf):
            known = module.supported and not module.open
            return (num_parameters(module.kind, module.arguments) if known else 0), module.calls > 0
        parts = [weights(module.leaf, depth)] if module.leaf is not None else []
        parts += [weights(child, depth + 1) for child in module.modules().values()] if depth < 30 else []
        return sum(number for number, _ in parts), any(called for _, called in parts)

    told: list[str] = []
    seen: set[int] = set()
    for path, module in paths(root):
        number, called = weights(module)
        if id(module) in seen or any(path.startswith((f"{above}.", f"{above}[")) for above in told):
            continue
        seen.add(id(module))
        if number and not called:
            told.append(path)
            notes.append(f"{path}, {number:,} parameters, is built and never called.")
    return notes
