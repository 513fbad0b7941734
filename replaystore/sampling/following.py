"""Notifies a sampler of the rows that were appended and evicted between two snapshots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import RowSampler

I64 = NDArray[np.int64]

_NONE = np.zeros(0, np.int64)


class RowFollower:
    """Notifies one sampler of rows that were appended and evicted. For one thread.

    It keeps no snapshot, because a snapshot in use keeps the chunks of evicted rows on disk.

    Args:
        sampler: the sampler. It is notified only if its `follows_rows` is true.
    """

    def __init__(self, sampler: RowSampler) -> None:
        self._sampler = sampler
        self._follows = sampler.follows_rows
        self._parts = _NONE, _NONE  # first rows and numbers of rows

    def update(self, snapshot: IndexSnapshot) -> None:
        """Calls `evicted` and then `appended` with the rows that changed since the last update.

        Neither is called without such rows.

        Args:
            snapshot: the one that the next draw uses.
        """
        if not self._follows or snapshot.index.part_first_row is self._parts[0]:
            return
        before, now = self._parts, (snapshot.index.part_first_row, snapshot.index.part_num_rows)
        self._parts = now
        for notify, parts, others in (
            (self._sampler.evicted, before, now),
            (self._sampler.appended, now, before),
        ):
            # A part never changes and no row number is used twice, so the first row identifies the part.
            changed = ~np.isin(parts[0], others[0], assume_unique=True)
            if changed.any():
                notify(_rows_of(parts[0][changed], parts[1][changed]), snapshot)


def _rows_of(first_row: I64, num_rows: I64) -> I64:
    """Returns all rows of parts, one part after the other."""
    ends = np.cumsum(num_rows)
    rows: I64 = np.arange(int(ends[-1]), dtype=np.int64) + np.repeat(first_row - (ends - num_rows), num_rows)
    return rows
