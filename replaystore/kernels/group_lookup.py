"""Finds the groups that hold the rows of a batch, in the tables of their chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.kernels.compiled import inlined, kernel
from replaystore.kernels.group_request import I64, GroupRequest, GroupTable
from replaystore.kernels.pointers import Int, bytes_at, load_u16, load_u32, load_u64
from replaystore.kernels.status import OK, ROW_IN_NO_GROUP, TABLE_UNKNOWN

_DIGIT_BITS = 11  # sorted at a time

_ENTRY = 24  # bytes of a table entry, docs/format.md


@kernel
def locate_groups(rows: I64, table: GroupTable, request: GroupRequest) -> Any:
    """Finds the groups that hold stored rows, in the tables of their chunks.

    Args:
        rows: int64 (n,), ascending.
        table: the tables of chunks.
        request: has room for n entries. Everything except `targets` and `slots` is filled for the groups found.

    Returns:
        (`OK`, groups found), or (`TABLE_UNKNOWN` or `ROW_IN_NO_GROUP`, position in `rows` of the first such row).
    """
    chunk_rows = table.chunk_rows
    found = 0
    stop = np.int64(-1)  # behind the last row of the group found last
    first = np.int64(0)
    for j in range(rows.size):
        if rows[j] >= stop or found == 0:
            chunk = rows[j] // chunk_rows
            c = chunk - table.first_chunk
            if c < 0 or c >= table.tables.size or table.tables[c] == 0:
                return TABLE_UNKNOWN, j
            address = table.tables[c]
            row = rows[j] - chunk * chunk_rows
            low, high = np.int64(0), table.num_groups[c]
            while high - low > 1:
                middle = (low + high) >> 1
                if np.int64(load_u32(address + _ENTRY * middle)) <= row:
                    low = middle
                else:
                    high = middle
            entry = address + _ENTRY * low
            first = np.int64(load_u32(entry))
            count = np.int64(load_u16(entry + 4))
            if row < first or row >= first + count:
                return ROW_IN_NO_GROUP, j
            request.chunks[found] = c
            request.numbers[found] = low
            request.forms[found] = np.int64(bytes_at(entry + 6, 1)[0])
            request.places[found] = table.payloads[c] + np.int64(load_u64(entry + 8))
            request.lengths[found] = np.int64(load_u32(entry + 16))
            request.num_rows[found] = count
            request.bounds[found] = j
            found += 1
            first += chunk * chunk_rows
            stop = first + count
        request.row_in_group[j] = rows[j] - first
    request.bounds[found] = rows.size
    return OK, found


@inlined
def _sort_keys(keys: I64, spare: I64, low_bit: Int, high_bit: Int) -> None:
    """Sorts by some of the bits. The order of equal keys stays.

    Args:
        keys: int64 (n,), sorted in place.
        spare: int64 (n,), overwritten.
        low_bit: the lowest bit to sort by.
        high_bit: the bit above the highest one to sort by.
    """
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
def locate_windows(window_rows: I64, table: GroupTable, request: GroupRequest, others: I64) -> Any:
    """Finds the groups of windows of rows in any order, in chunks that are in memory.

    Args:
        window_rows: int64 (m, depth), C-contiguous, the rows of m observations.
        table: the tables of chunks, with addresses as `payloads`.
        request: has room for m * depth entries. All of it is filled, with entries ordered by row.
        others: int64 (m * depth,). Its start is filled with the flat positions in `window_rows` whose rows are in no
            chunk in memory.

    Returns:
        (`OK`, groups found, number of others). If more than an eighth of the rows are others, (`TABLE_UNKNOWN`, 0,
        number of others). If a row is in no group, (`ROW_IN_NO_GROUP`, its position in order of rows, number of
        others).
    """
    depth = window_rows.shape[1]
    flat = window_rows.reshape(-1)
    num_others = 0
    n = 0
    index_bits = 0
    while (flat.size >> index_bits) > 0:
        index_bits += 1
    keys, spare, rows = np.empty(flat.size, np.int64), np.empty(flat.size, np.int64), np.empty(flat.size, np.int64)
    first_row = table.first_chunk * table.chunk_rows
    largest = np.int64(0)
    for at in range(flat.size):
        c = flat[at] // table.chunk_rows - table.first_chunk
        if flat[at] < 0 or c < 0 or c >= table.payloads.size or table.payloads[c] == 0 or table.tables[c] == 0:
            others[num_others] = at
            num_others += 1
        else:
            row = flat[at] - first_row
            largest = max(largest, row)
            keys[n] = (row << index_bits) | at
            n += 1
    if num_others > flat.size // 8:
        return TABLE_UNKNOWN, np.int64(0), num_others
    row_bits = 0
    while (largest >> row_bits) > 0:
        row_bits += 1
    _sort_keys(keys[:n], spare[:n], index_bits, index_bits + row_bits)
    mask = np.int64((1 << index_bits) - 1)
    for j in range(n):
        at = keys[j] & mask
        rows[j] = flat[at]
        request.targets[j] = at // depth
        request.slots[j] = at - request.targets[j] * depth
    status, index = locate_groups(rows[:n], table, request)
    return status, np.int64(index), num_others
