"""`Retention`: keeps evicted chunks readable while a snapshot with their rows is in use."""

from __future__ import annotations

import weakref
from collections import deque

from replaystore.index.snapshot import IndexSnapshot


class Retention:
    """Counts the snapshots in use, and holds back retired chunks until no snapshot has their rows.

    Callers hold the store's lock.
    """

    def __init__(self) -> None:
        self._handed: deque[tuple[int, weakref.ref[IndexSnapshot]]] = deque()
        self._count = 0
        self._retired: deque[tuple[int, list[int]]] = deque()

    def hand_out(self, snapshot: IndexSnapshot) -> IndexSnapshot:
        """Records that the newest snapshot is in use, and returns it."""
        if not self._handed or self._handed[-1][1]() is not snapshot:
            self._handed.append((self._count, weakref.ref(snapshot)))
            self._count += 1
        return snapshot

    def first_row(self, newest: IndexSnapshot) -> int | None:
        """Returns the lowest row of `newest` and of all snapshots in use, or None if they have no rows."""
        in_use = [snapshot for _, handed in self._handed if (snapshot := handed()) is not None]
        return min(
            (int(s.index.part_first_row[0]) for s in (newest, *in_use) if s.index.part_first_row.size), default=None
        )

    def retire(self, chunks: list[int]) -> None:
        """Records chunks that have lost their last live row. Later snapshots do not have them."""
        if chunks:
            self._retired.append((self._count, chunks))

    def release(self, *, everything: bool = False) -> list[int]:
        """Returns the retired chunks that no snapshot in use has. Each is returned once.

        Args:
            everything: return all of them, also those that a snapshot in use has.
        """
        while self._handed and self._handed[0][1]() is None:
            self._handed.popleft()
        oldest = self._handed[0][0] if self._handed else self._count
        free: list[int] = []
        while self._retired and (everything or self._retired[0][0] <= oldest):
            free += self._retired.popleft()[1]
        return free
