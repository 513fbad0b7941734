"""The one writer of a store: tail files, commits, sealing behind the caller, eviction."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.checksums import crc_of
from replaystore.columns.chunks import CachedChunk, SealedColumn
from replaystore.errors import ReplayStoreError, WriteError
from replaystore.index.parts import Part
from replaystore.runtime.counters import Counters
from replaystore.runtime.durable_files import SyncError, sync_directory, sync_file, sync_files, write_fully
from replaystore.runtime.preemption import let_others_preempt
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.format import layout, zarr_metadata
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import Seal, pack_commit, pack_config, pack_evict, pack_seal
from replaystore.storage.writing import chunk_files as seal

_logger = logging.getLogger(__name__)

U8 = NDArray[np.uint8]

MAX_PENDING_CHUNKS = 4  # full chunks that wait for the sealer before `commit` waits for it


class StoreWriter:
    """Writes to a store whose lock is held. All methods but the sealer's own are called by one thread at a time.

    Rows are in their tail files when `commit` returns. A thread behind the caller, the sealer, encodes the chunks that
    are full, one at a time, and reads them back from the tail files: rows that wait for it take no memory of this
    process but that of one chunk (its rows, in mode `"full"` twice, and what they are encoded to). Where chunks queue
    up, or somebody waits for them, a second thread encodes half of each. Where `MAX_PENDING_CHUNKS` wait, `commit`
    waits for the sealer; nothing is dropped.

    Args:
        lock: guards the catalog.
        on_sealed: called by the sealer with the chunk and what each column has of it in memory; raises what the
            caller shall see at its next call.
        on_dead: called with chunks that lost their last live row; they are unlinked by `unlink_chunks` later.
    """

    def __init__(
        self, paths: Paths, catalog: Catalog, log: LogWriter, lock: threading.RLock,
        on_sealed: Callable[[int, list[CachedChunk]], None], on_dead: Callable[[list[int]], None],
        counters: Counters,
    ) -> None:  # fmt: skip
        self._paths = paths
        self._catalog = catalog
        self._log = log
        self._lock = lock
        self._on_sealed = on_sealed
        self._on_dead = on_dead
        self._counters = counters
        self._has_evicted = False
        self._power = catalog.spec.durability == "power"
        self._tails: dict[tuple[int, int], int] = {}
        # Files that records behind the synced part of the log speak of. Guarded by the lock, as the log is.
        self._unsynced: set[Path] = set()
        self._synced_rows = catalog.next_row  # rows that may be known to be synced
        self._kept_tails: list[Path] = []  # of chunks with such rows, sealed since: needed if the seal's record is lost
        self._condition = threading.Condition()
        self._pending: deque[int] = deque()
        self._error: BaseException | None = None
        self._paused = False
        self._stopping = False
        self._busy = False
        self._num_waiting = 0
        self._thread: threading.Thread | None = None
        self._helper: ThreadPoolExecutor | None = None
        self._clean_up(keep_tails=log.head.synced < log.end)
        if log.head.synced < log.end:  # whoever wrote before did not come to sync: it is left to this writer
            self._unsynced.update(self._data_files())
        chunk_rows = catalog.spec.chunk_rows
        unsealed = [chunk for chunk in sorted(catalog.segments) if (chunk + 1) * chunk_rows <= catalog.next_row]
        if unsealed:
            _logger.info("%s: %d full chunks were not sealed: it is done now", paths.root, len(unsealed))
        for chunk in unsealed:
            self._queue(chunk)

    # Commits

    def commit(self, rows: Sequence[U8], clamped: Sequence[int], part: Part) -> None:
        """Commits rows, one uint8 (rows, row_bytes) array a column, as the next rows of the store.

        Waits while `MAX_PENDING_CHUNKS` full chunks are not sealed (before anything is written: an error of the sealer
        ends the wait, and is raised by the next call).

        Raises:
            WriteError: nothing was committed. Any error of the sealer since the last call.
        """
        self.raise_pending()
        self._log.refuse_if_failed()
        self._wait_for_room()
        chunk_rows = self._catalog.spec.chunk_rows
        stop = part.first_row + part.num_rows
        chunks = range(part.first_row // chunk_rows, (stop - 1) // chunk_rows + 1)
        crcs: list[list[int]] = []
        try:
            for chunk in chunks:
                low, high = max(part.first_row, chunk * chunk_rows), min(stop, (chunk + 1) * chunk_rows)
                pieces = [column_rows[low - part.first_row : high - part.first_row] for column_rows in rows]
                crcs.append([crc_of(piece) for piece in pieces])
                for column, piece in zip(self._catalog.columns, pieces, strict=True):
                    descriptor = self._tail(column.position, chunk)
                    write_fully(descriptor, piece.data.cast("B"), (low - chunk * chunk_rows) * column.row_bytes)
                    if self._power:
                        sync_file(descriptor)
                if (chunk + 1) * chunk_rows <= stop:  # full: a long episode must not run out of descriptors
                    self._close_tails(chunk)
            if self._power:
                sync_directory(self._paths.tails)
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
                self._unsynced.update(self._paths.tail(column.name, chunk) for column in self._catalog.columns)
        self._counters.add(rows_appended=part.num_rows, episodes_appended=int(part.t_start == 0))
        for chunk in chunks:
            if (chunk + 1) * chunk_rows <= stop:
                self._queue(chunk)

    def _wait_for_room(self) -> None:
        with self._waiting():
            if len(self._pending) < MAX_PENDING_CHUNKS or self._error is not None:
                return
            start = time.monotonic()
            while len(self._pending) >= MAX_PENDING_CHUNKS and self._error is None:
                self._condition.wait()
        seconds = time.monotonic() - start
        self._counters.add(encoder_waits=1, encoder_wait_seconds=seconds)
        _logger.debug("%s: a commit waited %.3f s for chunks to be sealed", self._paths.root, seconds)

    def commit_end(self, part: Part) -> None:
        """Ends an episode whose rows are all committed: a part without rows."""
        with self._lock:
            self._log.append([(layout.COMMIT, pack_commit(part, [], [0] * len(self._catalog.columns)))], self._catalog)

    def evict(self, episodes: Sequence[int]) -> None:
        """Takes episodes out; their chunks are given to `on_dead`."""
        index = self._catalog.index
        with self._lock:
            rows = index.num_rows
            dead = self._log.append([(layout.EVICT, pack_evict(episodes))], self._catalog)
            rows -= index.num_rows
            self._on_dead(dead)
        self._counters.add(episodes_evicted=len(episodes), rows_evicted=rows)
        # Once a store is full every commit evicts: only the first time is news.
        _logger.log(
            logging.DEBUG if self._has_evicted else logging.INFO,
            "%s: evicted %d episodes, %d rows; %d transitions are left (capacity %s, disk budget %s)",
            self._paths.root, len(episodes), rows, index.num_transitions, self._catalog.capacity,
            self._catalog.disk_budget_bytes,
        )  # fmt: skip
        self._has_evicted = True

    def set_limits(self, capacity: int | None, disk_budget_bytes: int | None) -> None:
        """Records the limits that eviction keeps."""
        with self._lock:
            self._log.append([(layout.CONFIG, pack_config(capacity, disk_budget_bytes))], self._catalog)

    def unlink_chunks(self, chunks: Sequence[int]) -> None:
        """Removes the files of dead chunks."""
        for chunk in chunks:
            for column in self._catalog.columns:
                path = self._paths.chunk(column.name, chunk, column.ndim)
                path.unlink(missing_ok=True)

    def _tail(self, position: int, chunk: int) -> int:
        descriptor = self._tails.get((position, chunk))
        if descriptor is None:
            path = self._paths.tail(self._catalog.columns[position].name, chunk)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._tails[position, chunk] = descriptor
        return descriptor

    def _close_tails(self, chunk: int) -> None:
        for column in self._catalog.columns:
            descriptor = self._tails.pop((column.position, chunk), None)
            if descriptor is not None:
                os.close(descriptor)

    # Sealing

    def defer(self, error: WriteError) -> None:
        """Has an error raised at the next call: what this one was asked to do is done."""
        with self._condition:
            self._error = self._error or error

    def raise_pending(self) -> None:
        """Raises what went wrong behind the caller since the last call; sealing is tried again after that."""
        with self._condition:
            error, self._error = self._error, None
            if error is None and self._paused:
                self._paused = False
                self._condition.notify_all()
        if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
            raise WriteError(
                error.errno,
                f"{self._paths.root}: sealing failed: {error.strerror}; committed rows are safe",
            ) from error
        if error is not None:
            raise error

    def flush(self) -> None:
        """Waits until every full chunk is sealed."""
        self.raise_pending()
        with self._waiting():
            while (self._pending or self._busy) and self._error is None:
                self._condition.wait()
        self.raise_pending()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Holds the condition, for a caller that may wait for the sealer."""
        with self._condition:
            self._num_waiting += 1
            try:
                yield
            finally:
                self._num_waiting -= 1

    def _queue(self, chunk: int) -> None:
        with self._condition:
            self._pending.append(chunk)
            if self._thread is None:
                self._thread = threading.Thread(target=self._seal_loop, name="replaystore-seal", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def _seal_loop(self) -> None:
        let_others_preempt()
        while True:
            with self._condition:
                while not self._stopping and (self._paused or not self._pending):
                    self._condition.wait()
                if self._stopping:
                    return
                chunk = self._pending[0]
                self._busy = True
                behind = len(self._pending) > 1 or self._num_waiting > 0
            error: BaseException | None = None
            sealed = False
            try:
                self._seal(chunk, self._second_thread() if behind else None)
                sealed = True
                self.publish()
            except BaseException as err:
                error = err
                _logger.warning(
                    "%s: sealing chunk %d failed: %s; the next call of the store raises it",
                    self._paths.root,
                    chunk,
                    err,
                )
                if isinstance(err, SyncError):
                    self._log.poison(err)
            with self._condition:
                self._busy = False
                if sealed or chunk in self._catalog.seals:
                    self._pending.popleft()
                else:
                    self._paused = True  # until the caller has seen the error
                self._error = self._error or error
                self._condition.notify_all()

    def _second_thread(self) -> Executor | None:
        """A thread to encode with, beside the sealer; None where there is no second core for it."""
        if self._helper is None and len(os.sched_getaffinity(0)) > 1:
            self._helper = ThreadPoolExecutor(1, "replaystore-encode", let_others_preempt)
        return self._helper

    def _seal(self, chunk: int, helper: Executor | None) -> None:
        # Also where no row of it is live any more: batches in flight may know them, and the tail goes.
        catalog, start = self._catalog, time.monotonic()
        with self._lock:
            segments = list(catalog.segments[chunk])
        first_row = chunk * catalog.spec.chunk_rows
        used = segments[-1].first_row + segments[-1].num_rows - first_row
        files: list[SealedColumn] = []
        contents: list[CachedChunk] = []
        for column in catalog.columns:
            file, content = seal.seal_column(
                self._paths, column, chunk, catalog.spec.chunk_rows, segments, power=self._power, helper=helper
            )
            files.append(file)
            contents.append(content)
        with self._lock:
            dead = self._log.append([(layout.SEAL, pack_seal(Seal(chunk, used, tuple(files))))], catalog)
            self._on_dead(dead)
            self._unsynced.update(self._paths.chunk(column.name, chunk, column.ndim) for column in catalog.columns)
            tails = [self._paths.tail(column.name, chunk) for column in catalog.columns]
            if first_row < self._synced_rows and not self._power:
                self._kept_tails += tails
                tails = []
        self._close_tails(chunk)
        for path in tails:
            path.unlink(missing_ok=True)
        seconds, size = time.monotonic() - start, sum(file.file_bytes for file in files)
        self._counters.add(chunks_sealed=1, bytes_sealed=size, sealing_seconds=seconds)
        _logger.debug("%s: chunk %d sealed: %d bytes in %.3f s", self._paths.root, chunk, size, seconds)
        if not dead:
            self._on_sealed(chunk, contents)

    def publish(self) -> None:
        """Brings the files for plain Zarr readers up to date."""
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

    def sync(self) -> None:
        """fsyncs what was written since the last time, so that it survives a power cut."""
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

    # Start and end

    def _clean_up(self, *, keep_tails: bool) -> None:
        """Finishes what a killed writer began: removes files that the log no longer or not yet speaks of."""
        catalog = self._catalog
        unfinished = [
            path for directory in (self._paths.root, self._paths.episodes) for path in directory.glob("*.partial")
        ]
        chunk_files, tails = [], []
        for column in catalog.columns:
            for path in self._paths.array(column.name).iterdir():
                chunk = Paths.chunk_number(path.name)
                if path.name.endswith(".partial") or (chunk is not None and chunk not in catalog.seals):
                    chunk_files.append(path)
        for path in self._paths.tails.iterdir():
            chunk = Paths.tail_chunk(path.name)
            if keep_tails and chunk in catalog.seals:
                self._kept_tails.append(path)
            elif chunk is None or chunk not in catalog.segments:
                tails.append(path)
        for path in (*unfinished, *chunk_files, *tails):
            path.unlink()
        if unfinished or chunk_files or tails:
            _logger.info(
                "%s: removed what an earlier writer left behind: %d chunk files that the log does not have,"
                " %d tail files, %d unfinished metadata files",
                self._paths.root, len(chunk_files), len(tails), len(unfinished),
            )  # fmt: skip

    def _data_files(self) -> list[Path]:
        """Every chunk and tail file that the log speaks of."""
        catalog = self._catalog
        return [
            *(self._paths.chunk(c.name, chunk, c.ndim) for c in catalog.columns for chunk in catalog.seals),
            *(self._paths.tail(c.name, chunk) for c in catalog.columns for chunk in catalog.segments),
        ]

    def close(self) -> None:
        """Seals what is left, the last chunk padded, syncs it, and closes the files."""
        error: BaseException | None = None
        try:
            self.flush()
            for chunk in sorted(self._catalog.segments):
                self._queue(chunk)
            self.flush()
            self.publish()
            self.sync()
        except BaseException as err:
            error = err
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._helper is not None:
            self._helper.shutdown()
        for descriptor in self._tails.values():
            os.close(descriptor)
        self._tails.clear()
        self._log.close()
        if error is not None:
            raise error
