"""Allows one writer per store, with a lock that ends with its process."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import portalocker

from replaystore.errors import StoreLocked, WriteError


class WriterLock:
    """Locks the lock file of a store until `release` is called or the process ends.

    Args:
        path: the lock file.

    Raises:
        StoreLocked: another process or another store object has the lock. The message names the owner.
        WriteError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
        except OSError as err:
            raise WriteError(
                err.errno, f"{path}: opening for writing: {err.strerror}; open the store with read_only=True"
            ) from err
        try:
            portalocker.lock(self._file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.LockException as err:
            self._file.seek(0)
            owner = self._file.read().strip() or "an unknown process"
            self._file.close()
            raise StoreLocked(
                f"{path.parent.parent}: already open for writing by {owner}; close it, or open with read_only=True"
            ) from err
        try:
            self._file.truncate(0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError:  # no space to write the owner's name; the lock holds all the same
            return

    def release(self) -> None:
        """Releases the lock for the next writer."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            portalocker.unlock(self._file)
            self._file.close()

    def close_in_child(self) -> None:
        """Closes the inherited file in a forked child. The parent keeps the lock."""
        self._file.close()
