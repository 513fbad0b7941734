"""The writing half of an open store."""

from __future__ import annotations

import logging

from replaystore.recording.limits import Limits
from replaystore.recording.open_episodes import OpenEpisodes
from replaystore.recording.turns import Turns
from replaystore.runtime.counters import Counters
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.catalog.opening import OpenedStore
from replaystore.storage.reading.session import ReadingSession
from replaystore.storage.writing.commits import StoreWriter

_logger = logging.getLogger(__name__)


class WritingSession:
    """Writes to an open store. The caller holds the store's writer lock. Thread-safe: threads take turns.

    Making it ends the episodes that an earlier writer left open, and then applies the limits.

    Attributes:
        episodes: takes in episodes, whole or row by row.
        limits: the capacity and the disk budget.

    Args:
        files: the files of the store.
        log: the log, open for appending.
        reading: the reading half of the store.
        counters: the counters of the store.
        commit_every: rows after which a part of an open episode is committed. None: whole episodes are.

    Raises:
        WriteError: the episodes could not be ended, or the limits could not be applied.
    """

    def __init__(
        self, files: OpenedStore, log: LogWriter, reading: ReadingSession, counters: Counters,
        commit_every: int | None,
    ) -> None:  # fmt: skip
        catalog, lock = files.catalog, reading.lock
        self._reading = reading
        self._writer = StoreWriter(files.paths, catalog, log, lock, reading.events, counters)
        self._turns = Turns(files.paths.root)
        self.limits = Limits(catalog, self._writer, reading, lock, self._turns)
        self.episodes = OpenEpisodes(catalog, self._writer, reading.small, lock, self.limits, self._turns, commit_every)
        unended = [info.episode for info in catalog.index.episodes() if not info.complete]
        for episode in unended:  # their writer is gone, and no more rows will come
            self.episodes.end_committed(episode)
        if unended:
            _logger.info("%s: ended %d episodes that an earlier writer left open", files.paths.root, len(unended))
        self.limits.evict()

    def flush(self, *, sync: bool = False) -> None:
        """Waits until all full chunks are sealed.

        Args:
            sync: whether to fsync everything as well.

        Raises:
            ReplayStoreError: a background error since the last call, or the fsync failed.
        """
        with self._turns:
            self._writer.sealer.flush()
            self._reading.release()
            if sync:
                self._writer.publisher.sync()

    def publish(self) -> None:
        """Waits until all full chunks are sealed, and updates the files for plain Zarr readers.

        Raises:
            ReplayStoreError: a background error since the last call, or a file could not be written.
        """
        with self._turns:
            self._writer.sealer.flush()
            self._writer.publisher.publish()

    def close(self) -> None:
        """Ends the open episodes and the reading threads, seals and syncs all rows that are left, and closes the log.

        Raises:
            ReplayStoreError: a background error since the last call, or a write failed. The log is closed nevertheless.
        """
        with self._turns:
            try:
                self.episodes.end_open_episodes()
            finally:
                self._turns.end()
                self._reading.stop()
                self._reading.release(everything=True)
                self._writer.close()
