"""From rows to the groups that hold them: what the decoder is asked for, whether of one chunk or of many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import groups as frame_groups
from replaystore.codecs.frame_delta.chunk import FrameFormat
from replaystore.codecs.frame_delta.groups import Groups
from replaystore.errors import ChunkError
from replaystore.kernels.group_lookup import TABLE_UNKNOWN, locate_groups, locate_windows

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class GroupTables:
    """Where the tables of groups of chunks lie, as arrays for kernels. Entry c is of chunk `first_chunk + c`.

    Attributes:
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        tables: int64 (chunks,), address of each table; 0 where it is not known. The caller keeps the bytes alive.
        num_groups: int64 (chunks,), entries of each table.
        bases: int64 (chunks,), where the payload of each chunk starts: its address, or its offset in the file.
    """

    first_chunk: int
    chunk_rows: int
    tables: I64
    num_groups: I64
    bases: I64


@dataclass(frozen=True)
class FrameRequest:
    """The groups that some rows need, and where their frames go.

    Attributes:
        chunks: int64 (groups,), the chunk of each group, as a position in the `GroupTables`.
        numbers: int64 (groups,), the number of each group in its chunk.
        groups: the groups; their addresses are offsets in the file where `GroupTables.bases` are.
        targets: int64 (entries,), the observation of each frame.
        slots: int64 (entries,), the place of each frame in its observation.
    """

    chunks: I64
    numbers: I64
    groups: Groups
    targets: I64
    slots: I64

    def pick(self, which: NDArray[np.bool_]) -> FrameRequest:
        """The request of some groups only. which: bool (groups,)."""
        if which.all():
            return self
        groups = self.groups
        counts = np.diff(groups.bounds)
        entries = np.repeat(which, counts)
        picked = Groups(
            groups.addresses[which], groups.lengths[which], groups.forms[which], groups.num_rows[which],
            np.concatenate(([0], np.cumsum(counts[which]))), groups.local[entries],
        )  # fmt: skip
        return FrameRequest(self.chunks[which], self.numbers[which], picked, self.targets[entries], self.slots[entries])

    def decode(
        self, fmt: FrameFormat, channels_last: bool, depth: int, out: U8, label: Callable[[int], str],
        start: int = 0, stop: int | None = None,
    ) -> None:  # fmt: skip
        """Decodes the frames of the groups from `start` to `stop` into observations.

        Args:
            fmt: format of all these groups.
            channels_last: whether observations have their channels last.
            depth: frames of an observation.
            out: uint8 (batch, depth * frame bytes).
            label: names a group in errors.
            start: the first group.
            stop: one past the last group; None: all.

        Raises:
            ChunkError: a group does not decode to its frames.
        """
        groups = self.groups
        stop = len(groups.addresses) if stop is None else stop
        if stop <= start:
            return
        if (start, stop) != (0, len(groups.addresses)):
            some = slice(start, stop)
            groups = Groups(
                groups.addresses[some], groups.lengths[some], groups.forms[some], groups.num_rows[some],
                groups.bounds[start : stop + 1], groups.local,
            )  # fmt: skip
        frame_groups.decode_groups(
            groups, fmt, channels_last, self.targets, self.slots, depth, out, lambda g: label(start + g)
        )


def find_groups(tables: GroupTables, rows: I64, targets: I64, slots: I64, label: str) -> FrameRequest:
    """The request of stored rows.

    Args:
        tables: those of all chunks of the rows.
        rows: int64 (n,), ascending.
        targets: int64 (n,), the observation of each row.
        slots: int64 (n,), its place in the observation.
        label: names the chunks in errors.

    Raises:
        ChunkError: a row is in no group of its chunk.
    """
    n = len(rows)
    chunks, numbers, places, lengths, forms, num_rows, local = np.empty((7, n), np.int64)
    bounds = np.empty(n + 1, np.int64)
    count = locate_groups(
        rows, tables.chunk_rows, tables.tables, tables.num_groups, tables.bases, tables.first_chunk,
        chunks, numbers, places, lengths, forms, num_rows, bounds, local,
    )  # fmt: skip
    if count < 0:
        raise ChunkError(f"{label}: a row is in no group of its chunk; the chunk is damaged, restore it from a copy")
    groups = Groups(places[:count], lengths[:count], forms[:count], num_rows[:count], bounds[: count + 1], local)
    return FrameRequest(chunks[:count], numbers[:count], groups, targets, slots)


def find_window_groups(tables: GroupTables, window_rows: I64) -> tuple[FrameRequest, I64] | None:
    """The request of the rows of observations, as far as their chunks are in memory.

    Args:
        tables: of chunks in memory; `bases` are addresses, 0 where a chunk is not in memory.
        window_rows: int64 (n, depth), C-contiguous; -1 for a frame of zeros.

    Returns:
        The request, and the positions in `window_rows`, counted flat, of the rows that are not in memory; None where
        these are more than an eighth.

    Raises:
        ChunkError: a row is in no group of its chunk.
    """
    size = window_rows.size
    chunks, numbers, addresses, lengths, forms, num_rows, local, targets, slots, others = np.empty((10, size), np.int64)
    bounds = np.empty(size + 1, np.int64)
    count, num_others = locate_windows(
        window_rows, tables.chunk_rows, tables.tables, tables.num_groups, tables.bases, tables.first_chunk,
        chunks, numbers, addresses, lengths, forms, num_rows, bounds, local, targets, slots, others,
    )  # fmt: skip
    if count == TABLE_UNKNOWN:
        return None
    if count < 0:
        raise ChunkError(
            f"rows {window_rows.min()} to {window_rows.max()}: one is in no group of its chunk; the chunk is damaged,"
            " restore it from a copy"
        )
    groups = Groups(addresses[:count], lengths[:count], forms[:count], num_rows[:count], bounds[: count + 1], local)
    return FrameRequest(chunks[:count], numbers[:count], groups, targets, slots), others[:num_others]
