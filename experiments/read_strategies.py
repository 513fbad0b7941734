"""How to read the rows of a batch from files: through a map, with `pread`, announced or not, on how many threads.

    python -m experiments.read_strategies WORK_DIR

Makes 1 GB of random rows in WORK_DIR, then reads 512 of them at random, cold and warm, each way in turn, and prints
the median in milliseconds. The figures in docs/design.md come from this.
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

import numpy as np

from replaystore.kernels.row_copies import copy_rows

ROW_BYTES, FILE_ROWS, FILES, BATCH = 63_504, 1024, 16, 512
THREADS = (1, 2, 4, 8)
REPEATS = {"cold": 5, "warm": 12}


def make_files(directory: Path) -> list[int]:
    """Descriptors of the files, opened without read-ahead."""
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
    addresses = np.array([np.frombuffer(mapped, np.uint8).ctypes.data for mapped in maps])
    sizes, files = np.full(FILES, ROW_BYTES * FILE_ROWS), np.array(descriptors)
    out = np.zeros((BATCH, ROW_BYTES), np.uint8)
    targets = np.arange(BATCH)
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
        source = addresses if way.startswith("map") else np.zeros(FILES, np.int64)
        # A call with one run alone announces nothing.
        step = 1 if way == "pread" else BATCH

        def part(low: int, high: int) -> None:
            for at in range(low, high, step):
                piece = slice(at, min(at + step, high))
                failed = copy_rows(source, sizes, files, which[piece], local[piece], targets[piece], ROW_BYTES, out)
                assert failed < 0

        edges = np.linspace(0, BATCH, threads + 1).astype(int).tolist()
        list(pool.map(lambda edge: part(*edge), pairwise(edges)))

    times: dict[tuple[str, str, int], list[float]] = {}
    with ThreadPoolExecutor(max(THREADS)) as pool:
        read("pread, announced", 1, pool)  # compiles
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
