"""Copies rows of a fixed size from memory or files, without the interpreter.

Each address comes with the length of its buffer, and every offset is checked against it. `pread` reads exactly the
requested bytes of files. Nothing is read ahead. A truncated or failing file gives a return value, not a signal.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from replaystore.kernels.compiled import kernel
from replaystore.kernels.pointers import Int, bytes_at

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_pread: Any = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))

_advise: Any = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32))
_WILL_NEED = np.int32(os.POSIX_FADV_WILLNEED)


class RowSources(NamedTuple):
    """Places of rows of a fixed size, in memory or in open files.

    Attributes:
        addresses: int64 (sources,), address of the first row, or 0 if the source is a file.
        sizes: int64 (sources,), bytes of each source.
        files: int64 (sources,), descriptor of the file, or -1 if the source is in memory.
    """

    addresses: I64
    sizes: I64
    files: I64


@kernel
def _run_length(which: I64, row_in_source: I64, targets: I64, j: int) -> int:
    """Returns how many rows from `j` on follow each other both in their source and in the target."""
    run = 1
    while (
        j + run < which.size
        and which[j + run] == which[j]
        and row_in_source[j + run] == row_in_source[j] + run
        and targets[j + run] == targets[j] + run
    ):
        run += 1
    return run


@kernel
def copy_rows(sources: RowSources, which: I64, row_in_source: I64, targets: I64, row_bytes: int, out: U8) -> Any:
    """Copies rows to rows of `out`. Rows that follow each other in both are copied together.

    Ranges of files are announced to the system before the first one is read. So it reads all of them at once, which is
    as fast on a cold device as many threads.

    Args:
        sources: where the rows lie.
        which: int64 (n,), the source of each row. Runs are found where rows are sorted by source and row.
        row_in_source: int64 (n,), position of each row in its source.
        targets: int64 (n,), the row of `out` for each row.
        row_bytes: bytes of a row.
        out: uint8 (rows, row_bytes), C-contiguous.

    Returns:
        -1, or the position of the row that failed. Its index is outside a buffer, or its file could not be read.
    """
    n = which.size
    j = np.int64(0)
    while j < n:
        run = _run_length(which, row_in_source, targets, j)
        s = which[j]
        if (
            s < 0
            or s >= sources.addresses.size
            or row_in_source[j] < 0
            or targets[j] < 0
            or targets[j] + run > out.shape[0]
        ):
            return j
        if (row_in_source[j] + run) * row_bytes > sources.sizes[s]:
            return j
        if sources.addresses[s] == 0 and run < n:
            _advise(np.int32(sources.files[s]), row_in_source[j] * row_bytes, run * row_bytes, _WILL_NEED)
        j += run
    base = np.uintp(out.ctypes.data)
    j = np.int64(0)
    while j < n:
        run = _run_length(which, row_in_source, targets, j)
        s = which[j]
        offset = row_in_source[j] * row_bytes
        length = run * row_bytes
        start = base + np.uintp(targets[j] * row_bytes)
        if sources.addresses[s] != 0:
            source = bytes_at(sources.addresses[s] + offset, length)
            target = bytes_at(start, length)
            for i in range(length):
                target[i] = source[i]
        else:
            done = np.int64(0)
            while done < length:
                got = _pread(np.int32(sources.files[s]), start + np.uintp(done), np.uintp(length - done), offset + done)
                if got <= 0:
                    return j
                done += got
        j += run
    return -1


@kernel
def copy_windows(
    addresses: I64, sizes: I64, first_chunk: Int, chunk_rows: Int, row_bytes: Int, window_rows: I64, out: U8,
    missing: I64,
) -> Any:  # fmt: skip
    """Copies windows of stored rows that lie in memory.

    Args:
        addresses: int64 (chunks,), address of chunk `first_chunk + c`, or 0 if it is not in memory.
        sizes: int64 (chunks,), bytes of each chunk.
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        row_bytes: bytes of a row.
        window_rows: int64 (n, depth), the rows of each window. -1 is a row of zeros.
        out: uint8 (n, depth * row_bytes), C-contiguous. `out[b]` becomes the rows `window_rows[b]`, one after another.
        missing: int64 (n,). Its start is filled with each b that has a row in no chunk in memory, or beyond the end
            of its chunk.

    Returns:
        (number of missing windows, rows copied for the others).

    Raises:
        ValueError: the arrays do not fit each other.
    """
    n, depth = window_rows.shape
    if out.shape[0] < n or out.shape[1] != depth * row_bytes or missing.size < n:
        raise ValueError("copy_windows: out or missing does not fit the rows")
    count, copied = 0, 0
    for b in range(n):
        k, zeros = 0, 0
        while k < depth:
            row = window_rows[b, k]
            run = 1
            if row < 0:
                zeros += 1
                target = out[b, k * row_bytes : (k + 1) * row_bytes]
                for i in range(row_bytes):
                    target[i] = 0
            else:
                c = row // chunk_rows - first_chunk
                if c < 0 or c >= addresses.size or addresses[c] == 0:
                    break
                row_in_chunk = row - (c + first_chunk) * chunk_rows
                while k + run < depth and window_rows[b, k + run] == row + run and row_in_chunk + run < chunk_rows:
                    run += 1
                if (row_in_chunk + run) * row_bytes > sizes[c]:
                    break
                length = run * row_bytes
                source = bytes_at(addresses[c] + row_in_chunk * row_bytes, length)
                target = out[b, k * row_bytes : k * row_bytes + length]
                for i in range(length):
                    target[i] = source[i]
            k += run
        if k < depth:
            missing[count] = b
            count += 1
        else:
            copied += depth - zeros
    return count, copied


@kernel
def take_rows(cached: U8, first_row: Int, rows: I64, out: U8) -> Any:
    """Copies rows by number.

    Args:
        cached: uint8 (n, row_bytes), rows from `first_row` on.
        first_row: number of the first row in `cached`.
        rows: int64 (m,), numbers of rows.
        out: uint8 (m, row_bytes), C-contiguous. `out[j]` becomes row `rows[j]`.

    Returns:
        -1, or the first position in `rows` that is not in `cached`.

    Raises:
        ValueError: `out` does not fit.
    """
    row_bytes = cached.shape[1]
    if out.shape[0] < rows.size or out.shape[1] != row_bytes:
        raise ValueError("take_rows: out does not fit the rows")
    for j in range(rows.size):
        at = rows[j] - first_row
        if at < 0 or at >= cached.shape[0]:
            return j
        for i in range(row_bytes):
            out[j, i] = cached[at, i]
    return -1


@kernel
def find_rows(rows: I64, chunk_rows: Int, first_chunk: Int, addresses: I64, which: I64, row_in_chunk: I64) -> Any:
    """Finds the chunks of rows.

    Args:
        rows: int64 (n,).
        chunk_rows: rows per chunk.
        first_chunk: number of the first chunk.
        addresses: int64 (chunks,), address of chunk `first_chunk + c`, or 0 if it is not in memory.
        which: int64 (n,), filled with the chunk of each row, counted from `first_chunk`.
        row_in_chunk: int64 (n,), filled with the position of each row in its chunk.

    Returns:
        The number of rows in chunks in memory. Rows before the first or behind the last chunk do not count.
    """
    found = 0
    for j in range(rows.size):
        chunk = rows[j] // chunk_rows
        c = chunk - first_chunk
        which[j], row_in_chunk[j] = c, rows[j] - chunk * chunk_rows
        found += c >= 0 and c < addresses.size and addresses[c] != 0
    return found


@kernel
def read_ranges(files: I64, offsets: I64, lengths: I64, buffer: U8, starts: I64) -> Any:
    """Reads ranges of open files.

    All ranges are announced to the system before the first one is read.

    Args:
        files: int64 (n,), descriptors.
        offsets: int64 (n,), where each range starts in its file.
        lengths: int64 (n,), bytes of each range.
        buffer: uint8, filled.
        starts: int64 (n,), where each range starts in `buffer`.

    Returns:
        -1, or the position of the range that failed.
    """
    for j in range(files.size):
        if starts[j] < 0 or lengths[j] < 0 or starts[j] + lengths[j] > buffer.size:
            return j
        _advise(np.int32(files[j]), offsets[j], lengths[j], _WILL_NEED)
    base = np.int64(buffer.ctypes.data)
    for j in range(files.size):
        done = np.int64(0)
        while done < lengths[j]:
            room = np.uintp(lengths[j] - done)
            got = _pread(np.int32(files[j]), np.uintp(base + starts[j] + done), room, offsets[j] + done)
            if got <= 0:
                return j
            done += got
    return -1
