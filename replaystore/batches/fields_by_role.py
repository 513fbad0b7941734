"""The fields of a store by role, for batch views."""

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
    """The fields of a store by role, and their values by row. Thread-safe.

    Args:
        values: reads the fields.

    Attributes:
        columns: all fields, by name.
        observations: those of the role.
        at_row: actions and extra fields.
        reward: the field of the role, or None.
        discount: likewise.
        depth: stored rows of the deepest observation.
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
        """Stored rows of the values of a field at `rows`: the window of an observation's stack, else the row itself.

        Returns:
            (count, depth) int64, oldest first; -1 is a frame of zeros.

        Raises:
            Evicted: a row is not live.
        """
        return self._values.windows(snapshot, column, rows)

    def steps(self, snapshot: IndexSnapshot, rows: I64, num_steps: int) -> tuple[I64, I64]:
        """The time steps from each row on, and the observations before the first and after the last of them.

        Args:
            snapshot: the rows are looked up in it.
            rows: (count,) int64.
            num_steps: from each row on, its own included.

        Returns:
            (steps, windows): (count, num_steps) int64 rows, and (2 * count, depth) int64 windows of the deepest
            observation: at the step before each row, then at the last step of each.

        Raises:
            Evicted: a row is not live or the first of its episode, or fewer steps follow it.
        """
        steps, windows = np.empty((len(rows), num_steps), np.int64), np.empty((2 * len(rows), self.depth), np.int64)
        failed = transition_rows(rows, snapshot.index, steps, windows)
        raise_unless_live(failed, rows, num_steps)
        return steps, windows

    def float32(self, column: Column | None, default: float, rows: I64) -> NDArray[np.float32]:
        """Scalars of a field as float32, in the shape of `rows`; `default` everywhere where `column` is None.

        For the few bytes of a reward or a discount: it reads in the calling thread.
        """
        if column is None:
            return np.full(rows.shape, default, np.float32)
        values = np.empty((rows.size, *column.shape), column.dtype)
        self._values.read(column, rows.reshape(-1, 1), values, Workers())
        return values.reshape(rows.shape).astype(np.float32, copy=False)
