"""Keeps the limits of a store: evicts old episodes, and refuses commits that do not fit."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from replaystore.errors import CapacityError
from replaystore.recording.turns import Turns
from replaystore.runtime.numbers import limit
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.session import ReadingSession
from replaystore.storage.writing.commits import StoreWriter


class Limits:
    """Keeps a store within its capacity and its disk budget. For one thread at a time, except `set_capacity`.

    Args:
        catalog: the state of the log.
        writer: evicts episodes.
        reading: drops the chunks of evicted episodes.
        lock: guards the catalog.
        turns: held by the thread that writes.
    """

    def __init__(
        self, catalog: Catalog, writer: StoreWriter, reading: ReadingSession, lock: threading.RLock,
        turns: Turns,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._writer = writer
        self._reading = reading
        self._lock = lock
        self._turns = turns

    def set_capacity(self, capacity: int | None) -> None:
        """Changes the capacity and evicts the episodes beyond it.

        Args:
            capacity: largest number of transitions. None: no limit.

        Raises:
            SpecError: the capacity is not a whole number of at least 1.
            WriteError: the capacity was not recorded.
        """
        capacity = limit(capacity, "capacity")
        with self._turns:
            self._writer.set_limits(capacity, self._catalog.disk_budget_bytes)
            self.evict()

    def evict(self) -> None:
        """Evicts the oldest complete episodes until the store is within its capacity and disk budget.

        Raises:
            WriteError: an eviction was not recorded.
        """
        index, capacity, budget = self._catalog.index, self._catalog.capacity, self._catalog.disk_budget_bytes
        with self._lock:
            going = []
            excess = 0 if capacity is None else index.num_transitions - capacity
            if excess > 0:
                for episode, num_rows in index.complete_episodes():
                    if excess <= 0:
                        break
                    going.append(episode)
                    excess -= num_rows - 1
                if going:
                    self._writer.evict(going)
            while budget is not None and index.num_episodes > 1 and self._stored_bytes() > budget:
                oldest = index.oldest_complete()
                if oldest is None:
                    break
                self._writer.evict([oldest])
        self._reading.release()

    def check_length(self, num_transitions: int, label: str) -> None:
        """Checks that an open episode may grow.

        Args:
            num_transitions: transitions that it would have.
            label: names the episode in the error.

        Raises:
            CapacityError: it would be longer than the capacity.
        """
        capacity = self._catalog.capacity
        if capacity is not None and num_transitions > capacity:
            raise CapacityError(
                f"{label}: the open episode has {num_transitions - 1} transitions, as many as the capacity; the row was"
                " not added; end the episode (last=True, or end_episode), or raise the capacity"
            )

    def check_fits(self, num_transitions: int, open_episodes: Iterable[int], label: str) -> None:
        """Checks that a commit fits beside the episodes that cannot be evicted.

        Args:
            num_transitions: transitions that the commit adds.
            open_episodes: ids of the open episodes with committed parts.
            label: names the commit in the error.

        Raises:
            CapacityError: it does not fit. Nothing was evicted.
        """
        capacity, index = self._catalog.capacity, self._catalog.index
        if capacity is None:
            return
        kept = sum(max(0, index.episode(number).num_rows - 1) for number in open_episodes)
        if num_transitions + kept > capacity:
            raise CapacityError(
                f"{label}: {num_transitions} transitions, and {kept} of open episodes, do not fit a capacity of"
                f" {capacity}; nothing was evicted; raise the capacity or commit shorter episodes"
            )

    def _stored_bytes(self) -> int:
        sealed = sum(file.file_bytes for seal in self._catalog.seals.values() for file in seal.files)
        row_bytes = sum(column.row_bytes for column in self._catalog.columns)
        tail = sum(segment.num_rows for segments in self._catalog.segments.values() for segment in segments)
        return sealed + tail * row_bytes
