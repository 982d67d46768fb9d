"""The two inner loops of a convolution, which keep a tile of their results in registers.

- `convolution_tile`: some neighbouring positions of a row, for some channels.
- `weight_grad_tile`: the gradient of some weights, for some channels.

A loop is compiled for every size of a tile, up to the largest that the registers hold. It has one multiply-add for each
pair of a loaded vector and a loaded number, so that most instructions are multiply-adds.

Inputs are given by the addresses of their vectors, so that one loop serves every kernel size, stride, dilation and
group: address k of the input is `x_at + offsets[offsets_at + k]`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int64, none
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from lib.nn.vectors import (
    ALIGN,
    FLOAT,
    FLOATS,
    INT64,
    LANES,
    at_least,
    constant,
    data_pointer,
    lane_sum,
    multiply_add,
    splat,
    vector_pointer,
)

# With AVX-512, 32 registers hold a vector each; otherwise (AVX2, NEON) two to four registers hold one. The features are
# those that numba compiles for, which environment variables can limit.
_TRIPLE, _CPU, _FEATURES = cpu_target.target_context.codegen().magic_tuple()
_IS_WIDE = "+avx512f" in _FEATURES.split(",")
# Sizes of the largest tiles: positions and channels of `convolution_tile`, channels and weights of `weight_grad_tile`.
MAX_POSITIONS, MAX_CHANNELS = (6, 4) if _IS_WIDE else (2, 3)
MAX_GRAD_CHANNELS, MAX_WEIGHTS = (4, 6) if _IS_WIDE else (3, 2)


def bounds(count: int, largest: int) -> list[int]:
    """Ends of parts of `count` that are at most `largest` and differ by at most one: (10, 4) -> [0, 3, 6, 10]."""
    parts = -(-count // largest)
    return [count * part // parts for part in range(parts + 1)]


class _Variants:
    """A switch over the sizes of a tile; `case` opens the code of one size and `end` closes the switch."""

    def __init__(self, builder: Any, rows: Any, columns: Any) -> None:
        self.builder = builder
        self.done = builder.append_basic_block("done")
        key = builder.add(builder.mul(rows, ir.Constant(INT64, LANES)), columns)
        self.switch = builder.switch(key, self.done)

    def case(self, rows: int, columns: int) -> Any:
        block = self.builder.append_basic_block(f"tile{rows}x{columns}")
        self.switch.add_case(ir.Constant(INT64, LANES * rows + columns), block)
        self.builder.position_at_end(block)
        return block

    def end(self) -> None:
        self.builder.position_at_end(self.done)


def _number(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


@intrinsic
def convolution_tile(
    typing_context, positions, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at,
    out_step, out_plane, adds, floor,
):  # fmt: skip
    """Compute a tile of the output of a convolution.

        out[p, c] = max(bias[c] + sum over k < count of x[k, p] * weights[k, c], floor)

    x[k, p] is the vector at x_at + offsets[offsets_at + k] + p * step, and out[p, c] that at
    out_at + p * out_step + c * out_plane. From weights[weights_at] on there are the biases of the channels, then their
    weights for k = 0, 1 and so on. If `adds` is not 0, the sums are added to `out`, and `floor` is not used.
    """

    def code(context, builder, signature, arguments):
        (
            positions, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at,
            out_step, out_plane, adds, floor,
        ) = arguments  # fmt: skip
        types = signature.args
        x = data_pointer(context, builder, types[2], x, x_at)
        offsets = data_pointer(context, builder, types[5], offsets, offsets_at)
        weights = data_pointer(context, builder, types[8], weights, weights_at)
        out = data_pointer(context, builder, types[10], out, out_at)
        floor = splat(builder, floor)
        variants = _Variants(builder, positions, channels)
        for rows in range(1, MAX_POSITIONS + 1):
            for columns in range(1, MAX_CHANNELS + 1):
                start = variants.case(rows, columns)
                cells = [(row, column) for row in range(rows) for column in range(columns)]
                steps = [builder.mul(step, _number(row)) for row in range(rows)]
                results = [
                    vector_pointer(
                        builder,
                        builder.gep(
                            out,
                            [builder.add(builder.mul(out_step, _number(row)), builder.mul(out_plane, _number(column)))],
                        ),
                    )
                    for row, column in cells
                ]
                biases = [
                    splat(builder, builder.load(builder.gep(weights, [_number(column)]))) for column in range(columns)
                ]
                loop, body, end, adding, setting = map(
                    builder.append_basic_block, ("loop", "body", "end", "adding", "setting")
                )
                builder.branch(loop)

                builder.position_at_end(loop)
                k, weight = builder.phi(INT64), builder.phi(FLOAT.as_pointer())
                k.add_incoming(_number(0), start)
                weight.add_incoming(weights, start)
                sums = [builder.phi(FLOATS) for _ in cells]
                for (_, column), summed in zip(cells, sums, strict=True):
                    summed.add_incoming(biases[column], start)
                builder.cbranch(builder.icmp_signed("<", k, count), body, end)

                builder.position_at_end(body)
                next_weight = builder.gep(weight, [_number(columns)])
                base = builder.gep(x, [builder.load(builder.gep(offsets, [k]))])
                inputs = [
                    builder.load(vector_pointer(builder, builder.gep(base, [distance])), align=ALIGN)
                    for distance in steps
                ]
                factors = [
                    splat(builder, builder.load(builder.gep(next_weight, [_number(column)])))
                    for column in range(columns)
                ]
                for (row, column), summed in zip(cells, sums, strict=True):
                    summed.add_incoming(multiply_add(builder, inputs[row], factors[column], summed), body)
                k.add_incoming(builder.add(k, _number(1)), body)
                weight.add_incoming(next_weight, body)
                builder.branch(loop)

                builder.position_at_end(end)
                builder.cbranch(builder.icmp_signed("!=", adds, _number(0)), adding, setting)
                builder.position_at_end(adding)
                for summed, result in zip(sums, results, strict=True):
                    builder.store(builder.fadd(builder.load(result, align=ALIGN), summed), result, align=ALIGN)
                builder.branch(variants.done)
                builder.position_at_end(setting)
                for summed, result in zip(sums, results, strict=True):
                    builder.store(at_least(builder, summed, floor), result, align=ALIGN)
                builder.branch(variants.done)
        variants.end()
        return context.get_dummy_value()

    number = int64
    return none(
        number, number, x, number, number, offsets, number, number, weights, number, out, number, number, number,
        number, float32,
    ), code  # fmt: skip


@intrinsic
def weight_grad_tile(
    typing_context, channels, weights, g, g_at, g_plane, g_row, x, x_at, x_row, x_step, offsets, offsets_at, rows,
    columns, out, out_at, out_row,
):  # fmt: skip
    """Compute a tile of the gradient of the weights of a convolution.

        out[c, k] = sum over rows, columns and lanes of g[c, row, column] * x[k, row, column]

    g[c, row, column] is the vector at g_at + c * g_plane + row * g_row + column * LANES, x[k, row, column] that at
    x_at + offsets[offsets_at + k] + row * x_row + column * x_step, and out[c, k] the number at
    out_at + c * out_row + k. `rows` and `columns` are at least 1.
    """

    def code(context, builder, signature, arguments):
        (
            channels, weights, g, g_at, g_plane, g_row, x, x_at, x_row, x_step, offsets, offsets_at, rows, columns, out,
            out_at, out_row,
        ) = arguments  # fmt: skip
        types = signature.args
        g = data_pointer(context, builder, types[2], g, g_at)
        x = data_pointer(context, builder, types[6], x, x_at)
        offsets = data_pointer(context, builder, types[10], offsets, offsets_at)
        out = data_pointer(context, builder, types[14], out, out_at)
        variants = _Variants(builder, channels, weights)
        for height in range(1, MAX_GRAD_CHANNELS + 1):
            for width in range(1, MAX_WEIGHTS + 1):
                start = variants.case(height, width)
                cells = [(channel, weight) for channel in range(height) for weight in range(width)]
                grads = [builder.gep(g, [builder.mul(g_plane, _number(channel))]) for channel in range(height)]
                inputs = [
                    builder.gep(x, [builder.load(builder.gep(offsets, [_number(weight)]))]) for weight in range(width)
                ]
                row_loop, column_loop, row_end, end = map(
                    builder.append_basic_block, ("row", "column", "row_end", "end")
                )
                builder.branch(row_loop)

                builder.position_at_end(row_loop)
                row, g_start, x_start = (builder.phi(INT64) for _ in range(3))
                for counter in (row, g_start, x_start):
                    counter.add_incoming(_number(0), start)
                before = [builder.phi(FLOATS) for _ in cells]
                for summed in before:
                    summed.add_incoming(constant(0.0), start)
                builder.branch(column_loop)

                builder.position_at_end(column_loop)
                column, g_place, x_place = (builder.phi(INT64) for _ in range(3))
                for counter, first in ((column, _number(0)), (g_place, g_start), (x_place, x_start)):
                    counter.add_incoming(first, row_loop)
                sums = [builder.phi(FLOATS) for _ in cells]
                g_loaded, x_loaded = (
                    [
                        builder.load(vector_pointer(builder, builder.gep(pointer, [place])), align=ALIGN)
                        for pointer in pointers
                    ]
                    for pointers, place in ((grads, g_place), (inputs, x_place))
                )
                after = [
                    multiply_add(builder, g_loaded[channel], x_loaded[weight], summed)
                    for (channel, weight), summed in zip(cells, sums, strict=True)
                ]
                for summed, first, later in zip(sums, before, after, strict=True):
                    summed.add_incoming(first, row_loop)
                    summed.add_incoming(later, column_loop)
                next_column = builder.add(column, _number(1))
                column.add_incoming(next_column, column_loop)
                g_place.add_incoming(builder.add(g_place, _number(LANES)), column_loop)
                x_place.add_incoming(builder.add(x_place, x_step), column_loop)
                builder.cbranch(builder.icmp_signed("<", next_column, columns), column_loop, row_end)

                builder.position_at_end(row_end)
                next_row = builder.add(row, _number(1))
                row.add_incoming(next_row, row_end)
                g_start.add_incoming(builder.add(g_start, g_row), row_end)
                x_start.add_incoming(builder.add(x_start, x_row), row_end)
                for summed, later in zip(before, after, strict=True):
                    summed.add_incoming(later, row_end)
                builder.cbranch(builder.icmp_signed("<", next_row, rows), row_loop, end)

                builder.position_at_end(end)
                for (channel, weight), summed in zip(cells, after, strict=True):
                    place = builder.add(builder.mul(out_row, _number(channel)), _number(weight))
                    builder.store(lane_sum(builder, summed), builder.gep(out, [place]))
                builder.branch(variants.done)
        variants.end()
        return context.get_dummy_value()

    number = int64
    return none(
        number, number, g, number, number, number, x, number, number, number, offsets, number, number, number, out,
        number, number,
    ), code  # fmt: skip
