"""`ChunkCache`: decides which chunks are in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replaystore.columns.chunks import CachedChunk
from replaystore.errors import BudgetError, ReplayStoreError
from replaystore.runtime.available_memory import available_bytes
from replaystore.runtime.preemption import let_others_preempt
from replaystore.spec import Residency
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.column_chunks import ColumnChunks
from replaystore.storage.reading.missing import Missing

_logger = logging.getLogger(__name__)

_IN_FILES = ("mapped", "files")  # residencies that hold no chunks
_AUTO_SHARE = 0.5  # of the memory available, where `auto` is given no budget
_LOADERS = 4  # threads that read chunks when a store is opened
AT_ONCE_BYTES = 256 << 20  # most bytes of chunks that opening a store waits for; more are read in the background


class ChunkCache:
    """Keeps sealed chunks of a store in memory, within a budget.

    Attributes:
        residency: `"mapped"`, `"files"`, `"ram"` or `"auto"`.
        budget_bytes: most bytes of chunks in memory. 0 for `"mapped"` and `"files"`.

    Args:
        path: the store's directory, for messages.
        catalog: the state of the log.
        columns: the chunks of each column, one per column.
        residency: `"mapped"`, `"files"`, `"ram"` or `"auto"`.
        budget_bytes: most bytes of chunks in memory. None: the available memory (`"ram"`), or half of it (`"auto"`).

    """

    def __init__(
        self, path: Path, catalog: Catalog, columns: Sequence[ColumnChunks], residency: Residency,
        budget_bytes: int | None,
    ) -> None:  # fmt: skip
        self._path = path
        self._catalog = catalog
        self._columns = columns
        self._large = [chunks for chunks in columns if not chunks.column.is_small]
        self._closing = False
        self._filler: threading.Thread | None = None
        self._room = threading.Lock()  # guards `_coming_bytes`
        self._coming_bytes = 0  # bytes of the chunks that are being read
        self._overflowed = False  # whether the overflow was logged; it is logged once
        self.residency = residency
        if residency in _IN_FILES:
            self.budget_bytes = 0
        elif budget_bytes is None:
            self.budget_bytes = int(available_bytes() * (1.0 if residency == "ram" else _AUTO_SHARE))
        else:
            self.budget_bytes = budget_bytes

    @property
    def cached_bytes(self) -> int:
        """Encoded bytes of the chunks in memory."""
        return sum(chunks.cached_bytes for chunks in self._large)

    @property
    def num_cached(self) -> int:
        """Number of chunk files in memory."""
        return sum(chunks.num_cached for chunks in self._large)

    def fill(self) -> None:
        """Reads sealed chunks into memory, oldest first, until all are there or the budget is used up.

        With residency `"mapped"` or `"files"` it does nothing. With `"auto"` a background thread reads more than
        `AT_ONCE_BYTES`. Chunks that it has not reached are mapped. The thread logs the errors of single chunks, and
        reading such a chunk raises them again.

        Raises:
            Missing: a chunk is not where the catalog says.
            BudgetError: residency is `"ram"` and the chunks do not all fit. None was read.
            ChunkError: a chunk is damaged.
        """
        if self.residency in _IN_FILES or self._filler is not None:
            return
        wanted = self._absent()
        cached = self.cached_bytes
        needed = cached + sum(size for _, _, size in wanted)
        if self.residency == "ram" and needed > self.budget_bytes:
            raise self._too_large(needed)
        if needed > self.budget_bytes:
            self._note_overflow(needed)
        if self.residency == "auto" and min(needed, self.budget_bytes) - cached > AT_ONCE_BYTES:
            self._filler = threading.Thread(target=self._fill_in_background, name="replaystore-fill", daemon=True)
            self._filler.start()
        elif wanted:
            with ThreadPoolExecutor(_LOADERS) as pool:
                list(pool.map(lambda entry: self._load(*entry), wanted))

    def _absent(self) -> list[tuple[ColumnChunks, int, int]]:
        """Returns the sealed chunks that are not in memory, as (chunks of the column, number, bytes)."""
        return [
            (chunks, seal.chunk, seal.files[chunks.column.position].file_bytes)
            for seal in list(self._catalog.seals.values())
            for chunks in self._large
            if not chunks.is_cached(seal.chunk)
        ]

    def _load(self, chunks: ColumnChunks, chunk: int, num_bytes: int) -> None:
        """Reads a chunk into memory if the budget has room for it."""
        if not self._reserve(num_bytes):
            return
        try:
            chunks.load(chunk)
        finally:
            self._reserve(-num_bytes)

    def _reserve(self, num_bytes: int) -> bool:
        """Reserves room in the budget, or gives it back if negative. Returns False if there is not enough."""
        with self._room:
            if num_bytes > 0 and self.cached_bytes + self._coming_bytes + num_bytes > self.budget_bytes:
                return False
            self._coming_bytes += num_bytes
            return True

    def _fill_in_background(self) -> None:
        try:
            let_others_preempt()
            self._fill_one_by_one()
        except Exception:  # nobody waits for this thread; chunks that it did not reach are read from their files
            _logger.exception("%s: filling memory in the background failed; chunks are read from files", self._path)
        finally:
            self._filler = None

    def _fill_one_by_one(self) -> None:
        absent = self._absent()
        start, damaged = time.monotonic(), 0
        _logger.info("%s: reading chunks into memory in the background: %d files", self._path, len(absent))
        for chunks, chunk, num_bytes in absent:
            if self._closing:
                break
            try:
                self._load(chunks, chunk, num_bytes)
            except Missing:  # a writer elsewhere has evicted it; if not, reading it raises the error
                continue
            except ReplayStoreError as err:  # reading the damaged chunk raises the error again
                damaged += 1
                why = str(err)  # a handler that keeps the error would keep its file open
                _logger.warning("%s: chunk %d of %r stays in its file: %s", self._path, chunk, chunks.column.name, why)
        _logger.info(
            "%s: reading chunks into memory %s after %.1f s: %d chunk files, %d bytes held, %d damaged",
            self._path, "stopped" if self._closing else "finished", time.monotonic() - start, self.num_cached,
            self.cached_bytes, damaged,
        )  # fmt: skip

    def wait(self) -> None:
        """Waits until the background thread has ended."""
        filler = self._filler
        if filler is not None:
            filler.join()

    def close(self) -> None:
        """Ends the background thread."""
        self._closing = True
        self.wait()

    def reset_after_fork(self) -> None:
        """Makes the object usable in a forked child, which does not have the background thread."""
        self._filler, self._room, self._coming_bytes = None, threading.Lock(), 0

    def admit(self, chunk: int, contents: Sequence[CachedChunk]) -> None:
        """Takes a chunk that was just sealed into memory, if the budget has room for it.

        Args:
            chunk: number of the chunk.
            contents: the contents of its files, one per column.

        Raises:
            BudgetError: residency is `"ram"` and there is no room. The chunk is then read from its file.
        """
        for chunks in self._columns:
            chunks.forget_tail(chunk)
        if self.residency in _IN_FILES:
            return
        large = [pair for pair in zip(self._columns, contents, strict=True) if not pair[0].column.is_small]
        num_bytes = sum(content.data.size for _, content in large)
        if not self._reserve(num_bytes):
            if self.residency == "ram":
                raise self._too_large(self.cached_bytes + num_bytes)
            self._note_overflow(self.cached_bytes + num_bytes)
            return
        for chunks, content in large:
            chunks.keep(chunk, content)
        self._reserve(-num_bytes)

    def _note_overflow(self, needed: int) -> None:
        if not self._overflowed:
            self._overflowed = True
            _logger.info(
                "%s: encoded chunks of %d bytes do not fit the budget of %d; those beyond it are read from files",
                self._path, needed, self.budget_bytes,
            )  # fmt: skip

    def _too_large(self, needed: int) -> BudgetError:
        return BudgetError(
            f"{self._path}: residency 'ram' needs {needed:,} bytes for encoded chunks, the budget is"
            f" {self.budget_bytes:,}; raise budget_bytes, use residency 'auto', or a smaller mode"
        )
