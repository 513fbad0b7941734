"""Keeps the rows of one field of an open episode until they are committed."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.episodes.stacks import copy_frames, stacks_after
from replaystore.spec import FieldSpec

Array = npt.NDArray[Any]

FIRST_BYTES = 1 << 16  # of memory; it doubles when it is full
KEPT_BYTES = 1 << 24  # most memory that is kept for the next episode


class RowBuffer:
    """Rows in memory of their own, which grows without a copy: the system moves its pages.

    The rows that `take` returns are not copied either. They keep their memory as long as anything refers to them.

    Args:
        spec: the field. Images are kept as frames.
    """

    def __init__(self, spec: FieldSpec) -> None:
        self._spec = spec
        self._lead = spec.frame_stack - 1  # older frames before the first row; its stack needs them
        self._row_bytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        self._end = self._lead
        self._is_taken = False
        self._least_bytes = max(FIRST_BYTES, spec.frame_stack * self._row_bytes)
        self._memory = _memory(self._least_bytes)
        self._rows = self._view()

    @property
    def recent(self) -> Array:
        """The last frame_stack - 1 frames, oldest first, padding included: a view (frame_stack - 1, *shape)."""
        return self._rows[self._end - self._lead : self._end]

    def restart(self) -> None:
        """Drops all rows for a new episode."""
        self._resize(min(len(self._memory), max(KEPT_BYTES, self._least_bytes)), keep_rows=0)
        self._end, self._is_taken = self._lead, False

    def pad(self, frame: Array, zero_padding: bool) -> None:
        """Fills in what comes before the episode's first frame: zeros, or `frame` repeated."""
        self._rows[: self._lead] = 0 if zero_padding else frame

    def append(self, frame: Array) -> None:
        """Copies one row, (*shape), to the end."""
        if self._is_taken:  # start over behind the frames that the next stacks need
            recent = self.recent.copy()
            self._resize(len(self._memory), keep_rows=0)
            self._rows[: self._lead] = recent
            self._end, self._is_taken = self._lead, False
        elif self._end == len(self._rows):
            self._resize(2 * len(self._memory), keep_rows=self._end)
        copy_frames(self._spec, frame, self._rows[self._end, ...])
        self._end += 1

    def take(self, stacked: bool) -> Array:
        """Returns the rows since the last `take`. `recent` stays as it is.

        Args:
            stacked: whether to return stacks (rows, *stacked_shape) instead of values (rows, *shape).
        """
        start = self._end if self._is_taken else self._lead
        rows = self._rows[start - self._lead : self._end]
        self._is_taken = True
        return stacks_after(self._spec, rows) if stacked else rows[self._lead :]

    def _resize(self, num_bytes: int, keep_rows: int) -> None:
        """Changes the size of the memory. Takes new memory if rows that were taken are still in use."""
        del self._rows
        try:
            self._memory.resize(num_bytes)
        except BufferError:
            kept = self._view()[:keep_rows]
            self._memory = _memory(num_bytes)
            self._rows = self._view()
            self._rows[:keep_rows] = kept
        else:
            self._rows = self._view()

    def _view(self) -> Array:
        rows = len(self._memory) // self._row_bytes
        flat = np.asarray(memoryview(self._memory))  # as long as an array refers to it, the memory cannot be resized
        return flat[: rows * self._row_bytes].view(self._spec.dtype).reshape(rows, *self._spec.shape)


def _memory(num_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
