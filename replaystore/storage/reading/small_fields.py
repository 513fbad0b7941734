"""Keeps fields with small rows in memory: actions, rewards, discounts."""

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
    """Rows of one column in memory. One thread writes, any number of threads read.

    Attributes:
        row_bytes: bytes per row.
        end: one past the last row in memory.

    Args:
        row_bytes: bytes per row.
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
        """Stores rows.

        Args:
            first_row: number of the first row.
            rows: uint8 (n, row_bytes).
            first_live: rows before this one may be dropped.
        """
        base, held = self._held
        stop = first_row + len(rows)
        if first_row < base:  # later rows were stored first, and rows before `base` are not live any more
            if stop <= base:
                return
            first_row, rows = base, rows[base - first_row :]
        if stop - base > len(held):
            first_live = min(max(first_live, base), first_row)
            grown = np.empty((max(1024, 2 * (stop - first_live)), self.row_bytes), np.uint8)
            keep = max(0, self.end - first_live)
            grown[:keep] = held[first_live - base : first_live - base + keep]
            # A thread that reads from the old array goes on: rows never move within an array.
            self._held = base, held = first_live, grown
        held[first_row - base : stop - base] = rows
        self.end = max(self.end, stop)

    def held(self) -> tuple[int, U8]:
        """Returns the number of the first row in memory, and the rows from there on, uint8 (n, row_bytes)."""
        return self._held

    def take(self, rows: I64, out: U8) -> None:
        """Copies rows.

        Args:
            rows: int64 (n,), row numbers.
            out: uint8 (n, row_bytes), C-contiguous, takes the rows.

        Raises:
            Evicted: a row is not in memory any more.
        """
        base, held = self._held
        failed = take_rows(held, base, rows, out)
        if failed >= 0:
            raise Evicted(f"row {int(rows[failed])}: evicted, rows before {base} are no longer in memory; draw again")


class SmallFields:
    """The fields of a store with small rows, in memory. One thread writes, any number of threads read.

    Attributes:
        rows: one per column. None for a column whose rows are not small.

    Args:
        columns: the columns of the store.
        readers: one per column.
        catalog: the state of the log.
        retention: knows the snapshots in use. Their rows stay in memory.
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
        """Stores rows that are about to be committed.

        Args:
            first_row: number of the first row.
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
            Evicted: a chunk has no live rows any more.
            ChunkError: stored bytes are damaged.
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
        """Returns the oldest row that is live or in a snapshot in use. The next row to be written if there is none."""
        first = self._retention.first_row(self._catalog.index.snapshot())
        return self._catalog.next_row if first is None else first
