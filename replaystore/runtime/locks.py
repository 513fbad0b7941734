"""Exclusive locks that die with their owner."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

import portalocker

_MOST_OWNER_BYTES = 1024


class LockHeld(Exception):
    """Another process, or another lock object of this one, has the lock; the message names the owner."""


class ExclusiveLock:
    """The lock of a file or directory, held until `release` or until the process ends.

    A lock file that is held says who holds it. A directory stays as it is.

    Args:
        path: a directory that exists, or a file, which is made if missing.
        wait: whether to wait for the lock while another has it.

    Raises:
        LockHeld: another has it, and `wait` is False.
        OSError: the file or directory cannot be opened; a file for writing.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self._is_file = not path.is_dir()
        flags = os.O_RDWR | os.O_CREAT if self._is_file else os.O_RDONLY | os.O_DIRECTORY
        self._descriptor: int | None = os.open(path, flags | os.O_CLOEXEC, 0o666)
        how = portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(self._descriptor, how if wait else how | portalocker.LockFlags.NON_BLOCKING)
        except BaseException as err:
            owner = self._owner()
            self.close_in_child()
            if not isinstance(err, portalocker.LockException):
                raise
            raise LockHeld(owner) from err
        if self._is_file:
            with suppress(OSError):  # no space: the lock is held, only its owner has no name
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _owner(self) -> str:
        unknown = "an unknown process"
        if self._descriptor is None or not self._is_file:
            return unknown
        return os.pread(self._descriptor, _MOST_OWNER_BYTES, 0).decode(errors="replace").strip() or unknown

    def release(self) -> None:
        """Lets the next one have the lock."""
        if self._descriptor is None:
            return
        if self._is_file:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        portalocker.unlock(self._descriptor)
        self.close_in_child()

    def close_in_child(self) -> None:
        """Closes the file that a forked child inherited; the parent keeps the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
