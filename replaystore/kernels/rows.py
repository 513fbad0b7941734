"""Copying rows of a fixed size out of memory or files, without the interpreter.

Addresses come with the length of their buffer and every offset is checked against it. Files are read with `pread`,
exactly the bytes asked for: nothing is read ahead, and a truncated or failing file is an answer, not a signal.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_pread: Any = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))

_advise: Any = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32))
_WILL_NEED = np.int32(os.POSIX_FADV_WILLNEED)


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """The pointer with this integer value."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), build


_pointer: Any = intrinsic(_as_pointer)


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
    j = 0
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
    j = 0
    while j < n:
        run = _run_length(which, local, targets, j)
        s = which[j]
        offset = local[j] * row_bytes
        length = run * row_bytes
        start = base + np.uintp(targets[j] * row_bytes)
        if addresses[s] != 0:
            source = carray(_pointer(addresses[s] + offset), (length,), np.uint8)
            target = carray(_pointer(start), (length,), np.uint8)
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
