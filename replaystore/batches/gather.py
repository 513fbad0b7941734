"""Putting transitions together from stored rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.field_rows import FieldRows, depth_of, raise_unless_live
from replaystore.batches.layout import Batch, halves_of_one
from replaystore.columns.column import Column
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.returns import held_returns, n_step_returns
from replaystore.kernels.windows import transition_rows
from replaystore.runtime.workers import Workers
from replaystore.spec import StoreSpec

I64 = NDArray[np.int64]

_MIN_SHARE_BYTES = 1 << 20  # of a batch; smaller shares cost more than they gain


class Gatherer:
    """Reads transitions of a store. Thread-safe."""

    def __init__(self, spec: StoreSpec, fields: FieldRows) -> None:
        self._fields = fields
        by_role = {field.role: column for field, column in zip(spec.fields, fields.columns, strict=True)}
        self._reward, self._discount = by_role.get("reward"), by_role.get("discount")
        self._observations = [column for column in fields.columns if column.spec.role == "observation"]
        self._others = [column for column in fields.columns if column.spec.role in ("action", "extra")]
        self._depth = max(map(depth_of, self._observations), default=1)
        self._scalars = fields.float32_rows(self._reward), fields.float32_rows(self._discount)

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
        raise_unless_live(failed, rows, n_step)
        workers = Workers(pool, count)
        for column in self._observations:
            # The window of a shorter stack is the end of that of a longer one.
            depth = depth_of(column)
            frames = windows if depth == self._depth else np.ascontiguousarray(windows[:, self._depth - depth :])
            now, following = out[column.name], out[f"next_{column.name}"]
            both = halves_of_one(now, following)
            if both is not None:  # in one pass: they share groups
                self._fields.read(column, frames, both, workers)
            else:
                self._fields.read(column, frames[:n], now, workers)
                self._fields.read(column, frames[n:], following, workers)
        for column in self._others:
            frames = self._fields.windows(snapshot, column, rows) if depth_of(column) > 1 else rows.reshape(-1, 1)
            self._fields.read(column, frames, out[column.name], workers)
        self._returns(steps, discount, out)

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
        self._fields.read(column, steps.reshape(-1, 1), values, Workers())
        return values.reshape(steps.shape).astype(np.float32, copy=False)
