"""The loops of a training step, compiled by numba: sixteen images side by side fill a vector register.

torch's own kernels work along the channels or along a row of an image; networks here have four to twenty channels and
rows of 28, 14 and 7, which fill a vector badly. Here sixteen images, a block, lie side by side:

    (block, channel, row, column, LANES)        float32, contiguous

A whole forward or backward pass is one call that holds no interpreter lock. Each kernel goes block by block, so that
what it works on stays in the processor's second cache.

A stage is one row of a plan (`FIELDS`): a convolution with what follows it, or a pool. A convolution's output is kept
before its norm; whoever reads it applies `scale` and `shift`, one pair a channel.
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
# Where each number of a stage stands in its row of the plan. Offsets count in the arrays they belong to.
FIELDS = (
    "kind", "in_channels", "out_channels", "in_size", "out_size", "kernel_size", "stride", "padding", "relu", "norm",
    "input", "output", "in_channel", "out_channel", "weight", "bias", "gamma", "beta", "choice",
)  # fmt: skip
(
    _KIND, _IN_CHANNELS, _OUT_CHANNELS, _IN_SIZE, _OUT_SIZE, _KERNEL, _STRIDE, _PADDING, _RELU, _NORM,
    _INPUT, _OUTPUT, _IN_CHANNEL, _OUT_CHANNEL, _WEIGHT, _BIAS, _GAMMA, _BETA, _CHOICE,
) = range(len(FIELDS))  # fmt: skip
# Output rows that one pass over the input channels makes: they stay in the first cache.
_ROWS = 4
SPINS = 200
# `fastmath` lets sums be taken in another order, as a vector takes them: the same order in every run.
_compiled = njit(nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", cache=True)


def zeros(count: int) -> NDArray[np.float32]:
    """float32 (count,) that begins at a cache line: a vector that lies across two takes twice as long to load."""
    room = np.zeros(count + LANES, np.float32)
    start = (-room.ctypes.data // 4) % LANES
    return room[start : start + count]


def row_width(in_size: int, padding: int) -> int:
    """Columns of a padded row: room for the padded input and for the padded gradient of its output."""
    return max(in_size + 2 * padding, in_size + 2)


def scratch_sizes(plan: NDArray[np.int64]) -> tuple[int, int, int]:
    """float32 numbers of the padded input, the convolution's output and its padded gradient, the largest of each."""
    largest = [1, 1, 1]
    for stage in plan[plan[:, _KIND] == CONVOLUTION]:
        inputs, outputs, size, out_size, padding = stage[[_IN_CHANNELS, _OUT_CHANNELS, _IN_SIZE, _OUT_SIZE, _PADDING]]
        width = row_width(size, padding)
        # Convolutions are made in pairs of outputs, and an output reads two numbers past its last row.
        widest = max(inputs, outputs) + 1
        padded, gradient = (size + 2 * padding) * width, (out_size + 2 * (2 - padding)) * width
        for number, count in enumerate((inputs * (padded + 4), widest * size_of_rows(size, out_size, width),
                                        outputs * (gradient + 4))):  # fmt: skip
            largest[number] = max(largest[number], int(count) * LANES)
    return largest[0], largest[1], largest[2]


def size_of_rows(in_size: int, out_size: int, width: int) -> int:
    return max(in_size, out_size) * width


@intrinsic
def _add_at(typing_context, array, index, number):
    """array[index] += number for every thread to see at once; returns what was there before."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return int64(array, index, number), code


@intrinsic
def _let_others_run(typing_context):
    """Give the processor to whoever waits for it: the block that is waited for, or the page."""

    def code(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), name)
        builder.call(function, [])
        return context.get_dummy_value()

    return none(), code


@_compiled
def _wait_for(counters, index, number):
    """Until the counter has come to `number`: at first without a pause, for it's mostly a matter of microseconds."""
    tries = 0
    while _add_at(counters, index, 0) < number:
        tries += 1
        if tries > SPINS:
            _let_others_run()


@_compiled
def forward(
    plan,
    params,
    images,
    activations,
    choices,
    scale,
    shift,
    mean,
    variance,
    inverse,
    stats,
    eps,
    counters,
    scratch,
    out,
):
    """All stages over all blocks. Several threads may call it at once, with `scratch` and `out` of their own.

    `params` are the network's, flat; `scale` to `inverse` have one number a channel of every stage, `stats` the mean
    and the sum of squares of each block's channels. `counters`, int64 (stages, 2), zero before, tell the threads which
    block is the next one and how many are done: no thread waits for another that has not begun.
    """
    blocks = (images + LANES - 1) // LANES
    best, which = _row_space(plan)
    for number in range(len(plan)):
        stage = plan[number]
        clear = True
        while True:
            block = _add_at(counters, 2 * number, 1)
            if block >= blocks:
                break
            if stage[_KIND] == CONVOLUTION:
                valid = min(LANES, images - block * LANES)
                _convolve(stage, params, activations, scale, shift, scratch, out, stats, block, valid, clear)
                clear = False
            else:
                _pool(stage, activations, choices, scale, shift, best, which, block)
            if _add_at(counters, 2 * number + 1, 1) == blocks - 1:
                if stage[_NORM]:
                    _normalise(stage, params, scale, shift, mean, variance, inverse, stats, images, eps)
                _add_at(counters, 2 * number + 1, 1)
        _wait_for(counters, 2 * number + 1, blocks + 1)


@_compiled
def backward(
    plan, params, images, activations, choices, scale, shift, mean, inverse, gradients, above, below, slopes, counters,
    scratch, out, padded,
):  # fmt: skip
    """From the gradient of the last stage's output, in `above`, to that of `params`: the sum of the rows, one a block,
    of `gradients`, which is 0 before. Several threads may call it at once, with `scratch`, `out` and `padded` of their
    own.

    `below` is room for the gradient of a stage's input; the two change places at every stage. `counters`, int64
    (stages, 4), as in `forward`: channels of the norm first, then blocks.
    """
    blocks = (images + LANES - 1) // LANES
    best, which = _row_space(plan)
    flipped = np.empty(len(params), np.float32)
    for number in range(len(plan) - 1, -1, -1):
        stage = plan[number]
        channels = stage[_OUT_CHANNELS] if stage[_NORM] else 0
        while True:
            channel = _add_at(counters, 4 * number, 1)
            if channel >= channels:
                break
            _norm_gradient(
                stage, params, activations, mean, inverse, gradients[0], above, slopes, channel, images, blocks
            )
            _add_at(counters, 4 * number + 1, 1)
        if number and stage[_KIND] == CONVOLUTION:
            _flip(stage, params, flipped)
        _wait_for(counters, 4 * number + 1, channels)
        clear = True
        while True:
            block = _add_at(counters, 4 * number + 2, 1)
            if block >= blocks:
                break
            if stage[_KIND] == CONVOLUTION:
                valid = min(LANES, images - block * LANES)
                _convolve_back(
                    stage, activations, scale, shift, gradients[block], above, below, slopes, scratch, out, padded,
                    flipped, block, valid, number > 0, clear,
                )  # fmt: skip
                clear = False
            elif number:
                # The images need no gradient, and `below` may have no room for one.
                _pool_back(stage, choices, above, below, best, which, block)
            _add_at(counters, 4 * number + 3, 1)
        _wait_for(counters, 4 * number + 3, blocks)
        above, below = below, above


@_compiled
def _row_space(plan):
    size = max(plan[:, _IN_SIZE].max(), 1) * LANES
    return np.zeros(size, np.float32), np.zeros(size, np.int32)


@_compiled
def _pair(inputs, weights, first, second, in_channels, plane, start, count, width, upper, lower):
    """Two output channels of a 3x3 convolution: `count` numbers from `start`, over all input channels."""
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
def _correlate(inputs, weights, base, out, in_channels, out_channels, plane, rows, width):
    """3x3, stride 1: planes of padded rows -> `out`, planes of `rows` rows of the same width, whose last two columns
    mean nothing. An odd last channel is made twice, the second time into the room after it.
    """
    size = rows * width
    for start in range(0, size, _ROWS * width):
        count = min(_ROWS * width, size - start)
        for channel in range(0, out_channels, 2):
            other = min(channel + 1, out_channels - 1)
            _pair(
                inputs, weights, base + 9 * in_channels * channel, base + 9 * in_channels * other, in_channels,
                plane, start, count, width,
                out[channel * size + start : channel * size + start + count],
                out[(channel + 1) * size + start : (channel + 1) * size + start + count],
            )  # fmt: skip


@_compiled
def _pad(stage, activations, scale, shift, scratch, block, clear):
    """A block's input with its norm applied, in padded rows; the padding is written once, for the first block."""
    channels, size, padding = stage[_IN_CHANNELS], stage[_IN_SIZE], stage[_PADDING]
    width = max(size + 2 * padding, size + 2) * LANES
    plane = (size + 2 * padding) * width + 4 * LANES
    if clear:
        scratch[: channels * plane] = 0
    row = size * LANES
    for channel in range(channels):
        a, b = scale[stage[_IN_CHANNEL] + channel], shift[stage[_IN_CHANNEL] + channel]
        source = stage[_INPUT] + (block * channels + channel) * size * row
        target = channel * plane + padding * width + padding * LANES
        for line in range(size):
            _affine(activations[source + line * row :], scratch[target + line * width :], row, a, b)
    return width, plane


@_compiled
def _affine(x, y, count, a, b):
    for i in range(count):
        y[i] = a * x[i] + b


@_compiled
def _add_affine(x, y, count, a, b):
    for i in range(count):
        y[i] += a * x[i] + b


@_compiled
def _positive(x, y, count, bias):
    for i in range(count):
        value = x[i] + bias
        y[i] = value if value > 0 else np.float32(0)


@_compiled
def _copy(x, y, count):
    for i in range(count):
        y[i] = x[i]


@_compiled
def _sum(x, count):
    total = np.float32(0)
    for i in range(count):
        total += x[i]
    return total


@_compiled
def _choose(x, best, which, count, a, b, tap):
    """The first of the largest, as torch chooses."""
    for i in range(count):
        value = a * x[i] + b
        which[i] = tap if value > best[i] else which[i]
        best[i] = value if value > best[i] else best[i]


@_compiled
def _add_chosen(x, which, y, count, tap):
    for i in range(count):
        y[i] += x[i] if which[i] == tap else np.float32(0)


@_compiled
def _line(g, x, y, count, slope, tilt, level):
    for i in range(count):
        y[i] = slope * g[i] + tilt * x[i] + level


@_compiled
def _line_where_positive(g, x, y, count, slope, tilt, level):
    for i in range(count):
        value = slope * g[i] + tilt * x[i] + level
        y[i] = value if x[i] > 0 else np.float32(0)


@_compiled
def _convolve(stage, params, activations, scale, shift, scratch, out, stats, block, valid, clear):
    width, plane = _pad(stage, activations, scale, shift, scratch, block, clear)
    channels, size = stage[_OUT_CHANNELS], stage[_OUT_SIZE]
    _correlate(scratch, params, stage[_WEIGHT], out, stage[_IN_CHANNELS], channels, plane, size, width)
    row = size * LANES
    for channel in range(channels):
        bias = params[stage[_BIAS] + channel]
        target = stage[_OUTPUT] + (block * channels + channel) * size * row
        for line in range(size):
            x, y = out[(channel * size + line) * width :], activations[target + line * row :]
            if stage[_RELU]:
                _positive(x, y, row, bias)
            else:
                _affine(x, y, row, np.float32(1), bias)
        if stage[_NORM]:
            values = activations[target : target + size * row]
            average, squares = _moments(values, valid)
            stats[block, stage[_OUT_CHANNEL] + channel, 0] = average
            stats[block, stage[_OUT_CHANNEL] + channel, 1] = squares


@_compiled
def _moments(values, valid):
    """Mean of the valid lanes and sum of their squared distances from it."""
    total = squares = np.float32(0)
    if valid == LANES:
        for i in range(len(values)):
            total += values[i]
        average = total / np.float32(len(values))
        for i in range(len(values)):
            squares += (values[i] - average) * (values[i] - average)
        return average, squares
    count = len(values) // LANES
    for i in range(count):
        for lane in range(valid):
            total += values[i * LANES + lane]
    average = total / np.float32(count * valid)
    for i in range(count):
        for lane in range(valid):
            distance = values[i * LANES + lane] - average
            squares += distance * distance
    return average, squares


@_compiled
def _normalise(stage, params, scale, shift, mean, variance, inverse, stats, images, eps):
    """The batch's mean and variance from those of its blocks (Chan, Golub and LeVeque, 1979), and what they make of a
    channel: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
    """
    places = stage[_OUT_SIZE] * stage[_OUT_SIZE]
    for channel in range(stage[_OUT_CHANNELS]):
        slot = stage[_OUT_CHANNEL] + channel
        seen, average, squares = 0.0, 0.0, 0.0
        for block in range((images + LANES - 1) // LANES):
            count = float(min(LANES, images - block * LANES) * places)
            distance = stats[block, slot, 0] - average
            squares += stats[block, slot, 1] + distance * distance * seen * count / (seen + count)
            seen += count
            average += distance * count / seen
        mean[slot], variance[slot] = average, squares / seen
        inverse[slot] = 1 / np.sqrt(squares / seen + eps)
        scale[slot] = params[stage[_GAMMA] + channel] * inverse[slot]
        shift[slot] = params[stage[_BETA] + channel] - average * scale[slot]


@_compiled
def _norm_gradient(stage, params, activations, mean, inverse, gradient, above, slopes, channel, images, blocks):
    """Gradients of gamma and beta; that of a value x before the norm is slope * above + tilt * x + level."""
    channels, size = stage[_OUT_CHANNELS], stage[_OUT_SIZE] * stage[_OUT_SIZE] * LANES
    count = float(images * stage[_OUT_SIZE] * stage[_OUT_SIZE])
    slot = stage[_OUT_CHANNEL] + channel
    for_beta, for_gamma = 0.0, 0.0
    for block in range(blocks):
        place = (block * channels + channel) * size
        x = activations[stage[_OUTPUT] + place :]
        plain, weighted = _products(above[place:], x, size, np.float32(mean[slot]))
        for_beta += plain
        for_gamma += weighted
    for_gamma *= inverse[slot]
    gradient[stage[_BETA] + channel] = for_beta
    gradient[stage[_GAMMA] + channel] = for_gamma
    slope = params[stage[_GAMMA] + channel] * inverse[slot]
    tilt = -slope * inverse[slot] * for_gamma / count
    slopes[slot, 0], slopes[slot, 1] = slope, tilt
    slopes[slot, 2] = -slope * for_beta / count - tilt * mean[slot]


@_compiled
def _products(g, x, count, middle):
    plain = weighted = np.float32(0)
    for i in range(count):
        plain += g[i]
        weighted += g[i] * (x[i] - middle)
    return plain, weighted


@_compiled
def _flip(stage, params, flipped):
    """The weights of the convolution that takes gradients back: inputs and outputs exchanged, turned by half."""
    inputs, outputs = stage[_IN_CHANNELS], stage[_OUT_CHANNELS]
    for o in range(outputs):
        for i in range(inputs):
            for tap in range(9):
                flipped[(i * outputs + o) * 9 + 8 - tap] = params[stage[_WEIGHT] + (o * inputs + i) * 9 + tap]


@_compiled
def _convolve_back(
    stage, activations, scale, shift, gradient, above, below, slopes, scratch, out, padded, flipped, block, valid,
    onward, clear,
):  # fmt: skip
    width, plane = _pad(stage, activations, scale, shift, scratch, block, clear)
    inputs, outputs, size = stage[_IN_CHANNELS], stage[_OUT_CHANNELS], stage[_OUT_SIZE]
    border = 2 - stage[_PADDING]
    row = size * LANES
    far = (size + 2 * border) * width + 4 * LANES
    if clear:
        padded[: outputs * far] = 0
    for channel in range(outputs):
        slope, tilt, level = np.float32(1), np.float32(0), np.float32(0)
        if stage[_NORM]:
            slope, tilt, level = slopes[stage[_OUT_CHANNEL] + channel]
        place = (block * outputs + channel) * size * row
        target = channel * far + border * width + border * LANES
        total = np.float32(0)
        for line in range(size):
            g, x = above[place + line * row :], activations[stage[_OUTPUT] + place + line * row :]
            y = padded[target + line * width : target + line * width + row]
            if stage[_RELU]:
                _line_where_positive(g, x, y, row, slope, tilt, level)
            else:
                _line(g, x, y, row, slope, tilt, level)
            if valid < LANES:
                for i in range(size):
                    for lane in range(valid, LANES):
                        y[i * LANES + lane] = 0
            total += _sum(y, row)
        gradient[stage[_BIAS] + channel] += total
        start = border * width + border * LANES
        for other in range(inputs):
            _taps(
                padded[channel * far + start : channel * far + start + size * width],
                scratch[other * plane : (other + 1) * plane],
                width,
                gradient[stage[_WEIGHT] + (channel * inputs + other) * 9 :],
            )
    if not onward:
        return
    before = stage[_IN_SIZE]
    _correlate(padded, flipped, 0, out, outputs, inputs, far, before, width)
    row = before * LANES
    for channel in range(inputs):
        target = (block * inputs + channel) * before * row
        for line in range(before):
            _copy(out[(channel * before + line) * width :], below[target + line * row :], row)


@_compiled
def _taps(g, a, width, gradient):
    """Gradient of the nine weights between an input plane and an output plane's gradient, added to `gradient`."""
    count = len(g)
    # The last row's columns past its end read further than the plane; the gradient there is 0.
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
def _pool(stage, activations, choices, scale, shift, best, which, block):
    """A row of outputs is made at every column, one vector after the other, and then the columns of the stride kept."""
    channels, size, out_size = stage[_IN_CHANNELS], stage[_IN_SIZE], stage[_OUT_SIZE]
    kernel, stride, average = stage[_KERNEL], stage[_STRIDE], stage[_KIND] == AVERAGE_POOL
    count = (size - kernel + 1) * LANES
    for channel in range(channels):
        a, b = scale[stage[_IN_CHANNEL] + channel], shift[stage[_IN_CHANNEL] + channel]
        if average:
            a, b = a / np.float32(kernel * kernel), b / np.float32(kernel * kernel)
        source = stage[_INPUT] + (block * channels + channel) * size * size * LANES
        place = (block * channels + channel) * out_size * out_size * LANES
        for row in range(out_size):
            for tap in range(kernel * kernel):
                at = source + ((row * stride + tap // kernel) * size + tap % kernel) * LANES
                if tap == 0:
                    _affine(activations[at:], best, count, a, b)
                    which[:count] = 0
                elif average:
                    _add_affine(activations[at:], best, count, a, b)
                else:
                    _choose(activations[at:], best, which, count, a, b, np.int32(tap))
            for column in range(out_size):
                here, there = place + (row * out_size + column) * LANES, column * stride * LANES
                _copy(best[there:], activations[stage[_OUTPUT] + here :], LANES)
                if not average:
                    _copy(which[there:], choices[stage[_CHOICE] + here :], LANES)


@_compiled
def _pool_back(stage, choices, above, below, best, which, block):
    channels, size, out_size = stage[_IN_CHANNELS], stage[_IN_SIZE], stage[_OUT_SIZE]
    kernel, stride, average = stage[_KERNEL], stage[_STRIDE], stage[_KIND] == AVERAGE_POOL
    count = (size - kernel + 1) * LANES
    share = np.float32(1 / (kernel * kernel)) if average else np.float32(1)
    for channel in range(channels):
        source = (block * channels + channel) * size * size * LANES
        place = (block * channels + channel) * out_size * out_size * LANES
        below[source : source + size * size * LANES] = 0
        best[:count] = 0
        for row in range(out_size):
            for column in range(out_size):
                here, there = place + (row * out_size + column) * LANES, column * stride * LANES
                _affine(above[here:], best[there:], LANES, share, np.float32(0))
                if not average:
                    _copy(choices[stage[_CHOICE] + here :], which[there:], LANES)
            for tap in range(kernel * kernel):
                at = source + ((row * stride + tap // kernel) * size + tap % kernel) * LANES
                if average:
                    _add_affine(best, below[at:], count, np.float32(1), np.float32(0))
                else:
                    _add_chosen(best, which, below[at:], count, np.int32(tap))
