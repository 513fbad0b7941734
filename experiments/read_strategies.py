"""Compares ways to read the rows of a batch from files: memory maps or `pread`, announced or not, 1 or more threads.

    python -m experiments.read_strategies WORK_DIR

Makes 1 GB of random rows in WORK_DIR. Then it reads 512 of them at random in each way, in turn, with a cold and with a
warm page cache. It prints the median in milliseconds. The figures in docs/design.md come from this command.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

ROW_BYTES, FILE_ROWS, FILES, BATCH = 63_504, 1024, 16, 512
THREADS = (1, 2, 4, 8)
REPEATS = {"cold": 5, "warm": 12}

U8, I64 = NDArray[np.uint8], NDArray[np.int64]
_pread = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))
_advise = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32))
_WILL_NEED = np.int32(os.POSIX_FADV_WILLNEED)


@numba.njit(nogil=True)
def _read_files(files: I64, which: I64, local: I64, announced: bool, out: U8) -> bool:
    """Sets `out[j]` to row `local[j]` of the open file `files[which[j]]`, with one call per row.

    Args:
        files: descriptors.
        which: position in `files`, one per row.
        local: row in its file, one per row.
        announced: whether to announce all rows to the system before reading the first one.
        out: uint8 (rows, row_bytes), C-contiguous.

    Returns:
        Whether every row was read.
    """
    row_bytes = out.shape[1]
    if announced:
        for j in range(which.size):
            _advise(np.int32(files[which[j]]), local[j] * row_bytes, row_bytes, _WILL_NEED)
    for j in range(which.size):
        target = np.uintp(out.ctypes.data + j * row_bytes)
        if _pread(np.int32(files[which[j]]), target, np.uintp(row_bytes), local[j] * row_bytes) != row_bytes:
            return False
    return True


@numba.njit(nogil=True)
def _copy_maps(maps: types.ListType, which: I64, local: I64, out: U8) -> bool:
    """Sets `out[j]` to row `local[j]` of `maps[which[j]]`, a list of uint8 arrays. Otherwise like `_read_files`."""
    row_bytes = out.shape[1]
    for j in range(which.size):
        out[j] = maps[which[j]][local[j] * row_bytes : (local[j] + 1) * row_bytes]
    return True


def make_files(directory: Path) -> list[int]:
    """Writes the files, and returns their descriptors, opened without read-ahead."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptors = []
    for number in range(FILES):
        path = directory / f"rows.{number}"
        if not path.exists() or path.stat().st_size != ROW_BYTES * FILE_ROWS:
            np.random.default_rng(number).integers(0, 256, ROW_BYTES * FILE_ROWS, dtype=np.uint8).tofile(path)
        descriptors.append(os.open(path, os.O_RDONLY))
        os.fsync(descriptors[-1])
        os.posix_fadvise(descriptors[-1], 0, 0, os.POSIX_FADV_RANDOM)
    return descriptors


def main(directory: Path) -> None:
    """Measures and prints."""
    descriptors = make_files(directory)
    maps = [mmap.mmap(fd, ROW_BYTES * FILE_ROWS, prot=mmap.PROT_READ) for fd in descriptors]
    for mapped in maps:
        mapped.madvise(mmap.MADV_RANDOM)
    arrays = numba.typed.List([np.frombuffer(mapped, np.uint8) for mapped in maps])
    files = np.array(descriptors)
    out = np.zeros((BATCH, ROW_BYTES), np.uint8)
    rng = np.random.default_rng(0)

    def forget() -> None:
        for mapped, fd in zip(maps, descriptors, strict=True):
            mapped.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(way: str, threads: int, pool: ThreadPoolExecutor) -> None:
        rows = np.sort(rng.integers(0, FILES * FILE_ROWS, BATCH))
        which, local = rows // FILE_ROWS, rows % FILE_ROWS
        if way == "map, announced":
            for file, row in zip(which.tolist(), local.tolist(), strict=True):
                start = row * ROW_BYTES
                page = start - start % mmap.PAGESIZE
                maps[file].madvise(mmap.MADV_WILLNEED, page, start + ROW_BYTES - page)

        def part(low: int, high: int) -> None:
            if way.startswith("map"):
                done = _copy_maps(arrays, which[low:high], local[low:high], out[low:high])
            else:
                announced = way == "pread, announced"
                done = _read_files(files, which[low:high], local[low:high], announced, out[low:high])
            assert done

        edges = np.linspace(0, BATCH, threads + 1).astype(int).tolist()
        list(pool.map(lambda edge: part(*edge), pairwise(edges)))

    times: dict[tuple[str, str, int], list[float]] = {}
    with ThreadPoolExecutor(max(THREADS)) as pool:
        for way in ("map", "pread"):
            read(way, 1, pool)  # compiles
        for state, repeats in REPEATS.items():
            for _ in range(repeats):
                for way in ("map", "map, announced", "pread", "pread, announced"):
                    for threads in THREADS:
                        if state == "cold":
                            forget()
                        started = time.perf_counter()
                        read(way, threads, pool)
                        times.setdefault((state, way, threads), []).append(time.perf_counter() - started)
    print(f"{'cache':6}{'way':18}" + "".join(f"{threads:>9} thr" for threads in THREADS))
    for state, way in dict.fromkeys((state, way) for state, way, _ in times):
        medians = [statistics.median(times[state, way, threads]) * 1e3 for threads in THREADS]
        print(f"{state:6}{way:18}" + "".join(f"{value:10.1f} ms" for value in medians))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
