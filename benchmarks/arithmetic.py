"""Measure the peak rate of multiply-adds in single precision: the arithmetic limit of a training."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
from llvmlite import ir
from numba import int64, njit, none
from numba.extending import intrinsic

from lib.nn.vectors import FLOATS, INT64, LANES, data_pointer, multiply_add, vector_pointer

# Sums that do not wait for one another: enough to fill the pipeline of any processor.
SUMS = 20
LOOPS = 5_000_000
ROUNDS = 5


def peak_flops(threads: int | None = None) -> float:
    """Floating-point operations per second of multiply-adds in registers, of all cores; the best of some rounds."""
    threads = threads or os.cpu_count() or 1
    arrays = [np.full(LANES, 0.5, np.float32) for _ in range(threads)]
    _multiply_adds(1, arrays[0])
    best = float("inf")
    for _ in range(ROUNDS):
        workers = [threading.Thread(target=_multiply_adds, args=(LOOPS, array)) for array in arrays]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = min(best, time.perf_counter() - started)
    return 2 * threads * LOOPS * SUMS * LANES / best


@intrinsic
def _loop(typing_context, count, array):  # type: ignore[no-untyped-def]
    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        count, array = arguments
        pointer = vector_pointer(
            builder, data_pointer(context, builder, signature.args[1], array, ir.Constant(INT64, 0))
        )
        factor, start = builder.load(pointer, align=4), builder.block
        body, end = builder.append_basic_block("body"), builder.append_basic_block("end")
        builder.branch(body)
        builder.position_at_end(body)
        number = builder.phi(INT64)
        number.add_incoming(ir.Constant(INT64, 0), start)
        sums = [builder.phi(FLOATS) for _ in range(SUMS)]
        after = [multiply_add(builder, summed, factor, factor) for summed in sums]
        for summed, later in zip(sums, after, strict=True):
            summed.add_incoming(factor, start)
            summed.add_incoming(later, body)
        following = builder.add(number, ir.Constant(INT64, 1))
        number.add_incoming(following, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, end)
        builder.position_at_end(end)
        total = after[0]
        for later in after[1:]:
            total = builder.fadd(total, later)
        builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return none(int64, array), code


@njit(nogil=True)
def _multiply_adds(count, array):  # type: ignore[no-untyped-def]
    _loop(count, array)  # type: ignore[call-arg]


if __name__ == "__main__":
    print(f"{peak_flops() / 1e9:.0f} GFLOP/s")
