"""Writes the files for plain Zarr readers, and fsyncs what is not on the device yet."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from replaystore.errors import WriteError
from replaystore.runtime.durable_files import SyncError, sync_directory, sync_files
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.format import layout, zarr_metadata
from replaystore.storage.format.layout import Paths


class Publisher:
    """Keeps the files for plain Zarr readers up to date, and knows which files an fsync must reach.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        log: the writer's log.
        lock: guards the catalog and the log.
        kept_tails: tails of sealed chunks whose seal records a power cut can still take. `sync` removes them.
    """

    def __init__(
        self, paths: Paths, catalog: Catalog, log: LogWriter, lock: threading.RLock, kept_tails: Iterable[Path]
    ) -> None:
        self._paths = paths
        self._catalog = catalog
        self._log = log
        self._lock = lock
        self._power = catalog.spec.durability == "power"
        # Files that the unsynced records of the log name. The lock guards them.
        self._unsynced: set[Path] = set()
        self._synced_rows = catalog.next_row  # an upper bound: rows before it may have been synced
        # Tails of chunks with such rows that were sealed since. They are needed if the seal record is lost.
        self._kept_tails = list(kept_tails)
        if log.head.synced < log.end:  # the writer before this one did not sync its files
            for column in catalog.columns:
                self._unsynced.update(paths.chunk(column.name, chunk, column.ndim) for chunk in catalog.seals)
                self._unsynced.update(paths.tail(column.name, chunk) for chunk in catalog.segments)

    def publish(self) -> None:
        """Brings the files for plain Zarr readers up to date.

        Raises:
            WriteError: a file was not written. Committed rows are not touched.
        """
        try:
            with self._lock:
                if not self._catalog.published:
                    zarr_metadata.publish(self._paths, self._catalog, power=self._power)
                    self._log.append([(layout.PUBLISH, b"")], self._catalog)
        except OSError as err:
            if isinstance(err, SyncError):
                self._log.poison(err)
            raise WriteError(
                err.errno, f"{self._paths.root}: writing metadata: {err.strerror}; committed rows are not touched"
            ) from err

    def note_tails(self, chunk: int) -> None:
        """Notes that a commit wrote to the tails of a chunk. The caller holds the lock."""
        self._unsynced.update(self._paths.tail(column.name, chunk) for column in self._catalog.columns)

    def note_sealed(self, chunk: int) -> list[Path]:
        """Notes that a chunk has its files. The caller holds the lock.

        Returns:
            The tails that are no longer needed.
        """
        columns = self._catalog.columns
        self._unsynced.update(self._paths.chunk(column.name, chunk, column.ndim) for column in columns)
        tails = [self._paths.tail(column.name, chunk) for column in columns]
        if chunk * self._catalog.spec.chunk_rows < self._synced_rows and not self._power:
            self._kept_tails += tails
            return []
        return tails

    def sync(self) -> None:
        """Fsyncs all files written since the last sync, so that they survive a power cut.

        Raises:
            WriteError: an fsync failed, now or earlier. Nothing can be written until the store is opened again.
        """
        self._log.refuse_if_failed()
        with self._lock:
            files, end, next_row = list(self._unsynced), self._log.end, self._catalog.next_row
            kept = list(self._kept_tails)
        try:
            sync_files([*files, *zarr_metadata.published_paths(self._paths, self._catalog)])
            sync_directory(self._paths.tails)
        except OSError as err:
            self._log.poison(err)
            raise WriteError(err.errno, f"{self._paths.root}: fsync failed: {err.strerror}; reopen the store") from err
        with self._lock:
            if end == self._log.end:  # nothing was committed meanwhile
                self._unsynced.clear()
            self._log.sync(end)
            self._synced_rows = max(self._synced_rows, next_row)
            del self._kept_tails[: len(kept)]
        for path in kept:
            path.unlink(missing_ok=True)
