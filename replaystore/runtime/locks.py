"""`ExclusiveLock`: a lock on a file or directory that the system releases when the process ends."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

import portalocker

_MOST_OWNER_BYTES = 1024


class LockHeld(Exception):
    """Another process, or another lock object in this one, holds the lock. The message names the owner."""


class ExclusiveLock:
    """Locks a file or directory until `release` is called or the process ends.

    A lock file contains the name of its owner while it is locked. A directory is not changed.

    Args:
        path: an existing directory, or a file. A missing file is made.
        wait: wait until the lock is free.

    Raises:
        LockHeld: the lock is not free and `wait` is False.
        OSError: the directory cannot be opened, or the file cannot be opened for writing.
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
            with suppress(OSError):  # on a full disk the lock works, but does not name its owner
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _owner(self) -> str:
        unknown = "an unknown process"
        if self._descriptor is None or not self._is_file:
            return unknown
        return os.pread(self._descriptor, _MOST_OWNER_BYTES, 0).decode(errors="replace").strip() or unknown

    def release(self) -> None:
        """Releases the lock. Does nothing if it was released."""
        if self._descriptor is None:
            return
        if self._is_file:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        portalocker.unlock(self._descriptor)
        self.close_in_child()

    def close_in_child(self) -> None:
        """Closes the inherited file in a forked child. The parent keeps the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
