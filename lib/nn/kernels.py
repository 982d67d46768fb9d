"""The loops of a training step, compiled by numba: sixteen images side by side fill a vector register.

torch's own kernels vectorize along the channels or along a row of an image. Networks here have four to twenty channels
and rows of 28, 14 and 7, which leave most of a vector register empty. Here LANES images form a block, and the images
of a block are the last axis of every array of values, float32 and contiguous:

    (blocks, channels, height, width, LANES)

A whole forward or backward pass is one call that releases the GIL. It works on one block at a time, so that a block's
values stay in the processor's L2 cache. If the number of images is no multiple of LANES, the last lanes of the last
block are padding.

Words used below:

- stage: a 3×3 convolution of stride 1 with the ReLU and the batch norm that follow it, or a pool. Its numbers are a
  record of dtype `STAGE`; the records of all stages are the `plan`.
- slot: index of a channel in an array with one entry for each channel of each stage. The image is slot 0.
- The output of a convolution is stored before its batch norm. Stages that use it apply the norm as `scale * x + shift`
  while they load it.

Every compiled function writes its results into arrays that it is given, and returns None unless it says otherwise.
"""

from __future__ import annotations

import sys

import numpy as np
from llvmlite import ir
from numba import int64, njit, none
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
CONVOLUTION, MAX_POOL, AVERAGE_POOL = range(3)
# One stage. Sizes are heights, which equal widths; `kernel_size` and `stride` are those of a pool; `relu` and `norm`
# are 0 or 1. Offsets are indices of the first element: `input` and `output` in the activations, `weight` to `beta` in
# the flat parameters, `argmax` in the array of that name.
STAGE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind", "in_channels", "out_channels", "in_size", "out_size", "kernel_size", "stride", "padding", "relu",
            "norm", "in_slot", "out_slot", "input", "output", "weight", "bias", "gamma", "beta", "argmax",
        )
    ]
)  # fmt: skip
# Output rows of a convolution that are computed over all input channels before the next ones: they stay in the L1
# cache.
_ROWS = 4
# Polls of a counter before the thread starts to yield: most waits take microseconds.
_SPINS = 200
# `reassoc` lets a sum be vectorized. The order of its terms is fixed when it is compiled, so every run gives the same
# bits.
_compiled = njit(nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", cache=True)


def zeros(count: int) -> NDArray[np.float32]:
    """Zeros, float32 (count,), that start at a cache line: a vector across two lines takes twice as long to load."""
    room = np.zeros(count + LANES, np.float32)
    start = (-room.ctypes.data // 4) % LANES
    return room[start : start + count]


def row_width(in_size: int, padding: int) -> int:
    """Columns of a padded row, which holds the padded input or the padded gradient of the output."""
    return max(in_size + 2 * padding, in_size + 2)


def scratch_sizes(plan: NDArray[np.void]) -> tuple[int, int, int]:
    """Lengths of `padded_input`, `conv_output` and `padded_grad`, the arrays of float32 that each thread needs.

    `plan` is STAGE (stages,). Each length is that of the largest convolution, and at least LANES.
    """
    largest = [1, 1, 1]
    for stage in plan[plan["kind"] == CONVOLUTION]:
        in_channels, out_channels = stage["in_channels"], stage["out_channels"]
        in_size, out_size, padding = stage["in_size"], stage["out_size"], stage["padding"]
        width = row_width(in_size, padding)
        # Output channels are computed in pairs, so there must be room for one more. The windows at the end of the last
        # row read past it: four more columns are enough.
        output_rows = (max(in_channels, out_channels) + 1) * max(in_size, out_size)
        counts = (
            in_channels * ((in_size + 2 * padding) * width + 4),
            output_rows * width,
            out_channels * ((out_size + 2 * (2 - padding)) * width + 4),
        )
        largest = [max(before, int(count)) for before, count in zip(largest, counts, strict=True)]
    return largest[0] * LANES, largest[1] * LANES, largest[2] * LANES


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
def forward(
    plan,
    params,
    images,
    activations,
    argmax,
    scale,
    shift,
    mean,
    variance,
    inv_std,
    block_stats,
    eps,
    counters,
    padded_input,
    conv_output,
):
    """Forward pass in training mode, through all stages.

    Several threads may call it at once with the same arguments, except that each has its own `padded_input` and
    `conv_output`. They share the blocks of a stage, and finish it before the next one. No thread waits for one that
    has not started. The results do not depend on the number of threads.

    Inputs:

    - `plan`: STAGE (stages,).
    - `params`: float32 (parameters,), all parameters of the network, flattened.
    - `images`: number of images; the number of blocks is images / LANES, rounded up.
    - `eps`: float, of all batch norms.

    Results; the number of slots is the number of channels of the image and of all stages:

    - `activations`: float32, the normalized images (blocks, 1, 28, 28, LANES) on entry, then the output of each stage.
    - `argmax`: int32, for each output of a max-pool the index of its maximum in the window, row by row.
    - `scale`, `shift`: float32 (slots,), the batch norm of each channel as `scale * x + shift`; 1 and 0 on entry.
    - `mean`, `variance`, `inv_std`: float64 (slots,), of the batch, for channels with a norm. `variance` is biased;
      `inv_std` is 1 / sqrt(variance + eps).

    Workspace:

    - `block_stats`: float64 (blocks, slots, 2), mean and sum of squared deviations of each block.
    - `counters`: int64 (2 * stages,), zero on entry: for each stage the blocks taken and the blocks done.
    - `padded_input`, `conv_output`: float32, see `scratch_sizes`.
    """
    blocks = (images + LANES - 1) // LANES
    row_values, row_argmax = _row_buffers(plan)
    for number in range(len(plan)):
        stage = plan[number]
        is_first = True
        while True:
            block = _atomic_add(counters, 2 * number, 1)
            if block >= blocks:
                break
            if stage.kind == CONVOLUTION:
                lanes = min(LANES, images - block * LANES)
                _conv_forward(
                    stage, params, activations, scale, shift, block_stats, padded_input, conv_output, block, lanes,
                    is_first,
                )  # fmt: skip
                is_first = False
            else:
                _pool_forward(stage, activations, argmax, scale, shift, row_values, row_argmax, block)
            if _atomic_add(counters, 2 * number + 1, 1) == blocks - 1:
                if stage.norm:
                    _norm_forward(stage, params, scale, shift, mean, variance, inv_std, block_stats, images, eps)
                _atomic_add(counters, 2 * number + 1, 1)
        _wait_for(counters, 2 * number + 1, blocks + 1)


@_compiled
def backward(
    plan,
    params,
    images,
    activations,
    argmax,
    scale,
    shift,
    mean,
    inv_std,
    param_grads,
    grad_output,
    grad_input,
    norm_grad,
    counters,
    padded_input,
    conv_output,
    padded_grad,
):
    """Backward pass through all stages, last to first. Several threads may call it at once, as with `forward`.

    `plan`, `params`, `images`, `activations`, `argmax`, `scale`, `shift`, `mean`, `inv_std`: as `forward` left them.

    Results:

    - `param_grads`: float32 (blocks, parameters), zero on entry. Its sum over the blocks is the gradient of `params`.

    Workspace:

    - `grad_output`: float32, on entry the gradient of the last stage's output, with blocks as in `activations`.
    - `grad_input`: float32, as long. The two have room for the largest output, and change places at each stage.
    - `norm_grad`: float32 (slots, 3), see `_norm_backward`.
    - `counters`: int64 (4 * stages,), zero on entry: for each stage channels of the norm taken and done, then blocks
      taken and done.
    - `padded_input`, `conv_output`, `padded_grad`: float32, see `scratch_sizes`; each thread has its own.
    """
    blocks = (images + LANES - 1) // LANES
    row_values, row_argmax = _row_buffers(plan)
    flipped_weights = np.empty(len(params), np.float32)
    for number in range(len(plan) - 1, -1, -1):
        stage = plan[number]
        channels = stage.out_channels if stage.norm else 0
        while True:
            channel = _atomic_add(counters, 4 * number, 1)
            if channel >= channels:
                break
            _norm_backward(
                stage, params, activations, mean, inv_std, param_grads[0], grad_output, norm_grad, channel, images,
                blocks,
            )  # fmt: skip
            _atomic_add(counters, 4 * number + 1, 1)
        if number and stage.kind == CONVOLUTION:
            _flip_weights(stage, params, flipped_weights)
        _wait_for(counters, 4 * number + 1, channels)
        is_first = True
        while True:
            block = _atomic_add(counters, 4 * number + 2, 1)
            if block >= blocks:
                break
            if stage.kind == CONVOLUTION:
                lanes = min(LANES, images - block * LANES)
                _conv_backward(
                    stage, activations, scale, shift, param_grads[block], grad_output, grad_input, norm_grad,
                    padded_input, conv_output, padded_grad, flipped_weights, block, lanes, number > 0, is_first,
                )  # fmt: skip
                is_first = False
            elif number:
                # The image needs no gradient, and `grad_input` may be too short for one.
                _pool_backward(stage, argmax, grad_output, grad_input, row_values, row_argmax, block)
            _atomic_add(counters, 4 * number + 3, 1)
        _wait_for(counters, 4 * number + 3, blocks)
        grad_output, grad_input = grad_input, grad_output


@_compiled
def _row_buffers(plan):
    """Two buffers for the longest row of an input, float32 and int32 (size * LANES,); returns both."""
    size = 1
    for number in range(len(plan)):
        size = max(size, plan[number].in_size)
    return np.zeros(size * LANES, np.float32), np.zeros(size * LANES, np.int32)


@_compiled
def _conv_two_outputs(inputs, weights, first, second, in_channels, plane, start, count, width, upper, lower):
    """Part of two output channels of a 3×3 convolution, summed over all input channels.

    - `inputs`: float32, padded planes of `plane` numbers, rows of `width` numbers.
    - `weights`: float32, flat; `first` and `second` are the offsets of the two output channels' weights.
    - `start`, `count`: the part of a plane to compute, in numbers.
    - `upper`, `lower`: float32 (count,), the results for `first` and `second`.
    """
    for channel in range(in_channels):
        a = inputs[channel * plane + start : (channel + 1) * plane]
        x0, x1, x2 = a[0:count], a[LANES : count + LANES], a[2 * LANES : count + 2 * LANES]
        b = a[width:]
        x3, x4, x5 = b[0:count], b[LANES : count + LANES], b[2 * LANES : count + 2 * LANES]
        c = a[2 * width :]
        x6, x7, x8 = c[0:count], c[LANES : count + LANES], c[2 * LANES : count + 2 * LANES]
        p = weights[first + 9 * channel : first + 9 * channel + 9]
        q = weights[second + 9 * channel : second + 9 * channel + 9]
        p0, p1, p2, p3, p4, p5, p6, p7, p8 = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
        q0, q1, q2, q3, q4, q5, q6, q7, q8 = q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8]
        if channel == 0:
            for i in range(count):
                a0, a1, a2, a3, a4, a5, a6, a7, a8 = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], x7[i], x8[i]
                upper[i] = p0 * a0 + p1 * a1 + p2 * a2 + p3 * a3 + p4 * a4 + p5 * a5 + p6 * a6 + p7 * a7 + p8 * a8
                lower[i] = q0 * a0 + q1 * a1 + q2 * a2 + q3 * a3 + q4 * a4 + q5 * a5 + q6 * a6 + q7 * a7 + q8 * a8
        else:
            for i in range(count):
                u, v = upper[i], lower[i]
                a0, a1, a2, a3, a4, a5, a6, a7, a8 = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], x7[i], x8[i]
                upper[i] = u + p0 * a0 + p1 * a1 + p2 * a2 + p3 * a3 + p4 * a4 + p5 * a5 + p6 * a6 + p7 * a7 + p8 * a8
                lower[i] = v + q0 * a0 + q1 * a1 + q2 * a2 + q3 * a3 + q4 * a4 + q5 * a5 + q6 * a6 + q7 * a7 + q8 * a8


@_compiled
def _conv3x3(inputs, weights, base, out, in_channels, out_channels, plane, rows, width):
    """3×3 convolution of stride 1 without bias.

    - `inputs`, `plane`, `width`: as in `_conv_two_outputs`, already padded.
    - `weights`: float32, flat; (out_channels, in_channels, 3, 3) starts at `base`.
    - `out`: float32, planes of `rows` rows of `width` numbers. The last two columns of a row have no meaning. If
      `out_channels` is odd, the last channel is computed twice, the second time into the plane after it.
    """
    size = rows * width
    for start in range(0, size, _ROWS * width):
        count = min(_ROWS * width, size - start)
        for channel in range(0, out_channels, 2):
            other = min(channel + 1, out_channels - 1)
            _conv_two_outputs(
                inputs, weights, base + 9 * in_channels * channel, base + 9 * in_channels * other, in_channels,
                plane, start, count, width,
                out[channel * size + start : channel * size + start + count],
                out[(channel + 1) * size + start : (channel + 1) * size + start + count],
            )  # fmt: skip


@_compiled
def _pad_input(stage, activations, scale, shift, padded_input, block, is_first):
    """Copy a block's input, normalized, into padded rows of `padded_input`.

    The zeros of the padding are written only if `is_first`, for a thread's first block of the stage: later blocks
    leave them as they are. Returns the numbers in a row and in a plane.
    """
    channels, size, padding = stage.in_channels, stage.in_size, stage.padding
    width = max(size + 2 * padding, size + 2) * LANES
    plane = (size + 2 * padding) * width + 4 * LANES
    if is_first:
        padded_input[: channels * plane] = 0
    row = size * LANES
    for channel in range(channels):
        a, b = scale[stage.in_slot + channel], shift[stage.in_slot + channel]
        source = stage.input + (block * channels + channel) * size * row
        target = channel * plane + padding * width + padding * LANES
        for line in range(size):
            _affine(activations[source + line * row :], padded_input[target + line * width :], row, a, b)
    return width, plane


@_compiled
def _affine(x, y, count, a, b):
    """y = a * x + b for the first `count` numbers."""
    for i in range(count):
        y[i] = a * x[i] + b


@_compiled
def _add_affine(x, y, count, a, b):
    """y += a * x + b for the first `count` numbers."""
    for i in range(count):
        y[i] += a * x[i] + b


@_compiled
def _bias_relu(x, y, count, bias):
    """y = max(x + bias, 0) for the first `count` numbers."""
    for i in range(count):
        value = x[i] + bias
        y[i] = value if value > 0 else np.float32(0)


@_compiled
def _copy(x, y, count):
    """y = x for the first `count` numbers."""
    for i in range(count):
        y[i] = x[i]


@_compiled
def _sum(x, count):
    """Return the sum of the first `count` numbers of x."""
    total = np.float32(0)
    for i in range(count):
        total += x[i]
    return total


@_compiled
def _update_max(x, best, argmax, count, a, b, tap):
    """best = max(best, a * x + b); where x is larger, argmax = tap. The first of equal numbers wins, as in torch."""
    for i in range(count):
        value = a * x[i] + b
        argmax[i] = tap if value > best[i] else argmax[i]
        best[i] = value if value > best[i] else best[i]


@_compiled
def _add_where_max(x, argmax, y, count, tap):
    """y += x where argmax is `tap`, for the first `count` numbers."""
    for i in range(count):
        y[i] += x[i] if argmax[i] == tap else np.float32(0)


@_compiled
def _norm_input_grad(g, x, y, count, g_scale, x_scale, constant):
    """y = g_scale * g + x_scale * x + constant for the first `count` numbers, see `_norm_backward`."""
    for i in range(count):
        y[i] = g_scale * g[i] + x_scale * x[i] + constant


@_compiled
def _relu_norm_input_grad(g, x, y, count, g_scale, x_scale, constant):
    """Like `_norm_input_grad`, and 0 where x, the output of a ReLU, is 0."""
    for i in range(count):
        value = g_scale * g[i] + x_scale * x[i] + constant
        y[i] = value if x[i] > 0 else np.float32(0)


@_compiled
def _conv_forward(
    stage, params, activations, scale, shift, block_stats, padded_input, conv_output, block, lanes, is_first
):  # fmt: skip
    """Convolution, bias and ReLU of one block, and its `block_stats` for the norm.

    `block` is its index and `lanes` the number of its images. For `is_first` see `_pad_input`, for the arrays
    `forward`.
    """
    width, plane = _pad_input(stage, activations, scale, shift, padded_input, block, is_first)
    channels, size = stage.out_channels, stage.out_size
    _conv3x3(padded_input, params, stage.weight, conv_output, stage.in_channels, channels, plane, size, width)
    row = size * LANES
    for channel in range(channels):
        bias = params[stage.bias + channel]
        target = stage.output + (block * channels + channel) * size * row
        for line in range(size):
            x, y = conv_output[(channel * size + line) * width :], activations[target + line * row :]
            if stage.relu:
                _bias_relu(x, y, row, bias)
            else:
                _affine(x, y, row, np.float32(1), bias)
        if stage.norm:
            average, squares = _moments(activations[target : target + size * row], lanes)
            block_stats[block, stage.out_slot + channel, 0] = average
            block_stats[block, stage.out_slot + channel, 1] = squares


@_compiled
def _moments(values, lanes):
    """Return mean and sum of squared deviations of the first `lanes` lanes of float32 (positions * LANES,)."""
    total = squares = np.float32(0)
    if lanes == LANES:
        for i in range(len(values)):
            total += values[i]
        average = total / np.float32(len(values))
        for i in range(len(values)):
            squares += (values[i] - average) * (values[i] - average)
        return average, squares
    count = len(values) // LANES
    for i in range(count):
        for lane in range(lanes):
            total += values[i * LANES + lane]
    average = total / np.float32(count * lanes)
    for i in range(count):
        for lane in range(lanes):
            deviation = values[i * LANES + lane] - average
            squares += deviation * deviation
    return average, squares


@_compiled
def _norm_forward(stage, params, scale, shift, mean, variance, inv_std, block_stats, images, eps):
    """Batch statistics of a stage's channels, and its batch norm as `scale` and `shift`.

    The statistics of the blocks are merged as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances", 1979. For the arrays see `forward`.
    """
    positions = stage.out_size * stage.out_size
    for channel in range(stage.out_channels):
        slot = stage.out_slot + channel
        seen, average, squares = 0.0, 0.0, 0.0
        for block in range((images + LANES - 1) // LANES):
            count = float(min(LANES, images - block * LANES) * positions)
            distance = block_stats[block, slot, 0] - average
            squares += block_stats[block, slot, 1] + distance * distance * seen * count / (seen + count)
            seen += count
            average += distance * count / seen
        mean[slot], variance[slot] = average, squares / seen
        inv_std[slot] = 1 / np.sqrt(squares / seen + eps)
        scale[slot] = params[stage.gamma + channel] * inv_std[slot]
        shift[slot] = params[stage.beta + channel] - average * scale[slot]


@_compiled
def _norm_backward(
    stage, params, activations, mean, inv_std, param_grad, grad_output, norm_grad, channel, images, blocks
):  # fmt: skip
    """Gradients of gamma and beta of one channel, and the coefficients of the gradient of the norm's input.

    With g for the gradient of the norm's output and x for its input, the gradient of x is

        norm_grad[slot, 0] * g + norm_grad[slot, 1] * x + norm_grad[slot, 2]

    (Ioffe and Szegedy, "Batch Normalization", 2015, section 3, with the sums over the batch as constants.)
    `param_grad` is float32 (parameters,); for the other arrays see `backward`.
    """
    channels, size = stage.out_channels, stage.out_size * stage.out_size * LANES
    count = float(images * stage.out_size * stage.out_size)
    slot = stage.out_slot + channel
    beta_grad, gamma_grad = 0.0, 0.0
    for block in range(blocks):
        offset = (block * channels + channel) * size
        x = activations[stage.output + offset :]
        plain, weighted = _grad_sums(grad_output[offset:], x, size, np.float32(mean[slot]))
        beta_grad += plain
        gamma_grad += weighted
    gamma_grad *= inv_std[slot]
    param_grad[stage.beta + channel] = beta_grad
    param_grad[stage.gamma + channel] = gamma_grad
    g_scale = params[stage.gamma + channel] * inv_std[slot]
    x_scale = -g_scale * inv_std[slot] * gamma_grad / count
    norm_grad[slot, 0], norm_grad[slot, 1] = g_scale, x_scale
    norm_grad[slot, 2] = -g_scale * beta_grad / count - x_scale * mean[slot]


@_compiled
def _grad_sums(g, x, count, mean):
    """Return the sums of g and of g * (x - mean) over the first `count` numbers."""
    plain = weighted = np.float32(0)
    for i in range(count):
        plain += g[i]
        weighted += g[i] * (x[i] - mean)
    return plain, weighted


@_compiled
def _flip_weights(stage, params, flipped_weights):
    """Weights of the convolution that computes the input's gradient, (in_channels, out_channels, 3, 3), flat.

    They are the stage's weights with inputs and outputs exchanged, and each kernel rotated by 180°.
    """
    in_channels, out_channels = stage.in_channels, stage.out_channels
    for o in range(out_channels):
        for i in range(in_channels):
            for tap in range(9):
                flipped_weights[(i * out_channels + o) * 9 + 8 - tap] = params[
                    stage.weight + (o * in_channels + i) * 9 + tap
                ]


@_compiled
def _conv_backward(
    stage, activations, scale, shift, param_grad, grad_output, grad_input, norm_grad, padded_input, conv_output,
    padded_grad, flipped_weights, block, lanes, needs_input_grad, is_first,
):  # fmt: skip
    """Gradients of one block through norm, ReLU and convolution.

    Adds those of weight and bias to `param_grad`, float32 (parameters,). Writes that of the input to `grad_input` if
    `needs_input_grad`. `flipped_weights` is the result of `_flip_weights`; for `block`, `lanes` and `is_first` see
    `_conv_forward`, for the other arrays `backward`.
    """
    width, plane = _pad_input(stage, activations, scale, shift, padded_input, block, is_first)
    in_channels, out_channels, size = stage.in_channels, stage.out_channels, stage.out_size
    border = 2 - stage.padding
    row = size * LANES
    grad_plane = (size + 2 * border) * width + 4 * LANES
    if is_first:
        padded_grad[: out_channels * grad_plane] = 0
    for channel in range(out_channels):
        g_scale, x_scale, constant = np.float32(1), np.float32(0), np.float32(0)
        if stage.norm:
            g_scale, x_scale, constant = norm_grad[stage.out_slot + channel]
        source = (block * out_channels + channel) * size * row
        target = channel * grad_plane + border * width + border * LANES
        total = np.float32(0)
        for line in range(size):
            g, x = grad_output[source + line * row :], activations[stage.output + source + line * row :]
            y = padded_grad[target + line * width : target + line * width + row]
            if stage.relu:
                _relu_norm_input_grad(g, x, y, row, g_scale, x_scale, constant)
            else:
                _norm_input_grad(g, x, y, row, g_scale, x_scale, constant)
            if lanes < LANES:
                for i in range(size):
                    for lane in range(lanes, LANES):
                        y[i * LANES + lane] = 0
            total += _sum(y, row)
        param_grad[stage.bias + channel] += total
        start = border * width + border * LANES
        for in_channel in range(in_channels):
            _weight_grad(
                padded_grad[channel * grad_plane + start : channel * grad_plane + start + size * width],
                padded_input[in_channel * plane : (in_channel + 1) * plane],
                width,
                param_grad[stage.weight + (channel * in_channels + in_channel) * 9 :],
            )
    if not needs_input_grad:
        return
    in_size = stage.in_size
    _conv3x3(padded_grad, flipped_weights, 0, conv_output, out_channels, in_channels, grad_plane, in_size, width)
    row = in_size * LANES
    for channel in range(in_channels):
        target = (block * in_channels + channel) * in_size * row
        for line in range(in_size):
            _copy(conv_output[(channel * in_size + line) * width :], grad_input[target + line * row :], row)


@_compiled
def _weight_grad(g, a, width, gradient):
    """Add the gradient of one 3×3 kernel to the first nine numbers of `gradient`.

    `g` is the gradient of an output plane and `a` a padded input plane, both with rows of `width` numbers.
    """
    count = len(g)
    # The window of the last row's last columns ends past the plane; `g` is 0 there.
    count = min(count, len(a) - 2 * width - 2 * LANES)
    x0, x1, x2 = a[0:count], a[LANES : count + LANES], a[2 * LANES : count + 2 * LANES]
    b = a[width:]
    x3, x4, x5 = b[0:count], b[LANES : count + LANES], b[2 * LANES : count + 2 * LANES]
    c = a[2 * width :]
    x6, x7, x8 = c[0:count], c[LANES : count + LANES], c[2 * LANES : count + 2 * LANES]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = np.float32(0)
    for i in range(count):
        v = g[i]
        s0 += v * x0[i]
        s1 += v * x1[i]
        s2 += v * x2[i]
        s3 += v * x3[i]
        s4 += v * x4[i]
        s5 += v * x5[i]
        s6 += v * x6[i]
        s7 += v * x7[i]
        s8 += v * x8[i]
    gradient[0] += s0
    gradient[1] += s1
    gradient[2] += s2
    gradient[3] += s3
    gradient[4] += s4
    gradient[5] += s5
    gradient[6] += s6
    gradient[7] += s7
    gradient[8] += s8


@_compiled
def _pool_forward(stage, activations, argmax, scale, shift, row_values, row_argmax, block):
    """Pool one block, and store the argmax of a max-pool.

    A row of outputs is computed at every column, which is vectorized; the columns of the stride are then copied.
    `row_values` and `row_argmax` are the results of `_row_buffers`; for the other arrays see `forward`.
    """
    channels, size, out_size = stage.in_channels, stage.in_size, stage.out_size
    kernel_size, stride, is_average = stage.kernel_size, stage.stride, stage.kind == AVERAGE_POOL
    count = (size - kernel_size + 1) * LANES
    for channel in range(channels):
        a, b = scale[stage.in_slot + channel], shift[stage.in_slot + channel]
        if is_average:
            a, b = a / np.float32(kernel_size * kernel_size), b / np.float32(kernel_size * kernel_size)
        source = stage.input + (block * channels + channel) * size * size * LANES
        target = (block * channels + channel) * out_size * out_size * LANES
        for row in range(out_size):
            for tap in range(kernel_size * kernel_size):
                at = source + ((row * stride + tap // kernel_size) * size + tap % kernel_size) * LANES
                if tap == 0:
                    _affine(activations[at:], row_values, count, a, b)
                    row_argmax[:count] = 0
                elif is_average:
                    _add_affine(activations[at:], row_values, count, a, b)
                else:
                    _update_max(activations[at:], row_values, row_argmax, count, a, b, np.int32(tap))
            for column in range(out_size):
                to, start = target + (row * out_size + column) * LANES, column * stride * LANES
                _copy(row_values[start:], activations[stage.output + to :], LANES)
                if not is_average:
                    _copy(row_argmax[start:], argmax[stage.argmax + to :], LANES)


@_compiled
def _pool_backward(stage, argmax, grad_output, grad_input, row_values, row_argmax, block):
    """Gradient of one block through a pool; the arguments are those of `_pool_forward` and `backward`."""
    channels, size, out_size = stage.in_channels, stage.in_size, stage.out_size
    kernel_size, stride, is_average = stage.kernel_size, stage.stride, stage.kind == AVERAGE_POOL
    count = (size - kernel_size + 1) * LANES
    share = np.float32(1 / (kernel_size * kernel_size)) if is_average else np.float32(1)
    for channel in range(channels):
        target = (block * channels + channel) * size * size * LANES
        source = (block * channels + channel) * out_size * out_size * LANES
        grad_input[target : target + size * size * LANES] = 0
        row_values[:count] = 0
        for row in range(out_size):
            for column in range(out_size):
                at, start = source + (row * out_size + column) * LANES, column * stride * LANES
                _affine(grad_output[at:], row_values[start:], LANES, share, np.float32(0))
                if not is_average:
                    _copy(argmax[stage.argmax + at :], row_argmax[start:], LANES)
            for tap in range(kernel_size * kernel_size):
                to = target + ((row * stride + tap // kernel_size) * size + tap % kernel_size) * LANES
                if is_average:
                    _add_affine(row_values, grad_input[to:], count, np.float32(1), np.float32(0))
                else:
                    _add_where_max(row_values, row_argmax, grad_input[to:], count, np.int32(tap))
