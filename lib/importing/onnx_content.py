"""The parts of an ONNX file that say what the network is, without the values of large weights.

The file is scanned before the onnx package decodes it: decoding costs a hundred times the size of a file that is made
for it, and a network's weights are not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from lib.importing.module_graph import ImportSourceError

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_ONNX_BYTES = 100_000_000
# Of the file without its weights.
MAX_GRAPH_BYTES = 2_000_000
_MAX_FIELDS = 100_000
# Values of a tensor that are kept: shapes, numbers of an operator, and the scales of norms.
_MAX_VALUES_BYTES = 65_536

# Fields of each message by number, as in onnx.proto; those with a message of their own have its fields. The rest is
# left out, such as descriptions and the bodies of loops.
_Fields: TypeAlias = Mapping[int, "_Fields | None"]
_TENSOR: _Fields = dict.fromkeys((1, 2, 4, 5, 7, 8, 9, 10, 11, 13, 14))
_ATTRIBUTE: _Fields = {**dict.fromkeys((1, 2, 3, 4, 7, 8, 20)), 5: _TENSOR}
_NODE: _Fields = {**dict.fromkeys((1, 2, 3, 4, 7)), 5: _ATTRIBUTE}
_GRAPH: _Fields = {**dict.fromkeys((2, 11, 12)), 1: _NODE, 5: _TENSOR}
_MODEL: _Fields = {**dict.fromkeys((1, 2, 8, 14)), 7: _GRAPH}
_TENSOR_VALUES = frozenset({4, 5, 7, 9, 10, 11})

_DAMAGED = "The file is damaged or is no ONNX model. Export the network again."


def model_without_weights(data: bytes) -> ModelProto:
    """Decode an ONNX file; tensors of more than a few thousand values have none.

    Raises ImportSourceError if it is no ONNX model, is too large, or keeps weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import TensorProto

    if len(data) > MAX_ONNX_BYTES:
        raise ImportSourceError(
            f"The file has {len(data) / 1e6:.1f} MB; at most {MAX_ONNX_BYTES / 1e6:.0f} MB are read. Export a smaller "
            "network."
        )
    content = _Scanner(data).kept(0, len(data), _MODEL)
    if len(content) > MAX_GRAPH_BYTES:
        raise _too_large(f"{len(content) / 1e6:.1f} MB besides its weights")
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ImportSourceError(_DAMAGED) from error
    if not model.graph.node or not model.opset_import:
        raise ImportSourceError(_DAMAGED)
    tensors = [*model.graph.initializer, *(part.t for node in model.graph.node for part in node.attribute)]
    if any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors):
        raise ImportSourceError(
            "The weights are in another file, which is not read. Export the network as one file: with torch, "
            "external_data=False."
        )
    return model


class _Scanner:
    """Copies the fields that are asked for. A field is a tag, the number of bytes if it has any, and its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = _MAX_FIELDS

    def kept(self, start: int, end: int, fields: _Fields) -> bytes:
        """The fields of one message without those that are left out."""
        parts: list[bytes] = []
        for number, begin, inner, after in self._fields(start, end):
            if number not in fields or (fields is _TENSOR and number in _TENSOR_VALUES and _is_large(inner, after)):
                continue
            within = fields[number]
            if within is None:
                parts.append(self.data[begin:after])
            else:
                content = self.kept(inner, after, within)
                parts.append(_varint(number << 3 | 2) + _varint(len(content)) + content)
        return b"".join(parts)

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """For each field its number, and where it begins, its value begins, and it ends."""
        place = start
        while place < end:
            self.left -= 1
            if self.left < 0:
                raise _too_large(f"more than {_MAX_FIELDS:,} entries")
            tag, inner = self._number(place, end)
            match tag & 7:
                case 0:
                    after = self._number(inner, end)[1]
                case 1:
                    after = inner + 8
                case 2:
                    size, inner = self._number(inner, end)
                    after = inner + size
                case 5:
                    after = inner + 4
                case _:
                    raise ImportSourceError(_DAMAGED)
            if after > end:
                raise ImportSourceError(_DAMAGED)
            yield tag >> 3, place, inner, after
            place = after

    def _number(self, place: int, end: int) -> tuple[int, int]:
        """A number in protobuf's variable length, seven bits a byte, and where it ends."""
        number = 0
        for shift in range(0, 70, 7):
            if place >= end:
                break
            byte = self.data[place]
            number |= (byte & 127) << shift
            place += 1
            if byte < 128:
                return number, place
        raise ImportSourceError(_DAMAGED)


def _is_large(start: int, end: int) -> bool:
    return end - start > _MAX_VALUES_BYTES


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _too_large(what: str) -> ImportSourceError:
    return ImportSourceError(f"The network has {what}, which is too much to read. Export a smaller network.")
