"""Writes and syncs files so that their bytes and names survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


class SyncError(OSError):
    """fsync failed. What the file holds on disk is then unknown, and a second fsync may wrongly succeed."""


def sync_file(descriptor: int) -> None:
    """Syncs an open file.

    Raises:
        SyncError: fsync failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as err:
        raise SyncError(err.errno, f"fsync: {err.strerror}") from err


def sync_directory(path: Path) -> None:
    """Syncs a directory, so that new names in it survive a power cut.

    Raises:
        SyncError: fsync failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def write_fully(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`.

    After a short write it writes the rest, until the system reports an error.

    Args:
        descriptor: an open file.
        data: the bytes to write.
        offset: position in the file, in bytes.

    Raises:
        OSError: the write failed.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], offset)
        view = view[written:]
        offset += written
