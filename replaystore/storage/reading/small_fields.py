"""Fields with small rows (actions, rewards, discounts), in memory as they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.column import Column
from replaystore.errors import Evicted
from replaystore.kernels.row_copies import take_rows
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.retention import Retention

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


_ROWS_AT_ONCE = 1 << 16


class SmallRows:
    """Rows of one column by number, from the first live one on. One thread writes, any number read.

    Args:
        row_bytes: bytes of a stored row.
    """

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self._held: tuple[int, U8] = (0, np.empty((0, row_bytes), np.uint8))
        self.end = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._held[1].nbytes

    def put(self, first_row: int, rows: U8, first_live: int) -> None:
        """Takes in rows.

        Args:
            first_row: number of the first of them.
            rows: uint8 (n, row_bytes).
            first_live: rows before it may be dropped.
        """
        base, held = self._held
        stop = first_row + len(rows)
        if first_row < base:  # later rows came first, and those before `base` have died meanwhile
            if stop <= base:
                return
            first_row, rows = base, rows[base - first_row :]
        if stop - base > len(held):
            first_live = min(max(first_live, base), first_row)
            grown = np.empty((max(1024, 2 * (stop - first_live)), self.row_bytes), np.uint8)
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
        """Copies rows.

        Args:
            rows: int64 (n,).
            out: uint8 (n, row_bytes), C-contiguous.

        Raises:
            Evicted: one was dropped to make room.
        """
        base, held = self._held
        failed = take_rows(held, base, rows, out)
        if failed >= 0:
            raise Evicted(f"row {int(rows[failed])}: evicted, rows before {base} are no longer in memory; draw again")


class SmallFields:
    """The fields of a store with small rows. One thread writes, any number read.

    Args:
        columns: those of the store.
        readers: one per column.
        catalog: what the log says.
        retention: snapshots in use, whose rows stay.

    Attributes:
        rows: one per column; None for a column whose rows are not small.
    """

    def __init__(
        self, columns: Sequence[Column], readers: Sequence[ColumnReader], catalog: Catalog,
        retention: Retention,
    ) -> None:  # fmt: skip
        self.rows = [SmallRows(column.row_bytes) if column.is_small else None for column in columns]
        self._readers = readers
        self._catalog = catalog
        self._retention = retention

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(rows.nbytes for rows in self.rows if rows is not None)

    def put(self, first_row: int, stored: Sequence[U8]) -> None:
        """Takes in rows that are about to be committed.

        Args:
            first_row: number of the first of them.
            stored: uint8 (n, row_bytes), one per column.
        """
        first_live = self._first_needed_row()
        for rows, values in zip(self.rows, stored, strict=True):
            if rows is not None:
                rows.put(first_row, values, first_live)

    def load(self, first_row: int) -> None:
        """Reads the live rows from `first_row` on.

        Raises:
            Missing: a chunk is not where the catalog says.
            Evicted: a chunk is gone.
            ChunkError: it is damaged.
        """
        snapshot = self._catalog.index.snapshot()
        keep = (snapshot.index.part_first_row >= first_row) & (snapshot.index.part_num_rows > 0)
        firsts, counts = snapshot.index.part_first_row[keep], snapshot.index.part_num_rows[keep]
        total = int(counts.sum())
        live = np.arange(total) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        for begin in range(0, total, _ROWS_AT_ONCE):
            some = live[begin : begin + _ROWS_AT_ONCE]
            start, stop = int(some[0]), int(some[-1]) + 1
            for reader, rows in zip(self._readers, self.rows, strict=True):
                if rows is not None:
                    span = np.zeros((stop - start, rows.row_bytes), np.uint8)
                    reader.read_stored(some, some - start, span)
                    rows.put(start, span, self._first_needed_row())

    def _first_needed_row(self) -> int:
        """The oldest row that is live, or in a snapshot in use; the next row to come if there is none."""
        first = self._retention.first_row(self._catalog.index.snapshot())
        return self._catalog.next_row if first is None else first
