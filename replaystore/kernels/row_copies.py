"""Copying rows of a fixed size out of memory or files, without the interpreter.

Addresses come with the length of their buffer and every offset is checked against it. Files are read with `pread`,
exactly the bytes asked for: nothing is read ahead, and a truncated or failing file is an answer, not a signal.
"""

from __future__ import annotations

import os
from typing import Any

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


@kernel
def _run_length(which: I64, local: I64, targets: I64, j: int) -> int:
    """How many rows from `j` on follow each other both in their source and in the target."""
    run = 1
    while (
        j + run < which.size
        and which[j + run] == which[j]
        and local[j + run] == local[j] + run
        and targets[j + run] == targets[j] + run
    ):
        run += 1
    return run


@kernel
def copy_rows(
    addresses: I64, sizes: I64, files: I64, which: I64, local: I64, targets: I64, row_bytes: int, out: U8
) -> Any:
    """out[targets[j]] = row `local[j]` of source `which[j]`, in runs where both go on.

    Ranges of files are announced to the system before the first is read, so that it has them all under way: as good
    as many threads on a cold device.

    Args:
        addresses: int64 (sources,), of buffers of `sizes` bytes; 0: the source is the open file `files[s]`.
        which, local, targets: int64 (rows,), sorted by source and row where runs are to be found.
        out: uint8 (n, row_bytes), C-contiguous.

    Returns:
        -1, or the j that failed: an index outside a buffer, or a file that could not be read.
    """
    n = which.size
    j = np.int64(0)
    while j < n:
        run = _run_length(which, local, targets, j)
        s = which[j]
        if s < 0 or s >= addresses.size or local[j] < 0 or targets[j] < 0 or targets[j] + run > out.shape[0]:
            return j
        if (local[j] + run) * row_bytes > sizes[s]:
            return j
        if addresses[s] == 0 and run < n:
            _advise(np.int32(files[s]), local[j] * row_bytes, run * row_bytes, _WILL_NEED)
        j += run
    base = np.uintp(out.ctypes.data)
    j = np.int64(0)
    while j < n:
        run = _run_length(which, local, targets, j)
        s = which[j]
        offset = local[j] * row_bytes
        length = run * row_bytes
        start = base + np.uintp(targets[j] * row_bytes)
        if addresses[s] != 0:
            source = bytes_at(addresses[s] + offset, length)
            target = bytes_at(start, length)
            for i in range(length):
                target[i] = source[i]
        else:
            done = np.int64(0)
            while done < length:
                got = _pread(np.int32(files[s]), start + np.uintp(done), np.uintp(length - done), offset + done)
                if got <= 0:
                    return j
                done += got
        j += run
    return -1


@kernel
def copy_windows(
    addresses: I64, sizes: I64, first_chunk: Int, chunk_rows: Int, row_bytes: Int, frames: I64, out: U8, missing: I64
) -> Any:
    """out[b] = the stored rows frames[b], one after another; -1: zeros.

    Args:
        addresses, sizes: int64 (chunks,), of chunk `first_chunk + c` in memory; 0 where it is not.
        frames: int64 (n, depth).
        out: uint8 (n, depth * row_bytes), C-contiguous.
        missing: int64 (n,), its start is filled: those b of which a row is in no chunk in memory, or beyond its end.

    Returns:
        (how many are missing, rows copied for the others).

    Raises:
        ValueError: the arrays do not fit each other.
    """
    n, depth = frames.shape
    if out.shape[0] < n or out.shape[1] != depth * row_bytes or missing.size < n:
        raise ValueError("copy_windows: out or missing does not fit the frames")
    count, copied = 0, 0
    for b in range(n):
        k, zeros = 0, 0
        while k < depth:
            row = frames[b, k]
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
                local = row - (c + first_chunk) * chunk_rows
                while k + run < depth and frames[b, k + run] == row + run and local + run < chunk_rows:
                    run += 1
                if (local + run) * row_bytes > sizes[c]:
                    break
                length = run * row_bytes
                source = bytes_at(addresses[c] + local * row_bytes, length)
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
def take_rows(held: U8, base: Int, rows: I64, out: U8) -> Any:
    """out[j] = held[rows[j] - base]. held: uint8 (n, row_bytes). out: uint8 (rows, row_bytes), C-contiguous.

    Returns:
        -1, or the first j that is not in `held`.

    Raises:
        ValueError: `out` does not fit.
    """
    row_bytes = held.shape[1]
    if out.shape[0] < rows.size or out.shape[1] != row_bytes:
        raise ValueError("take_rows: out does not fit the rows")
    for j in range(rows.size):
        at = rows[j] - base
        if at < 0 or at >= held.shape[0]:
            return j
        for i in range(row_bytes):
            out[j, i] = held[at, i]
    return -1


@kernel
def find_rows(rows: I64, chunk_rows: Int, first_chunk: Int, addresses: I64, which: I64, local: I64) -> Any:
    """Chunk and place of rows: which[j] = its chunk, counted from `first_chunk`, local[j] = its row in that.

    addresses: int64 (chunks,), 0 where a chunk is not in memory.

    Returns:
        How many of them are in chunks in memory; a row before the first or behind the last chunk is not.
    """
    found = 0
    for j in range(rows.size):
        chunk = rows[j] // chunk_rows
        c = chunk - first_chunk
        which[j], local[j] = c, rows[j] - chunk * chunk_rows
        found += c >= 0 and c < addresses.size and addresses[c] != 0
    return found


@kernel
def read_ranges(files: I64, offsets: I64, lengths: I64, buffer: U8, starts: I64) -> Any:
    """Reads range j, `lengths[j]` bytes from `offsets[j]` of the open file `files[j]`, to `buffer[starts[j]:]`.

    All ranges are announced before the first is read.

    Returns:
        -1, or the j that failed.
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
