"""Dead chunks stay readable for batches in flight: nothing is dropped while a snapshot that knows it is held."""

from __future__ import annotations

import weakref
from collections import deque

from replaystore.index.snapshot import IndexSnapshot


class Views:
    """Snapshots handed out, and dead chunks that wait for the older ones to be let go. Guarded by the store's lock."""

    def __init__(self) -> None:
        self._handed: deque[tuple[int, weakref.ref[IndexSnapshot]]] = deque()
        self._count = 0
        self._buried: deque[tuple[int, list[int]]] = deque()

    def hand_out(self, snapshot: IndexSnapshot) -> IndexSnapshot:
        """Notes that somebody holds `snapshot`, which is the newest."""
        if not self._handed or self._handed[-1][1]() is not snapshot:
            self._handed.append((self._count, weakref.ref(snapshot)))
            self._count += 1
        return snapshot

    def first_row(self, newest: IndexSnapshot) -> int | None:
        """The lowest row that `newest` or a snapshot in use speaks of; None where there is none."""
        held = [snapshot for _, handed in self._handed if (snapshot := handed()) is not None]
        return min((int(s.part_first_row[0]) for s in (newest, *held) if s.part_first_row.size), default=None)

    def bury(self, chunks: list[int]) -> None:
        """Notes that chunks lost their last live row: snapshots from now on do not know them."""
        if chunks:
            self._buried.append((self._count, chunks))

    def exhume(self, *, everything: bool = False) -> list[int]:
        """Chunks that no snapshot in use knows any more; each is returned once."""
        while self._handed and self._handed[0][1]() is None:
            self._handed.popleft()
        oldest = self._handed[0][0] if self._handed else self._count
        free: list[int] = []
        while self._buried and (everything or self._buried[0][0] <= oldest):
            free += self._buried.popleft()[1]
        return free
