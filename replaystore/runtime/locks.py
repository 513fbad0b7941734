"""One writer a store: a lock that dies with its owner."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import portalocker

from replaystore.errors import StoreLocked, WriteError


class WriterLock:
    """Holds the lock file of a store until `release`, or until the process ends.

    Raises:
        StoreLocked: another process, or another store object of this one, holds it; the message names the owner.
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
        except OSError:  # no space: the lock is held, only its owner has no name
            return

    def release(self) -> None:
        """Lets the next writer in."""
        if not self._file.closed:
            with suppress(OSError):
                self._file.truncate(0)
            portalocker.unlock(self._file)
            self._file.close()

    def close_in_child(self) -> None:
        """Lets go of the inherited file without unlocking it for the parent."""
        self._file.close()
