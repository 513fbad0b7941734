"""Threads that share the work on one batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np


class Workers:
    """Splits work into ranges: the caller does the first itself, threads of `pool` the others.

    Only compiled kernels and reads are worth sharing: threads wait for each other in the interpreter. And of two
    threads that are woken at once both may start on one core, so the caller does not just wait.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, count: int = 1) -> None:
        self._pool = pool
        self.count = 1 if pool is None else count

    def share(self, work: Callable[[int, int], None], edges: list[int]) -> None:
        """Calls work(start, stop) for each range between neighbouring edges that is not empty.

        Raises what the first of them raises, after all have ended.
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
        """Edges of equal ranges of `size` things, one a worker."""
        return [size * number // self.count for number in range(self.count + 1)]

    def edges_by_weight(self, ends: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
        """Edges of ranges of like weight. ends: int64 (n,), the summed weight up to and with each thing."""
        if not len(ends):
            return [0]
        cuts = np.searchsorted(ends, [int(ends[-1]) * number // self.count for number in range(1, self.count)])
        return [0, *cuts.tolist(), len(ends)]
