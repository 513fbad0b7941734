"""Computes the CRC32C of rows and files, and compares what is read with what was written."""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replaystore.columns.chunks import ChunkFile, SealedColumn
from replaystore.errors import ChunkError

U8 = NDArray[np.uint8]


def crc_of(data: U8) -> int:
    """Returns the CRC32C of a contiguous array's bytes."""
    return int(google_crc32c.value(data.reshape(-1)))


def row_crcs(rows: U8) -> NDArray[np.uint32]:
    """Returns the CRC32C of each row, uint32 (rows,).

    Args:
        rows: uint8 (rows, row_bytes).
    """
    return np.fromiter((crc_of(row) for row in rows), np.uint32, len(rows))


def check_length(label: str, expected: int, found: int) -> None:
    """Checks that a file is as long as the log says.

    Raises:
        ChunkError: it is not.
    """
    if expected != found:
        raise ChunkError(f"{label}: expected {expected} bytes, found {found}; restore the file from a copy")


def check_crc(label: str, expected: int, found: int) -> None:
    """Checks that two CRCs agree.

    Raises:
        ChunkError: they do not.
    """
    if expected != found:
        raise ChunkError(
            f"{label}: CRC32C expected {expected:08x}, found {found:08x}; the file is damaged or another one's,"
            " restore it from a copy"
        )


def check_file(file: ChunkFile, sealed: SealedColumn) -> None:
    """Checks a file of rows by its length, and unless each row has a CRC of its own, all of its bytes.

    Raises:
        ChunkError: it is not the file that was sealed, or it cannot be read.
    """
    label = str(file.path)
    check_length(label, sealed.file_bytes, file.size)
    if not sealed.row_crcs.size:
        data = np.empty(file.size, np.uint8)
        file.read_into(data, 0)
        check_crc(label, sealed.root_crc, crc_of(data))


def check_rows(label: str, expected: NDArray[np.uint32], rows: U8, rows_in_chunk: NDArray[np.int64]) -> None:
    """Compares rows with the CRCs of their chunk.

    Args:
        label: names the chunk in errors.
        expected: uint32 (chunk rows,), the CRCs of the chunk.
        rows: uint8 (n, row_bytes).
        rows_in_chunk: int64 (n,), number of each row in the chunk.

    Raises:
        ChunkError: a row differs from the one that was written.
    """
    for number, row in zip(rows_in_chunk.tolist(), rows, strict=True):
        check_crc(f"{label}, row {number} of the chunk", int(expected[number]), crc_of(row))
