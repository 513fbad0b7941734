"""Unpacks values to floats, eight at a time in vector registers, nearly as fast as memory is copied.

An octet is eight consecutive values of a row. It is read through 2, 4 or 8 words of 64 bits. Each word holds the next
4, 2 or 1 values of the octet. Each value is then shifted, masked, checked and converted in its lane. The last octet of
a row ends at the row's last value and may overlap the one before. Words lie inside their row, so nothing behind a row
is read. The compiler does not produce this code from loops.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.packed_bits import Levels
from replaystore.kernels.pointers import bytes_at

LANES = 8
MAX_WIDTH = 52  # bits; writing a level into the fraction of a float64 converts it
MAX_SCALE = 10.0**15  # divisions by scales up to this one can be replaced; see `two_factors`

_WORD_COUNTS = (2, 4, 8)
_EXPONENT = 0x4330000000000000  # of 2**52 as float64, whose unit in the last place is 1

_INT = ir.IntType(64)
_LANE = ir.IntType(32)
_INTS = ir.VectorType(_INT, LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_FMA = f"llvm.fma.v{LANES}f64"


class OctetPlan(NamedTuple):
    """How rows of values are read in octets.

    Attributes:
        starts: int64 (octets,), first value of each octet.
        first_bytes: int64 (octets, words), byte of each of its words.
        shifts: uint64 (octets, 8), shift of each value in its word.
        masks: uint64 (octets, 8), mask of each value after the shift.
        tops: uint64 (octets, 8), last level of each value, as it is packed.
        firsts: float64 (D,), added to a packed level. The size of the sum is at most 2**53.
        major: first of `two_factors`.
        minor: second of `two_factors`.
        unused: uint8, the bits of a row's last byte that must be 0.
    """

    starts: NDArray[np.int64]
    first_bytes: NDArray[np.int64]
    shifts: NDArray[np.uint64]
    masks: NDArray[np.uint64]
    tops: NDArray[np.uint64]
    firsts: NDArray[np.float64]
    major: float
    minor: float
    unused: np.uint8


def plan_octets(levels: Levels, row_bytes: int) -> OctetPlan | None:
    """Returns how rows are read in octets.

    Args:
        levels: the levels of the values.
        row_bytes: bytes of a packed row.

    Returns:
        The plan. None if rows cannot be read in this way: rows of fewer than 8 values or 8 bytes, values of more than
        52 bits, or a division that cannot be replaced.
    """
    widths, num_levels = levels.widths, levels.last - levels.first + 1
    is_divided = not levels.is_divided  # levels are divided to give values
    num_values = len(widths)
    if num_values < LANES or row_bytes < 8 or widths.max() > MAX_WIDTH or (is_divided and levels.scale > MAX_SCALE):
        return None
    starts = np.minimum(np.arange(0, num_values, LANES), num_values - LANES)
    values = starts[:, None] + np.arange(LANES)
    offsets = (np.cumsum(widths) - widths)[values]
    chosen = widths[values]
    for num_words in _WORD_COUNTS:
        lanes_a_word = LANES // num_words
        first_bytes = np.minimum(offsets[:, ::lanes_a_word] >> 3, row_bytes - 8)
        shifts = offsets - 8 * np.repeat(first_bytes, lanes_a_word, axis=1)
        if (shifts + chosen <= 64).all():
            break
    masks = (np.uint64(1) << chosen.astype(np.uint64)) - np.uint64(1)
    tops = (num_levels[values] - 1).astype(np.uint64)
    used_bits = int(widths.sum()) % 8
    unused = np.uint8(0xFF << used_bits & 0xFF if used_bits else 0)
    major, minor = two_factors(levels.scale, is_divided)
    return OctetPlan(
        starts, np.ascontiguousarray(first_bytes), _aligned(shifts.astype(np.uint64)), _aligned(masks), _aligned(tops),
        levels.first.astype(np.float64), major, minor, unused,
    )  # fmt: skip


def _aligned(table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns a copy in which no octet crosses cache lines, because decoding across them is slower."""
    room = np.empty(table.size + LANES, np.uint64)
    first = -room.ctypes.data % (8 * LANES) // 8
    aligned = room[first : first + table.size].reshape(table.shape)
    aligned[...] = table
    return aligned


def two_factors(scale: float, divide: bool) -> tuple[float, float]:
    """Returns (a, b) such that `fma(x, a, x * b)` is x * scale, or with `divide` x / scale, rounded once.

    This holds for whole x up to 2**53 and powers of ten from 1 up to `MAX_SCALE`. a + b is 1 / scale to 106 bits, so
    the relative error of the sum before its one rounding is at most 2**-105. The relative distance of x / scale to the
    middle of two neighbouring floats is never less than 2**-54 / scale.
    """
    if not divide:
        return scale, 0.0
    inverse = Fraction(1) / Fraction(scale)
    return float(inverse), float(inverse - Fraction(float(inverse)))


def _octet_intrinsic(num_words: int) -> Any:
    def octet(
        typing_context: Any, address: Any, first_bytes: Any, shifts: Any, masks: Any, tops: Any, firsts: Any,
        number: Any, value: Any, major: Any, minor: Any, row: Any,
    ) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
        """Decodes octet `number` of the packed row at `address` into row[value : value + 8].

        Returns a bit per lane, set if the level is too large.
        """
        signature = types.uint8(
            types.int64, first_bytes, shifts, masks, tops, firsts, types.intp, types.intp, types.float64,
            types.float64, row,
        )  # fmt: skip
        return signature, _octet_builder(num_words)

    return intrinsic(octet)


def _octet_builder(num_words: int) -> Callable[..., Any]:
    lane_words = [lane * num_words // LANES for lane in range(LANES)]

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _, _, _, _, _, number, value, major, minor, _ = arguments

        def pointer(argument: int, kind: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
            return builder.bitcast(array.data, kind.as_pointer())

        def lanes(argument: int, at: Any, kind: Any = _INTS) -> Any:
            place = builder.gep(pointer(argument, kind.element), [at])
            return builder.load(builder.bitcast(place, kind.as_pointer()), align=8)

        def spread(scalar: Any) -> Any:
            one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), scalar, _LANE(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES))

        at = builder.mul(number, ir.Constant(_INT, LANES))
        table = builder.gep(pointer(1, _INT), [builder.mul(number, ir.Constant(_INT, num_words))])
        words = ir.Constant(_INTS, ir.Undefined)
        for word in range(num_words):
            byte = builder.add(address, builder.load(builder.gep(table, [_LANE(word)]), align=8))
            place = builder.inttoptr(byte, _INT.as_pointer())
            words = builder.insert_element(words, builder.load(place, align=1), _LANE(word))
        words = builder.shuffle_vector(words, words, ir.Constant(ir.VectorType(_LANE, LANES), lane_words))
        levels = builder.and_(builder.lshr(words, lanes(2, at)), lanes(3, at))
        damaged = builder.icmp_unsigned(">", levels, lanes(4, at))
        # The level is the fraction of a float64 in 2**52 .. 2**53. That is exact, and needs no instruction to convert.
        exponent = ir.Constant(_INTS, [_EXPONENT] * LANES)
        base = ir.Constant(_DOUBLES, [float(1 << 52)] * LANES)
        floats = builder.fsub(builder.bitcast(builder.or_(levels, exponent), _DOUBLES), base)
        floats = builder.fadd(floats, lanes(5, value, _DOUBLES))
        fma = builder.module.globals.get(_FMA) or ir.Function(
            builder.module, ir.FunctionType(_DOUBLES, [_DOUBLES] * 3), _FMA
        )
        result = builder.call(fma, [floats, spread(major), builder.fmul(floats, spread(minor))])
        kind = context.get_data_type(signature.args[10].dtype)
        if kind != ir.DoubleType():
            result = builder.fptrunc(result, ir.VectorType(kind, LANES))
        place = builder.gep(pointer(10, kind), [value])
        builder.store(result, builder.bitcast(place, result.type.as_pointer()), align=4)
        return builder.bitcast(damaged, ir.IntType(LANES))

    return build


_octet_of_2, _octet_of_4, _octet_of_8 = map(_octet_intrinsic, _WORD_COUNTS)


@kernel
def decode_octets(
    addresses: Any, sizes: Any, which: Any, row_in_source: Any, targets: Any, row_bytes: int, plan: OctetPlan, out: Any
) -> Any:
    """Unpacks values of packed rows, each `fma(x, major, x * minor)` with x its level.

    Args:
        addresses: int64 (buffers,), addresses of buffers that hold rows one after another.
        sizes: int64 (buffers,), bytes of each buffer.
        which: int64 (n,), the buffer of each row.
        row_in_source: int64 (n,), position of each row in its buffer, in any order.
        targets: int64 (n,), the row of `out` for each row.
        row_bytes: bytes of a packed row.
        plan: how rows are read.
        out: float32 or float64 (rows, D), C-contiguous.

    Returns:
        -1, or the first position in `which` whose row has a level above its last or a bit set behind its values. `out`
        is then unfinished.

    Raises:
        ValueError: the arrays do not fit each other.
        IndexError: a row or target does not exist.
    """
    starts, first_bytes, shifts, masks, tops, firsts = (
        plan.starts,
        plan.first_bytes,
        plan.shifts,
        plan.masks,
        plan.tops,
        plan.firsts,
    )
    major, minor = plan.major, plan.minor
    num_octets, num_words = first_bytes.shape
    if not which.size == row_in_source.size == targets.size or addresses.size != sizes.size:
        raise ValueError("rows and targets differ in number")
    if starts.size != num_octets or firsts.size != out.shape[1]:
        raise ValueError("out and rows differ in shape")
    if num_words not in (2, 4, 8) or not shifts.shape == masks.shape == tops.shape == (num_octets, LANES):
        raise ValueError("not a plan of octets")
    for number in range(num_octets):
        if starts[number] < 0 or starts[number] > out.shape[1] - LANES:
            raise ValueError("an octet ends behind its row")
        for word in range(num_words):
            if first_bytes[number, word] < 0 or first_bytes[number, word] > row_bytes - 8:
                raise ValueError("a word ends behind its row")
    for i in range(which.size):
        source = which[i]
        if (
            source < 0
            or source >= addresses.size
            or row_in_source[i] < 0
            or row_in_source[i] >= sizes[source] // row_bytes
        ):
            raise IndexError("no such packed row")
        if targets[i] < 0 or targets[i] >= out.shape[0]:
            raise IndexError("no such row of out")
        start = addresses[source] + row_in_source[i] * row_bytes
        row = out[targets[i]]
        damaged = np.uint8(bytes_at(start + row_bytes - 1, 1)[0] & plan.unused)
        if num_words == 2:
            for number in range(num_octets):
                damaged |= _octet_of_2(
                    start, first_bytes, shifts, masks, tops, firsts, number, starts[number], major, minor, row
                )
        elif num_words == 4:
            for number in range(num_octets):
                damaged |= _octet_of_4(
                    start, first_bytes, shifts, masks, tops, firsts, number, starts[number], major, minor, row
                )
        else:
            for number in range(num_octets):
                damaged |= _octet_of_8(
                    start, first_bytes, shifts, masks, tops, firsts, number, starts[number], major, minor, row
                )
        if damaged != 0:
            return i
    return -1
