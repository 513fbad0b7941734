"""Comparing bytes of chunks and tails with what the log says of them."""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk
from replaystore.codecs.frame_delta.codec import check_groups
from replaystore.columns.column import Column
from replaystore.errors import ChunkError
from replaystore.storage.format.records import SealedColumn, Segment
from replaystore.storage.reading.open_files import OpenFile

U8 = NDArray[np.uint8]


def crc_of(data: U8) -> int:
    """CRC32C of a contiguous array's bytes."""
    return int(google_crc32c.value(data.reshape(-1)))


def row_crcs(rows: U8) -> NDArray[np.uint32]:
    """CRC32C of each row, uint32 (rows,). rows: uint8 (rows, row_bytes)."""
    return np.fromiter((crc_of(row) for row in rows), np.uint32, len(rows))


def check_length(where: str, expected: int, found: int) -> None:
    """Raises `ChunkError` unless a file is as long as the log says."""
    if expected != found:
        raise ChunkError(f"{where}: expected {expected} bytes, found {found}; restore the file from a copy")


def check_crc(where: str, expected: int, found: int) -> None:
    """Raises `ChunkError` unless two CRCs agree."""
    if expected != found:
        raise ChunkError(
            f"{where}: CRC32C expected {expected:08x}, found {found:08x}; the file is damaged or another one's,"
            " restore it from a copy"
        )


def check_rows(where: str, expected: NDArray[np.uint32], rows: U8, numbers: NDArray[np.int64]) -> None:
    """Compares rows, uint8 (n, row_bytes), with the CRCs of rows `numbers` of their chunk."""
    for number, row in zip(numbers.tolist(), rows, strict=True):
        check_crc(f"{where}, row {number} of the chunk", int(expected[number]), crc_of(row))


def check_root(where: str, file: SealedColumn, parsed: FrameChunk) -> None:
    """Compares the CRC of a frame chunk's header and table with the log."""
    check_crc(f"{where}, header and table", file.root_crc, parsed.root_crc)


def read_chunk(file: OpenFile, column: Column, sealed: SealedColumn, num_rows: int) -> tuple[U8, FrameChunk | None]:
    """All bytes of a sealed chunk file, checked, and its header and table where it is a frame chunk.

    Raises:
        ChunkError: it is not what was sealed.
    """
    where = str(file.path)
    check_length(where, sealed.file_bytes, file.size)
    data = np.empty(file.size, np.uint8)
    file.read_into(data, 0)
    if column.frames is not None:
        parsed = column.frames.parse(data.data, where)
        check_root(where, sealed, parsed)
        check_groups(data.data[parsed.payload_start :], parsed, where)
        return data, parsed
    if column.has_row_crcs:
        rows = data.reshape(-1, column.row_bytes)
        check_rows(where, sealed.row_crcs, rows[:num_rows], np.arange(num_rows))
        if rows[num_rows:].any():
            raise ChunkError(f"{where}: bytes behind its {num_rows} rows are not zero; the file is damaged")
    else:
        check_crc(where, sealed.root_crc, crc_of(data))
    return data, None


def read_segment(file: OpenFile, column: Column, segment: Segment, chunk_rows: int) -> U8:
    """The tail rows of a commit, uint8 (segment rows, row_bytes), checked. Raises `ChunkError`."""
    rows = np.empty((segment.num_rows, column.row_bytes), np.uint8)
    file.read_into(rows.reshape(-1), segment.first_row % chunk_rows * column.row_bytes)
    check_segment(str(file.path), column, segment, rows)
    return rows


def check_segment(where: str, column: Column, segment: Segment, rows: U8) -> None:
    """Compares the tail rows of a commit, uint8 (segment rows, row_bytes), with the log."""
    label = f"{where}, rows {segment.first_row} to {segment.first_row + segment.num_rows - 1}"
    check_crc(label, segment.crcs[column.position], crc_of(rows))
