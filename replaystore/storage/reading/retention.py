"""Dead chunks stay readable for batches in flight: none is released while a snapshot that has its rows is in use."""

from __future__ import annotations

import weakref
from collections import deque

from replaystore.index.snapshot import IndexSnapshot


class Retention:
    """Snapshots handed out, and dead chunks that wait until the older ones are not used any more.

    Guarded by the store's lock.
    """

    def __init__(self) -> None:
        self._handed: deque[tuple[int, weakref.ref[IndexSnapshot]]] = deque()
        self._count = 0
        self._retired: deque[tuple[int, list[int]]] = deque()

    def hand_out(self, snapshot: IndexSnapshot) -> IndexSnapshot:
        """Notes that `snapshot`, which is the newest, is in use; returns it."""
        if not self._handed or self._handed[-1][1]() is not snapshot:
            self._handed.append((self._count, weakref.ref(snapshot)))
            self._count += 1
        return snapshot

    def first_row(self, newest: IndexSnapshot) -> int | None:
        """The lowest row of `newest` and of all snapshots in use; None where they have none."""
        in_use = [snapshot for _, handed in self._handed if (snapshot := handed()) is not None]
        return min(
            (int(s.index.part_first_row[0]) for s in (newest, *in_use) if s.index.part_first_row.size), default=None
        )

    def retire(self, chunks: list[int]) -> None:
        """Notes that chunks lost their last live row: snapshots from now on do not have them."""
        if chunks:
            self._retired.append((self._count, chunks))

    def release(self, *, everything: bool = False) -> list[int]:
        """Retired chunks that no snapshot in use has any more; each is returned once.

        Args:
            everything: return all, whatever is in use.
        """
        while self._handed and self._handed[0][1]() is None:
            self._handed.popleft()
        oldest = self._handed[0][0] if self._handed else self._count
        free: list[int] = []
        while self._retired and (everything or self._retired[0][0] <= oldest):
            free += self._retired.popleft()[1]
        return free
