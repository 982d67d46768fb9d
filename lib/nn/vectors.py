"""Vectors of LANES float32 numbers as a type of numba, with their operations as LLVM instructions.

A compiled function that uses them needs no automatic vectorization: each operation is one instruction, or two or four
where the registers of the processor are narrower.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int32, int64, none, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS, BITS = (ir.VectorType(number, LANES) for number in (FLOAT, INT32, ir.IntType(1)))
# Vectors may start anywhere in an array: align them to a number only.
ALIGN = 4


class VectorType(types.Type):
    """The numba type of a vector."""


vector = VectorType(name=f"float32x{LANES}")


class IndexVectorType(types.Type):
    """The numba type of a vector of int32."""


index_vector = IndexVectorType(name=f"int32x{LANES}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, FLOATS)


@register_model(IndexVectorType)
class _IndexVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, INTS)


# The operations as LLVM code, for other intrinsics


def constant(number: float, kind: ir.VectorType = FLOATS) -> ir.Constant:
    """A vector with one number in all lanes."""
    return ir.Constant(kind, [number] * LANES)


def splat(builder: Any, number: Any, kind: ir.VectorType = FLOATS) -> Any:
    """Copy a number to all lanes."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), constant(0, INTS))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    function_type = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{LANES}f32"), [a, b, c]
    )


def at_least(builder: Any, x: Any, floor: Any) -> Any:
    """The larger of x and floor; NaN stays NaN."""
    return builder.select(builder.fcmp_ordered("<", x, floor), floor, x)


def is_larger(builder: Any, x: Any, best: Any) -> Any:
    """Whether x is larger than best, or NaN, so that a maximum of values with NaN is NaN, as in torch."""
    return builder.or_(builder.fcmp_ordered(">", x, best), builder.fcmp_unordered("uno", x, x))


def lane_sum(builder: Any, x: Any) -> Any:
    """The sum of all lanes, in a fixed order."""
    function_type = ir.FunctionType(FLOAT, [FLOAT, FLOATS])
    name = f"llvm.vector.reduce.fadd.v{LANES}f32"
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, [ir.Constant(FLOAT, 0.0), x], fastmath=("reassoc",))


def data_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of array[index], for a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def vector_pointer(builder: Any, pointer: Any, kind: ir.VectorType = FLOATS) -> Any:
    """The address of a number as the address of a vector."""
    return builder.bitcast(pointer, kind.as_pointer())


# The operations for compiled functions. Arrays are flat and contiguous; an index counts numbers, not vectors.


@intrinsic
def load(typing_context, array, index):
    """Return the vector that starts at array[index], float32."""

    def code(context, builder, signature, arguments):
        pointer = data_pointer(context, builder, signature.args[0], *arguments)
        return builder.load(vector_pointer(builder, pointer), align=ALIGN)

    return vector(array, int64), code


@intrinsic
def store(typing_context, array, index, x):
    """Write a vector to array[index] and the numbers after it."""

    def code(context, builder, signature, arguments):
        pointer = data_pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], vector_pointer(builder, pointer), align=ALIGN)
        return context.get_dummy_value()

    return none(array, int64, vector), code


@intrinsic
def load_indexes(typing_context, array, index):
    """Return the vector of int32 that starts at array[index]."""

    def code(context, builder, signature, arguments):
        pointer = data_pointer(context, builder, signature.args[0], *arguments)
        return builder.load(vector_pointer(builder, pointer, INTS), align=ALIGN)

    return index_vector(array, int64), code


@intrinsic
def store_indexes(typing_context, array, index, x):
    """Write a vector of int32 to array[index] and the numbers after it."""

    def code(context, builder, signature, arguments):
        pointer = data_pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], vector_pointer(builder, pointer, INTS), align=ALIGN)
        return context.get_dummy_value()

    return none(array, int64, index_vector), code


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of array[index], which is read soon. The index may be beyond the array."""

    def code(context, builder, signature, arguments):
        pointer = data_pointer(context, builder, signature.args[0], *arguments)
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        # For reading, to all levels of the cache, of data.
        builder.call(function, [pointer, *(ir.Constant(INT32, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return none(array, int64), code


@intrinsic
def fill(typing_context, number):
    """Return a vector with a float32 in all lanes."""

    def code(context, builder, signature, arguments):
        return splat(builder, arguments[0])

    return vector(float32), code


@intrinsic
def fill_indexes(typing_context, number):
    """Return a vector with an int32 in all lanes."""

    def code(context, builder, signature, arguments):
        return splat(builder, arguments[0], INTS)

    return index_vector(int32), code


@intrinsic
def add(typing_context, x, y):
    """x + y"""

    def code(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return vector(vector, vector), code


@intrinsic
def subtract(typing_context, x, y):
    """x - y"""

    def code(context, builder, signature, arguments):
        return builder.fsub(*arguments)

    return vector(vector, vector), code


@intrinsic
def multiply(typing_context, x, y):
    """x * y"""

    def code(context, builder, signature, arguments):
        return builder.fmul(*arguments)

    return vector(vector, vector), code


@intrinsic
def fma(typing_context, x, y, z):
    """x * y + z, rounded once"""

    def code(context, builder, signature, arguments):
        return multiply_add(builder, *arguments)

    return vector(vector, vector, vector), code


@intrinsic
def inverse_root(typing_context, x):
    """1 / sqrt(x)"""

    def code(context, builder, signature, arguments):
        function_type = ir.FunctionType(FLOATS, [FLOATS])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.sqrt.v{LANES}f32")
        return builder.fdiv(constant(1.0), builder.call(function, arguments))

    return vector(vector), code


@intrinsic
def relu(typing_context, x):
    """max(x, 0); NaN stays NaN"""

    def code(context, builder, signature, arguments):
        return at_least(builder, arguments[0], constant(0.0))

    return vector(vector), code


@intrinsic
def where_positive(typing_context, x, y):
    """y where x > 0, otherwise 0"""

    def code(context, builder, signature, arguments):
        x, y = arguments
        return builder.select(builder.fcmp_ordered(">", x, constant(0.0)), y, constant(0.0))

    return vector(vector, vector), code


@intrinsic
def maximum(typing_context, x, best):
    """The larger of x and best; NaN if one of them is NaN"""

    def code(context, builder, signature, arguments):
        x, best = arguments
        return builder.select(is_larger(builder, x, best), x, best)

    return vector(vector, vector), code


@intrinsic
def maximum_index(typing_context, x, best, index, best_index):
    """The index of `maximum`: the first of equal numbers wins, as in torch."""

    def code(context, builder, signature, arguments):
        x, best, index, best_index = arguments
        return builder.select(is_larger(builder, x, best), index, best_index)

    return index_vector(vector, vector, index_vector, index_vector), code


@intrinsic
def where_equal(typing_context, i, j, x):
    """x where the int32 i and j are equal, otherwise 0"""

    def code(context, builder, signature, arguments):
        i, j, x = arguments
        return builder.select(builder.icmp_signed("==", i, j), x, constant(0.0))

    return vector(index_vector, index_vector, vector), code


@intrinsic
def first_lanes(typing_context, count, x):
    """x in the first `count` lanes, int32, and 0 in the others"""

    def code(context, builder, signature, arguments):
        count, x = arguments
        lanes = ir.Constant(INTS, list(range(LANES)))
        return builder.select(builder.icmp_signed("<", lanes, splat(builder, count, INTS)), x, constant(0.0))

    return vector(int32, vector), code


@intrinsic
def keep(typing_context, counter, seed, other_seed, threshold, scale):
    """Random `scale` or 0 for each lane: 0 where a hash of counter + lane and both seeds is below `threshold`.

    All numbers but `scale` are uint32. The hash is "lowbias32" by C. Wellons (Prospecting for Hash Functions, 2018),
    with a second seed between its two multiplications.
    """

    def code(context, builder, signature, arguments):
        counter, seed, other_seed, threshold, scale = arguments
        x = builder.add(splat(builder, builder.add(counter, seed), INTS), ir.Constant(INTS, list(range(LANES))))
        x = builder.xor(x, builder.lshr(x, constant(16, INTS)))
        x = builder.mul(x, constant(0x7FEB352D, INTS))
        x = builder.xor(x, splat(builder, other_seed, INTS))
        x = builder.xor(x, builder.lshr(x, constant(15, INTS)))
        x = builder.mul(x, constant(0x846CA68B, INTS))
        x = builder.xor(x, builder.lshr(x, constant(16, INTS)))
        is_kept = builder.icmp_unsigned(">=", x, splat(builder, threshold, INTS))
        return builder.select(is_kept, splat(builder, scale), constant(0.0))

    return vector(uint32, uint32, uint32, uint32, float32), code


@intrinsic
def total(typing_context, x):
    """Return the sum of all lanes."""

    def code(context, builder, signature, arguments):
        return lane_sum(builder, arguments[0])

    return float32(vector), code
