"""Finds the groups that hold rows, in one chunk or in many, and makes the request for the decoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ChunkError
from replaystore.kernels.group_lookup import locate_groups, locate_windows
from replaystore.kernels.group_request import GroupRequest, GroupTable
from replaystore.kernels.status import MESSAGES, OK, TABLE_UNKNOWN

I64 = NDArray[np.int64]


def find_groups(table: GroupTable, rows: I64, targets: I64, slots: I64, label: str) -> GroupRequest:
    """Returns the request for stored rows.

    Args:
        table: the tables of all chunks of the rows.
        rows: int64 (n,), ascending.
        targets: int64 (n,), the observation that each row belongs to.
        slots: int64 (n,), the position of each row in its observation.
        label: name of the chunks in errors.

    Raises:
        ChunkError: a row is in no group of its chunk.
    """
    request = GroupRequest.empty(len(rows))._replace(targets=targets, slots=slots)
    status, found = locate_groups(rows, table, request)
    if status != OK:
        raise ChunkError(f"{label}: {MESSAGES[status]}; the chunk is damaged, restore it from a copy")
    return request.first(found)


def find_window_groups(table: GroupTable, window_rows: I64) -> tuple[GroupRequest, I64] | None:
    """Returns the request for the rows of observations whose chunks are in memory.

    Args:
        table: the tables of chunks in memory, with addresses as `payloads`.
        window_rows: int64 (n, depth), C-contiguous. -1 is a frame of zeros.

    Returns:
        The request, and the flat positions in `window_rows` of the rows that are not in memory. None if more than an
        eighth of the rows are not in memory.

    Raises:
        ChunkError: a row is in no group of its chunk.
    """
    request, others = GroupRequest.empty(window_rows.size), np.empty(window_rows.size, np.int64)
    status, found, num_others = locate_windows(window_rows, table, request, others)
    if status == TABLE_UNKNOWN:
        return None
    if status != OK:
        raise ChunkError(
            f"rows {window_rows.min()} to {window_rows.max()}: {MESSAGES[status]}; the chunk is damaged, restore it"
            " from a copy"
        )
    return request.first(found), others[:num_others]
