"""Collects an episode row by row and checks each row against the fields of the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.episodes.checks import EITHER, Array, EpisodeArrays, agreed_padding, check_names
from replaystore.episodes.row_buffer import RowBuffer
from replaystore.episodes.stacks import (
    Padding,
    StackOrder,
    broken_stack,
    by_frame,
    first_padding,
    foreign_first_stack,
)
from replaystore.episodes.values import row_value
from replaystore.errors import EpisodeError
from replaystore.spec import FieldSpec, StoreSpec


class _LastStack:
    """The last row of an open episode, for stacks with interleaved frames (channels last)."""

    def __init__(self, field: FieldSpec) -> None:
        self._shape = field.stacked_shape
        self._order = StackOrder(field)
        self._stack = np.empty(self._shape, np.uint8)
        self._is_known = False

    def is_followed_by(self, stack: Array) -> bool | None:
        """Whether the older frames of `stack` are the newest ones of the last row.

        None if the last row was no stack.
        """
        if not self._is_known:
            return None
        return not self._order.breaks(self._stack.reshape(1, -1), stack.reshape(1, -1))[0]

    def keep(self, value: Any) -> None:
        """Copies a row that was added if it is a stack. A single frame clears the kept stack."""
        stack = np.asarray(value)
        self._is_known = stack.shape == self._shape
        if self._is_known:
            self._stack[...] = stack

    def forget(self) -> None:
        """Clears the kept stack."""
        self._is_known = False


class EpisodeBuilder:
    """Collects the rows of one open episode. Not thread-safe.

    >>> spec = StoreSpec(mode="full", fields=(FieldSpec(name="reward", shape=(1,), dtype="float32"),))
    >>> builder = EpisodeBuilder(spec, env=0)
    >>> builder.add({"reward": np.zeros(1, np.float32)})
    >>> builder.add({"reward": np.ones(1, np.float32)})
    >>> builder.take_part(last=True).arrays["reward"].tolist()
    [[0.0], [1.0]]

    Args:
        spec: the fields of the store.
        env: environment that the rows come from, for error messages.
    """

    def __init__(self, spec: StoreSpec, env: int | str) -> None:
        self._spec = spec
        self._env = env
        self._buffers = {field.name: RowBuffer(field) for field in spec.fields}
        self._names = {field.name for field in spec.fields}
        self._interleaved = {
            field.name: _LastStack(field) for field in spec.fields if field.frame_stack > 1 and field.channels == "last"
        }
        self._zero_padding = False
        self._ended = False
        self._num_rows = 0
        self._committed_rows = 0

    @property
    def num_rows(self) -> int:
        """Rows added so far, including those that `take_part` has returned."""
        return self._num_rows

    @property
    def committed_rows(self) -> int:
        """Rows that `take_part` has returned."""
        return self._committed_rows

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds one row. The values are copied.

        Args:
            values: the values by field name. `row_value` says what it accepts. An image is given as the stacked
                observation or as its newest frame. The older frames of a stack must equal those of the rows before. If
                the episode starts with a single frame, that frame is repeated as padding.

        Raises:
            EpisodeError: a field, shape, dtype, byte order or stack does not fit, a number is not finite, or the
                episode has ended. No field gets the row then.
        """
        row = self._num_rows
        where = f"env {self._env}, row {row}"
        if self._ended:
            raise EpisodeError(f"{where}: the episode has ended; start a new one")
        if not isinstance(values, Mapping) or values.keys() != self._names:
            check_names(self._spec, values, where)
        checked = [self._newest(field, values[field.name], row) for field in self._spec.fields]
        if row == 0:
            padding = EITHER
            for name, _, allowed in checked:
                padding = agreed_padding(padding, allowed, f"field {name!r}, env {self._env}")
            self._zero_padding = not padding.repeat
            for name, frame, _ in checked:
                self._buffers[name].pad(frame, self._zero_padding)
        for name, frame, _ in checked:
            self._buffers[name].append(frame)
        for name, last in self._interleaved.items():
            last.keep(values[name])
        self._num_rows += 1

    def restart(self, env: int | str) -> None:
        """Starts a new episode of `env` without rows. Memory is kept for the new rows."""
        self._env = env
        for buffer in self._buffers.values():
            buffer.restart()
        for last in self._interleaved.values():
            last.forget()
        self._zero_padding = self._ended = False
        self._num_rows = self._committed_rows = 0

    def take_part(self, last: bool) -> EpisodeArrays:
        """Returns the rows added since the last call.

        Args:
            last: whether the episode ends here. If so, `add` refuses further rows.

        Returns:
            The rows, possibly none.
        """
        disk = self._spec.mode == "disk"
        arrays = {
            field.name: self._buffers[field.name].take(stacked=disk and field.frame_stack > 1)
            for field in self._spec.fields
        }
        num_rows = self._num_rows - self._committed_rows
        self._committed_rows = self._num_rows
        self._ended = self._ended or last
        return EpisodeArrays(num_rows, self._zero_padding, arrays)

    def _newest(self, field: FieldSpec, value: Any, row: int) -> tuple[str, Array, Padding]:
        """Returns the field's name, its newest frame or value, and the paddings that a first row allows."""
        array = row_value(field, value, row, self._env)
        if field.frame_stack == 1:
            return field.name, array, EITHER
        if array.shape == field.shape:
            return field.name, array, Padding(repeat=True, zeros=row == 0 and not array.any())
        stack = by_frame(field, array[None])[0]
        if row > 0:
            last = self._interleaved.get(field.name)
            follows = None if last is None else last.is_followed_by(array)
            if follows is None:
                follows = np.array_equal(stack[:-1], self._buffers[field.name].recent)
            if not follows:
                raise broken_stack(field, f"env {self._env}", row)
            return field.name, stack[-1], EITHER
        padding = first_padding(stack)
        if not any(padding):
            raise foreign_first_stack(field, f"env {self._env}")
        return field.name, stack[-1], padding
