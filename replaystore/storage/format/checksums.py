"""Reads whole chunk files and tail files, and compares them with the log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.checksums import check_crc, check_length, crc_of
from replaystore.columns.chunks import CachedChunk, ChunkFile, SealedColumn
from replaystore.columns.column import Column
from replaystore.storage.format.records import Segment

U8 = NDArray[np.uint8]


def read_chunk(file: ChunkFile, column: Column, sealed: SealedColumn, num_rows: int) -> CachedChunk:
    """Reads a sealed chunk and checks every byte.

    Args:
        file: the chunk file.
        column: the column of the file.
        sealed: the log's record of the file.
        num_rows: rows in use.

    Raises:
        ChunkError: the file differs from the one that was sealed.
    """
    label = str(file.path)
    check_length(label, sealed.file_bytes, file.size)
    data = np.empty(file.size, np.uint8)
    file.read_into(data, 0)
    return column.codec.verify(data, sealed, num_rows, label)


def read_segment(file: ChunkFile, column: Column, segment: Segment, chunk_rows: int) -> U8:
    """Reads and checks the tail rows of a commit.

    Args:
        file: the tail file.
        column: the column of the file.
        segment: the rows of the commit in this chunk.
        chunk_rows: rows per chunk.

    Returns:
        uint8 (segment rows, row_bytes).

    Raises:
        ChunkError: the rows differ from those that were committed.
    """
    rows = np.empty((segment.num_rows, column.row_bytes), np.uint8)
    file.read_into(rows.reshape(-1), segment.first_row % chunk_rows * column.row_bytes)
    check_segment(str(file.path), column, segment, rows)
    return rows


def check_segment(label: str, column: Column, segment: Segment, rows: U8) -> None:
    """Compares the tail rows of a commit with the log.

    Args:
        label: names the tail file in errors.
        column: the column of the rows.
        segment: the rows of the commit in this chunk.
        rows: uint8 (segment rows, row_bytes).

    Raises:
        ChunkError: the rows differ from those that were committed.
    """
    label = f"{label}, rows {segment.first_row} to {segment.first_row + segment.num_rows - 1}"
    check_crc(label, segment.crcs[column.position], crc_of(rows))
