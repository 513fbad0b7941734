"""Threads that share the work on one batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np


class Workers:
    """Splits work into ranges. The caller does the first range itself, and threads of `pool` do the others.

    Share only compiled kernels and reads, because Python code makes threads wait for each other. The caller works too
    instead of waiting: two threads that wake at the same time may both start on one core.

    >>> Workers().edges(10)
    [0, 10]

    Args:
        pool: threads for the other ranges. None leaves all work to the caller.
        count: ranges to split work into. 1 without a pool.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, count: int = 1) -> None:
        self._pool = pool
        self.count = 1 if pool is None else count

    def share(self, work: Callable[[int, int], None], edges: list[int]) -> None:
        """Calls work(start, stop) for each range between neighbouring edges that is not empty.

        If calls fail, the first error is raised after all calls have ended.

        Args:
            work: takes the first index of a range and one past its last.
            edges: ascending edges of the ranges.
        """
        ranges = [(start, stop) for start, stop in pairwise(edges) if stop > start]
        if not ranges:
            return
        if self._pool is None or len(ranges) == 1:
            for start, stop in ranges:
                work(start, stop)
            return
        others = [self._pool.submit(work, start, stop) for start, stop in ranges[1:]]
        try:
            work(*ranges[0])
        finally:
            errors = [error for future in others if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def edges(self, size: int) -> list[int]:
        """Returns the edges of equal ranges of `size` items, one range per worker."""
        return [size * number // self.count for number in range(self.count + 1)]

    def edges_by_weight(self, ends: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
        """Returns the edges of ranges of about equal weight, one range per worker.

        Args:
            ends: int64 (n,), total weight up to and including each item.
        """
        if not len(ends):
            return [0]
        cuts = np.searchsorted(ends, [int(ends[-1]) * number // self.count for number in range(1, self.count)])
        return [0, *cuts.tolist(), len(ends)]
