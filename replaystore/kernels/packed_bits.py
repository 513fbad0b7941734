"""Packs unsigned integers of 0 to 53 bits in rows, and converts them to fixed-point numbers.

A row of D values takes `max(1, ceil(sum of widths / 8))` bytes. Value d has bits `offsets[d] .. offsets[d] + widths[d]`
of the row. Bit 0 is the lowest bit of the first byte, and unused bits are zero. All offsets are checked against the
arrays, and levels are checked against the limits that the caller gives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.status import BITS_BEHIND_VALUES, LEVEL_TOO_LARGE, OK

MAX_BITS = 53

_BYTE = np.uint64(8)
_SEVEN = np.uint64(7)
_THREE = np.uint64(3)
_SPLITTER = 134217729.0  # 2**27 + 1: splits a float64 into two halves whose products are exact


class Levels(NamedTuple):
    """The levels that the values of a row of D values are stored as. Level k stands for k / scale or k * scale.

    Attributes:
        low: float64 (D,), lower bounds of the values.
        high: float64 (D,), upper bounds of the values.
        first: int64 (D,), the level that is packed as 0.
        last: int64 (D,), the last level.
        widths: int64 (D,), bits of each value.
        scale: the power of ten that values are multiplied with, or divided by.
        is_divided: whether values are divided by `scale` to give levels.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    widths: NDArray[np.int64]
    scale: float
    is_divided: bool


@kernel
def _pack_row(levels: Any, widths: Any, packed: Any, row: int) -> None:
    """Writes all bytes of one row of `packed` from the D `levels`, which must fit their widths."""
    pending = np.uint64(0)
    num_pending = 0
    position = 0
    for value in range(widths.size):
        pending |= levels[value] << np.uint64(num_pending)
        num_pending += widths[value]
        while num_pending >= 8:
            packed[row, position] = np.uint8(pending & np.uint64(0xFF))
            pending >>= _BYTE
            num_pending -= 8
            position += 1
    if num_pending > 0:
        packed[row, position] = np.uint8(pending)
        position += 1
    while position < packed.shape[1]:
        packed[row, position] = np.uint8(0)
        position += 1


@kernel
def _unpack_row(flat: Any, start: int, offsets: Any, masks: Any, levels: Any) -> None:
    """Reads the D levels of the row at byte `start` of `flat`. The row must lie inside it."""
    first_byte = np.uint64(start)
    num_wide = offsets.size
    while num_wide > 0 and start + (np.int64(offsets[num_wide - 1]) >> 3) + 8 > flat.size:
        num_wide -= 1
    for value in range(num_wide):
        byte = first_byte + (offsets[value] >> _THREE)
        window = (  # the compiler makes one 64-bit load of this
            np.uint64(flat[byte])
            | np.uint64(flat[byte + np.uint64(1)]) << np.uint64(8)
            | np.uint64(flat[byte + np.uint64(2)]) << np.uint64(16)
            | np.uint64(flat[byte + np.uint64(3)]) << np.uint64(24)
            | np.uint64(flat[byte + np.uint64(4)]) << np.uint64(32)
            | np.uint64(flat[byte + np.uint64(5)]) << np.uint64(40)
            | np.uint64(flat[byte + np.uint64(6)]) << np.uint64(48)
            | np.uint64(flat[byte + np.uint64(7)]) << np.uint64(56)
        )
        levels[value] = (window >> (offsets[value] & _SEVEN)) & masks[value]
    for value in range(num_wide, offsets.size):
        window = np.uint64(0)
        byte = first_byte + (offsets[value] >> _THREE)
        shift = np.uint64(0)
        while byte < np.uint64(flat.size):
            window |= np.uint64(flat[byte]) << shift
            shift += _BYTE
            byte += np.uint64(1)
        levels[value] = (window >> (offsets[value] & _SEVEN)) & masks[value]


@kernel
def _layout(widths: Any, row_bytes: int) -> Any:
    """Returns the bit offsets and masks of a row, uint64 (D,) each, and its bits. Checks widths and `row_bytes`."""
    offsets = np.empty(widths.size, np.uint64)
    masks = np.empty(widths.size, np.uint64)
    num_bits = 0
    for value in range(widths.size):
        if widths[value] < 0 or widths[value] > MAX_BITS:
            raise ValueError("a width is 0 to 53 bits")
        offsets[value] = np.uint64(num_bits)
        masks[value] = (np.uint64(1) << np.uint64(widths[value])) - np.uint64(1)
        num_bits += widths[value]
    if row_bytes != max(1, (num_bits + 7) // 8):
        raise ValueError("bytes of a packed row do not fit the widths")
    return offsets, masks, num_bits


@kernel
def pack_levels(levels: Any, widths: Any, packed: Any) -> Any:
    """Packs levels.

    Args:
        levels: uint64 (rows, D).
        widths: int64 (D,), bits of each value.
        packed: uint8 (rows, row_bytes), filled.

    Returns:
        -1, or the flat index of the first level that does not fit its width.

    Raises:
        ValueError: the arrays do not fit each other.
    """
    _, masks, _ = _layout(widths, packed.shape[1])
    if levels.shape[0] != packed.shape[0] or levels.shape[1] != widths.size:
        raise ValueError("levels and packed rows differ in shape")
    for row in range(levels.shape[0]):
        for value in range(widths.size):
            if levels[row, value] > masks[value]:
                return row * widths.size + value
        _pack_row(levels[row], widths, packed, row)
    return -1


@kernel
def unpack_levels(packed: Any, rows: Any, widths: Any, levels: Any) -> None:
    """Unpacks levels.

    Args:
        packed: uint8 (num_rows, row_bytes).
        rows: int64 (B,), the rows to unpack, in any order.
        widths: int64 (D,), bits of each value.
        levels: uint64 (B, D), filled.

    Raises:
        ValueError: the arrays do not fit each other.
        IndexError: a row does not exist.
    """
    offsets, masks, _ = _layout(widths, packed.shape[1])
    if levels.shape[0] != rows.size or levels.shape[1] != widths.size:
        raise ValueError("levels and rows differ in shape")
    flat = packed.reshape(-1)
    for i in range(rows.size):
        if rows[i] < 0 or rows[i] >= packed.shape[0]:
            raise IndexError("no such packed row")
        _unpack_row(flat, rows[i] * packed.shape[1], offsets, masks, levels[i])


@kernel
def _product_error(a: float, b: float, product: float) -> float:
    """Returns the exact `a * b - product` for the rounded `product` of a and b (Dekker 1971), below 1e290."""
    split = _SPLITTER * a
    a_high = split - (split - a)
    a_low = a - a_high
    split = _SPLITTER * b
    b_high = split - (split - b)
    b_low = b - b_high
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@kernel
def _nearest_level(x: float, scale: float, divide: bool) -> Any:
    """Returns x * scale, or x / scale, rounded half to even as if exact. Its size is at most 2**53."""
    scaled = x / scale if divide else x * scale
    nearest = np.rint(scaled)
    if np.abs(scaled - nearest) != 0.5:
        return np.int64(nearest)
    if divide:  # a tie after rounding, so the sign of the rounding error decides
        product = scaled * scale
        rest = (x - product) - _product_error(scaled, scale, product)
    else:
        rest = _product_error(x, scale, scaled)
    if rest > 0.0:
        nearest = np.ceil(scaled)
    elif rest < 0.0:
        nearest = np.floor(scaled)
    return np.int64(nearest)


@kernel
def quantize_rows(values: Any, levels: Levels, substitutes: Any, packed: Any) -> Any:
    """Clamps, rounds and packs values. Rounding is half to even, as if computed exactly.

    Args:
        values: float32 or float64 (rows, D).
        levels: the levels of the values.
        substitutes: float64 (3,), the numbers to store for NaN, +infinity and -infinity. NaN if there is none.
        packed: uint8 (rows, row_bytes), filled.

    Returns:
        (values outside their bounds, flat index of the first NaN or infinity without a substitute, or -1).

    Raises:
        ValueError: the arrays do not fit each other, or bounds and widths do not.
    """
    _, masks, _ = _layout(levels.widths, packed.shape[1])
    num_values = levels.widths.size
    if values.shape[0] != packed.shape[0] or values.shape[1] != num_values:
        raise ValueError("values and packed rows differ in shape")
    if levels.low.size != num_values or levels.high.size != num_values or levels.first.size != num_values:
        raise ValueError("bounds and widths differ in number")
    if substitutes.size != 3:
        raise ValueError("there are three substitutes")
    row_levels = np.empty(num_values, np.uint64)
    num_clamped = 0
    for row in range(values.shape[0]):
        for value in range(num_values):
            x = np.float64(values[row, value])
            if x != x:
                x = substitutes[0]
            elif x == np.inf:
                x = substitutes[1]
            elif x == -np.inf:
                x = substitutes[2]
            if x != x:
                return num_clamped, row * num_values + value
            if x < levels.low[value]:
                x = levels.low[value]
                num_clamped += 1
            elif x > levels.high[value]:
                x = levels.high[value]
                num_clamped += 1
            level = np.uint64(_nearest_level(x, levels.scale, levels.is_divided) - levels.first[value])
            if level > masks[value]:
                raise ValueError("bounds do not fit the widths")
            row_levels[value] = level
        _pack_row(row_levels, levels.widths, packed, row)
    return num_clamped, -1


@kernel
def dequantize_rows(packed: Any, rows: Any, targets: Any, levels: Levels, out: Any) -> Any:
    """Unpacks values. They are computed in float64. Takes any widths; `packed_bits_simd` is faster.

    Args:
        packed: uint8 (num_rows, row_bytes).
        rows: int64 (B,), the rows to unpack, in any order.
        targets: int64 (B,), the row of `out` for each row.
        levels: the levels of the values.
        out: float32 or float64 (n, D), filled. It is unfinished if a row is damaged.

    Returns:
        (`OK`, B, 0). For the first damage (`LEVEL_TOO_LARGE`, position in `rows`, value) or (`BITS_BEHIND_VALUES`,
        position in `rows`, 0).

    Raises:
        ValueError: the arrays do not fit each other.
        IndexError: a row or target does not exist.
    """
    offsets, masks, num_bits = _layout(levels.widths, packed.shape[1])
    num_values = levels.widths.size
    if targets.size != rows.size or out.shape[1] != num_values:
        raise ValueError("out and rows differ in shape")
    if levels.first.size != num_values or levels.last.size != num_values:
        raise ValueError("levels and widths differ in number")
    flat = packed.reshape(-1)
    row_levels = np.empty(num_values, np.uint64)
    first, last = levels.first, levels.last
    for i in range(rows.size):
        if rows[i] < 0 or rows[i] >= packed.shape[0]:
            raise IndexError("no such packed row")
        if targets[i] < 0 or targets[i] >= out.shape[0]:
            raise IndexError("no such row of out")
        into = out[targets[i]]
        start = rows[i] * packed.shape[1]
        if num_bits < 8 * packed.shape[1] and flat[start + (num_bits >> 3)] >> (num_bits & 7) != 0:
            return BITS_BEHIND_VALUES, i, np.int64(0)
        _unpack_row(flat, start, offsets, masks, row_levels)
        num_damaged = 0
        for value in range(num_values):
            num_damaged += np.int64(row_levels[value]) + first[value] > last[value]
        if num_damaged:
            for value in range(num_values):
                if np.int64(row_levels[value]) + first[value] > last[value]:
                    return LEVEL_TOO_LARGE, i, np.int64(value)
        if levels.is_divided:
            for value in range(num_values):
                into[value] = np.float64(np.int64(row_levels[value]) + first[value]) * levels.scale
        else:
            for value in range(num_values):
                into[value] = np.float64(np.int64(row_levels[value]) + first[value]) / levels.scale
    return OK, rows.size, np.int64(0)
