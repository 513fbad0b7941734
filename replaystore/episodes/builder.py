"""Checks episodes against the fields of a store, whole or collected one row at a time, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.episodes.checks import EITHER, Array, EpisodeArrays, agreed_padding, as_array, check_names, mismatch
from replaystore.episodes.row_blocks import RowBlocks
from replaystore.episodes.stacks import (
    Padding,
    StackOrder,
    broken_stack,
    by_frame,
    first_padding,
    foreign_first_stack,
)
from replaystore.errors import EpisodeError
from replaystore.spec import FieldSpec, StoreSpec


class _LastStack:
    """The last row of an open episode, if it was a stack whose frames lie interleaved (channels last)."""

    def __init__(self, field: FieldSpec) -> None:
        self._shape = field.stacked_shape
        self._order = StackOrder(field)
        self._stack = np.empty(self._shape, np.uint8)
        self._is_known = False

    def is_followed_by(self, stack: Array) -> bool | None:
        """Whether the older frames of `stack` are the newest of the last row; None where that was no stack."""
        if not self._is_known:
            return None
        return not self._order.breaks(self._stack.reshape(1, -1), stack.reshape(1, -1))[0]

    def keep(self, value: Any) -> None:
        """Takes a row that was added: a stack, or a frame, of which nothing is kept."""
        stack = np.asarray(value)
        self._is_known = stack.shape == self._shape
        if self._is_known:
            self._stack[...] = stack

    def forget(self) -> None:
        """Forgets the row."""
        self._is_known = False


class EpisodeBuilder:
    """Collects the rows of one open episode. Not thread-safe.

    Args:
        spec: what the store holds.
        env: which environment the rows come from, for messages.
    """

    def __init__(self, spec: StoreSpec, env: int | str) -> None:
        self._spec = spec
        self._env = env
        self._blocks = {field.name: RowBlocks(field) for field in spec.fields}
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
        """Rows added so far, taken or not."""
        return self._num_rows

    @property
    def committed_rows(self) -> int:
        """Rows handed out by `take_part`."""
        return self._committed_rows

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds one row; the values are copied.

        Args:
            values: for each field a value of exactly its dtype and shape; of an image the stacked observation, whose
                older frames must be those of the rows before, or the newest frame alone. An episode that starts with
                a single frame is padded by repeating it.

        Raises:
            EpisodeError: a field, shape, dtype, byte order or stack does not fit, or the episode has ended. The row
                is not added then, in any field.
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
                self._blocks[name].pad(frame, self._zero_padding)
        for name, frame, _ in checked:
            self._blocks[name].append(frame)
        for name, last in self._interleaved.items():
            last.keep(values[name])
        self._num_rows += 1

    def restart(self, env: int | str) -> None:
        """Forgets everything, for a new episode of `env`; memory is kept for its rows."""
        self._env = env
        for blocks in self._blocks.values():
            blocks.restart()
        for last in self._interleaved.values():
            last.forget()
        self._zero_padding = self._ended = False
        self._num_rows = self._committed_rows = 0

    def take_part(self, last: bool) -> EpisodeArrays:
        """Hands out the rows added since the last call, as copies.

        Args:
            last: whether the episode ends here; nothing can be added after that.

        Returns:
            The rows, maybe none.
        """
        disk = self._spec.mode == "disk"
        arrays = {
            field.name: self._blocks[field.name].take(stacked=disk and field.frame_stack > 1)
            for field in self._spec.fields
        }
        num_rows = self._num_rows - self._committed_rows
        self._committed_rows = self._num_rows
        self._ended = self._ended or last
        return EpisodeArrays(num_rows, self._zero_padding, arrays)

    def _newest(self, field: FieldSpec, value: Any, row: int) -> tuple[str, Array, Padding]:
        """The field's name, its newest frame (or its value), and which padding a first row allows."""
        array = as_array(field, value, f"env {self._env}, row {row}")
        if array.dtype != field.dtype or array.shape not in (field.shape, field.stacked_shape):
            raise mismatch(field, array, f"env {self._env}, row {row}", "")
        if field.frame_stack == 1:
            return field.name, array, EITHER
        if array.shape == field.shape:
            return field.name, array, Padding(repeat=True, zeros=row == 0 and not array.any())
        stack = by_frame(field, array[None])[0]
        if row > 0:
            last = self._interleaved.get(field.name)
            follows = None if last is None else last.is_followed_by(array)
            if follows is None:
                follows = np.array_equal(stack[:-1], self._blocks[field.name].recent)
            if not follows:
                raise broken_stack(field, f"env {self._env}", row)
            return field.name, stack[-1], EITHER
        padding = first_padding(stack)
        if not any(padding):
            raise foreign_first_stack(field, f"env {self._env}")
        return field.name, stack[-1], padding
