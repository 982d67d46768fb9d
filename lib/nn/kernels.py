"""The passes of a training step, compiled by numba: sixteen images side by side fill a vector register.

torch's own kernels vectorize along the channels or along a row of an image. Networks here have four to twenty channels
and rows of 28, 14 and 7, which leave most of a vector register empty. Here LANES images form a block, and the images
of a block are the last axis of every array of values, float32 and contiguous:

    (blocks, channels, height, width, LANES)

If the number of images is no multiple of LANES, the last lanes of the last block are padding.

Words used below:

- tensor: the output of a stage as it is stored, a record of dtype `TENSOR`. A norm, a ReLU and a dropout that follow
  are not stored: they are applied when a stage reads the tensor, as `dropout * max(scale * x + shift, 0)`. Only a ReLU
  that comes first is applied before the values are stored.
- stage: reads one tensor and writes one, a record of dtype `STAGE`.
- slot: index of a channel of a tensor in an array with one entry for each channel of all tensors.
- segment: stages that need nothing from other blocks, so that a block passes all of them while its values are in the
  cache. A segment ends at a tensor with a norm over the batch, whose statistics come from all blocks.

A pass over some segments is one call that releases the GIL. Several threads may make the same call at once, each with
its own scratch memory: they share the blocks of a segment. No thread waits for one that has not started, and the
results do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import int64, njit, none
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from lib.nn import tiles, vectors
from lib.nn.tiles import (
    MAX_CHANNELS,
    MAX_GRAD_CHANNELS,
    MAX_POSITIONS,
    MAX_WEIGHTS,
    convolution_tile,
    weight_grad_tile,
)
from lib.nn.vectors import (
    LANES,
    add,
    fill,
    fill_indexes,
    fma,
    keep,
    load,
    load_indexes,
    maximum,
    maximum_index,
    multiply,
    prefetch,
    relu,
    store,
    store_indexes,
    subtract,
    total,
    where_equal,
    where_positive,
)

CONVOLUTION, MAX_POOL, AVERAGE_POOL, COPY, EXTERNAL = range(5)
NO_NORM, BATCH_NORM, IMAGE_NORM = range(3)
NO_DROPOUT, DROPOUT, CHANNEL_DROPOUT = range(3)


def _record(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


# Offsets are indices of the first number: `values` and `grad` in the arrays of these names, `gamma` and `beta` in
# `params`, -1 for a norm without them. `stored_relu` and `relu` are 1 for a ReLU before the values are stored and when
# they are read. A norm over the batch has `parts` parts of the batch, one over each image has `groups` groups of
# channels; `number` is its index among the norms and dropouts of each kind.
TENSOR = _record(
    "channels", "height", "width", "slot", "values", "grad", "needs_grad", "stored_relu", "relu", "norm", "parts",
    "groups", "gamma", "beta", "norm_number", "dropout", "dropout_number",
)  # fmt: skip
# A stage reads tensor `source` and writes the channels of tensor `target` from `channel` on; `adds` is 1 if it adds to
# what a stage before has written, `completes` if it is the last that writes them. In the backward pass `adds_grad` is 1
# if another stage has written the gradient of `source` before, `completes_grad` if it is the last.
#
# Of a convolution, which has `groups` groups: its input and the gradient of its output are copied to `x` and `g`, where
# they have the padding that is needed; `x_top`, `x_left`, `x_height`, `x_width` describe it. With `is_direct` the input
# is read as it is stored, and its norm becomes part of the weights. `weight` and `bias` are offsets in `params` (-1 for
# no bias), `packed` is that in `packed`, and `offsets` that in `offsets`, for one group; `count` is the number of
# weights of an output channel. The gradient of its input is computed by the phases from `phase` to `end_phase`, or,
# with `is_whole`, by one phase for which all positions of the input are channels.
STAGE = _record(
    "kind", "source", "target", "channel", "adds", "completes", "adds_grad", "completes_grad", "needs_grad",
    "kernel_height", "kernel_width", "stride_height", "stride_width", "padding_height", "padding_width", "argmax",
    "groups", "is_direct", "is_whole", "weight", "bias", "packed", "offsets", "count", "x_top", "x_left", "x_height",
    "x_width", "g_top", "g_left", "g_height", "g_width", "phase", "end_phase",
)  # fmt: skip
# The positions of an input whose gradient takes the same weights: rows `row`, `row + stride` and so on, and columns
# likewise; with a stride of 1 there is one phase. `packed` and `offsets` are for the first group.
PHASE = _record("row", "column", "rows", "columns", "packed", "offsets", "count")
# Stages from `start` to `end`; `tensor` is the one with a norm over the batch that ends it, or -1.
SEGMENT = _record("start", "end", "tensor")

# Polls of a counter before the thread starts to yield: most waits take microseconds.
_SPINS = 200
# Without reference counts of arrays, which would take longer than the loops: nothing here allocates an array.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "cache": True, "_nrt": False}
# numba compiles a function again if its own file has changed; these consist of code of others, too.
_SOURCES = tuple(hashlib.sha256(Path(str(module.__file__)).read_bytes()).digest() for module in (tiles, vectors))


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Let numba compile a function, and cache the result for these sources."""
    compiled: Any = njit(**_OPTIONS, **options)(function)
    cache = compiled._cache._cache_file
    cache._source_stamp = (cache._source_stamp, _SOURCES)
    return compiled


def _inlined(function: Callable[..., Any]) -> Any:
    """The same for what is called often: a call passes all arrays on the stack, which takes longer than a row."""
    return _compiled(function, forceinline=True)


class Plan(NamedTuple):
    """What a network computes. Records as above, and for all convolutions:

    - `offsets`: int64, the addresses of the vectors of a tile's input, see `lib.nn.tiles`.
    """

    tensors: NDArray[np.void]
    stages: NDArray[np.void]
    phases: NDArray[np.void]
    segments: NDArray[np.void]
    offsets: NDArray[np.int64]


class Workspace(NamedTuple):
    """The memory of a training step for a batch of one size. Slots are described above.

    Inputs:

    - `params`: float32 (parameters,), all parameters of the compiled stages, flattened.
    - `packed`: float32, the same for `lib.nn.tiles`, in the order in which tiles read them.
    - `eps`: float32 (norms,).
    - `seeds`: uint32 (dropouts, 2); `thresholds`: uint32 (dropouts,), 2^32 times the probability to drop a value;
      `keep_scales`: float32 (dropouts,), what the others are multiplied by.

    Results:

    - `values`: float32, the values of all tensors; those of the image, normalized, are an input.
    - `argmax`: int32, for each output of a max-pool the index of its maximum in the window, row by row.
    - `batch_mean`, `batch_variance`: float64 (parts, slots), of a norm over the batch. The variance is biased.
    - `param_grads`: float32 (blocks, parameters). Its sum over the blocks is the gradient of `params`.

    For each block, slot and lane, float32:

    - `scale`, `shift`: the norm as `scale * x + shift`, with the dropout of whole channels; 1 and 0 on entry.
    - `dropped`: the factors of that dropout; 1 on entry.
    - `statistics` (blocks, slots, 2, LANES): mean, and sum of squared deviations, over the positions of an image.
    - `mean`, `inv_std`: of the group of values that the norm normalizes together.
    - `grad_sums` (blocks, slots, 2, LANES): sums of the gradient g of the norm's output, and of g * (x - mean).
    - `coefficients` (blocks, slots, 3, LANES): a, b and c for which the gradient of the norm's input is
      a * g + b * x + c.

    All arrays of these are flat.

    - `grads`: float32, gradients of the tensors: as they are read, after norm and ReLU, until the last stage has
      written them; then before ReLU and dropout, but after the norm.
    """

    values_size: int
    grads_size: int
    params: NDArray[np.float32]
    packed: NDArray[np.float32]
    eps: NDArray[np.float32]
    seeds: NDArray[np.uint32]
    thresholds: NDArray[np.uint32]
    keep_scales: NDArray[np.float32]
    values: NDArray[np.float32]
    argmax: NDArray[np.int32]
    batch_mean: NDArray[np.float64]
    batch_variance: NDArray[np.float64]
    param_grads: NDArray[np.float32]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    dropped: NDArray[np.float32]
    statistics: NDArray[np.float32]
    mean: NDArray[np.float32]
    inv_std: NDArray[np.float32]
    grad_sums: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    grads: NDArray[np.float32]


def zeros(count: int) -> NDArray[np.float32]:
    """Zeros, float32 (count,), that start at a cache line: a vector across two lines takes twice as long to load."""
    room = np.zeros(count + LANES, np.float32)
    start = (-room.ctypes.data // 4) % LANES
    return room[start : start + count]


@intrinsic
def _atomic_add(typing_context, array, index, number):
    """array[index] += number as one atomic operation on int64; returns the value before it."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.gep(data, [arguments[1]])
        return builder.atomic_rmw("add", address, arguments[2], "seq_cst")

    return int64(array, index, number), code


@intrinsic
def _yield_thread(typing_context):
    """Yield the processor (sched_yield), so that another thread of this machine can run."""

    def code(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), name)
        builder.call(function, [])
        return context.get_dummy_value()

    return none(), code


@_compiled
def _wait_for(counters, index, number):
    """Wait until counters[index], int64, is at least `number`."""
    polls = 0
    while _atomic_add(counters, index, 0) < number:
        polls += 1
        if polls > _SPINS:
            _yield_thread()


@_compiled
def forward(plan, work, images, first, end, counters, x, w):
    """Forward pass in training mode through the segments from `first` to `end`.

    `counters` is int64 (2 * segments,), zero on entry: for each segment the blocks taken and done. `x` and `w` are
    this thread's own scratch memory.
    """
    blocks = (images + LANES - 1) // LANES
    for number in range(first, end):
        segment = plan.segments[number]
        while True:
            block = _atomic_add(counters, 2 * number, 1)
            if block >= blocks:
                break
            for index in range(segment.start, segment.end):
                stage = plan.stages[index]
                source, target = plan.tensors[stage.source], plan.tensors[stage.target]
                if stage.kind == CONVOLUTION:
                    _convolution_forward(plan, work, stage, source, target, block, x, w)
                elif stage.kind == MAX_POOL:
                    _pool_forward(work, stage, source, target, block, True)
                elif stage.kind == AVERAGE_POOL:
                    _pool_forward(work, stage, source, target, block, False)
                elif stage.kind == COPY:
                    _copy_forward(work, stage, source, target, block)
                else:
                    _finish_external(work, target, block)
                if stage.completes and target.norm == IMAGE_NORM:
                    _image_norm_forward(target, work, block, min(LANES, images - block * LANES))
                if stage.completes and target.norm != BATCH_NORM and target.dropout == CHANNEL_DROPOUT:
                    _drop_channels(target, work, block)
            if _atomic_add(counters, 2 * number + 1, 1) == blocks - 1:
                if segment.tensor >= 0:
                    _batch_norm_forward(plan.tensors[segment.tensor], work, images)
                _atomic_add(counters, 2 * number + 1, 1)
        _wait_for(counters, 2 * number + 1, blocks + 1)


@_compiled
def backward(plan, work, images, first, end, counters, x, g, w):
    """Backward pass through the segments from `end` to `first`, last to first.

    `counters` is int64 (4 * segments,), zero on entry: for each segment whether its norm is taken and done, then the
    blocks taken and done. `x`, `g` and `w` are this thread's own scratch memory.
    """
    blocks = (images + LANES - 1) // LANES
    for number in range(end - 1, first - 1, -1):
        segment = plan.segments[number]
        if segment.tensor >= 0:
            if _atomic_add(counters, 4 * number, 1) == 0:
                _batch_norm_backward(plan.tensors[segment.tensor], work, images)
                _atomic_add(counters, 4 * number + 1, 1)
            _wait_for(counters, 4 * number + 1, 1)
        while True:
            block = _atomic_add(counters, 4 * number + 2, 1)
            if block >= blocks:
                break
            for index in range(segment.end - 1, segment.start - 1, -1):
                stage = plan.stages[index]
                source, target = plan.tensors[stage.source], plan.tensors[stage.target]
                if stage.completes and target.norm == IMAGE_NORM:
                    _image_norm_backward(target, work, block, min(LANES, images - block * LANES))
                if stage.kind == CONVOLUTION:
                    _convolution_backward(plan, work, stage, source, target, block, x, g, w)
                elif stage.kind == EXTERNAL:
                    _undo_norm(work, target, block)
                elif stage.needs_grad and stage.kind == MAX_POOL:
                    _pool_backward(work, stage, source, target, block, True)
                elif stage.needs_grad and stage.kind == AVERAGE_POOL:
                    _pool_backward(work, stage, source, target, block, False)
                elif stage.needs_grad:
                    _copy_backward(work, stage, source, target, block, g)
            _atomic_add(counters, 4 * number + 3, 1)
        _wait_for(counters, 4 * number + 3, blocks)


# Reading a tensor


@_inlined
def _is_plain(tensor):
    """Return whether the tensor is read as it is stored."""
    return tensor.norm == NO_NORM and tensor.relu == 0 and tensor.dropout == NO_DROPOUT


@_inlined
def _value_at(work, tensor, channel, row, block):
    """Return the offset in `values` of a row of a tensor."""
    return block * work.values_size + tensor.values + (channel * tensor.height + row) * tensor.width * LANES


@_inlined
def _grad_at(work, tensor, channel, row, block):
    """Return the offset in `grads` of a row of a tensor."""
    return block * work.grads_size + tensor.grad + (channel * tensor.height + row) * tensor.width * LANES


@_inlined
def _prefetch_rows(work, tensor, row, block):
    """Ask for a row of all channels of a tensor."""
    if row < tensor.height:
        for channel in range(tensor.channels):
            at = _value_at(work, tensor, channel, row, block)
            for number in range(at, at + tensor.width * LANES, LANES):
                prefetch(work.values, number)


@_inlined
def _counter(tensor, channel, row, block):
    """Return the number of the first value of a row among all values of the tensor, to draw its dropout with."""
    return (((block * tensor.channels + channel) * tensor.height + row) * tensor.width) * LANES


@_inlined
def _factor(work, tensor, counter):
    """Return the factors of a tensor's dropout for the values from the one with this counter on."""
    number = tensor.dropout_number
    return keep(
        np.uint32(counter), work.seeds[2 * number], work.seeds[2 * number + 1], work.thresholds[number],
        work.keep_scales[number],
    )  # fmt: skip


@_inlined
def _clear(array, start, end):
    """Write zeros to an array from `start` to `end`, a multiple of LANES later."""
    for number in range(start, end, LANES):
        store(array, number, fill(np.float32(0)))


@_inlined
def _copy_row(work, tensor, channel, row, block, out, out_at):
    """Write a row of a tensor as stages read it, with norm, ReLU and dropout, to `out`."""
    slots = ((block * _slots(work)) + tensor.slot + channel) * LANES
    source = _value_at(work, tensor, channel, row, block)
    if _is_plain(tensor):
        for column in range(tensor.width):
            store(out, out_at + column * LANES, load(work.values, source + column * LANES))
        return
    scale, shift = load(work.scale, slots), load(work.shift, slots)
    if tensor.relu:
        for column in range(tensor.width):
            value = fma(scale, load(work.values, source + column * LANES), shift)
            store(out, out_at + column * LANES, relu(value))
    else:
        for column in range(tensor.width):
            store(out, out_at + column * LANES, fma(scale, load(work.values, source + column * LANES), shift))
    if tensor.dropout == DROPOUT:
        counter = _counter(tensor, channel, row, block)
        for column in range(tensor.width):
            factor = _factor(work, tensor, counter + column * LANES)
            place = out_at + column * LANES
            store(out, place, multiply(load(out, place), factor))


@_inlined
def _slots(work):
    """Return the number of slots."""
    return work.batch_mean.shape[1]


@_inlined
def _finish_grad_row(work, tensor, channel, row, block):
    """Take the gradient of a row through dropout and ReLU, once all stages have written it; add to `grad_sums`."""
    if _is_plain(tensor):
        return
    slots = ((block * _slots(work)) + tensor.slot + channel) * LANES
    scale, shift, dropped = load(work.scale, slots), load(work.shift, slots), load(work.dropped, slots)
    source, target = _value_at(work, tensor, channel, row, block), _grad_at(work, tensor, channel, row, block)
    if tensor.dropout == DROPOUT:
        counter = _counter(tensor, channel, row, block)
        for column in range(tensor.width):
            factor = _factor(work, tensor, counter + column * LANES)
            place = target + column * LANES
            store(work.grads, place, multiply(load(work.grads, place), factor))
    elif tensor.dropout == CHANNEL_DROPOUT:
        for column in range(tensor.width):
            place = target + column * LANES
            store(work.grads, place, multiply(load(work.grads, place), dropped))
    if tensor.relu:
        for column in range(tensor.width):
            place = target + column * LANES
            value = fma(scale, load(work.values, source + column * LANES), shift)
            store(work.grads, place, where_positive(value, load(work.grads, place)))
    if tensor.norm != NO_NORM:
        mean = load(work.mean, slots)
        plain, weighted = fill(np.float32(0)), fill(np.float32(0))
        if row:
            plain, weighted = load(work.grad_sums, 2 * slots), load(work.grad_sums, 2 * slots + LANES)
        for column in range(tensor.width):
            g = load(work.grads, target + column * LANES)
            plain = add(plain, g)
            weighted = fma(g, subtract(load(work.values, source + column * LANES), mean), weighted)
        store(work.grad_sums, 2 * slots, plain)
        store(work.grad_sums, 2 * slots + LANES, weighted)


@_inlined
def _copy_grad_row(work, tensor, channel, row, block, out, out_at):
    """Write the gradient of a row of the values as they were before the stored ReLU to `out`."""
    source, values = _grad_at(work, tensor, channel, row, block), _value_at(work, tensor, channel, row, block)
    if tensor.norm == NO_NORM:
        if tensor.stored_relu:
            for column in range(tensor.width):
                g = load(work.grads, source + column * LANES)
                store(out, out_at + column * LANES, where_positive(load(work.values, values + column * LANES), g))
        else:
            for column in range(tensor.width):
                store(out, out_at + column * LANES, load(work.grads, source + column * LANES))
        return
    slots = 3 * ((block * _slots(work)) + tensor.slot + channel) * LANES
    a = load(work.coefficients, slots)
    b = load(work.coefficients, slots + LANES)
    c = load(work.coefficients, slots + 2 * LANES)
    if tensor.stored_relu:
        for column in range(tensor.width):
            value = load(work.values, values + column * LANES)
            g = fma(a, load(work.grads, source + column * LANES), fma(b, value, c))
            store(out, out_at + column * LANES, where_positive(value, g))
    else:
        for column in range(tensor.width):
            value = load(work.values, values + column * LANES)
            g = fma(a, load(work.grads, source + column * LANES), fma(b, value, c))
            store(out, out_at + column * LANES, g)


# Norms


@_compiled
def _finish_external(work, tensor, block):
    """Stored ReLU and statistics of a tensor that torch has computed."""
    for row in range(tensor.height):
        if tensor.stored_relu:
            for channel in range(tensor.channels):
                at = _value_at(work, tensor, channel, row, block)
                for number in range(at, at + tensor.width * LANES, LANES):
                    store(work.values, number, relu(load(work.values, number)))
        _row_statistics(work, tensor, row, block)


@_inlined
def _row_statistics(work, tensor, row, block):
    """Add a row of all channels to the statistics of a norm that follows.

    Rows are merged as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979.
    """
    if tensor.norm == NO_NORM:
        return
    width = tensor.width
    inverse = fill(np.float32(1) / np.float32(width))
    fraction = np.float32(1) / np.float32(row + 1)
    weight = np.float32(row * width) * fraction
    for channel in range(tensor.channels):
        at = _value_at(work, tensor, channel, row, block)
        summed, squares = fill(np.float32(0)), fill(np.float32(0))
        for column in range(width):
            summed = add(summed, load(work.values, at + column * LANES))
        average = multiply(summed, inverse)
        for column in range(width):
            deviation = subtract(load(work.values, at + column * LANES), average)
            squares = fma(deviation, deviation, squares)
        place = 2 * ((block * _slots(work)) + tensor.slot + channel) * LANES
        if row:
            mean = load(work.statistics, place)
            distance = subtract(average, mean)
            average = fma(distance, fill(fraction), mean)
            squares = add(squares, load(work.statistics, place + LANES))
            squares = fma(multiply(distance, distance), fill(weight), squares)
        store(work.statistics, place, average)
        store(work.statistics, place + LANES, squares)


@_compiled
def _batch_norm_forward(tensor, work, images):
    """Statistics of each channel over each part of the batch, and the norm as `scale` and `shift`."""
    positions = tensor.height * tensor.width
    slots = _slots(work)
    blocks = (images + LANES - 1) // LANES
    part_size = (images + tensor.parts - 1) // tensor.parts
    eps = np.float64(work.eps[tensor.norm_number])
    for channel in range(tensor.channels):
        slot = tensor.slot + channel
        gamma = np.float64(1)
        beta = np.float64(0)
        if tensor.gamma >= 0:
            gamma, beta = (
                np.float64(work.params[tensor.gamma + channel]),
                np.float64(work.params[tensor.beta + channel]),
            )
        for part in range(tensor.parts):
            start, end = part * part_size, min(images, (part + 1) * part_size)
            if start >= end:
                continue
            average = 0.0
            for image in range(start, end):
                place = 2 * ((image // LANES) * slots + slot) * LANES + image % LANES
                average += work.statistics[place]
            average /= end - start
            squares = 0.0
            for image in range(start, end):
                place = 2 * ((image // LANES) * slots + slot) * LANES + image % LANES
                distance = work.statistics[place] - average
                squares += work.statistics[place + LANES] + positions * distance * distance
            variance = squares / ((end - start) * positions)
            work.batch_mean[part, slot], work.batch_variance[part, slot] = average, variance
            inv_std = 1 / np.sqrt(variance + eps)
            scale = np.float32(gamma * inv_std)
            shift = np.float32(beta - average * gamma * inv_std)
            mean = np.float32(average)
            narrow = np.float32(inv_std)
            for image in range(start, end):
                place = ((image // LANES) * slots + slot) * LANES + image % LANES
                work.scale[place], work.shift[place] = scale, shift
                work.mean[place], work.inv_std[place] = mean, narrow
    if tensor.dropout == CHANNEL_DROPOUT:
        for block in range(blocks):
            _drop_channels(tensor, work, block)


@_compiled
def _batch_norm_backward(tensor, work, images):
    """Gradients of gamma and beta, and the coefficients of the gradient of the norm's input.

    (Ioffe and Szegedy, "Batch Normalization", 2015, section 3, with the sums over the batch as constants.)
    """
    positions = tensor.height * tensor.width
    slots = _slots(work)
    part_size = (images + tensor.parts - 1) // tensor.parts
    parameters = len(work.params)
    for channel in range(tensor.channels):
        slot = tensor.slot + channel
        gamma = np.float64(1)
        if tensor.gamma >= 0:
            gamma = np.float64(work.params[tensor.gamma + channel])
        gamma_grad = beta_grad = 0.0
        for part in range(tensor.parts):
            start, end = part * part_size, min(images, (part + 1) * part_size)
            if start >= end:
                continue
            plain = weighted = 0.0
            for image in range(start, end):
                place = 2 * ((image // LANES) * slots + slot) * LANES + image % LANES
                plain += work.grad_sums[place]
                weighted += work.grad_sums[place + LANES]
            first = ((start // LANES) * slots + slot) * LANES + start % LANES
            inv_std, mean = np.float64(work.inv_std[first]), np.float64(work.mean[first])
            gamma_grad += weighted * inv_std
            beta_grad += plain
            count = (end - start) * positions
            a = gamma * inv_std
            b = -a * inv_std * inv_std * weighted / count
            c = -a * plain / count - b * mean
            for image in range(start, end):
                place = 3 * ((image // LANES) * slots + slot) * LANES + image % LANES
                work.coefficients[place] = a
                work.coefficients[place + LANES] = b
                work.coefficients[place + 2 * LANES] = c
        if tensor.gamma >= 0:
            work.param_grads[tensor.gamma + channel] = gamma_grad
            work.param_grads[tensor.beta + channel] = beta_grad
            for block in range(1, (images + LANES - 1) // LANES):
                work.param_grads[block * parameters + tensor.gamma + channel] = 0
                work.param_grads[block * parameters + tensor.beta + channel] = 0


@_compiled
def _image_norm_forward(tensor, work, block, lanes):
    """Statistics of each group of channels of each image, and the norm as `scale` and `shift`."""
    positions = tensor.height * tensor.width
    slots = block * _slots(work) + tensor.slot
    size = tensor.channels // tensor.groups
    eps = np.float64(work.eps[tensor.norm_number])
    for group in range(tensor.groups):
        for lane in range(lanes):
            average = 0.0
            for channel in range(group * size, (group + 1) * size):
                average += work.statistics[2 * (slots + channel) * LANES + lane]
            average /= size
            squares = 0.0
            for channel in range(group * size, (group + 1) * size):
                place = 2 * (slots + channel) * LANES + lane
                distance = work.statistics[place] - average
                squares += work.statistics[place + LANES] + positions * distance * distance
            inv_std = 1 / np.sqrt(squares / (size * positions) + eps)
            for channel in range(group * size, (group + 1) * size):
                place = (slots + channel) * LANES + lane
                gamma = np.float64(1)
                beta = np.float64(0)
                if tensor.gamma >= 0:
                    gamma = np.float64(work.params[tensor.gamma + channel])
                    beta = np.float64(work.params[tensor.beta + channel])
                work.scale[place] = gamma * inv_std
                work.shift[place] = beta - average * gamma * inv_std
                work.mean[place] = average
                work.inv_std[place] = inv_std


@_compiled
def _image_norm_backward(tensor, work, block, lanes):
    """Like `_batch_norm_backward`, for each group of channels of each image."""
    positions = tensor.height * tensor.width
    slots = block * _slots(work) + tensor.slot
    size = tensor.channels // tensor.groups
    count = size * positions
    first_param = block * len(work.params)
    if tensor.gamma >= 0:
        for channel in range(tensor.channels):
            gamma_grad = beta_grad = 0.0
            for lane in range(lanes):
                place = (slots + channel) * LANES + lane
                inv_std = np.float64(work.inv_std[place])
                gamma_grad += work.grad_sums[2 * (slots + channel) * LANES + LANES + lane] * inv_std
                beta_grad += work.grad_sums[2 * (slots + channel) * LANES + lane]
            work.param_grads[first_param + tensor.gamma + channel] = gamma_grad
            work.param_grads[first_param + tensor.beta + channel] = beta_grad
    for group in range(tensor.groups):
        for lane in range(lanes):
            plain = weighted = 0.0
            for channel in range(group * size, (group + 1) * size):
                gamma = np.float64(1)
                if tensor.gamma >= 0:
                    gamma = np.float64(work.params[tensor.gamma + channel])
                place = 2 * (slots + channel) * LANES + lane
                plain += gamma * work.grad_sums[place]
                weighted += gamma * work.grad_sums[place + LANES]
            first = (slots + group * size) * LANES + lane
            inv_std, mean = np.float64(work.inv_std[first]), np.float64(work.mean[first])
            b = -inv_std * inv_std * inv_std * weighted / count
            c = -inv_std * plain / count - b * mean
            for channel in range(group * size, (group + 1) * size):
                gamma = np.float64(1)
                if tensor.gamma >= 0:
                    gamma = np.float64(work.params[tensor.gamma + channel])
                place = 3 * (slots + channel) * LANES + lane
                work.coefficients[place] = gamma * inv_std
                work.coefficients[place + LANES] = b
                work.coefficients[place + 2 * LANES] = c


@_compiled
def _drop_channels(tensor, work, block):
    """Drop whole channels of images: multiply `scale` and `shift` by their factors."""
    for channel in range(tensor.channels):
        place = (block * _slots(work) + tensor.slot + channel) * LANES
        factor = _factor(work, tensor, (block * tensor.channels + channel) * LANES)
        store(work.dropped, place, factor)
        if tensor.norm == NO_NORM:
            store(work.scale, place, factor)
        else:
            store(work.scale, place, multiply(load(work.scale, place), factor))
            store(work.shift, place, multiply(load(work.shift, place), factor))


# Convolutions


@_compiled
def _pad(work, stage, source, block, x):
    """Copy a block's input, as it is read, with its padding to `x`."""
    width = stage.x_width * LANES
    plane = stage.x_height * width
    left, right = stage.x_left * LANES, (stage.x_left + source.width) * LANES
    for channel in range(source.channels):
        at = channel * plane
        bottom = stage.x_top + source.height
        _clear(x, at, at + stage.x_top * width)
        for row in range(source.height):
            line = at + (stage.x_top + row) * width
            _clear(x, line, line + left)
            _copy_row(work, source, channel, row, block, x, line + left)
            _clear(x, line + right, line + width)
        _clear(x, at + bottom * width, at + plane)


@_compiled
def _tile(
    positions, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at, out_step,
    out_plane, adds, floor,
):  # fmt: skip
    convolution_tile(
        positions, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at, out_step,
        out_plane, adds, floor,
    )  # fmt: skip


@_compiled
def _grad_tile(
    channels, weights, g, g_at, g_plane, g_row, x, x_at, x_row, x_step, offsets, offsets_at, rows, columns, out, out_at,
    out_row,
):  # fmt: skip
    weight_grad_tile(
        channels, weights, g, g_at, g_plane, g_row, x, x_at, x_row, x_step, offsets, offsets_at, rows, columns, out,
        out_at, out_row,
    )  # fmt: skip


@_compiled
def _row_of_tiles(
    columns, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at, out_step,
    out_plane, adds, floor,
):  # fmt: skip
    """Compute one row of some channels of a convolution; for the arguments see `tiles.convolution_tile`."""
    parts = (columns + MAX_POSITIONS - 1) // MAX_POSITIONS
    channel_parts = (channels + MAX_CHANNELS - 1) // MAX_CHANNELS
    for channel_part in range(channel_parts):
        channel = channels * channel_part // channel_parts
        end_channel = channels * (channel_part + 1) // channel_parts
        for part in range(parts):
            column, end = columns * part // parts, columns * (part + 1) // parts
            _tile(
                end - column, end_channel - channel, x, x_at + column * step, step, offsets, offsets_at, count, weights,
                weights_at + channel * (count + 1), out, out_at + column * out_step + channel * out_plane, out_step,
                out_plane, adds, floor,
            )  # fmt: skip


@_compiled
def _fold_norm(work, stage, source, target, block, w):
    """Write the weights for the values before the norm to `w`: norm and convolution in one."""
    ins, outs = source.channels // stage.groups, target.channels // stage.groups
    taps = stage.count // ins
    parts = (outs + MAX_CHANNELS - 1) // MAX_CHANNELS
    for group in range(stage.groups):
        for part in range(parts):
            start, end = outs * part // parts, outs * (part + 1) // parts
            size = end - start
            at = (group * outs + start) * (stage.count + 1)
            for channel in range(size):
                w[at + channel] = work.packed[stage.packed + at + channel]
            number = at + size
            for channel in range(ins):
                slot = (block * _slots(work) + source.slot + group * ins + channel) * LANES
                scale, shift = work.scale[slot], work.shift[slot]
                for _ in range(taps):
                    for out in range(size):
                        weight = work.packed[stage.packed + number + out]
                        w[number + out] = weight * scale
                        w[at + out] += weight * shift
                    number += size


@_compiled
def _unfold_norm(work, stage, source, target, block, sums):
    """Turn the gradient of the weights for values before the norm into that for values after it.

    `sums` has the sum of the gradient of the output for each channel.
    """
    ins, outs = source.channels // stage.groups, target.channels // stage.groups
    taps = stage.count // ins
    for out in range(target.channels):
        at = block * len(work.params) + stage.weight + out * stage.count
        for channel in range(ins):
            slot = (block * _slots(work) + source.slot + out // outs * ins + channel) * LANES
            scale, offset = work.scale[slot], work.shift[slot] * sums[out]
            for tap in range(taps):
                place = at + channel * taps + tap
                work.param_grads[place] = work.param_grads[place] * scale + offset


@_compiled
def _convolution_forward(plan, work, stage, source, target, block, x, w):
    """Convolution, bias and stored ReLU of one block."""
    inputs, inputs_at = work.values, _value_at(work, source, 0, 0, block)
    weights, weights_at = work.packed, stage.packed
    if stage.is_direct == 0:
        _pad(work, stage, source, block, x)
        inputs, inputs_at = x, 0
    elif source.norm != NO_NORM:
        _fold_norm(work, stage, source, target, block, w)
        weights, weights_at = w, 0
    row_size = stage.x_width * LANES
    group_size = source.channels // stage.groups * stage.x_height * row_size
    channels = target.channels // stage.groups
    plane = target.height * target.width * LANES
    floor = np.float32(0) if target.stored_relu else np.float32(-np.inf)
    for row in range(target.height):
        if stage.is_direct:
            # The rows of all channels are far apart: the processor does not foresee them.
            _prefetch_rows(work, source, (row + 1) * stage.stride_height + stage.kernel_height - 1, block)
        at = _value_at(work, target, 0, row, block)
        for group in range(stage.groups):
            _row_of_tiles(
                target.width, channels, inputs, inputs_at + group * group_size + row * stage.stride_height * row_size,
                stage.stride_width * LANES, plan.offsets, stage.offsets, stage.count, weights,
                weights_at + group * channels * (stage.count + 1), work.values, at + group * channels * plane,
                LANES, plane, 0, floor,
            )  # fmt: skip
        _row_statistics(work, target, row, block)


@_compiled
def _convolution_backward(plan, work, stage, source, target, block, x, g, sums):
    """Gradients of one block through norm, stored ReLU and convolution."""
    inputs, inputs_at = work.values, _value_at(work, source, 0, 0, block)
    if stage.is_direct == 0:
        _pad(work, stage, source, block, x)
        inputs, inputs_at = x, 0
    width, row_size = stage.g_width * LANES, stage.x_width * LANES
    plane = stage.g_height * width
    left, right = stage.g_left * LANES, (stage.g_left + target.width) * LANES
    first_param = block * len(work.params)
    for channel in range(target.channels):
        at = channel * plane
        summed = fill(np.float32(0))
        _clear(g, at, at + stage.g_top * width)
        for row in range(target.height):
            line = at + (stage.g_top + row) * width
            _clear(g, line, line + left)
            _copy_grad_row(work, target, channel, row, block, g, line + left)
            for number in range(line + left, line + right, LANES):
                summed = add(summed, load(g, number))
            _clear(g, line + right, line + width)
        _clear(g, at + (stage.g_top + target.height) * width, at + plane)
        sums[channel] = total(summed)
        if stage.bias >= 0:
            work.param_grads[first_param + stage.bias + channel] = sums[channel]
    channels, in_channels = target.channels // stage.groups, source.channels // stage.groups
    x_group = in_channels * stage.x_height * row_size
    weight_parts = (stage.count + MAX_WEIGHTS - 1) // MAX_WEIGHTS
    channel_parts = (channels + MAX_GRAD_CHANNELS - 1) // MAX_GRAD_CHANNELS
    start = stage.g_top * width + left
    for group in range(stage.groups):
        for weight_part in range(weight_parts):
            weight, end_weight = (
                stage.count * weight_part // weight_parts, stage.count * (weight_part + 1) // weight_parts,
            )  # fmt: skip
            for channel_part in range(channel_parts):
                channel = group * channels + channels * channel_part // channel_parts
                end_channel = group * channels + channels * (channel_part + 1) // channel_parts
                _grad_tile(
                    end_channel - channel, end_weight - weight, g, channel * plane + start, plane, width, inputs,
                    inputs_at + group * x_group, stage.stride_height * row_size, stage.stride_width * LANES,
                    plan.offsets, stage.offsets + weight, target.height, target.width, work.param_grads,
                    first_param + stage.weight + channel * stage.count + weight, stage.count,
                )  # fmt: skip
    if stage.is_direct and source.norm != NO_NORM:
        _unfold_norm(work, stage, source, target, block, sums)
    if not stage.needs_grad:
        return
    in_plane = source.height * source.width * LANES
    if stage.is_whole:
        phase = plan.phases[stage.phase]
        _row_of_tiles(
            1, source.channels * source.height * source.width, g, 0, LANES, plan.offsets, phase.offsets, phase.count,
            work.packed, phase.packed, work.grads, _grad_at(work, source, 0, 0, block), LANES, LANES, stage.adds_grad,
            np.float32(-np.inf),
        )  # fmt: skip
        if stage.completes_grad:
            _finish_grad(work, source, block)
        return
    for number in range(stage.phase, stage.end_phase):
        phase = plan.phases[number]
        for row in range(phase.rows):
            line = phase.row + row * stage.stride_height
            at = _grad_at(work, source, 0, line, block) + phase.column * LANES
            for group in range(stage.groups):
                _row_of_tiles(
                    phase.columns, in_channels, g, group * channels * plane + row * width, LANES, plan.offsets,
                    phase.offsets, phase.count, work.packed, phase.packed + group * in_channels * (phase.count + 1),
                    work.grads, at + group * in_channels * in_plane, stage.stride_width * LANES, in_plane,
                    stage.adds_grad, np.float32(-np.inf),
                )  # fmt: skip
            if stage.completes_grad and stage.end_phase - stage.phase == 1:
                for channel in range(source.channels):
                    _finish_grad_row(work, source, channel, line, block)
    if stage.completes_grad and stage.end_phase - stage.phase > 1:
        _finish_grad(work, source, block)


@_compiled
def _finish_grad(work, tensor, block):
    """Apply `_finish_grad_row` to all rows of a block."""
    for channel in range(tensor.channels):
        for row in range(tensor.height):
            _finish_grad_row(work, tensor, channel, row, block)


# Pools


@_inlined
def _read(work, tensor, at, place, counter):
    """Return the vector at `at` of a tensor as stages read it. `place` is that of its slot; see `_counter`."""
    value = load(work.values, at)
    if _is_plain(tensor):
        return value
    value = fma(load(work.scale, place), value, load(work.shift, place))
    if tensor.relu:
        value = relu(value)
    if tensor.dropout == DROPOUT:
        value = multiply(value, _factor(work, tensor, counter))
    return value


@_inlined
def _pool_forward(work, stage, source, target, block, is_max):
    """Pool one block, and store the index of each maximum. It is compiled for each value of `is_max`.

    The padding of an average pool counts, but not what a window has beyond it (as with torch's `ceil_mode`).
    """
    for channel in range(target.channels):
        place = (block * _slots(work) + source.slot + channel) * LANES
        plane, counter = _value_at(work, source, channel, 0, block), _counter(source, channel, 0, block)
        for row in range(target.height):
            top = row * stage.stride_height - stage.padding_height
            to = _value_at(work, target, channel, row, block)
            argmax = stage.argmax + _counter(target, channel, row, block)
            for column in range(target.width):
                left = column * stage.stride_width - stage.padding_width
                # The sum of an average pool, the maximum of a max-pool.
                result, best_index = fill(np.float32(-np.inf if is_max else 0)), fill_indexes(np.int32(0))
                for y in range(max(0, -top), min(stage.kernel_height, source.height - top)):
                    for z in range(max(0, -left), min(stage.kernel_width, source.width - left)):
                        at = ((top + y) * source.width + left + z) * LANES
                        value = _read(work, source, plane + at, place, counter + at)
                        if is_max:
                            index = fill_indexes(np.int32(y * stage.kernel_width + z))
                            best_index = maximum_index(value, result, index, best_index)
                            result = maximum(value, result)
                        else:
                            result = add(result, value)
                if is_max:
                    store_indexes(work.argmax, argmax + column * LANES, best_index)
                else:
                    result = multiply(result, fill(_share(stage, source, top, left)))
                if target.stored_relu:
                    result = relu(result)
                store(work.values, to + column * LANES, result)
    for row in range(target.height):
        _row_statistics(work, target, row, block)


@_inlined
def _share(stage, source, top, left):
    """Return 1 / the number of positions of a window of an average pool."""
    height = min(stage.kernel_height, source.height + stage.padding_height - top)
    width = min(stage.kernel_width, source.width + stage.padding_width - left)
    return np.float32(1) / np.float32(height * width)


@_compiled
def _undo_norm(work, target, block):
    """Replace the gradient of a tensor by that before its norm and the stored ReLU."""
    if target.norm == NO_NORM and target.stored_relu == 0:
        return
    for channel in range(target.channels):
        for row in range(target.height):
            at = _grad_at(work, target, channel, row, block)
            _copy_grad_row(work, target, channel, row, block, work.grads, at)


@_inlined
def _pool_backward(work, stage, source, target, block, is_max):
    """Gradient of one block through a pool: to the maximum of a window, or an equal share to all of it."""
    _undo_norm(work, target, block)
    for channel in range(target.channels):
        plane = _grad_at(work, source, channel, 0, block)
        if not stage.adds_grad:
            _clear(work.grads, plane, plane + source.height * source.width * LANES)
        for row in range(target.height):
            top = row * stage.stride_height - stage.padding_height
            grad = _grad_at(work, target, channel, row, block)
            argmax = stage.argmax + _counter(target, channel, row, block)
            for column in range(target.width):
                left = column * stage.stride_width - stage.padding_width
                g = load(work.grads, grad + column * LANES)
                best_index = fill_indexes(np.int32(0))
                if is_max:
                    best_index = load_indexes(work.argmax, argmax + column * LANES)
                else:
                    g = multiply(g, fill(_share(stage, source, top, left)))
                for y in range(max(0, -top), min(stage.kernel_height, source.height - top)):
                    for z in range(max(0, -left), min(stage.kernel_width, source.width - left)):
                        place = plane + ((top + y) * source.width + left + z) * LANES
                        share = g
                        if is_max:
                            share = where_equal(fill_indexes(np.int32(y * stage.kernel_width + z)), best_index, g)
                        store(work.grads, place, add(load(work.grads, place), share))
        if stage.completes_grad:
            for row in range(source.height):
                _finish_grad_row(work, source, channel, row, block)


# Copies: the branches of sums and concatenations, and tensors between two norms


@_compiled
def _copy_forward(work, stage, source, target, block):
    """Write or add one block of a tensor, as it is read, to some channels of another."""
    width = source.width * LANES
    for row in range(source.height):
        for channel in range(source.channels):
            at = _value_at(work, target, stage.channel + channel, row, block)
            if stage.adds:
                slots = (block * _slots(work) + source.slot + channel) * LANES
                start, counter = _value_at(work, source, channel, row, block), _counter(source, channel, row, block)
                for number in range(0, width, LANES):
                    value = _read(work, source, start + number, slots, counter + number)
                    store(work.values, at + number, add(load(work.values, at + number), value))
            else:
                _copy_row(work, source, channel, row, block, work.values, at)
            if stage.completes and target.stored_relu:
                for number in range(at, at + width, LANES):
                    store(work.values, number, relu(load(work.values, number)))
        if stage.completes:
            _row_statistics(work, target, row, block)


@_compiled
def _copy_backward(work, stage, source, target, block, row_buffer):
    """Gradient of one block through a copy."""
    width = source.width * LANES
    for row in range(source.height):
        for channel in range(source.channels):
            at = _grad_at(work, source, channel, row, block)
            _copy_grad_row(work, target, stage.channel + channel, row, block, row_buffer, 0)
            for number in range(0, width, LANES):
                g = load(row_buffer, number)
                if stage.adds_grad:
                    g = add(g, load(work.grads, at + number))
                store(work.grads, at + number, g)
            if stage.completes_grad:
                _finish_grad_row(work, source, channel, row, block)
