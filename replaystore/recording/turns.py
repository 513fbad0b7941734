"""`Turns`: lets threads write one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from replaystore.errors import StoreClosed


class Turns:
    """A lock of the threads that write to a store. A thread may take it again while it has it.

    It is taken before the lock that guards the catalog.

    Args:
        path: the store's directory, for the error.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._has_ended = False

    def __enter__(self) -> Self:
        self._lock.acquire()
        if self._has_ended:
            self._lock.release()
            raise StoreClosed(f"{self._path}: another thread has closed the store; open it again")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def end(self) -> None:
        """Ends all turns: the next one raises `StoreClosed`. The caller holds the lock."""
        self._has_ended = True
