"""Windows that move over a map: paddings and pools of ONNX in torch's terms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lib.design.operations import output_size
from lib.importing.module_graph import Argument
from lib.importing.onnx_graph import GraphReader, Known, Value

if TYPE_CHECKING:
    from onnx import NodeProto


def sides(reader: GraphReader, node: NodeProto, name: str, default: int = 1) -> tuple[int, int]:
    found = reader.attributes(node).get(name, (default, default))
    if not isinstance(found, tuple) or len(found) != 2 or not all(1 <= side <= 1_000_000 for side in found):
        raise reader.refused(node, f"has {name} that do not fit. Export the network again.")
    return int(found[0]), int(found[1])


def _pads(
    reader: GraphReader, node: NodeProto, value: Value, extent: tuple[int, int], stride: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The padding (begin, end) along each axis, without that of an operator before it."""
    attributes = reader.attributes(node)
    kind = attributes.get("auto_pad", "NOTSET")
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for side, length, step in zip(value.shape[1:], extent, stride, strict=True):
            total = max((-(-side // step) - 1) * step + length - side, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if kind == "SAME_UPPER" else (large, small))
        return found[0], found[1]
    pads = attributes.get("pads", (0, 0, 0, 0)) if kind == "NOTSET" else (0, 0, 0, 0)
    if not isinstance(pads, tuple) or len(pads) != 4 or not all(0 <= pad <= 10_000 for pad in pads):
        raise reader.refused(node, "has a padding that does not fit. Use the same number of zeros on each side.")
    return (int(pads[0]), int(pads[2])), (int(pads[1]), int(pads[3]))


def padding_of(
    reader: GraphReader,
    node: NodeProto,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """The padding of a convolution, the same at both ends. An end that no window reaches does not count."""
    extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    found = []
    for axis, (begin, end) in enumerate(_pads(reader, node, value, extent, stride)):
        begin, end = begin + value.pads[axis], end + value.pads[2 + axis]
        side = value.shape[1 + axis]
        if begin != end and _count(side + begin + end, extent[axis], stride[axis]) != _count(
            side + 2 * begin, extent[axis], stride[axis]
        ):
            raise reader.refused(
                node,
                f"pads {begin} at one side and {end} at the other. Use the same number of zeros on each side.",
            )
        found.append(begin)
    return found[0], found[1]


def pool(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node, shaped=3)
    is_average = node.op_type == "AveragePool"
    attributes = reader.attributes(node)
    if "kernel_shape" not in attributes or len([name for name in node.output if name]) != 1:
        raise reader.refused(node, "has no size, or outputs places of maxima. Use nn.MaxPool2d or nn.AvgPool2d.")
    kernel, stride = sides(reader, node, "kernel_shape"), sides(reader, node, "strides")
    dilation = sides(reader, node, "dilations")
    counts_padding = bool(attributes.get("count_include_pad", 0))
    extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    is_ceil = [bool(attributes.get("ceil_mode", 0))]
    padding = []
    for axis, (begin, end) in enumerate(_pads(reader, node, value, extent, stride)):
        side, before, after = value.shape[1 + axis], value.pads[axis], value.pads[2 + axis]
        if before or after:
            # Zeros that another operator adds count in the mean.
            if before != after or begin or (end and counts_padding):
                raise reader.refused(node, "pads twice in a way that no pool does. Use the pool's own padding.")
            begin, end = before, before + end
        floor = _count(side + 2 * begin, extent[axis], stride[axis])
        wanted = _count(side + begin + end, extent[axis], stride[axis])
        if wanted != floor:
            # What is beyond the padding is left out of a mean, as by torch with ceil_mode.
            if wanted != output_size(side, extent[axis], stride[axis], begin, True) or (is_average and counts_padding):
                raise reader.refused(
                    node, f"pads {begin} at one side and {end} at the other. Use the same padding on each side."
                )
            is_ceil.append(True)
        padding.append(begin)
    given: dict[str, Argument] = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": (padding[0], padding[1]),
        "ceil_mode": any(is_ceil),
    }
    if is_average:
        if dilation != (1, 1):
            raise reader.refused(node, "is a mean over windows with gaps. Leave the dilation out.")
        given["count_include_pad"] = counts_padding or padding == [0, 0] or any(value.pads)
    else:
        given["dilation"] = dilation
    found = reader.module("AvgPool2d" if is_average else "MaxPool2d", replace(value, pads=(0, 0, 0, 0)), **given)
    for axis, (begin, end) in enumerate(_pads(reader, node, value, extent, stride)):
        length = value.shape[1 + axis] + value.pads[axis] + value.pads[2 + axis] + begin + end
        if not attributes.get("ceil_mode") and found.shape[1 + axis] != _count(length, extent[axis], stride[axis]):
            raise reader.refused(node, "keeps cut-off windows along one axis alone. Use ceil_mode for both.")
    return found


def pad(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node, shaped=3)
    attributes = reader.attributes(node)
    pads, fill = reader.numbers(node, 1, "pads"), reader.numbers(node, 2, "value") or (0.0,)
    mode = attributes.get("mode", "constant")
    if pads is None or len(pads) != 8 or any(pads[place] for place in (0, 1, 4, 5)) or len(node.input) > 3:
        raise reader.refused(node, "pads other axes than height and width. Leave it out.")
    if mode != "constant" or fill != (0.0,) or not all(0 <= pad <= 10_000 for pad in pads):
        raise reader.refused(node, "pads with something else than zeros. Use zeros.")
    return replace(value, pads=(int(pads[2]), int(pads[3]), int(pads[6]), int(pads[7])))


def _count(length: int, extent: int, stride: int) -> int:
    """Number of windows along an axis."""
    return (length - extent) // stride + 1
