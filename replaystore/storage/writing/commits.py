"""The only writer of a store: it commits rows, evicts episodes and records limits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.checksums import crc_of
from replaystore.errors import WriteError
from replaystore.index.parts import Part
from replaystore.runtime.counters import Counters
from replaystore.runtime.durable_files import SyncError
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.events import ChunkEvents
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import pack_commit, pack_config, pack_evict
from replaystore.storage.writing.cleanup import remove_leftovers
from replaystore.storage.writing.publishing import Publisher
from replaystore.storage.writing.sealer import Sealer
from replaystore.storage.writing.tails import TailFiles

_logger = logging.getLogger(__name__)


class StoreWriter:
    """Writes to a store. The caller holds the store's writer lock and uses one thread at a time.

    When `commit` returns, the rows are in their tail files. The sealer encodes full chunks in the background. If
    `MAX_PENDING_CHUNKS` chunks are not sealed yet, `commit` waits. It drops nothing.

    Attributes:
        sealer: seals full chunks, and keeps its errors for the next call.
        publisher: writes the files for plain Zarr readers, and fsyncs.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        log: the log, open for appending. `close` closes it.
        lock: guards the catalog and the log.
        events: the writer publishes `sealed` and `retired`. On `released` it removes the chunk files.
        counters: the counters of the store.
    """

    def __init__(
        self, paths: Paths, catalog: Catalog, log: LogWriter, lock: threading.RLock, events: ChunkEvents,
        counters: Counters,
    ) -> None:  # fmt: skip
        self._paths = paths
        self._catalog = catalog
        self._log = log
        self._lock = lock
        self._events = events
        self._counters = counters
        self._has_evicted = False
        kept_tails = remove_leftovers(paths, catalog, keep_tails=log.head.synced < log.end)
        self._tails = TailFiles(paths, catalog, power=catalog.spec.durability == "power")
        self.publisher = Publisher(paths, catalog, log, lock, kept_tails)
        self.sealer = Sealer(paths, catalog, log, lock, self._tails, self.publisher, events, counters)
        events.subscribe(released=self._unlink_chunks)
        chunk_rows = catalog.spec.chunk_rows
        unsealed = [chunk for chunk in sorted(catalog.segments) if (chunk + 1) * chunk_rows <= catalog.next_row]
        if unsealed:
            _logger.info("%s: %d full chunks were not sealed: it is done now", paths.root, len(unsealed))
        for chunk in unsealed:
            self.sealer.queue(chunk)

    def commit(self, rows: Sequence[NDArray[np.uint8]], clamped: Sequence[int], part: Part) -> None:
        """Commits rows at the end of the store.

        It first waits while `MAX_PENDING_CHUNKS` full chunks are not sealed. An error of the sealer ends the wait, and
        the next call raises that error.

        Args:
            rows: uint8 (rows, row_bytes), one array per column.
            clamped: values that a codec changed to fit its range, one number per column.
            part: describes the rows as a part of an episode.

        Raises:
            WriteError: nothing was committed.
            ReplayStoreError: the sealer failed since the last call. Nothing was committed.
        """
        self.sealer.raise_pending()
        self._log.refuse_if_failed()
        self.sealer.wait_for_room()
        chunk_rows = self._catalog.spec.chunk_rows
        stop = part.first_row + part.num_rows
        chunks = range(part.first_row // chunk_rows, (stop - 1) // chunk_rows + 1)
        crcs: list[list[int]] = []
        try:
            for chunk in chunks:
                low, high = max(part.first_row, chunk * chunk_rows), min(stop, (chunk + 1) * chunk_rows)
                pieces = [column_rows[low - part.first_row : high - part.first_row] for column_rows in rows]
                crcs.append([crc_of(piece) for piece in pieces])
                self._tails.write(chunk, low - chunk * chunk_rows, pieces)
                if (chunk + 1) * chunk_rows <= stop:  # it is full; a long episode must not run out of descriptors
                    self._tails.close_chunk(chunk)
            self._tails.sync_names()
        except OSError as err:
            if isinstance(err, SyncError):
                self._log.poison(err)
            raise WriteError(
                err.errno, f"{self._paths.root}: writing episode {part.episode}: {err.strerror}; nothing was committed"
            ) from err
        with self._lock:
            self._log.append([(layout.COMMIT, pack_commit(part, crcs, clamped))], self._catalog)
            for chunk in chunks:
                self._catalog.segments[chunk][-1].checked.update(range(len(rows)))
                self.publisher.note_tails(chunk)
        self._counters.add(rows_appended=part.num_rows, episodes_appended=int(part.t_start == 0))
        for chunk in chunks:
            if (chunk + 1) * chunk_rows <= stop:
                self.sealer.queue(chunk)

    def commit_end(self, part: Part) -> None:
        """Ends an episode whose rows are all committed.

        Args:
            part: a last part without rows.

        Raises:
            WriteError: nothing was committed.
        """
        with self._lock:
            self._log.append([(layout.COMMIT, pack_commit(part, [], [0] * len(self._catalog.columns)))], self._catalog)

    def evict(self, episodes: Sequence[int]) -> None:
        """Evicts episodes. Chunks that lose their last live row are retired.

        Args:
            episodes: ids of live episodes.

        Raises:
            WriteError: nothing was evicted.
        """
        index = self._catalog.index
        with self._lock:
            rows = index.num_rows
            dead = self._log.append([(layout.EVICT, pack_evict(episodes))], self._catalog)
            rows -= index.num_rows
            self._events.retired(dead)
        self._counters.add(episodes_evicted=len(episodes), rows_evicted=rows)
        # Once a store is full, every commit evicts. Only the first eviction is news.
        _logger.log(
            logging.DEBUG if self._has_evicted else logging.INFO,
            "%s: evicted %d episodes, %d rows; %d transitions are left (capacity %s, disk budget %s)",
            self._paths.root, len(episodes), rows, index.num_transitions, self._catalog.capacity,
            self._catalog.disk_budget_bytes,
        )  # fmt: skip
        self._has_evicted = True

    def set_limits(self, capacity: int | None, disk_budget_bytes: int | None) -> None:
        """Records the limits of the store.

        Args:
            capacity: largest number of transitions. None: no limit.
            disk_budget_bytes: largest number of bytes on disk. None: no limit.

        Raises:
            WriteError: the limits were not recorded.
        """
        with self._lock:
            self._log.append([(layout.CONFIG, pack_config(capacity, disk_budget_bytes))], self._catalog)

    def _unlink_chunks(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            for column in self._catalog.columns:
                path = self._paths.chunk(column.name, chunk, column.ndim)
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Seals all rows that are left, publishes and syncs them, and closes the files. It pads the last chunk.

        Raises:
            ReplayStoreError: see `Sealer.raise_pending`. The files are closed nevertheless.
            WriteError: publishing or syncing failed. The files are closed nevertheless.
        """
        error: BaseException | None = None
        try:
            self.sealer.flush()
            for chunk in sorted(self._catalog.segments):
                self.sealer.queue(chunk)
            self.sealer.flush()
            self.publisher.publish()
            self.publisher.sync()
        except BaseException as err:
            error = err
        self.sealer.stop()
        self._tails.close()
        self._log.close()
        if error is not None:
            raise error
