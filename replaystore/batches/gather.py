"""Putting transitions together from stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.layout import Batch, halves_of_one
from replaystore.columns.column import Column
from replaystore.errors import Evicted
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.returns import held_returns, n_step_returns
from replaystore.kernels.windows import transition_rows, window_rows
from replaystore.runtime.workers import Workers
from replaystore.spec import StoreSpec
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.small_fields import ResidentRows

I64 = NDArray[np.int64]

_MIN_SHARE_BYTES = 1 << 20  # of a batch; smaller shares cost more than they gain


def _depth(column: Column) -> int:
    """Stored rows of an observation."""
    return column.spec.frame_stack if column.stacks_on_read else 1


class Gatherer:
    """Reads transitions of a store. Thread-safe.

    Args:
        readers: one a column. resident: of columns with small rows, else None.
    """

    def __init__(
        self, spec: StoreSpec, columns: Sequence[Column], readers: Sequence[ColumnReader],
        resident: Sequence[ResidentRows | None],
    ) -> None:  # fmt: skip
        self._columns = tuple(columns)
        self._readers = {column.name: reader for column, reader in zip(columns, readers, strict=True)}
        self._resident = {column.name: rows for column, rows in zip(columns, resident, strict=True)}
        by_role = {field.role: column for field, column in zip(spec.fields, columns, strict=True)}
        self._reward, self._discount = by_role.get("reward"), by_role.get("discount")
        self._observations = [column for column in columns if column.spec.role == "observation"]
        self._others = [column for column in columns if column.spec.role in ("action", "extra")]
        self._depth = max(map(_depth, self._observations), default=1)
        self._scalars = self._float_rows(self._reward), self._float_rows(self._discount)

    def gather(
        self, snapshot: IndexSnapshot, rows: I64, n_step: int, discount: float, out: Batch,
        pool: ThreadPoolExecutor | None = None, num_threads: int = 1,
    ) -> None:  # fmt: skip
        """Transitions `rows` into the arrays of `out`, on `num_threads`: the caller's and others of `pool`.

        Raises:
            Evicted: a row is not live, or its transition leaves its episode. ChunkError: damaged bytes.
        """
        n = len(rows)
        if not n:
            return
        count = min(num_threads, max(1, sum(array.nbytes for array in out.values()) // _MIN_SHARE_BYTES))
        steps, windows = np.empty((n, n_step), np.int64), np.empty((2 * n, self._depth), np.int64)
        failed = transition_rows(
            rows, snapshot.part_first_row, snapshot.part_num_rows, snapshot.part_t_start, snapshot.part_prev,
            snapshot.part_next, snapshot.part_zero_padding, steps, windows,
        )  # fmt: skip
        self._raise_unless_live(failed, rows, n_step)
        workers = Workers(pool, count)
        for column in self._observations:
            # The window of a shorter stack is the end of that of a longer one.
            depth = _depth(column)
            frames = windows if depth == self._depth else np.ascontiguousarray(windows[:, self._depth - depth :])
            now, following = out[column.name], out[f"next_{column.name}"]
            both = halves_of_one(now, following)
            if both is not None:  # in one pass: they share groups
                self._read(column, frames, both, workers)
            else:
                self._read(column, frames[:n], now, workers)
                self._read(column, frames[n:], following, workers)
        for column in self._others:
            frames = self._windows(snapshot, column, rows) if _depth(column) > 1 else rows.reshape(-1, 1)
            self._read(column, frames, out[column.name], workers)
        self._returns(steps, discount, out)

    def _windows(self, snapshot: IndexSnapshot, column: Column, rows: I64) -> I64:
        """Stored rows of the values at `rows`, int64 (n, depth)."""
        frames = np.empty((len(rows), _depth(column)), np.int64)
        failed = window_rows(
            rows, snapshot.part_first_row, snapshot.part_num_rows, snapshot.part_t_start, snapshot.part_prev,
            snapshot.part_zero_padding, frames,
        )  # fmt: skip
        self._raise_unless_live(failed, rows, 0)
        return frames

    def _read(self, column: Column, frames: I64, out: NDArray[Any], workers: Workers) -> None:
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

    def read_rows(self, snapshot: IndexSnapshot, rows: I64) -> Batch:
        """All fields of single rows, as they would be appended: images as (rows, *stacked shape)."""
        out: Batch = {}
        for column in self._columns:
            out[column.name] = np.empty((len(rows), *column.spec.stacked_shape), column.dtype)
            self._read(column, self._windows(snapshot, column, rows), out[column.name], Workers())
        return out

    def _float_rows(self, column: Column | None) -> ResidentRows | None:
        """Where the values of a column are held as they are, in float32."""
        if column is None or column.packing is not None or column.dtype != np.float32 or column.row_bytes != 4:
            return None
        return self._resident[column.name]

    def _returns(self, steps: I64, gamma: float, out: Batch) -> None:
        """Rewards and discounts of n steps."""
        if self._reward is None and self._discount is None:
            return
        products = out["discount" if self._discount is None else self._discount.name].reshape(-1)
        sums = np.empty(len(steps), np.float32) if self._reward is None else out[self._reward.name].reshape(-1)
        rewards, factors = self._scalars
        if (
            rewards is None
            or factors is None
            or not held_returns(*rewards.held(), *factors.held(), steps, np.float32(gamma), sums, products)
        ):
            reward, discount = self._values(self._reward, 0, steps), self._values(self._discount, 1, steps)
            n_step_returns(reward, discount, np.float32(gamma), sums, products)

    def _values(self, column: Column | None, default: float, steps: I64) -> NDArray[np.float32]:
        """float32 like `steps`: of a column, or the same everywhere."""
        if column is None:
            return np.full(steps.shape, default, np.float32)
        values = np.empty((steps.size, *column.shape), column.dtype)
        self._read(column, steps.reshape(-1, 1), values, Workers())
        return values.reshape(steps.shape).astype(np.float32, copy=False)

    @staticmethod
    def _raise_unless_live(failed: int, rows: I64, shift: int) -> None:
        if failed >= 0:
            raise Evicted(
                f"row {int(rows[failed])}: no live transition reaching {shift} steps on; draw rows with this store's"
                " sampler and the same n_step, and draw again where episodes were evicted since"
            )
