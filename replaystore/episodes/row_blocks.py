"""Keeps the rows of one field of an open episode in blocks until they are committed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.episodes.stacks import copy_frames, stacks_after
from replaystore.spec import FieldSpec

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 22  # of a block, within the next two
FEWEST_ROWS, MOST_ROWS = 16, 1024  # per block
_MOST_SPARE = 4  # spare blocks: allocating memory costs more than copying into it


class RowBlocks:
    """Rows in blocks of memory, one more block at a time.

    Each block starts with the older frames that the stacks of its first rows need.

    Args:
        spec: the field. Images are kept as frames.
    """

    def __init__(self, spec: FieldSpec) -> None:
        self._spec = spec
        self._lead = spec.frame_stack - 1
        row_bytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        self._rows_per_block = min(max(BLOCK_BYTES // row_bytes, FEWEST_ROWS), MOST_ROWS)
        self._full: list[Array] = []
        self._spare: list[Array] = []
        self._block = self._new_block()
        self._end = self._lead

    def _new_block(self) -> Array:
        if self._spare:
            return self._spare.pop()
        return np.empty((self._lead + self._rows_per_block, *self._spec.shape), self._spec.dtype)

    @property
    def recent(self) -> Array:
        """The last frame_stack - 1 frames, oldest first, padding included: a view (frame_stack - 1, *shape)."""
        return self._block[self._end - self._lead : self._end]

    def restart(self) -> None:
        """Drops all rows for a new episode. Some of the memory is kept."""
        self._spare += self._full[: _MOST_SPARE - len(self._spare)]
        self._full.clear()
        self._end = self._lead

    def pad(self, frame: Array, zero_padding: bool) -> None:
        """Fills in what comes before the episode's first frame: zeros, or `frame` repeated."""
        self._block[: self._lead] = 0 if zero_padding else frame

    def append(self, frame: Array) -> None:
        """Copies one row, (*shape), to the end."""
        if self._end == len(self._block):
            block = self._new_block()
            block[: self._lead] = self.recent
            self._full.append(self._block)
            self._block, self._end = block, self._lead
        copy_frames(self._spec, frame, self._block[self._end, ...])
        self._end += 1

    def take(self, stacked: bool) -> Array:
        """Returns a copy of the rows since the last `take`. `recent` stays as it is.

        Args:
            stacked: whether to return stacks (rows, *stacked_shape) instead of values (rows, *shape).
        """
        pieces = [block[self._lead :] for block in self._full]
        pieces.append(self._block[self._lead : self._end])
        if stacked:
            first = self._full[0] if self._full else self._block
            rows = stacks_after(self._spec, np.concatenate([first[: self._lead], *pieces]))
        else:
            rows = np.concatenate(pieces)
        self._spare += self._full[: _MOST_SPARE - len(self._spare)]
        self._full.clear()
        self._block[: self._lead] = self.recent.copy()
        self._end = self._lead
        return rows
