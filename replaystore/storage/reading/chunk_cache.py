"""Which bytes live in memory: small fields always, encoded chunks as residency and budget say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk
from replaystore.errors import BudgetError, Evicted, ReplayStoreError, SpecError
from replaystore.runtime.available_memory import available_bytes
from replaystore.runtime.preemption import let_others_preempt
from replaystore.spec import RESIDENCIES, Residency
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.retention import Views
from replaystore.storage.reading.small_fields import ResidentRows

_logger = logging.getLogger(__name__)

_AUTO_SHARE = 0.5  # of the memory available, where `auto` is given no budget
_LOADERS = 4  # threads that read chunks when a store is opened
_ROWS_AT_ONCE = 1 << 16  # of small fields
_AT_ONCE_BYTES = 256 << 20  # of chunks: what is read in a fraction of a second need not be read in the background


class Memory:
    """Keeps chunks of a store in memory within a budget.

    Attributes:
        residency: `"mapped"`, `"ram"` or `"auto"`.
        budget_bytes: for encoded chunks; 0 for `"mapped"`.
        resident: for each column its rows, where they are small enough to be held always, else None.

    Raises:
        SpecError: no such residency.
    """

    def __init__(
        self, path: Path, catalog: Catalog, readers: Sequence[ColumnReader], residency: Residency,
        budget_bytes: int | None, views: Views,
    ) -> None:  # fmt: skip
        if residency not in RESIDENCIES:
            raise SpecError(f"residency is one of {RESIDENCIES}, got {residency!r}")
        self._path = path
        self._catalog = catalog
        self._views = views
        self._readers = readers
        self._large = [reader for reader in readers if not reader.column.is_resident]
        self._closing = False
        self._filler: threading.Thread | None = None
        self._room = threading.Lock()  # guards the next one
        self._coming_bytes = 0  # of chunks that are being read
        self._overflowed = False  # the log says so once, and not for every chunk
        self.residency = residency
        self.resident = [
            ResidentRows(reader.column.row_bytes) if reader.column.is_resident else None for reader in readers
        ]
        if residency == "mapped":
            self.budget_bytes = 0
        elif budget_bytes is None:
            self.budget_bytes = int(available_bytes() * (1.0 if residency == "ram" else _AUTO_SHARE))
        else:
            self.budget_bytes = budget_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of encoded chunks and of small fields in memory."""
        return self._chunk_bytes() + sum(rows.nbytes for rows in self.resident if rows is not None)

    @property
    def num_held(self) -> int:
        """Chunk files held in memory."""
        return sum(reader.num_held for reader in self._large)

    def first_live_row(self) -> int:
        """The oldest row that is live, or known to a batch in flight; the next one where there is none."""
        first = self._views.first_row(self._catalog.index.snapshot())
        return self._catalog.next_row if first is None else first

    def put(self, first_row: int, rows: Sequence[NDArray[np.uint8]]) -> None:
        """Takes in the small fields of rows that are about to be committed, one array a column."""
        first_live = self.first_live_row()
        for resident, stored in zip(self.resident, rows, strict=True):
            if resident is not None:
                resident.put(first_row, stored, first_live)

    def load_small(self, first_row: int) -> None:
        """Reads the small fields of the live rows from `first_row` on."""
        while True:
            followed = self._catalog.end
            try:
                self._load_small(first_row)
            except Evicted:
                if self._catalog.end == followed:
                    raise
                continue  # the writer evicted meanwhile, and the catalog has followed: what is live now is enough
            return

    def _load_small(self, first_row: int) -> None:
        snapshot = self._catalog.index.snapshot()
        keep = (snapshot.part_first_row >= first_row) & (snapshot.part_num_rows > 0)
        firsts, counts = snapshot.part_first_row[keep], snapshot.part_num_rows[keep]
        total = int(counts.sum())
        if total == 0:
            return
        rows = np.arange(total) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        for begin in range(0, total, _ROWS_AT_ONCE):
            some = rows[begin : begin + _ROWS_AT_ONCE]
            start, stop = int(some[0]), int(some[-1]) + 1
            for reader, resident in zip(self._readers, self.resident, strict=True):
                if resident is not None:
                    span = np.zeros((stop - start, reader.column.row_bytes), np.uint8)
                    reader.read(some.reshape(-1, 1), some - start, span)
                    resident.put(start, span, self.first_live_row())

    def fill(self) -> None:
        """Takes sealed chunks into memory as far as residency and budget say, oldest first.

        With residency `"auto"`, where they are many, a thread does so, and until it has they are read from their files.

        Raises:
            BudgetError: residency `"ram"`, and they do not all fit. ChunkError: one is damaged, and no thread was
                needed; else reading it will say so.
        """
        if self.residency == "mapped" or self._filler is not None:
            return
        wanted = self._missing()
        held = self._chunk_bytes()
        needed = held + sum(size for _, _, size in wanted)
        if self.residency == "ram" and needed > self.budget_bytes:
            raise self._too_large(needed)
        if needed > self.budget_bytes:
            self._note_overflow(needed)
        if self.residency == "auto" and min(needed, self.budget_bytes) - held > _AT_ONCE_BYTES:
            self._filler = threading.Thread(target=self._fill_in_background, name="replaystore-fill", daemon=True)
            self._filler.start()
        elif wanted:
            with ThreadPoolExecutor(_LOADERS) as pool:
                list(pool.map(lambda entry: self._load(*entry), wanted))

    def _missing(self) -> list[tuple[ColumnReader, int, int]]:
        """Sealed chunks that are not in memory: reader, chunk, bytes."""
        return [
            (reader, seal.chunk, seal.files[reader.column.position].file_bytes)
            for seal in list(self._catalog.seals.values())
            for reader in self._large
            if not reader.holds(seal.chunk)
        ]

    def _load(self, reader: ColumnReader, chunk: int, size: int) -> None:
        """Takes a chunk into memory if there is room."""
        if not self._reserve(size):
            return
        try:
            reader.load(chunk)
        except Evicted:  # by a writer elsewhere, meanwhile
            pass
        finally:
            self._reserve(-size)

    def _reserve(self, size: int) -> bool:
        """Keeps room for bytes that are about to be held, or gives it back; whether there is any."""
        with self._room:
            if size > 0 and self._chunk_bytes() + self._coming_bytes + size > self.budget_bytes:
                return False
            self._coming_bytes += size
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
        missing = self._missing()
        start, damaged = time.monotonic(), 0
        _logger.info("%s: reading chunks into memory in the background: %d files", self._path, len(missing))
        for reader, chunk, size in missing:
            if self._closing:
                break
            try:
                self._load(reader, chunk, size)
            except ReplayStoreError as err:  # a damaged chunk stays in its file, and reading it raises the error
                damaged += 1
                _logger.warning("%s: chunk %d of %r stays in its file: %s", self._path, chunk, reader.column.name, err)
        _logger.info(
            "%s: reading chunks into memory %s after %.1f s: %d chunk files, %d bytes held, %d damaged",
            self._path, "stopped" if self._closing else "finished", time.monotonic() - start, self.num_held,
            self._chunk_bytes(), damaged,
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

    def admit(self, chunk: int, contents: Sequence[tuple[NDArray[np.uint8], FrameChunk | None]]) -> None:
        """Takes a chunk that was just sealed into memory, if there is room. contents: one a column.

        Raises:
            BudgetError: residency `"ram"`, and there is not; the chunk is read from its file then.
        """
        large = [
            (reader, *content)
            for reader, content in zip(self._readers, contents, strict=True)
            if not reader.column.is_resident
        ]
        size = sum(data.size for _, data, _ in large)
        for reader in self._readers:
            reader.forget_tail(chunk)
        if self.residency == "mapped":
            return
        if not self._reserve(size):
            if self.residency == "ram":
                raise self._too_large(self._chunk_bytes() + size)
            self._note_overflow(self._chunk_bytes() + size)
            return
        for reader, data, parsed in large:
            reader.hold(chunk, data, parsed)
        self._reserve(-size)

    def _note_overflow(self, needed: int) -> None:
        if not self._overflowed:
            self._overflowed = True
            _logger.info(
                "%s: encoded chunks of %d bytes do not fit the budget of %d; those beyond it are read from files",
                self._path, needed, self.budget_bytes,
            )  # fmt: skip

    def _chunk_bytes(self) -> int:
        return sum(reader.held_bytes for reader in self._large)

    def _too_large(self, needed: int) -> BudgetError:
        return BudgetError(
            f"{self._path}: residency 'ram' needs {needed:,} bytes for encoded chunks, the budget is"
            f" {self.budget_bytes:,}; raise budget_bytes, use residency 'auto', or a smaller mode"
        )
