"""What the machine does at best: copies in memory, and direct reads of the device."""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replaystore.bench.sample_turns import Draws, plain_copy

READ_BYTES = 64 << 10
_COPIES = 20


@dataclass(frozen=True, kw_only=True)
class DirectReads:
    """Reads of `READ_BYTES` at random places, past the page cache. The host of a virtual disk may still cache them.

    Attributes:
        median_milliseconds: time of one read.
        bytes_per_second: of all reads together.
    """

    median_milliseconds: float
    bytes_per_second: float


def read_directly(
    directory: Path, rng: np.random.Generator, *, num_reads: int = 64, in_flight: int = 1
) -> DirectReads | None:
    """Reads the files below `directory` at random places.

    Args:
        directory: directory with files of at least `READ_BYTES`.
        rng: source of the places.
        num_reads: number of reads.
        in_flight: number of threads. Each has one read under way.

    Returns:
        None if the file system cannot bypass the cache, or there is no such file.
    """
    found = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size >= READ_BYTES)
    if not found:
        return None
    chosen = [found[number] for number in rng.integers(len(found), size=num_reads)]
    places = [(path, int(rng.integers(path.stat().st_size // READ_BYTES)) * READ_BYTES) for path in chosen]
    seconds = np.zeros(num_reads)

    def read(thread: int) -> None:
        with mmap.mmap(-1, READ_BYTES) as page_aligned:
            for number in range(thread, num_reads, in_flight):
                path, offset = places[number]
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
                try:
                    start = time.perf_counter()
                    os.preadv(descriptor, [page_aligned], offset)
                    seconds[number] = time.perf_counter() - start
                finally:
                    os.close(descriptor)

    try:
        with ThreadPoolExecutor(in_flight) as pool:
            begin = time.perf_counter()
            list(pool.map(read, range(in_flight)))
            elapsed = time.perf_counter() - begin
    except OSError:
        return None
    return DirectReads(
        median_milliseconds=1000 * float(np.median(seconds)), bytes_per_second=num_reads * READ_BYTES / elapsed
    )


def copied_bytes_per_second(row_bytes: int, draws: Draws) -> float:
    """Returns the speed of copying random rows into a batch, the median of some batches.

    Args:
        row_bytes: bytes of a transition in a batch.
        draws: how batches are drawn.
    """
    with ExitStack() as stack:
        copy = plain_copy(row_bytes, draws, stack).turn
        seconds = []
        for _ in range(1 + _COPIES):
            begin = time.perf_counter()
            copy()
            seconds.append(time.perf_counter() - begin)
    return draws.batch_size * row_bytes / float(np.median(seconds[1:]))
