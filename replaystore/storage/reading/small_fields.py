"""Fields with small rows (actions, rewards, discounts), held in memory as they come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import Evicted
from replaystore.kernels.row_copies import take_rows

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


class ResidentRows:
    """Rows of a fixed size by number, from the first live one on. One thread writes, any number read."""

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._held: tuple[int, U8] = (0, np.empty((0, row_bytes), np.uint8))
        self.end = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._held[1].nbytes

    def put(self, first_row: int, rows: U8, first_live: int) -> None:
        """Takes in rows, uint8 (n, row_bytes), from `first_row` on; rows before `first_live` may be dropped."""
        base, held = self._held
        stop = first_row + len(rows)
        if first_row < base:  # later rows came first, and those before `base` have died meanwhile
            if stop <= base:
                return
            first_row, rows = base, rows[base - first_row :]
        if stop - base > len(held):
            first_live = min(max(first_live, base), first_row)
            grown = np.empty((max(1024, 2 * (stop - first_live)), self._row_bytes), np.uint8)
            keep = max(0, self.end - first_live)
            grown[:keep] = held[first_live - base : first_live - base + keep]
            # Readers that hold the old array go on with it: rows never move within one.
            self._held = base, held = first_live, grown
        held[first_row - base : stop - base] = rows
        self.end = max(self.end, stop)

    def held(self) -> tuple[int, U8]:
        """The first row in memory, and the rows from there on, uint8 (n, row_bytes)."""
        return self._held

    def take(self, rows: I64, out: U8) -> None:
        """Rows by number, into uint8 (n, row_bytes).

        Raises:
            Evicted: one was dropped to make room.
        """
        base, held = self._held
        failed = take_rows(held, base, rows, out)
        if failed >= 0:
            raise Evicted(f"row {int(rows[failed])}: evicted, rows before {base} are no longer in memory; draw again")
