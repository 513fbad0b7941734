"""`Sealer`: a background thread that turns full chunks into chunk files."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from replaystore.columns.chunks import CachedChunk, SealedColumn
from replaystore.errors import ReplayStoreError, WriteError
from replaystore.runtime.counters import Counters
from replaystore.runtime.durable_files import SyncError
from replaystore.runtime.preemption import let_others_preempt
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.events import ChunkEvents
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import Seal, pack_seal
from replaystore.storage.writing import chunk_files
from replaystore.storage.writing.publishing import Publisher
from replaystore.storage.writing.tails import TailFiles

_logger = logging.getLogger(__name__)

MAX_PENDING_CHUNKS = 4  # a commit waits while this many full chunks are not sealed


class Sealer:
    """Seals chunks in a background thread, one at a time, in the order in which they were queued.

    It reads a chunk back from its tail files, so waiting chunks take no memory. The chunk being sealed takes the memory
    of its rows and of their encoded form, and in mode `"full"` that of two groups. If chunks queue up or a caller
    waits, a second thread encodes half of each chunk.

    The sealer keeps an error until a caller asks for it with `raise_pending`. After an error it seals nothing until
    `raise_pending` has raised the error and is called once more.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        log: the writer's log.
        lock: guards the catalog and the log.
        tails: the open tail files.
        publisher: publishes after each chunk.
        events: the sealer publishes `sealed` and `retired`.
        counters: the counters of the store.
    """

    def __init__(
        self, paths: Paths, catalog: Catalog, log: LogWriter, lock: threading.RLock, tails: TailFiles,
        publisher: Publisher, events: ChunkEvents, counters: Counters,
    ) -> None:  # fmt: skip
        self._paths = paths
        self._catalog = catalog
        self._log = log
        self._lock = lock
        self._tails = tails
        self._publisher = publisher
        self._events = events
        self._counters = counters
        self._condition = threading.Condition()
        self._pending: deque[int] = deque()
        self._error: BaseException | None = None
        self._paused = False
        self._stopping = False
        self._busy = False
        self._num_waiting = 0
        self._thread: threading.Thread | None = None
        self._helper: ThreadPoolExecutor | None = None

    # Called by the writer

    def queue(self, chunk: int) -> None:
        """Queues a chunk for sealing and returns at once."""
        with self._condition:
            self._pending.append(chunk)
            if self._thread is None:
                self._thread = threading.Thread(target=self._seal_loop, name="replaystore-seal", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def wait_for_room(self) -> None:
        """Waits while `MAX_PENDING_CHUNKS` chunks are not sealed. An error ends the wait."""
        with self._waiting():
            if len(self._pending) < MAX_PENDING_CHUNKS or self._error is not None:
                return
            start = time.monotonic()
            while len(self._pending) >= MAX_PENDING_CHUNKS and self._error is None:
                self._condition.wait()
        seconds = time.monotonic() - start
        self._counters.add(encoder_waits=1, encoder_wait_seconds=seconds)
        _logger.debug("%s: a commit waited %.3f s for chunks to be sealed", self._paths.root, seconds)

    def defer(self, error: WriteError) -> None:
        """Keeps an error for the next call of the store. The current call has already done its work."""
        with self._condition:
            self._error = self._error or error

    def raise_pending(self) -> None:
        """Raises the first background error since the last call. The call after that resumes sealing.

        Raises:
            WriteError: a file could not be written. Committed rows are safe.
            ReplayStoreError: sealing failed for another reason, or a subscriber of `sealed` raised the error.
        """
        with self._condition:
            error, self._error = self._error, None
            if error is None and self._paused:
                self._paused = False
                self._condition.notify_all()
        if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
            raise WriteError(
                error.errno, f"{self._paths.root}: sealing failed: {error.strerror}; committed rows are safe"
            ) from error
        if error is not None:
            raise error

    def flush(self) -> None:
        """Waits until every queued chunk is sealed.

        Raises:
            ReplayStoreError: see `raise_pending`.
        """
        self.raise_pending()
        with self._waiting():
            while (self._pending or self._busy) and self._error is None:
                self._condition.wait()
        self.raise_pending()

    def stop(self) -> None:
        """Ends the threads. Queued chunks stay in their tails."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._helper is not None:
            self._helper.shutdown()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Holds the condition and counts the caller as one that may wait for the sealer."""
        with self._condition:
            self._num_waiting += 1
            try:
                yield
            finally:
                self._num_waiting -= 1

    # In the thread

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
                self._publisher.publish()
            except BaseException as err:
                error = err
                _logger.warning(
                    "%s: sealing chunk %d failed: %s; the next call of the store raises it",
                    self._paths.root, chunk, str(err),  # a handler that keeps the error would keep its files open
                )  # fmt: skip
                if isinstance(err, SyncError):
                    self._log.poison(err)
            with self._condition:
                self._busy = False
                if sealed or chunk in self._catalog.seals:
                    self._pending.popleft()
                else:
                    self._paused = True  # until a caller has seen the error
                self._error = self._error or error
                self._condition.notify_all()

    def _second_thread(self) -> Executor | None:
        """Returns a second thread for encoding. None if the process has one core."""
        if self._helper is None and len(os.sched_getaffinity(0)) > 1:
            self._helper = ThreadPoolExecutor(1, "replaystore-encode", let_others_preempt)
        return self._helper

    def _seal(self, chunk: int, helper: Executor | None) -> None:
        # A chunk without live rows is sealed too: batches in flight may need it, and its tail must go.
        catalog, start = self._catalog, time.monotonic()
        with self._lock:
            segments = list(catalog.segments[chunk])
        chunk_rows = catalog.spec.chunk_rows
        used = segments[-1].first_row + segments[-1].num_rows - chunk * chunk_rows
        files: list[SealedColumn] = []
        contents: list[CachedChunk] = []
        for column in catalog.columns:
            file, content = chunk_files.seal_column(
                self._paths, column, chunk, chunk_rows, segments,
                power=catalog.spec.durability == "power", helper=helper,
            )  # fmt: skip
            files.append(file)
            contents.append(content)
        with self._lock:
            dead = self._log.append([(layout.SEAL, pack_seal(Seal(chunk, used, tuple(files))))], catalog)
            self._events.retired(dead)
            tails = self._publisher.note_sealed(chunk)
        self._tails.close_chunk(chunk)
        for path in tails:
            path.unlink(missing_ok=True)
        seconds, size = time.monotonic() - start, sum(file.file_bytes for file in files)
        self._counters.add(chunks_sealed=1, bytes_sealed=size, sealing_seconds=seconds)
        _logger.debug("%s: chunk %d sealed: %d bytes in %.3f s", self._paths.root, chunk, size, seconds)
        if not dead:
            self._events.sealed(chunk, contents)
