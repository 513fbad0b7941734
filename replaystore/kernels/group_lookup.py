"""Finding the groups that hold the rows of a batch, in the tables of their chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.frame_groups import I64
from replaystore.kernels.pointers import Int, bytes_at, load_u16, load_u32, load_u64

TABLE_UNKNOWN = -2

_DIGIT_BITS = 11  # sorted at a time

_ENTRY = 24  # bytes of a table entry, docs/format.md


@kernel
def locate_groups(
    rows: I64, chunk_rows: Int, tables: I64, num_groups: I64, bases: I64, first_chunk: Int,
    chunks: I64, numbers: I64, places: I64, lengths: I64, forms: I64, num_rows: I64, bounds: I64, local: I64,
) -> Any:  # fmt: skip
    """Finds the groups that hold stored rows, in the tables of their chunks.

    Args:
        rows: int64 (n,), ascending.
        tables, num_groups: int64 (known chunks,); the address of the table of chunk `first_chunk + c` and its length.
        bases: int64 (known chunks,), where the payload of each chunk starts: in memory or in its file.
        chunks, numbers, places, lengths, forms, num_rows: int64 (n,), written: for each group found its chunk, counted
            from `first_chunk`, its number in it, where it starts, and what the table says of it.
        bounds: int64 (n + 1,), local: int64 (n,), written: see `decode_groups`.

    Returns:
        The number of groups; or `TABLE_UNKNOWN` where that of a row's chunk is, or -1 where a row is in no group of its
        chunk.
    """
    found = 0
    stop = np.int64(-1)  # behind the last row of the group found last
    first = np.int64(0)
    for j in range(rows.size):
        if rows[j] >= stop or found == 0:
            chunk = rows[j] // chunk_rows
            c = chunk - first_chunk
            if c < 0 or c >= tables.size or tables[c] == 0:
                return TABLE_UNKNOWN
            row = rows[j] - chunk * chunk_rows
            low, high = np.int64(0), num_groups[c]
            while high - low > 1:
                middle = (low + high) >> 1
                if np.int64(load_u32(tables[c] + _ENTRY * middle)) <= row:
                    low = middle
                else:
                    high = middle
            entry = tables[c] + _ENTRY * low
            first = np.int64(load_u32(entry))
            count = np.int64(load_u16(entry + 4))
            if row < first or row >= first + count:
                return -1
            chunks[found] = c
            numbers[found] = low
            forms[found] = np.int64(bytes_at(entry + 6, 1)[0])
            places[found] = bases[c] + np.int64(load_u64(entry + 8))
            lengths[found] = np.int64(load_u32(entry + 16))
            num_rows[found] = count
            bounds[found] = j
            found += 1
            first += chunk * chunk_rows
            stop = first + count
        local[j] = rows[j] - first
    bounds[found] = rows.size
    return found


@inlined
def _sort_keys(keys: I64, spare: I64, low_bit: Int, high_bit: Int) -> None:
    """Sorts by the bits from `low_bit` to below `high_bit`, keeping the order of equal ones. spare: like `keys`."""
    counts = np.empty(1 << _DIGIT_BITS, np.int64)
    mask = np.int64((1 << _DIGIT_BITS) - 1)
    source, target = keys, spare
    for shift in range(low_bit, high_bit, _DIGIT_BITS):
        for digit in range(counts.size):  # an assignment to a slice compiles text for its error
            counts[digit] = 0
        for j in range(source.size):
            counts[(source[j] >> shift) & mask] += 1
        start = np.int64(0)
        for digit in range(counts.size):
            count = counts[digit]
            counts[digit] = start
            start += count
        for j in range(source.size):
            digit = (source[j] >> shift) & mask
            target[counts[digit]] = source[j]
            counts[digit] += 1
        source, target = target, source
    if (max(0, high_bit - low_bit) + _DIGIT_BITS - 1) // _DIGIT_BITS % 2:
        for j in range(keys.size):
            keys[j] = spare[j]


@kernel
def locate_windows(
    frames: I64, chunk_rows: Int, tables: I64, num_groups: I64, payloads: I64, first_chunk: Int,
    chunks: I64, numbers: I64, addresses: I64, lengths: I64, forms: I64, num_rows: I64, bounds: I64, local: I64,
    targets: I64, slots: I64, others: I64,
) -> Any:  # fmt: skip
    """`locate_groups` for windows of rows in any order, in chunks that are held in memory.

    Args:
        frames: int64 (m, depth), C-contiguous: the frames of m observations.
        payloads: int64 (known chunks,), where the groups of a held chunk start; 0 where it is not held.
        chunks .. local: int64 (m * depth,), bounds: one more; written as by `locate_groups`, with addresses.
        targets, slots: int64 (m * depth,), written: for each entry its observation and its place in that.
        others: int64 (m * depth,), its start is written: the frames, counted flat, that are in no held chunk.

    Returns:
        (number of groups, number of others); or `TABLE_UNKNOWN` in place of the first where more than an eighth of the
        frames are others, or -1 where a row is in no group of its chunk.
    """
    depth = frames.shape[1]
    flat = frames.reshape(-1)
    num_others = 0
    n = 0
    index_bits = 0
    while (flat.size >> index_bits) > 0:
        index_bits += 1
    keys, spare, rows = np.empty(flat.size, np.int64), np.empty(flat.size, np.int64), np.empty(flat.size, np.int64)
    first_row = first_chunk * chunk_rows
    largest = np.int64(0)
    for at in range(flat.size):
        c = flat[at] // chunk_rows - first_chunk
        if flat[at] < 0 or c < 0 or c >= payloads.size or payloads[c] == 0 or tables[c] == 0:
            others[num_others] = at
            num_others += 1
        else:
            row = flat[at] - first_row
            largest = max(largest, row)
            keys[n] = (row << index_bits) | at
            n += 1
    if num_others > flat.size // 8:
        return np.int64(TABLE_UNKNOWN), num_others
    row_bits = 0
    while (largest >> row_bits) > 0:
        row_bits += 1
    _sort_keys(keys[:n], spare[:n], index_bits, index_bits + row_bits)
    mask = np.int64((1 << index_bits) - 1)
    for j in range(n):
        at = keys[j] & mask
        rows[j] = flat[at]
        targets[j] = at // depth
        slots[j] = at - targets[j] * depth
    found = locate_groups(
        rows[:n], chunk_rows, tables, num_groups, payloads, first_chunk, chunks, numbers, addresses, lengths, forms,
        num_rows, bounds, local,
    )  # fmt: skip
    return np.int64(found), num_others
