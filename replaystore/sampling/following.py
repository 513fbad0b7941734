"""Notifies a sampler of the rows that were appended and evicted between two snapshots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import RowSampler

I64 = NDArray[np.int64]

_NONE = np.zeros(0, np.int64)


class RowFollower:
    """Notifies one sampler of the rows that come and go. For one thread.

    No snapshot is kept, because a snapshot keeps the chunks of evicted rows on disk.

    Args:
        sampler: notified where its `follows_rows` is true, else never.
    """

    def __init__(self, sampler: RowSampler) -> None:
        self._sampler = sampler
        self._follows = sampler.follows_rows
        self._parts = _NONE, _NONE  # first rows and numbers of rows

    def update(self, snapshot: IndexSnapshot) -> None:
        """Calls `evicted`, then `appended`, with what changed since the last call; neither where nothing did."""
        if not self._follows or snapshot.index.part_first_row is self._parts[0]:
            return
        before, now = self._parts, (snapshot.index.part_first_row, snapshot.index.part_num_rows)
        self._parts = now
        for notify, parts, others in (
            (self._sampler.evicted, before, now),
            (self._sampler.appended, now, before),
        ):
            # A part never changes, and no row is numbered twice: a first row names its part.
            changed = ~np.isin(parts[0], others[0], assume_unique=True)
            if changed.any():
                notify(_rows_of(parts[0][changed], parts[1][changed]), snapshot)


def _rows_of(first_row: I64, num_rows: I64) -> I64:
    """All rows of parts, one part after the other."""
    ends = np.cumsum(num_rows)
    rows: I64 = np.arange(int(ends[-1]), dtype=np.int64) + np.repeat(first_row - (ends - num_rows), num_rows)
    return rows
