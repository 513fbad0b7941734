"""Writes files durably: a file is replaced as a whole, and fsync covers its content and its name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class SyncError(OSError):
    """An fsync failed. The content on disk is unknown, and a second fsync could succeed without writing it."""


def sync_file(descriptor: int) -> None:
    """Calls fsync on an open file.

    Raises:
        SyncError: it failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as err:
        raise SyncError(err.errno, f"fsync: {err.strerror}") from err


def sync_directory(path: Path) -> None:
    """Calls fsync on a directory, so that new names in it survive a power cut.

    Raises:
        SyncError: it failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_files(files: Iterable[Path]) -> None:
    """Calls fsync on files and on their directories. Skips files that do not exist.

    Raises:
        SyncError: an fsync failed.
    """
    directories = set()
    for path in files:
        directories.add(path.parent)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            sync_file(descriptor)
        finally:
            os.close(descriptor)
    for directory in directories:
        sync_directory(directory)


def write_fully(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data`. After a short write it goes on, so that the system reports why.

    Args:
        descriptor: a file open for writing.
        data: the bytes.
        offset: position of the first byte in the file.

    Raises:
        OSError: a write failed. A part of the data may have been written.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], offset)
        view = view[written:]
        offset += written


@contextmanager
def replacement(path: Path, *, sync: bool, shared: bool = False) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` when the `with` block ends. If the block raises, the new file is removed.

    The file is written under a second name in the same directory, which ends in `.partial`. So no process sees a part
    of it under `path`.

    Args:
        path: the file to replace or to make.
        sync: call fsync, so that the file and its name survive a power cut once the block has ended.
        shared: whether several processes may replace `path` at the same time. Each then uses a second name of its own.

    Yields:
        The new file, open for writing.

    Raises:
        OSError: the file could not be written or renamed. `path` is unchanged.
        SyncError: an fsync failed. If it was that of the file, `path` is unchanged. If it was that of the directory,
            `path` is replaced.
    """
    name = f".{path.name}.{secrets.token_hex(4)}.partial" if shared else f"{path.name}.partial"
    temporary = path.with_name(name)
    file = open(temporary, "xb" if shared else "wb")  # noqa: SIM115
    try:
        with file:
            yield file
            file.flush()
            if sync:
                sync_file(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # the disk may be full
        raise
    if sync:
        sync_directory(path.parent)


def replace_file(path: Path, data: bytes | str, *, sync: bool, shared: bool = False) -> None:
    """Writes a file as a whole or not at all.

    Args:
        path: the file to replace or to make.
        data: its content. Text is written as UTF-8.
        sync: as in `replacement`.
        shared: as in `replacement`.

    Raises:
        OSError: see `replacement`.
        SyncError: see `replacement`.
    """
    with replacement(path, sync=sync, shared=shared) as file:
        write_fully(file.fileno(), data.encode() if isinstance(data, str) else data, 0)
