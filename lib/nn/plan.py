"""Plan the compiled training pass of a network: which tensors it stores, and which stages compute them.

`build_plan` reads the modules of a network. Pointwise modules become properties of the tensor before them, and the
others become stages; see `lib.nn.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.design.analysis import LARGE_MACS
from lib.design.layers import INPUT_SHAPE, Shape
from lib.design.operations import IMAGE, Operation, operations
from lib.nn import kernels
from lib.nn.kernels import (
    AVERAGE_POOL,
    BATCH_NORM,
    CHANNEL_DROPOUT,
    CONVOLUTION,
    COPY,
    DROPOUT,
    EXTERNAL,
    IMAGE_NORM,
    MAX_POOL,
    PHASE,
    SEGMENT,
    STAGE,
    TENSOR,
)
from lib.nn.modules import Add, BatchNorm2d, Concat, Dropout, Dropout2d, GhostBatchNorm2d
from lib.nn.network import Network
from lib.nn.tiles import MAX_CHANNELS, bounds
from lib.nn.vectors import LANES


class UnsupportedError(ValueError):
    """The kernels do not cover a module."""


@dataclass(frozen=True)
class Norm:
    """A batch norm, with the tensor that it normalizes."""

    module: nn.BatchNorm2d | nn.BatchNorm1d
    tensor: int


@dataclass(frozen=True)
class External:
    """A module that torch computes between two tensors. It starts segment `segment`.

    `flat` says that its input has the shape (N, channels * height * width), otherwise (N, channels, height, width).
    """

    module: nn.Module
    source: int
    target: int
    segment: int
    flat: bool


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """The records of `lib.nn.kernels`, and what the caller of the kernels needs beside them.

    - `params`: the parameters of the compiled stages, in the order of the flat parameters.
    - `packed`: for each number of the packed parameters its index in the flat ones; the number of parameters for 0.
    - `dropouts`: the dropout of each number.
    - `eps`: of the norm of each number.
    - `x_size`, `g_size`, `w_size`: numbers of scratch memory that each thread needs.
    - `argmax_size`: numbers for one block of images.
    - `output`: the tensor of the logits.
    """

    records: kernels.Plan
    params: tuple[nn.Parameter, ...]
    packed: NDArray[np.int32]
    norms: tuple[Norm, ...]
    dropouts: tuple[Dropout | Dropout2d, ...]
    eps: tuple[float, ...]
    externals: tuple[External, ...]
    slots: int
    parts: int
    x_size: int
    g_size: int
    w_size: int
    argmax_size: int
    output: int


def build_plan(
    network: nn.Sequential,
    is_external: Callable[[nn.Conv2d | nn.Linear, Shape], bool],
    input_shape: Shape = INPUT_SHAPE,
    needs_input_grad: bool = False,
) -> NetworkPlan:
    """Plan the training pass of a network from images (N, *input_shape) to logits (N, classes).

    `is_external` says of a convolution or linear layer, and the shape of its input, whether torch computes it. Other
    modules are left to torch if no kernel has them; their output must be known, so this needs a `Network`. The gradient
    of the images is computed only with `needs_input_grad`.

    Raises UnsupportedError if the network does not end in a flat output, or if a module has any argument, attribute or
    hook that is not known, so that nothing is ignored silently.
    """
    return _Builder(network, is_external, input_shape, needs_input_grad).plan()


def _require_like(module: nn.Module, plain: nn.Module) -> None:
    """Raise UnsupportedError unless both have the same class, attributes, hooks, and names and shapes of tensors.

    All attributes are compared, not a list of known ones, so that an argument that torch adds is not ignored.
    """
    if (
        type(module) is not type(plain)
        or _attributes(module) != _attributes(plain)
        or _shapes(module) != _shapes(plain)
    ):
        raise UnsupportedError


def _attributes(module: nn.Module) -> dict[str, object]:
    compared_elsewhere = {"_parameters", "_buffers", "_modules", "training"}
    return {name: value for name, value in vars(module).items() if name not in compared_elsewhere}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor.shape for name, tensor in tensors.items() if tensor is not None}


def _is_float_on_cpu(tensor: Tensor) -> bool:
    # A network on "meta" is planned to know its memory.
    return tensor.device.type in ("cpu", "meta") and tensor.dtype == torch.float32


def _pair(value: Any) -> tuple[int, int]:
    """The two numbers of an argument such as kernel_size. Raises UnsupportedError if it is anything else."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not all(type(number) is int for number in pair):
        raise UnsupportedError
    return pair


@dataclass(frozen=True)
class _Value:
    """The output of a module: a tensor with its pointwise operations so far.

    `is_shared` says that other modules read the tensor as it is now, so that its operations must not change.
    """

    tensor: int
    flat: bool = False
    is_shared: bool = False


@dataclass(eq=False)
class _Builder:
    network: nn.Sequential
    is_external: Callable[[nn.Conv2d | nn.Linear, Shape], bool]
    input_shape: Shape
    needs_input_grad: bool
    tensors: list[dict[str, int]] = field(default_factory=list)
    stages: list[dict[str, int]] = field(default_factory=list)
    phases: list[dict[str, int]] = field(default_factory=list)
    # Stages before which a segment must end.
    borders: set[int] = field(default_factory=set)
    offsets: list[NDArray[np.int64]] = field(default_factory=list)
    packed: list[NDArray[np.int32]] = field(default_factory=list)
    params: list[nn.Parameter] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    dropouts: list[Dropout | Dropout2d] = field(default_factory=list)
    eps: list[float] = field(default_factory=list)
    externals: list[tuple[nn.Module, int, int, int, bool]] = field(default_factory=list)
    num_params: int = 0
    num_offsets: int = 0
    num_packed: int = 0
    slots: int = 0
    macs: int = 0
    argmax_size: int = 0

    def plan(self) -> NetworkPlan:
        network = self.network
        plain = nn.Sequential()
        inputs: Sequence[tuple[int, ...]] = [(index - 1,) for index in range(len(network))]
        steps: Sequence[Operation | None] = [None] * len(network)
        if isinstance(network, Network):
            plain = Network()
            plain.architecture = network.architecture
            plain.branches = network.branches
            inputs = network.branches or inputs
            steps = operations(network.architecture)
        _require_like(network, plain)
        if not len(network):
            raise UnsupportedError
        uses = [0] * (len(network) + 1)
        for index in (source for sources in inputs for source in sources):
            uses[index + 1] += 1
        image = self._add_tensor(self.input_shape, self.needs_input_grad)
        values = {IMAGE: _Value(image, is_shared=uses[IMAGE + 1] > 1)}
        for index, (module, step) in enumerate(zip(network, steps, strict=True)):
            sources = [values[source] for source in inputs[index]]
            is_alone = not any(source.is_shared for source in sources)
            try:
                value = self._add_module(module, sources, is_alone)
            except _ExternalError as error:
                shape = error.shape or (step and step.output_shape)
                if not shape or len(sources) != 1:
                    raise UnsupportedError from None
                is_flat = isinstance(module, nn.Linear) or (step is not None and step.is_flat)
                value = self._add_external(module, sources[0], shape, is_flat)
            # A flatten or a dropout of 0 adds no tensor.
            is_same = any(source.is_shared and source.tensor == value.tensor for source in sources)
            values[index] = _Value(value.tensor, value.flat, uses[index + 1] > 1 or is_same)
        last = values[len(network) - 1]
        if not last.flat or (not self.params and not self.externals):
            raise UnsupportedError
        output = self._copied(last.tensor)
        return self._finished(output)

    # Modules

    def _add_module(self, module: nn.Module, sources: list[_Value], is_alone: bool) -> _Value:
        """Add the stages of a module. Raises _ExternalError if torch computes it."""
        source = sources[0]
        tensor = self.tensors[source.tensor]
        match module:
            case nn.Conv2d():
                if source.flat:
                    raise UnsupportedError
                return _Value(self._add_convolution(module, source.tensor))
            case nn.Linear():
                if not source.flat:
                    raise UnsupportedError
                return _Value(self._add_linear(module, source.tensor), flat=True)
            case nn.ReLU():
                _require_like(module, nn.ReLU())
                return self._with_relu(source, is_alone)
            case nn.BatchNorm2d() | nn.BatchNorm1d() | nn.GroupNorm() | nn.InstanceNorm2d():
                return self._with_norm(module, source, is_alone)
            case Dropout() | Dropout2d():
                _require_like(module, type(module)(module.p, module.generator))
                if not 0 <= module.p < 1:
                    raise _ExternalError
                if not module.p or not module.training:
                    return source
                if source.flat and isinstance(module, Dropout2d):
                    raise _ExternalError
                return self._with_dropout(module, source, is_alone)
            case nn.MaxPool2d() | nn.AvgPool2d():
                kernel, stride = _pair(module.kernel_size), _pair(module.stride)
                pool_class = nn.MaxPool2d if isinstance(module, nn.MaxPool2d) else nn.AvgPool2d
                padding, ceil_mode = _pair(module.padding), module.ceil_mode
                _require_like(
                    module, pool_class(module.kernel_size, module.stride, module.padding, ceil_mode=ceil_mode)
                )
                kind = MAX_POOL if pool_class is nn.MaxPool2d else AVERAGE_POOL
                if source.flat:
                    raise UnsupportedError
                return _Value(self._add_pool(kind, source.tensor, kernel, stride, padding, ceil_mode))
            case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d():
                _require_like(module, type(module)(1))
                if source.flat:
                    raise UnsupportedError
                kind = MAX_POOL if isinstance(module, nn.AdaptiveMaxPool2d) else AVERAGE_POOL
                kernel = tensor["height"], tensor["width"]
                return _Value(self._add_pool(kind, source.tensor, kernel, kernel, (0, 0), ceil_mode=False))
            case nn.Flatten():
                _require_like(module, nn.Flatten())
                return _Value(source.tensor, flat=True)
            case Add():
                _require_like(module, Add())
                return self._add_sum(sources)
            case Concat():
                _require_like(module, Concat())
                return self._add_concatenation(sources)
        raise _ExternalError

    def _with_relu(self, source: _Value, is_alone: bool) -> _Value:
        tensor = self.tensors[source.tensor]
        if tensor["relu"] or (self._is_plain(tensor) and tensor["stored_relu"]):
            return source
        if not is_alone:
            source = self._copied_value(source)
            tensor = self.tensors[source.tensor]
        can_store = self._is_plain(tensor) and self._producer(source.tensor) is not None and not tensor["parted"]
        tensor["stored_relu" if can_store else "relu"] = 1
        return source

    def _with_norm(self, module: nn.Module, source: _Value, is_alone: bool) -> _Value:
        tensor = self.tensors[source.tensor]
        if source.flat and tensor["height"] * tensor["width"] > 1:
            raise _ExternalError
        channels = tensor["channels"]
        parts = groups = 1
        match module:
            case GhostBatchNorm2d():
                _require_like(module, GhostBatchNorm2d(channels, module.num_splits))
                parts = module.num_splits
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                norm_class = BatchNorm2d if isinstance(module, BatchNorm2d) else type(module)
                if norm_class not in (BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d):
                    raise UnsupportedError
                _require_like(module, norm_class(channels, module.eps, module.momentum, device="meta"))
            case nn.GroupNorm():
                _require_like(module, nn.GroupNorm(module.num_groups, channels, module.eps, device="meta"))
                groups = module.num_groups
            case nn.InstanceNorm2d():
                _require_like(module, nn.InstanceNorm2d(channels, module.eps, device="meta"))
                groups = channels
        if isinstance(module, nn.GroupNorm | nn.InstanceNorm2d) and self._size(source.tensor) == groups:
            # torch refuses some norms of single values.
            raise _ExternalError
        is_batch = isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
        if is_batch:
            self._require_known_norm(cast(nn.BatchNorm2d, module))
        if not self._is_plain(tensor) or self._producer(source.tensor) is None or not is_alone:
            source = self._copied_value(source)
            tensor = self.tensors[source.tensor]
        tensor |= {
            "norm": BATCH_NORM if is_batch else IMAGE_NORM,
            "needs_grad": 1,
            "parts": parts,
            "groups": groups,
            "norm_number": len(self.eps),
            "gamma": self._add_param(module, "weight") if module.weight is not None else -1,
            "beta": self._add_param(module, "bias") if module.bias is not None else -1,
        }
        self.eps.append(cast(Any, module).eps)
        if is_batch:
            self.norms.append(Norm(cast(nn.BatchNorm2d, module), source.tensor))
            # Its statistics come from all blocks.
            self.borders.add(len(self.stages))
        return source

    def _require_known_norm(self, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        """Raise UnsupportedError unless the norm uses the batch's statistics and updates its running ones."""
        known = norm.momentum is not None and norm.training == self.network.training
        statistics = norm.running_mean, norm.running_var
        if not known or any(values is None or not _is_float_on_cpu(values) for values in statistics):
            raise UnsupportedError

    def _with_dropout(self, module: Dropout | Dropout2d, source: _Value, is_alone: bool) -> _Value:
        if self.tensors[source.tensor]["dropout"] or not is_alone:
            source = self._copied_value(source)
        is_whole = isinstance(module, Dropout2d)
        if is_whole and self._producer(source.tensor) is None:
            source = self._copied_value(source)
        self.tensors[source.tensor] |= {
            "dropout": CHANNEL_DROPOUT if is_whole else DROPOUT,
            "dropout_number": len(self.dropouts),
        }
        self.dropouts.append(module)
        return source

    def _add_convolution(self, module: nn.Conv2d, source: int) -> int:
        kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(module.dilation)
        padding = _pair(module.padding)
        tensor = self.tensors[source]
        plain = nn.Conv2d(
            tensor["channels"],
            module.out_channels,
            kernel,
            stride,
            padding,
            dilation,
            module.groups,
            module.bias is not None,
            device="meta",
        )
        _require_like(module, plain)
        shape = self._shape(source)
        if self.is_external(module, shape):
            raise _ExternalError((module.out_channels, *_output_size(shape, kernel, stride, padding, dilation)))
        return self._convolve(module, source, kernel, stride, padding, dilation, module.groups)

    def _add_linear(self, module: nn.Linear, source: int) -> int:
        shape = self._shape(source)
        _require_like(module, nn.Linear(math.prod(shape), module.out_features, module.bias is not None, device="meta"))
        if self.is_external(module, shape):
            raise _ExternalError((module.out_features, 1, 1))
        # A linear layer is a convolution over the whole map: its weights have the same order.
        return self._convolve(module, source, shape[1:], (1, 1), (0, 0), (1, 1), 1)

    def _convolve(
        self,
        module: nn.Conv2d | nn.Linear,
        source: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> int:
        tensor = self.tensors[source]
        size = tensor["height"], tensor["width"]
        out_size = _output_size(self._shape(source), kernel, stride, padding, dilation)
        out_channels = module.weight.shape[0]
        target = self._add_tensor((out_channels, *out_size))
        self.macs += module.weight.numel() * math.prod(out_size)
        weight = self._add_param(module, "weight")
        bias = self._add_param(module, "bias") if module.bias is not None else -1
        ins, outs = tensor["channels"] // groups, out_channels // groups
        taps = [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]
        x_height, x_width = (size[axis] + 2 * padding[axis] for axis in (0, 1))
        stage = {
            "groups": groups,
            "weight": weight,
            "bias": bias,
            "count": ins * len(taps),
            "kernel_height": dilation[0] * (kernel[0] - 1) + 1,
            "kernel_width": dilation[1] * (kernel[1] - 1) + 1,
            "x_top": padding[0],
            "x_left": padding[1],
            "x_height": x_height,
            "x_width": x_width,
            "offsets": self._add_offsets(
                ((channel * x_height + dilation[0] * row) * x_width + dilation[1] * column) * LANES
                for channel in range(ins)
                for row, column in taps
            ),
        }
        indices = weight + np.arange(out_channels * ins * len(taps)).reshape(groups, outs, ins, len(taps))
        biases = bias + np.arange(out_channels).reshape(groups, outs) if module.bias is not None else None
        stage["packed"] = self._add_packed(
            [
                _packed(part.reshape(outs, -1).T, None if biases is None else biases[number])
                for number, part in enumerate(indices)
            ]
        )
        stage |= self._add_phases(tensor, (out_channels, *out_size), indices, taps, stride, padding, dilation)
        self._add_stage(CONVOLUTION, source, target, stride_height=stride[0], stride_width=stride[1], **stage)
        return target

    def _add_phases(
        self,
        tensor: dict[str, int],
        out_shape: Shape,
        indices: NDArray[np.int64],
        taps: list[tuple[int, int]],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> dict[str, int]:
        """Add the phases of the input's gradient, and return the fields of the stage for them.

        The gradient at position i of an axis is the sum of weight[t] * g[(i + padding - t * dilation) / stride] over
        the taps t for which that is a whole number. Positions i = phase + j * stride have the same taps, and for each
        tap read g at j plus a constant.
        """
        size = tensor["height"], tensor["width"]
        outs = indices.shape[1]
        if indices.shape[0] == 1 and out_shape[1:] == (1, 1) and len(taps) == math.prod(size):
            return self._add_whole_phase(indices[0].reshape(outs, -1))
        # For each axis and phase: number of positions, and the taps with their constants.
        found: list[list[tuple[int, int, dict[int, int]]]] = []
        before, after = [0, 0], [0, 0]
        for axis in (0, 1):
            phases = []
            for phase in range(min(stride[axis], size[axis])):
                positions = -(-(size[axis] - phase) // stride[axis])
                distances = {}
                for tap in sorted({tap[axis] for tap in taps}):
                    number = phase + padding[axis] - tap * dilation[axis]
                    if number % stride[axis] == 0:
                        distances[tap] = number // stride[axis]
                        before[axis] = max(before[axis], -distances[tap])
                        last = positions - 1 + distances[tap]
                        after[axis] = max(after[axis], last - (out_shape[1 + axis] - 1))
                phases.append((phase, positions, distances))
            found.append(phases)
        g_height, g_width = (before[axis] + out_shape[1 + axis] + after[axis] for axis in (0, 1))
        first = len(self.phases)
        for row, rows, row_distances in found[0]:
            for column, columns, column_distances in found[1]:
                chosen = [
                    (number, row_distances[y], column_distances[z])
                    for number, (y, z) in enumerate(taps)
                    if y in row_distances and z in column_distances
                ]
                offsets = self._add_offsets(
                    ((out * g_height + before[0] + y) * g_width + before[1] + z) * LANES
                    for out in range(outs)
                    for _, y, z in chosen
                )
                numbers = [number for number, _, _ in chosen]
                # (groups, outs, ins, taps) -> for each group (outs * taps, ins)
                packed = [part[:, :, numbers].transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in indices]
                self.phases.append(
                    {
                        "row": row, "column": column, "rows": rows, "columns": columns, "offsets": offsets,
                        "count": outs * len(chosen), "packed": self._add_packed([_packed(part) for part in packed]),
                    }
                )  # fmt: skip
        return {
            "g_top": before[0], "g_left": before[1], "g_height": g_height, "g_width": g_width, "phase": first,
            "end_phase": len(self.phases),
        }  # fmt: skip

    def _add_whole_phase(self, indices: NDArray[np.int64]) -> dict[str, int]:
        """Add the phase of a convolution whose kernel covers the input once, with weights (out_channels, inputs).

        Each position of the input is then read by one tap: together with the channels, the positions are the channels
        of a 1×1 convolution of one pixel.
        """
        outs = len(indices)
        self.phases.append(
            {
                "rows": 1, "columns": 1, "count": outs, "packed": self._add_packed([_packed(indices)]),
                "offsets": self._add_offsets(out * LANES for out in range(outs)),
            }
        )  # fmt: skip
        return {
            "is_whole": 1, "g_height": 1, "g_width": 1, "phase": len(self.phases) - 1, "end_phase": len(self.phases)
        }  # fmt: skip

    def _add_pool(
        self,
        kind: int,
        source: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        ceil_mode: bool,
    ) -> int:
        tensor = self.tensors[source]
        size = tensor["height"], tensor["width"]
        out_size = []
        for axis in (0, 1):
            room = size[axis] + 2 * padding[axis] - kernel[axis]
            if room < 0 or 2 * padding[axis] > kernel[axis]:
                raise UnsupportedError
            count = (-(-room // stride[axis]) if ceil_mode else room // stride[axis]) + 1
            # torch leaves out a window that begins beyond the input and the padding before it.
            out_size.append(count - (ceil_mode and (count - 1) * stride[axis] >= size[axis] + padding[axis]))
        target = self._add_tensor((tensor["channels"], out_size[0], out_size[1]), needs_grad=bool(tensor["needs_grad"]))
        fields = {}
        if kind == MAX_POOL:
            fields["argmax"] = self.argmax_size
            self.argmax_size += LANES * math.prod(self._shape(target))
        self._add_stage(
            kind,
            source,
            target,
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            stride_height=stride[0],
            stride_width=stride[1],
            padding_height=padding[0],
            padding_width=padding[1],
            **fields,
        )
        return target

    def _add_sum(self, sources: list[_Value]) -> _Value:
        if sources[0].flat and len({self._shape(source.tensor) for source in sources}) > 1:
            sources = [self._flattened(source) for source in sources]
        target = self._add_tensor(self._shape(sources[0].tensor))
        for number, source in enumerate(sources):
            if source.flat != sources[0].flat or self._shape(source.tensor) != self._shape(target):
                raise UnsupportedError
            self._add_stage(
                COPY, source.tensor, target, adds=int(number > 0), completes=int(number == len(sources) - 1)
            )
        return _Value(target, sources[0].flat)

    def _add_concatenation(self, sources: list[_Value]) -> _Value:
        shapes = [self._shape(source.tensor) for source in sources]
        if any(source.flat for source in sources) or len({shape[1:] for shape in shapes}) > 1:
            raise UnsupportedError
        target = self._add_tensor((sum(shape[0] for shape in shapes), *shapes[0][1:]))
        # Its channels are written one part after the other, so no part can apply a ReLU to all.
        self.tensors[target]["parted"] = 1
        channel = 0
        for number, (source, shape) in enumerate(zip(sources, shapes, strict=True)):
            self._add_stage(COPY, source.tensor, target, channel=channel, completes=int(number == len(sources) - 1))
            channel += shape[0]
        return _Value(target)

    def _flattened(self, source: _Value) -> _Value:
        """Add a tensor of one position for each value of a flattened map."""
        size = self._size(source.tensor)
        if not source.flat or self._shape(source.tensor)[0] == size:
            return source
        return self._add_external(nn.Flatten(), source, (size, 1, 1), flat=True)

    def _copied_value(self, source: _Value) -> _Value:
        return _Value(self._copied(source.tensor), source.flat)

    def _copied(self, source: int) -> int:
        """Add a tensor with the values of another as they are read."""
        target = self._add_tensor(self._shape(source), needs_grad=bool(self.tensors[source]["needs_grad"]))
        self._add_stage(COPY, source, target)
        return target

    def _add_external(self, module: nn.Module, source: _Value, shape: Shape, flat: bool) -> _Value:
        copied = self._copied(source.tensor)
        target = self._add_tensor(shape)
        self.borders.add(len(self.stages))
        self.externals.append((module, copied, target, len(self.stages), source.flat))
        self._add_stage(EXTERNAL, copied, target)
        return _Value(target, flat)

    # Records

    def _add_tensor(self, shape: Shape, needs_grad: bool = True) -> int:
        channels, height, width = shape
        self.tensors.append(
            dict.fromkeys(cast(Any, TENSOR.names), 0)
            | {"channels": channels, "height": height, "width": width, "slot": self.slots, "gamma": -1, "beta": -1}
            | {"parts": 1, "groups": 1, "needs_grad": int(needs_grad), "parted": 0}
        )
        self.slots += channels
        return len(self.tensors) - 1

    def _add_stage(self, kind: int, source: int, target: int, **fields: int) -> None:
        needs_grad = self.tensors[source]["needs_grad"]
        defaults = {"groups": 1, "completes": 1, "needs_grad": needs_grad, "weight": -1, "bias": -1}
        self.stages.append({"kind": kind, "source": source, "target": target, **defaults, **fields})

    def _shape(self, tensor: int) -> Shape:
        record = self.tensors[tensor]
        return record["channels"], record["height"], record["width"]

    def _size(self, tensor: int) -> int:
        """Number of values of an image."""
        return math.prod(self._shape(tensor))

    def _is_plain(self, tensor: dict[str, int]) -> bool:
        return not (tensor["norm"] or tensor["relu"] or tensor["dropout"])

    def _producer(self, tensor: int) -> int | None:
        """Index of the last stage that writes a tensor; None for the image."""
        return max((index for index, stage in enumerate(self.stages) if stage["target"] == tensor), default=None)

    def _add_param(self, module: nn.Module, name: str) -> int:
        """Append a parameter to the flat parameters; returns its offset there."""
        parameter = getattr(module, name)
        if not isinstance(parameter, nn.Parameter) or not _is_float_on_cpu(parameter):
            raise UnsupportedError
        offset, self.num_params = self.num_params, self.num_params + parameter.numel()
        self.params.append(parameter)
        return offset

    def _add_offsets(self, offsets: Iterable[int]) -> int:
        start = self.num_offsets
        self.offsets.append(np.fromiter(offsets, np.int64))
        self.num_offsets += len(self.offsets[-1])
        return start

    def _add_packed(self, parts: list[NDArray[np.int32]]) -> int:
        start = self.num_packed
        self.packed += parts
        self.num_packed += sum(len(part) for part in parts)
        return start

    def _finished(self, output: int) -> NetworkPlan:
        self._order_gradients()
        for stage in self.stages:
            stage["is_direct"] = int(stage["kind"] == CONVOLUTION and self._is_direct(stage))
        segments, external_segments = self._segments()
        tensors, stages, phases = (
            _records(rows, kind) for rows, kind in ((self.tensors, TENSOR), (self.stages, STAGE), (self.phases, PHASE))
        )
        convolutions = stages[stages["kind"] == CONVOLUTION]
        sources, targets = tensors[convolutions["source"]], tensors[convolutions["target"]]
        x_sizes = sources["channels"] * convolutions["x_height"] * convolutions["x_width"]
        g_sizes = targets["channels"] * convolutions["g_height"] * convolutions["g_width"]
        offsets = np.concatenate([*self.offsets, np.zeros(0, np.int64)])
        packed = np.concatenate([*self.packed, np.zeros(0, np.int32)])
        return NetworkPlan(
            kernels.Plan(tensors, stages, phases, segments, offsets),
            tuple(self.params),
            np.where(packed < 0, self.num_params, packed).astype(np.int32),
            tuple(self.norms),
            tuple(self.dropouts),
            tuple(self.eps),
            tuple(
                External(module, source, target, external_segments[stage], flat)
                for module, source, target, stage, flat in self.externals
            ),
            self.slots,
            max(tensor["parts"] for tensor in self.tensors),
            LANES * int(max(x_sizes, default=1)),
            LANES * int(max([*g_sizes, *tensors["width"]])),
            int(max([*targets["channels"] * (convolutions["count"] + 1), 1])),
            self.argmax_size,
            output,
        )

    def _is_direct(self, stage: dict[str, int]) -> bool:
        """Whether a convolution can read its input as it is stored; the norm, if any, becomes part of its weights."""
        tensor = self.tensors[stage["source"]]
        is_changed = tensor["relu"] or tensor["dropout"] or tensor["norm"] == IMAGE_NORM or tensor["parts"] > 1
        return not (is_changed or stage["x_top"] or stage["x_left"])

    def _order_gradients(self) -> None:
        """Say of each stage whether it is the first and the last to write its input's gradient, last stage first."""
        for index, stage in enumerate(self.stages):
            others = [other for other, some in enumerate(self.stages) if some["source"] == stage["source"]]
            stage["adds_grad"] = int(index != max(others))
            stage["completes_grad"] = int(index == min(others))

    def _segments(self) -> tuple[NDArray[np.void], dict[int, int]]:
        """The segments, and the segment that each external stage starts."""
        starts = sorted({0, *self.borders} - {len(self.stages)})
        if self.macs > LARGE_MACS:
            # Blocks are larger than any cache, and a training may be stopped between two segments.
            starts = list(range(len(self.stages)))
        segments = []
        for start, end in zip(starts, [*starts[1:], len(self.stages)], strict=True):
            target = self.stages[end - 1]["target"]
            has_norm = self.stages[end - 1]["completes"] and self.tensors[target]["norm"] == BATCH_NORM
            segments.append({"start": start, "end": end, "tensor": target if has_norm else -1})
        return _records(segments, SEGMENT), {start: number for number, start in enumerate(starts)}


class _ExternalError(Exception):
    """torch computes a module; its output has this shape, if it is known."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__(shape)
        self.shape = shape


def _output_size(
    shape: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Height and width of the output of a convolution. Raises UnsupportedError if there is none."""
    height, width = (
        (shape[1 + axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    if min(height, width) < 1:
        raise UnsupportedError
    return height, width


def _packed(weights: NDArray[np.int64], biases: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
    """Indices of weights (count, channels), int32, in the order of `tiles.convolution_tile`; -1 for no bias."""
    first = np.full((1, weights.shape[1]), -1) if biases is None else biases[None]
    table = np.concatenate([first, weights])
    ends = bounds(weights.shape[1], MAX_CHANNELS)
    return np.concatenate([table[:, start:end].reshape(-1) for start, end in pairwise(ends)]).astype(np.int32)


def _records(rows: list[dict[str, int]], kind: np.dtype[np.void]) -> NDArray[np.void]:
    table = np.zeros(len(rows), kind)
    for record, row in zip(table, rows, strict=True):
        for name in cast(Any, kind.names):
            record[name] = row.get(name, 0)
    return table
