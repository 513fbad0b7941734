"""Values of fields by row, wherever the rows are: in memory, in chunk files, in the tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.layout import Batch
from replaystore.columns.column import Column
from replaystore.errors import Evicted
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.windows import window_rows
from replaystore.runtime.workers import Workers
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.small_fields import ResidentRows

I64 = NDArray[np.int64]


def depth_of(column: Column) -> int:
    """Stored rows of an observation."""
    return column.spec.frame_stack if column.stacks_on_read else 1


def raise_unless_live(failed: int, rows: I64, shift: int) -> None:
    """Raises `Evicted` for the row at position `failed` of `rows`, where that is not -1."""
    if failed >= 0:
        raise Evicted(
            f"row {int(rows[failed])}: no live transition reaching {shift} steps on; draw rows with this store's"
            " sampler and the same n_step, and draw again where episodes were evicted since"
        )


class FieldRows:
    """Reads values of the fields of a store. Thread-safe.

    Args:
        readers: one per column. resident: of columns with small rows, else None.
    """

    def __init__(
        self, columns: Sequence[Column], readers: Sequence[ColumnReader], resident: Sequence[ResidentRows | None]
    ) -> None:
        self.columns = tuple(columns)
        self._readers = {column.name: reader for column, reader in zip(columns, readers, strict=True)}
        self._resident = {column.name: rows for column, rows in zip(columns, resident, strict=True)}

    def read(self, column: Column, frames: I64, out: NDArray[Any], workers: Workers) -> None:
        """out[b] = the stored rows frames[b], int64 (n, depth), as one value. out: (n, ...), C-contiguous."""
        if not len(frames):
            return
        resident, reader = self._resident[column.name], self._readers[column.name]
        if column.spec.is_image and resident is None:
            reader.read_windows(frames, out.reshape(len(out), -1).view(np.uint8), workers)
        elif resident is not None and column.packing is None:
            resident.take(frames.reshape(-1), out.reshape(len(out), -1).view(np.uint8))
        elif resident is not None or not reader.unpack_held(frames.reshape(-1), out):
            raw = np.empty((len(frames), column.row_bytes), np.uint8)
            if resident is not None:
                resident.take(frames.reshape(-1), raw)
            else:
                reader.read(frames, np.arange(len(frames)), raw)
            column.from_rows(raw, out)

    def windows(self, snapshot: IndexSnapshot, column: Column, rows: I64) -> I64:
        """Stored rows of the values at `rows`, int64 (n, depth)."""
        frames = np.empty((len(rows), depth_of(column)), np.int64)
        failed = window_rows(
            rows, snapshot.part_first_row, snapshot.part_num_rows, snapshot.part_t_start, snapshot.part_prev,
            snapshot.part_zero_padding, frames,
        )  # fmt: skip
        raise_unless_live(failed, rows, 0)
        return frames

    def read_rows(self, snapshot: IndexSnapshot, rows: I64) -> Batch:
        """All fields of single rows, as they would be appended: images as (rows, *stacked shape)."""
        out: Batch = {}
        for column in self.columns:
            out[column.name] = np.empty((len(rows), *column.spec.stacked_shape), column.dtype)
            self.read(column, self.windows(snapshot, column, rows), out[column.name], Workers())
        return out

    def float32_rows(self, column: Column | None) -> ResidentRows | None:
        """Where the values of a column are held as they are, in float32."""
        if column is None or column.packing is not None or column.dtype != np.float32 or column.row_bytes != 4:
            return None
        return self._resident[column.name]
