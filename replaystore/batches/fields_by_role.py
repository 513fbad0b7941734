"""`FieldsByRole`: the fields of a store by role, for batch views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.column import Column
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.windows import transition_rows
from replaystore.runtime.workers import Workers
from replaystore.storage.reading.field_reader import FieldReader, raise_unless_live

I64 = NDArray[np.int64]


class FieldsByRole:
    """Groups the fields of a store by role, and reads their values. A batch view gets one. Thread-safe.

    Args:
        values: reads the fields.

    Attributes:
        columns: all fields, by name.
        observations: the fields with role `"observation"`.
        at_row: the fields with role `"action"` or `"extra"`.
        reward: the field with role `"reward"`. None if the store has none.
        discount: the field with role `"discount"`. None if the store has none.
        depth: largest number of stored rows that one observation is built from.
        held_reward: all rewards in memory, if they are one float32 per row. None otherwise.
        held_discount: all discounts in memory, if they are one float32 per row. None otherwise.
    """

    def __init__(self, values: FieldReader) -> None:
        self._values = values
        self.columns = {column.name: column for column in values.columns}
        by_role = {column.spec.role: column for column in values.columns}
        self.reward, self.discount = by_role.get("reward"), by_role.get("discount")
        self.observations = tuple(column for column in values.columns if column.spec.role == "observation")
        self.at_row = tuple(column for column in values.columns if column.spec.role in ("action", "extra"))
        self.depth = max((column.window_depth for column in self.observations), default=1)
        self.held_reward, self.held_discount = values.float32_rows(self.reward), values.float32_rows(self.discount)

    def windows(self, snapshot: IndexSnapshot, column: Column, rows: I64) -> I64:
        """Returns the stored rows from which the values of a field at `rows` are built.

        They are the window of frames for a stack, and the row itself for another value.

        Args:
            snapshot: the rows are looked up in it.
            column: the field.
            rows: (count,) int64.

        Returns:
            (count, depth) int64, oldest first. -1 stands for a frame of zeros.

        Raises:
            Evicted: a row is not live.
        """
        return self._values.windows(snapshot, column, rows)

    def steps(self, snapshot: IndexSnapshot, rows: I64, num_steps: int) -> tuple[I64, I64]:
        """Returns the time steps from each row on, and the windows of the observations around them.

        Args:
            snapshot: the rows are looked up in it.
            rows: (count,) int64.
            num_steps: steps per row, including the row itself.

        Returns:
            (steps, windows). `steps` is (count, num_steps) int64, the rows of the steps. `windows` is (2 * count,
            depth) int64, the stored rows of observations of `depth` rows. Its first half holds the observations one
            step before each row, and its second half those at the last step.

        Raises:
            Evicted: a row is not live, it is the first of its episode, or too few steps follow it.
        """
        steps, windows = np.empty((len(rows), num_steps), np.int64), np.empty((2 * len(rows), self.depth), np.int64)
        failed = transition_rows(rows, snapshot.index, steps, windows)
        raise_unless_live(failed, rows, num_steps, snapshot)
        return steps, windows

    def float32(self, column: Column | None, default: float, rows: I64) -> NDArray[np.float32]:
        """Returns the scalars of a field at `rows` as float32. It reads in the calling thread alone.

        Args:
            column: the field. None: every value is `default`.
            default: the value without a field.
            rows: int64, any shape. The result has the same shape.
        """
        if column is None:
            return np.full(rows.shape, default, np.float32)
        values = np.empty((rows.size, *column.shape), column.dtype)
        self._values.read(column, rows.reshape(-1, 1), values, Workers())
        return values.reshape(rows.shape).astype(np.float32, copy=False)
