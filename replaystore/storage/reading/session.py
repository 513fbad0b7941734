"""`ReadingSession`: the reading half of an open store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from replaystore.errors import Evicted
from replaystore.index.snapshot import IndexSnapshot
from replaystore.runtime.counters import Counters
from replaystore.runtime.fork import ForkRegistry
from replaystore.runtime.memory_map import is_remote
from replaystore.runtime.preemption import let_others_preempt
from replaystore.spec import Residency
from replaystore.storage.catalog.opening import OpenedStore
from replaystore.storage.events import ChunkEvents
from replaystore.storage.reading.chunk_cache import ChunkCache
from replaystore.storage.reading.column_chunks import ColumnChunks
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.missing import Missing
from replaystore.storage.reading.open_files import OpenFiles
from replaystore.storage.reading.retention import Retention
from replaystore.storage.reading.small_fields import SmallFields

_logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25  # shortest time between two looks at the log
_ATTEMPTS = 3  # times that a chunk may be missing before its error is raised

_Result = TypeVar("_Result")

_sessions: ForkRegistry[ReadingSession] = ForkRegistry()


class ReadingSession:
    """Reads an open store, in the writer's process or in another one. Thread-safe.

    A forked child goes on reading, with a lock and threads of its own. It does not write.

    Attributes:
        lock: guards the catalog, and the log if this process writes it.
        events: publishes what happens to chunks.
        readers: one per column.
        cache: holds the chunks in memory.
        small: holds the fields with small rows.
        writes: whether this process is the writer. Its catalog is always up to date.

    Args:
        files: the files of the store.
        residency: `"mapped"`, `"files"`, `"ram"` or `"auto"`.
        budget_bytes: most bytes of chunks in memory, or None (see `ChunkCache`).
        num_threads: threads that work on one batch.
        counters: the counters of the store.

    Raises:
        BudgetError: residency is `"ram"` and the chunks do not fit.
        ChunkError: stored bytes are damaged.
    """

    def __init__(
        self, files: OpenedStore, residency: Residency, budget_bytes: int | None, num_threads: int, counters: Counters
    ) -> None:
        catalog = files.catalog
        self._path = files.paths.root
        self._files = files
        self._catalog = catalog
        self._counters = counters
        self._num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._next_refresh = 0.0
        self._closed = False
        self._retention = Retention()
        self._open_files = OpenFiles()
        self.writes = files.log is not None
        self.lock = threading.RLock()
        self.events = ChunkEvents()
        maps = residency == "mapped"
        if maps and is_remote(self._path):
            _logger.warning("%s: on a network file system, so chunk files are read and not mapped", self._path)
            maps, residency = False, "files"
        self._chunks = [
            ColumnChunks(column, files.paths, catalog, self._open_files, self.lock, counters, maps)
            for column in catalog.columns
        ]
        self.readers = [ColumnReader(chunks, counters) for chunks in self._chunks]
        self.cache = ChunkCache(self._path, catalog, self._chunks, residency, budget_bytes)
        self.small = SmallFields(catalog.columns, self.readers, catalog, self._retention)
        self.events.subscribe(sealed=self.cache.admit, retired=self._retention.retire, released=self._drop)
        self._load_small(0)
        self.with_refresh(self.cache.fill)
        _sessions.add(self)

    def snapshot(self) -> IndexSnapshot:
        """Returns what is live now. Its chunks stay readable while it is in use, in the writer's process."""
        if not self.writes and time.monotonic() >= self._next_refresh:
            self.refresh()
        with self.lock:
            return self._retention.hand_out(self._catalog.index.snapshot())

    def refresh(self) -> bool:
        """Takes in what the writer has committed since the last call.

        Returns:
            Whether there was anything new. Always False in the writer's process.
        """
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        if self.writes:
            return False
        changed = self._follow()
        if changed:
            self.with_refresh(self.cache.fill)
            self.release()
        return changed

    def _follow(self) -> bool:
        """Brings the catalog and the small fields up to date with the log. Returns whether there was anything new."""
        with self.lock:
            loaded = self._catalog.next_row
            changed = self._follow_log()
            if changed:
                self._load_small(loaded)
        if changed:
            transitions = self._catalog.index.num_transitions
            _logger.debug("%s: found commits, %d transitions now", self._path, transitions)
        return changed

    def _follow_log(self) -> bool:
        """Brings the catalog up to date with the log. Returns whether there was anything new."""
        if self.writes or self._closed:
            return False
        with self.lock:
            changed, dead = self._files.reader.follow(self._catalog)
            self.events.retired(dead)
            if changed:
                self._counters.add(refreshes=1)
        return changed

    def _load_small(self, first_row: int) -> None:
        """Reads the small fields of the live rows from `first_row` on. Starts again if rows are evicted meanwhile."""
        while True:
            end = self._catalog.end
            try:
                self.with_refresh(lambda: self.small.load(first_row), self._follow_log)
            except Evicted:
                if self._catalog.end == end:
                    raise
                continue
            return

    def with_refresh(self, read: Callable[[], _Result], refresh: Callable[[], object] | None = None) -> _Result:
        """Calls `read`. If a chunk is not where the catalog says, it refreshes the catalog and calls `read` again.

        In the writer's process the second call succeeds without a refresh: a tail has become a chunk file. No chunks
        are read into memory here, because the caller may hold the lock that the loading threads need.

        Args:
            read: a function that reads chunks.
            refresh: brings the catalog up to date. None: brings the small fields up to date too.

        Returns:
            What `read` returns.

        Raises:
            Evicted: a chunk stays missing and has no live rows.
            ChunkError: a chunk with live rows stays missing.
        """
        missed: list[tuple[str, int]] = []
        while True:
            try:
                return read()
            except Missing as missing:
                missed.append(missing.chunk)
                if missed.count(missing.chunk) == _ATTEMPTS:
                    raise missing.error from missing.__cause__
            (refresh or self._follow)()

    @property
    def held_bytes(self) -> int:
        """Bytes of encoded chunks and of small fields in memory."""
        return self.cache.cached_bytes + self.small.nbytes

    def release(self, *, everything: bool = False) -> None:
        """Releases the retired chunks that no batch in flight can need.

        Args:
            everything: release all of them. For closing the store.
        """
        with self.lock:
            self.events.released(self._retention.release(everything=everything))

    def _drop(self, chunks: list[int]) -> None:
        for chunk in chunks:
            for chunks_of_column in self._chunks:
                chunks_of_column.drop(chunk)

    def threads(self, count: int) -> ThreadPoolExecutor | None:
        """Returns the threads that share the work on a batch. None if `count` is 1: the caller works alone."""
        if count == 1:
            return None
        with self.lock:
            if self._pool is None:
                workers = max(count, self._num_threads)
                self._pool = ThreadPoolExecutor(workers, "replaystore-read", let_others_preempt)
            return self._pool

    def stop(self) -> None:
        """Ends the threads."""
        self._closed = True
        self.cache.close()
        if self._pool is not None:
            self._pool.shutdown()

    def close(self) -> None:
        """Ends the threads, closes the files and gives the writer's lock back."""
        self.stop()
        self._files.close()
        self._open_files.clear()
        for chunks in self._chunks:
            chunks.clear()

    def before_fork(self) -> None:
        """Takes the lock, so that no thread changes the catalog while the process forks."""
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Gives the lock back."""
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """Makes this a reader in a forked child."""
        self.lock = threading.RLock()
        self.events = ChunkEvents()
        self.events.subscribe(retired=self._retention.retire, released=self._drop)
        self.writes = False
        self._pool = None
        self._counters.reset()
        self._open_files.reset_after_fork()
        self.cache.reset_after_fork()
        for chunks in self._chunks:
            chunks.reset_after_fork(self.lock)
        if self._files.lock is not None:
            self._files.lock.close_in_child()
            self._files.lock = None
