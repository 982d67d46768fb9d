"""Constants of an ONNX graph: weights, of which only the shape is known, and small tensors with their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lib.importing.module_graph import ImportSourceError

if TYPE_CHECKING:
    from onnx import AttributeProto, TensorProto

# More axes than any tensor of a network has.
_MAX_AXES = 16
_DAMAGED = "The file has a tensor whose values and shape do not agree. Export the network again."


@dataclass(frozen=True)
class Constant:
    """A tensor of the file.

    `values` are None for a large one; a value is None if it is the number of images in a batch.
    """

    name: str
    shape: tuple[int, ...]
    values: tuple[float | None, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_readable(self) -> bool:
        return self.values is not None and None not in self.values

    @property
    def without_leading_ones(self) -> tuple[int, ...]:
        return without_leading_ones(self.shape)

    def reshaped(self, shape: tuple[int, ...]) -> Constant:
        return replace(self, shape=shape)

    def numbers(self) -> tuple[float, ...]:
        """Its values. Raises ImportSourceError if they are not known."""
        return tuple(0.0 if value is None else value for value in self._known())

    def integers(self) -> tuple[int | None, ...]:
        """Its values as whole numbers, None for the number of images. Raises ImportSourceError."""
        values = self._known()
        if not all(value is None or (math.isfinite(value) and value == int(value)) for value in values):
            raise ImportSourceError("A shape in the file is not made of whole numbers. Export the network again.")
        return tuple(None if value is None else int(value) for value in values)

    def _known(self) -> tuple[float | None, ...]:
        if self.values is None:
            raise ImportSourceError("A tensor in the file is too large for what it is used for. Export it again.")
        return self.values


def as_constant(tensor: TensorProto, name: str = "") -> Constant:
    """Read a tensor. Raises ImportSourceError if its values do not agree with its shape."""
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    if len(shape) > _MAX_AXES or any(side < 0 for side in shape):
        raise ImportSourceError(_DAMAGED)
    name = name or tensor.name
    is_stripped = not any(
        (tensor.raw_data, tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    )
    if is_stripped and 0 not in shape:
        return Constant(name, shape)
    try:
        values = numpy_helper.to_array(tensor).ravel().tolist()
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ImportSourceError(_DAMAGED) from error
    if not all(isinstance(value, int | float) for value in values):
        return Constant(name, shape)
    return Constant(name, shape, tuple(values))


def attribute_numbers(attribute: AttributeProto) -> float | str | tuple[float, ...] | None:
    """The value of an attribute: a number, text, or a tuple of numbers; None for others."""
    from onnx import AttributeProto

    match attribute.type:
        case AttributeProto.FLOAT:
            return attribute.f
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.STRING:
            return attribute.s.decode("ascii", "replace")
        case AttributeProto.FLOATS:
            return tuple(attribute.floats)
        case AttributeProto.INTS:
            return tuple(attribute.ints)
    return None


def short_number(number: float) -> float:
    """A float32 as the decimal that was meant: 0.10000000149 -> 0.1."""
    return float(f"{number:.7g}")


def without_leading_ones(shape: Sequence[int]) -> tuple[int, ...]:
    place = next((place for place, side in enumerate(shape) if side != 1), len(shape))
    return tuple(shape[place:])
