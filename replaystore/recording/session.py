"""The writing half of an open store."""

from __future__ import annotations

import logging

from replaystore.recording.limits import Limits
from replaystore.recording.open_episodes import OpenEpisodes
from replaystore.runtime.counters import Counters
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.catalog.opening import OpenedStore
from replaystore.storage.reading.session import ReadingSession
from replaystore.storage.writing.commits import StoreWriter

_logger = logging.getLogger(__name__)


class WritingSession:
    """Writes to an open store, whose lock is held. For one thread at a time.

    Episodes that an earlier writer left open are ended, and the limits are kept, before anything else.

    Attributes:
        episodes: takes episodes in, whole or row by row.
        limits: capacity and bytes on disk.

    Args:
        files: the store's files.
        log: its log, opened to append.
        reading: the reading half.
        counters: of the store.

    Raises:
        WriteError: an earlier writer's work could not be finished.
    """

    def __init__(self, files: OpenedStore, log: LogWriter, reading: ReadingSession, counters: Counters) -> None:
        catalog, lock = files.catalog, reading.lock
        self._reading = reading
        self._writer = StoreWriter(files.paths, catalog, log, lock, reading.events, counters)
        self.limits = Limits(catalog, self._writer, reading, lock)
        self.episodes = OpenEpisodes(catalog, self._writer, reading.small, lock, self.limits)
        unended = [info.episode for info in catalog.index.episodes() if not info.complete]
        for episode in unended:  # their writer is gone, and so are the rows that would follow
            self.episodes.end_committed(episode)
        if unended:
            _logger.info("%s: ended %d episodes that an earlier writer left open", files.paths.root, len(unended))
        self.limits.evict()

    def flush(self, *, sync: bool = False) -> None:
        """Waits until all full chunks are sealed.

        Args:
            sync: whether to fsync everything too.

        Raises:
            ReplayStoreError: what went wrong since the last call.
        """
        self._writer.sealer.flush()
        self._reading.release()
        if sync:
            self._writer.publisher.sync()

    def publish(self) -> None:
        """Waits until all full chunks are sealed, and shows them to plain Zarr readers.

        Raises:
            ReplayStoreError: what went wrong since the last call.
        """
        self._writer.sealer.flush()
        self._writer.publisher.publish()

    def close(self) -> None:
        """Seals what is left, syncs it, and closes the log.

        Raises:
            ReplayStoreError: what went wrong since the last call. The log is closed all the same.
        """
        self._writer.close()
