"""Brings ranges of memory maps into memory, and finds the ranges that rows and groups of frames lie in."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import Int, load_u8, load_u64

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

_madvise: Any = types.ExternalFunction("madvise", types.int32(types.int64, types.int64, types.int32))
_getrusage: Any = types.ExternalFunction("getrusage", types.int32(types.int32, types.int64))

_WILL_NEED = np.int32(mmap.MADV_WILLNEED)
_POPULATE_READ = np.int32(22)  # since Linux 5.14; Python has no name for it
_PAGE = np.int64(mmap.PAGESIZE)
_THREAD = np.int32(1)  # RUSAGE_THREAD
_USAGE_BYTES, _MAJOR_FAULTS = 144, 72  # struct rusage of 64-bit Linux, and where the count is in it
_EVERY = 8  # ranges between two looks at the count


def _has_populate() -> bool:
    page = np.zeros(2 * mmap.PAGESIZE, np.uint8)
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    first = -(-page.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    return int(libc.madvise(first, mmap.PAGESIZE, int(_POPULATE_READ))) == 0


HAS_POPULATE = _has_populate()


@kernel
def _populate(starts: I64, lengths: I64, usage: U64) -> Any:
    """Does what `populate` does, with memory for the counters of the thread in `usage`."""
    usage_at = np.int64(usage.ctypes.data)
    announced = False
    _getrusage(_THREAD, usage_at)
    before = load_u64(usage_at + _MAJOR_FAULTS)
    for j in range(starts.size):
        if not announced:
            if HAS_POPULATE and j % _EVERY == 1:
                _getrusage(_THREAD, usage_at)
            if not HAS_POPULATE or load_u64(usage_at + _MAJOR_FAULTS) != before:
                for k in range(j, starts.size):
                    first = starts[k] // _PAGE * _PAGE
                    _madvise(first, starts[k] + lengths[k] - first, _WILL_NEED)
                announced = True
        if HAS_POPULATE:
            first = starts[j] // _PAGE * _PAGE
            if _madvise(first, starts[j] + lengths[j] - first, _POPULATE_READ) != 0:
                return j, announced
    _getrusage(_THREAD, usage_at)
    return np.int64(-1), load_u64(usage_at + _MAJOR_FAULTS) != before


@kernel
def populate(starts: I64, lengths: I64) -> Any:
    """Brings ranges of memory maps into memory.

    Once a range had to be read from the device, the others are announced, so that the system reads all of them at once.
    Where the system knows no `MADV_POPULATE_READ`, all are announced, and touching bytes that cannot be read ends the
    process.

    Args:
        starts: int64 (n,), addresses.
        lengths: int64 (n,), bytes.

    Returns:
        (-1, or the position of the range that could not be read; whether something was read from the device).
    """
    return _populate(starts, lengths, np.zeros(_USAGE_BYTES // 8, np.uint64))


@kernel
def window_ranges(
    addresses: I64, sizes: I64, flags: I64, first_chunk: Int, chunk_rows: Int, row_bytes: Int, window_rows: I64,
    everything: bool, starts: I64, lengths: I64, unchecked: I64,
) -> Any:  # fmt: skip
    """Finds the ranges of memory maps that windows of rows of a fixed size lie in.

    Args:
        addresses: int64 (chunks,), address of chunk `first_chunk + c`, or 0 if it is not in memory.
        sizes: int64 (chunks,), bytes of each chunk.
        flags: int64 (chunks,), address of one byte per row: whether it was checked. 0 if the chunk is not in a map.
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        row_bytes: bytes per row.
        window_rows: int64 (n, depth). -1 is a row of zeros.
        everything: whether ranges of rows that were checked are wanted, too.
        starts: int64 (n * depth,), its start is filled with addresses.
        lengths: int64 (n * depth,), its start is filled with bytes.
        unchecked: int64 (n * depth,), its start is filled with the rows that were not checked yet.

    Returns:
        (number of ranges, number of unchecked rows, number of rows in maps).
    """
    count, open_rows, mapped_rows = 0, 0, 0
    for b in range(window_rows.shape[0]):
        end = np.int64(0)
        for k in range(window_rows.shape[1]):
            row = window_rows[b, k]
            c = row // chunk_rows - first_chunk
            if row < 0 or c < 0 or c >= addresses.size or flags[c] == 0:
                continue
            row_in_chunk = row % chunk_rows
            if (row_in_chunk + 1) * row_bytes > sizes[c]:
                continue
            mapped_rows += 1
            is_checked = load_u8(flags[c] + row_in_chunk) != 0
            if is_checked and not everything:
                continue
            start = addresses[c] + row_in_chunk * row_bytes
            if start == end:
                lengths[count - 1] += row_bytes
            else:
                starts[count] = start
                lengths[count] = row_bytes
                count += 1
            end = start + row_bytes
            if not is_checked:
                unchecked[open_rows] = row
                open_rows += 1
    return count, open_rows, mapped_rows


@kernel
def group_ranges(
    flags: I64, chunks: I64, numbers: I64, places: I64, group_lengths: I64, everything: bool, starts: I64, lengths: I64,
    unchecked: I64,
) -> Any:  # fmt: skip
    """Finds the ranges of memory maps that groups of frames lie in.

    Args:
        flags: int64 (chunks,), address of one byte per group: whether it was checked. 0 if the chunk is not in a map.
        chunks: int64 (groups,), chunk of each group.
        numbers: int64 (groups,), which group of its chunk it is.
        places: int64 (groups,), address of each group.
        group_lengths: int64 (groups,), its bytes.
        everything: whether ranges of groups that were checked are wanted, too.
        starts: int64 (groups,), its start is filled with addresses.
        lengths: int64 (groups,), its start is filled with bytes.
        unchecked: int64 (groups,), its start is filled with the positions of groups that were not checked yet.

    Returns:
        (number of ranges, number of unchecked groups, bytes of the groups in maps).
    """
    count, open_groups, mapped_bytes = 0, 0, np.int64(0)
    for g in range(chunks.size):
        of_chunk = flags[chunks[g]]
        if of_chunk == 0:
            continue
        mapped_bytes += group_lengths[g]
        is_checked = load_u8(of_chunk + numbers[g]) != 0
        if is_checked and not everything:
            continue
        starts[count] = places[g]
        lengths[count] = group_lengths[g]
        count += 1
        if not is_checked:
            unchecked[open_groups] = g
            open_groups += 1
    return count, open_groups, mapped_bytes


@kernel
def absent_chunks(addresses: I64, first_chunk: Int, chunk_rows: Int, rows: I64, absent: I64) -> Any:
    """Finds the chunks of rows that are not in memory.

    Args:
        addresses: int64 (chunks,), address of chunk `first_chunk + c`, or 0 if it is not in memory.
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        rows: int64 (n,). -1 is a row of zeros, which is in no chunk.
        absent: int64 (n,), its start is filled with numbers of chunks, some more than once.

    Returns:
        How many entries are filled.
    """
    count = 0
    for j in range(rows.size):
        chunk = rows[j] // chunk_rows
        c = chunk - first_chunk
        is_absent = c < 0 or c >= addresses.size or addresses[c] == 0
        if rows[j] >= 0 and is_absent and (count == 0 or absent[count - 1] != chunk):
            absent[count] = chunk
            count += 1
    return count
