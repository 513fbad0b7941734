"""Files of fixed-size rows as the device and the page cache see them: direct reads, plain maps, and what is cached."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Pages = NDArray[np.bool_]

PAGE = mmap.PAGESIZE
MOST_IN_FLIGHT = 16


def read_bytes() -> int:
    """Returns the bytes that the device has delivered to this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


class RowFiles:
    """Files of `chunk_rows` rows of `row_bytes` bytes each, open for as long as the process lives.

    At most `most_reads` direct reads run at once, each into its own memory. A set of pages is a bool array (pages,)
    over the pages of all files in order.

    Attributes:
        request_bytes: bytes of a row, rounded up to whole pages.
    """

    def __init__(self, files: Sequence[Path], row_bytes: int, chunk_rows: int, most_reads: int) -> None:
        self.row_bytes, self._chunk_rows = row_bytes, chunk_rows
        self.request_bytes = -(-row_bytes // PAGE) * PAGE
        self._direct = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in files]
        self._maps = [mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) for descriptor in self._direct]
        self._arrays = [np.frombuffer(mapped, np.uint8) for mapped in self._maps]
        self._sizes = np.array([array.size for array in self._arrays])
        self._first_page = np.concatenate([[0], np.cumsum(-(-self._sizes // PAGE))])
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._room = memoryview(mmap.mmap(-1, max(most_reads, MOST_IN_FLIGHT) * self.request_bytes))
        np.frombuffer(self._room, np.uint8)[::PAGE] = 1  # so that no read has to wait for its memory

    def cached(self) -> Pages:
        """Returns the pages that are in the page cache now."""
        found = np.zeros(self._first_page[-1], np.uint8)
        for array, first in zip(self._arrays, self._first_page.tolist(), strict=False):
            arguments = (array.ctypes.data, array.size, found.ctypes.data + first)
            if self._libc.mincore(*(ctypes.c_size_t(argument) for argument in arguments)):
                raise OSError(ctypes.get_errno(), "mincore")
        return (found & 1).astype(bool)

    def _span(self, rows: I64) -> tuple[I64, I64]:
        """Returns the first page of each row, and one past its last page."""
        chunks, local = np.divmod(rows, self._chunk_rows)
        first = self._first_page[chunks]
        return first + local * self.row_bytes // PAGE, first - (-(local + 1) * self.row_bytes // PAGE)

    def pages_of(self, rows: I64) -> Pages:
        """Returns the pages that hold `rows`."""
        first, stop = self._span(rows)
        edges = np.zeros(self._first_page[-1] + 1, np.int64)
        np.add.at(edges, first, 1)
        np.add.at(edges, stop, -1)
        return np.cumsum(edges)[:-1] > 0

    def num_rows_in(self, rows: I64, pages: Pages) -> int:
        """Returns how many distinct rows have bytes in `pages`."""
        first, stop = self._span(np.unique(rows))
        before = np.concatenate([[0], np.cumsum(pages)])
        return int((before[stop] > before[first]).sum())

    def read_direct(
        self, rng: np.random.Generator, count: int, in_flight: int, pool: ThreadPoolExecutor, *, reuse: bool = False
    ) -> float:
        """Reads `request_bytes` at random places, past the page cache. Returns bytes per second.

        Args:
            count: number of reads, at most `most_reads`.
            in_flight: number of threads. Each has one read under way.
            reuse: whether each thread reads into the same place again and again, which stays in the processor's
                cache. If not, every read has its own place, as the rows of a batch do.
        """
        files = rng.integers(len(self._sizes), size=count)
        starts = rng.integers((self._sizes[files] - self.request_bytes) // PAGE + 1) * PAGE
        places = [(self._direct[file], start) for file, start in zip(files.tolist(), starts.tolist(), strict=True)]

        def read(thread: int) -> None:
            for number in range(thread, count, in_flight):
                descriptor, start = places[number]
                at = (thread if reuse else number) * self.request_bytes
                if os.preadv(descriptor, [self._room[at : at + self.request_bytes]], start) != self.request_bytes:
                    raise OSError(f"short read at {start}")

        begin = time.perf_counter()
        list(pool.map(read, range(in_flight)))
        return count * self.request_bytes / (time.perf_counter() - begin)

    def read_map(self, rows: I64, out: NDArray[np.uint8]) -> None:
        """Copies rows, in order, through plain maps into `out`, uint8 (rows, row_bytes)."""
        for target, row in enumerate(rows.tolist()):
            chunk, local = divmod(row, self._chunk_rows)
            out[target] = self._arrays[chunk][local * self.row_bytes : (local + 1) * self.row_bytes]
