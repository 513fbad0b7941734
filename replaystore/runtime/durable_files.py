"""Writing files so that they survive: whole, under their name, and on the device."""

from __future__ import annotations

import os
from pathlib import Path


class SyncError(OSError):
    """fsync failed: what the file holds on disk is unknown, and a second fsync would not tell."""


def sync_file(descriptor: int) -> None:
    """fsync of an open file. Raises `SyncError`."""
    try:
        os.fsync(descriptor)
    except OSError as err:
        raise SyncError(err.errno, f"fsync: {err.strerror}") from err


def sync_directory(path: Path) -> None:
    """fsync of a directory: names made in it survive a power cut. Raises `SyncError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def write_fully(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`; a short write is continued until the system names the cause."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], offset)
        view = view[written:]
        offset += written
