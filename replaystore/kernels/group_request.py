"""Which groups of frames a batch needs, where they are, and where their frames go."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


class GroupTable(NamedTuple):
    """The tables of groups of neighbouring chunks. Entry c is of chunk `first_chunk + c`.

    Attributes:
        tables: int64 (chunks,), address of the table, or 0 if it is not known.
        num_groups: int64 (chunks,), entries of the table.
        payloads: int64 (chunks,), where the groups start: either the address, or 0 if the chunk is not in memory, or
            the bytes from the start of the chunk.
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
    """

    tables: I64
    num_groups: I64
    payloads: I64
    first_chunk: int
    chunk_rows: int


class GroupRequest(NamedTuple):
    """Groups, and the requested frames of each. Each requested frame is an entry.

    The caller keeps the bytes of the groups alive.

    Attributes:
        chunks: int64 (groups,), chunk of each group, counted from the first of a `GroupTable`.
        numbers: int64 (groups,), which group of its chunk it is.
        places: int64 (groups,), address of each group. Until it is read, bytes from the start of its chunk.
        lengths: int64 (groups,), bytes.
        forms: int64 (groups,), one of the `FORM_` constants.
        num_rows: int64 (groups,), frames in the group.
        bounds: int64 (groups + 1,). Group g has the entries from `bounds[g]` to below `bounds[g + 1]`, at least one.
        row_in_group: int64 (entries,), which frame of its group, ascending in each group.
        targets: int64 (entries,), the observation that the frame becomes a part of.
        slots: int64 (entries,), which frame of that observation it becomes.
    """

    chunks: I64
    numbers: I64
    places: I64
    lengths: I64
    forms: I64
    num_rows: I64
    bounds: I64
    row_in_group: I64
    targets: I64
    slots: I64

    @classmethod
    def empty(cls, size: int) -> Self:
        """Returns an unset request with room for `size` entries and as many groups."""
        chunks, numbers, places, lengths, forms, num_rows, row_in_group, targets, slots = np.empty((9, size), np.int64)
        bounds = np.empty(size + 1, np.int64)
        return cls(chunks, numbers, places, lengths, forms, num_rows, bounds, row_in_group, targets, slots)

    def first(self, count: int) -> Self:
        """Returns the first `count` groups, without copying."""
        return self._replace(
            chunks=self.chunks[:count], numbers=self.numbers[:count], places=self.places[:count],
            lengths=self.lengths[:count], forms=self.forms[:count], num_rows=self.num_rows[:count],
            bounds=self.bounds[: count + 1],
        )  # fmt: skip

    def pick(self, chosen: NDArray[np.bool_]) -> Self:
        """Returns a request of only these groups, bool (groups,)."""
        if chosen.all():
            return self
        counts = np.diff(self.bounds)
        entries = np.repeat(chosen, counts)
        bounds = np.concatenate(([0], np.cumsum(counts[chosen])))
        return type(self)(
            self.chunks[chosen], self.numbers[chosen], self.places[chosen], self.lengths[chosen], self.forms[chosen],
            self.num_rows[chosen], bounds, self.row_in_group[entries], self.targets[entries], self.slots[entries],
        )  # fmt: skip
