"""`FieldReader`: reads the values of fields by row number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.column import Column
from replaystore.errors import Evicted, SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.windows import window_rows
from replaystore.runtime.workers import Workers
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.small_fields import SmallRows

I64 = NDArray[np.int64]


def raise_unless_live(failed: int, rows: I64, shift: int, snapshot: IndexSnapshot) -> None:
    """Raises the error for the row at position `failed` of `rows`, unless that is -1.

    Raises:
        SpecError: the row is live and the reset row of its episode, where a transition was asked for.
        Evicted: the row is not live, or fewer than `shift` steps follow it.
    """
    if failed >= 0:
        if shift and snapshot.locate(rows[failed : failed + 1])[1][0] == 0:
            raise SpecError(
                f"row {int(rows[failed])}: the reset row of its episode starts no transition, as no step led to it;"
                " draw rows with a sampler, or read it with a view of single rows"
            )
        raise Evicted(
            f"row {int(rows[failed])}: no live transition reaching {shift} steps on; draw rows with this store's"
            " sampler and the same n_step, and draw again where episodes were evicted since"
        )


class FieldReader:
    """Reads values of the fields of a store. Thread-safe.

    Args:
        columns: the columns of the store.
        readers: one per column.
        small: rows in memory, one per column. None for a column whose rows are not small.
    """

    def __init__(
        self, columns: Sequence[Column], readers: Sequence[ColumnReader], small: Sequence[SmallRows | None]
    ) -> None:
        self.columns = tuple(columns)
        self._readers = {column.name: reader for column, reader in zip(columns, readers, strict=True)}
        self._small = {column.name: rows for column, rows in zip(columns, small, strict=True)}

    def read(self, column: Column, window_rows: I64, out: NDArray[Any], workers: Workers) -> None:
        """Reads values of a field: out[b] is made of the stored rows window_rows[b].

        Args:
            column: the column of the field.
            window_rows: int64 (n, depth), C-contiguous, row numbers. -1 stands for a frame of zeros.
            out: (n, ...), C-contiguous, takes the values.
            workers: threads that share the work.

        Raises:
            Missing: a chunk is not where the catalog says.
            Evicted: a row is not live any more.
            ChunkError: stored bytes are damaged.
        """
        if not len(window_rows):
            return
        small = self._small[column.name]
        if small is None:
            self._readers[column.name].read(window_rows, out, workers)
            return
        direct = column.codec.direct_rows(out, 1)
        if direct is not None:
            small.take(window_rows.reshape(-1), direct)
        else:
            rows = np.empty((len(window_rows), column.row_bytes), np.uint8)
            small.take(window_rows.reshape(-1), rows)
            column.codec.from_rows(rows, out)

    def windows(self, snapshot: IndexSnapshot, column: Column, rows: I64) -> I64:
        """Returns the stored rows that make the values at `rows`: int64 (n, depth), -1 for a frame of zeros.

        Raises:
            Evicted: a row is not live in `snapshot`.
        """
        frames = np.empty((len(rows), column.window_depth), np.int64)
        failed = window_rows(rows, snapshot.index, frames)
        raise_unless_live(failed, rows, 0, snapshot)
        return frames

    def read_rows(self, snapshot: IndexSnapshot, rows: I64) -> dict[str, NDArray[Any]]:
        """Returns all fields of single rows, in the form that `append` takes: images as (rows, *stacked shape)."""
        out: dict[str, NDArray[Any]] = {}
        for column in self.columns:
            out[column.name] = np.empty((len(rows), *column.spec.stacked_shape), column.dtype)
            self.read(column, self.windows(snapshot, column, rows), out[column.name], Workers())
        return out

    def float32_rows(self, column: Column | None) -> SmallRows | None:
        """Returns the rows in memory of a column with one float32 per row, or None for any other column."""
        if column is None or not column.codec.stores_values or column.dtype != np.float32 or column.row_bytes != 4:
            return None
        return self._small[column.name]
