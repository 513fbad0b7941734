"""Which chunks are in memory, as residency and budget say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replaystore.columns.chunks import CachedChunk
from replaystore.errors import BudgetError, ReplayStoreError, SpecError
from replaystore.runtime.available_memory import available_bytes
from replaystore.runtime.preemption import let_others_preempt
from replaystore.spec import RESIDENCIES, Residency
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.column_chunks import ColumnChunks
from replaystore.storage.reading.missing import Missing

_logger = logging.getLogger(__name__)

_AUTO_SHARE = 0.5  # of the memory available, where `auto` is given no budget
_LOADERS = 4  # threads that read chunks when a store is opened
AT_ONCE_BYTES = 256 << 20  # of chunks: what is read in a fraction of a second need not be read in the background


class ChunkCache:
    """Keeps chunks of a store in memory within a budget.

    Args:
        path: of the store, for messages.
        catalog: what the log says.
        columns: the chunks of each column.
        residency: `"mapped"`, `"ram"` or `"auto"`.
        budget_bytes: for chunks in memory; None: what is available (`ram`), or half of it (`auto`).

    Attributes:
        residency: as given.
        budget_bytes: for chunks in memory; 0 for `"mapped"`.

    Raises:
        SpecError: no such residency.
    """

    def __init__(
        self, path: Path, catalog: Catalog, columns: Sequence[ColumnChunks], residency: Residency,
        budget_bytes: int | None,
    ) -> None:  # fmt: skip
        if residency not in RESIDENCIES:
            raise SpecError(f"residency is one of {RESIDENCIES}, got {residency!r}")
        self._path = path
        self._catalog = catalog
        self._columns = columns
        self._large = [chunks for chunks in columns if not chunks.column.is_small]
        self._closing = False
        self._filler: threading.Thread | None = None
        self._room = threading.Lock()  # guards the next one
        self._coming_bytes = 0  # of chunks that are being read
        self._overflowed = False  # the log says so once, and not for every chunk
        self.residency = residency
        if residency == "mapped":
            self.budget_bytes = 0
        elif budget_bytes is None:
            self.budget_bytes = int(available_bytes() * (1.0 if residency == "ram" else _AUTO_SHARE))
        else:
            self.budget_bytes = budget_bytes

    @property
    def cached_bytes(self) -> int:
        """Bytes of chunks in memory."""
        return sum(chunks.cached_bytes for chunks in self._large)

    @property
    def num_cached(self) -> int:
        """Chunk files in memory."""
        return sum(chunks.num_cached for chunks in self._large)

    def fill(self) -> None:
        """Takes sealed chunks into memory as far as residency and budget say, oldest first.

        With residency `"auto"`, where they are many, a thread does so, and until it has they are read from their files.

        Raises:
            Missing: a chunk is not where the catalog says, and no thread was needed.
            BudgetError: residency `"ram"`, and they do not all fit.
            ChunkError: one is damaged, and no thread was needed; else reading it raises the error.
        """
        if self.residency == "mapped" or self._filler is not None:
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
        """Sealed chunks that are not in memory: column, chunk, bytes."""
        return [
            (chunks, seal.chunk, seal.files[chunks.column.position].file_bytes)
            for seal in list(self._catalog.seals.values())
            for chunks in self._large
            if not chunks.is_cached(seal.chunk)
        ]

    def _load(self, chunks: ColumnChunks, chunk: int, num_bytes: int) -> None:
        """Takes a chunk into memory if there is room."""
        if not self._reserve(num_bytes):
            return
        try:
            chunks.load(chunk)
        finally:
            self._reserve(-num_bytes)

    def _reserve(self, num_bytes: int) -> bool:
        """Keeps room for bytes that come into memory, or gives it back where negative; whether there is any."""
        with self._room:
            if num_bytes > 0 and self.cached_bytes + self._coming_bytes + num_bytes > self.budget_bytes:
                return False
            self._coming_bytes += num_bytes
            return True

    def _fill_in_background(self) -> None:
        try:
            let_others_preempt()
            self._fill_one_by_one()
        except Exception:  # nobody waits for this thread: chunks that it did not come to are read from their files
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
            except Missing:  # evicted meanwhile by a writer elsewhere; if it is not, reading it raises the error
                continue
            except ReplayStoreError as err:  # a damaged chunk stays in its file, and reading it raises the error
                damaged += 1
                why = str(err)  # a handler that keeps the error would keep its file open
                _logger.warning("%s: chunk %d of %r stays in its file: %s", self._path, chunk, chunks.column.name, why)
        _logger.info(
            "%s: reading chunks into memory %s after %.1f s: %d chunk files, %d bytes held, %d damaged",
            self._path, "stopped" if self._closing else "finished", time.monotonic() - start, self.num_cached,
            self.cached_bytes, damaged,
        )  # fmt: skip

    def wait(self) -> None:
        """Returns when nothing works in the background any more."""
        filler = self._filler
        if filler is not None:
            filler.join()

    def close(self) -> None:
        """Ends what works in the background."""
        self._closing = True
        self.wait()

    def reset_after_fork(self) -> None:
        """Forgets the thread, which stayed in the parent."""
        self._filler, self._room, self._coming_bytes = None, threading.Lock(), 0

    def admit(self, chunk: int, contents: Sequence[CachedChunk]) -> None:
        """Takes a chunk that was just sealed into memory, if there is room.

        Args:
            chunk: number of the chunk.
            contents: one per column.

        Raises:
            BudgetError: residency `"ram"`, and there is no room; the chunk is read from its file then.
        """
        for chunks in self._columns:
            chunks.forget_tail(chunk)
        if self.residency == "mapped":
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
