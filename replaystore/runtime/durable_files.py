"""Writing files so that they survive: whole, under their name, and on the device."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class SyncError(OSError):
    """fsync failed: what the file holds on disk is unknown, and a second fsync would not tell."""


def sync_file(descriptor: int) -> None:
    """fsync of an open file.

    Raises:
        SyncError: it failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as err:
        raise SyncError(err.errno, f"fsync: {err.strerror}") from err


def sync_directory(path: Path) -> None:
    """fsync of a directory: names made in it survive a power cut.

    Raises:
        SyncError: it failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_files(files: Iterable[Path]) -> None:
    """fsync of files and of the directories they are in. Files that are gone are passed over.

    Raises:
        SyncError: one fsync failed.
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
    """Writes all of `data` at `offset`; a short write is continued until the system names the cause."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], offset)
        view = view[written:]
        offset += written


@contextmanager
def replacement(path: Path, *, sync: bool, shared: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, or is removed where it fails.

    Nobody sees a part of the file: it is written under another name beside `path`, which ends in `.partial`.

    Args:
        path: where the file will be; what is there is replaced.
        sync: whether the file and its name survive a power cut when the block has ended.
        shared: whether several processes may write `path` at once. Each then has a name of its own beside it.

    Raises:
        OSError: the file cannot be written or renamed; `path` is as it was.
        SyncError: fsync of the file failed, and `path` is as it was, or that of its directory, and it is replaced.
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
        temporary.unlink(missing_ok=True)  # where there is no space, what was written takes some
        raise
    if sync:
        sync_directory(path.parent)


def replace_file(path: Path, data: bytes | str, *, sync: bool, shared: bool = False) -> None:
    """Writes a file whole or not at all.

    Args:
        path: where the file will be; what is there is replaced.
        data: its content; text is written as UTF-8.
        sync: as in `replacement`.
        shared: as in `replacement`.

    Raises:
        OSError: as `replacement`.
    """
    with replacement(path, sync=sync, shared=shared) as file:
        write_fully(file.fileno(), data.encode() if isinstance(data, str) else data, 0)
