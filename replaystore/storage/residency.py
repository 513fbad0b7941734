"""Which bytes live in memory: small fields always, encoded chunks as residency and budget say."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_chunk import FrameChunk
from replaystore.errors import BudgetError, Evicted, SpecError
from replaystore.memory import available_bytes
from replaystore.spec import RESIDENCIES, Residency
from replaystore.storage.ledger import Ledger
from replaystore.storage.reader import ColumnReader
from replaystore.storage.resident import ResidentRows
from replaystore.storage.views import Views

_AUTO_SHARE = 0.5  # of the memory available, where `auto` is given no budget
_LOADERS = 4  # threads that read chunks when a store is opened


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
        self, path: Path, ledger: Ledger, readers: Sequence[ColumnReader], residency: Residency,
        budget_bytes: int | None, views: Views,
    ) -> None:  # fmt: skip
        if residency not in RESIDENCIES:
            raise SpecError(f"residency is one of {RESIDENCIES}, got {residency!r}")
        self._path = path
        self._ledger = ledger
        self._views = views
        self._readers = readers
        self._large = [reader for reader in readers if not reader.column.is_resident]
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

    def first_live_row(self) -> int:
        """The oldest row that is live, or known to a batch in flight; the next one where there is none."""
        first = self._views.first_row(self._ledger.index.snapshot())
        return self._ledger.next_row if first is None else first

    def put(self, first_row: int, rows: Sequence[NDArray[np.uint8]]) -> None:
        """Takes in the small fields of rows that are about to be committed, one array a column."""
        first_live = self.first_live_row()
        for resident, stored in zip(self.resident, rows, strict=True):
            if resident is not None:
                resident.put(first_row, stored, first_live)

    def load_small(self, first_row: int) -> None:
        """Reads the small fields of the live rows from `first_row` on."""
        while True:
            followed = self._ledger.end
            try:
                self._load_small(first_row)
            except Evicted:
                if self._ledger.end == followed:
                    raise
                continue  # the writer evicted meanwhile, and the ledger has followed: what is live now is enough
            return

    def _load_small(self, first_row: int) -> None:
        snapshot = self._ledger.index.snapshot()
        keep = (snapshot.part_first_row >= first_row) & (snapshot.part_num_rows > 0)
        firsts, counts = snapshot.part_first_row[keep], snapshot.part_num_rows[keep]
        total = int(counts.sum())
        if total == 0:
            return
        rows = np.arange(total) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        start, stop = int(rows[0]), int(rows[-1]) + 1
        for reader, resident in zip(self._readers, self.resident, strict=True):
            if resident is not None:
                span = np.zeros((stop - start, reader.column.row_bytes), np.uint8)
                reader.read(rows.reshape(-1, 1), rows - start, span)
                resident.put(start, span, self.first_live_row())

    def fill(self) -> None:
        """Takes sealed chunks into memory as far as residency and budget say, oldest first.

        Raises:
            BudgetError: residency `"ram"`, and they do not all fit. ChunkError: one is damaged.
        """
        if self.residency == "mapped":
            return
        wanted = [
            (reader, seal.chunk, seal.files[reader.column.position].file_bytes)
            for seal in list(self._ledger.seals.values())
            for reader in self._large
            if not reader.holds(seal.chunk)
        ]
        held = self._chunk_bytes()
        needed = held + sum(size for _, _, size in wanted)
        if self.residency == "ram" and needed > self.budget_bytes:
            raise self._too_large(needed)
        chosen = []
        for reader, chunk, size in wanted:
            held += size
            if held > self.budget_bytes:
                break
            chosen.append((reader, chunk))
        if chosen:
            with ThreadPoolExecutor(_LOADERS) as pool:
                list(pool.map(lambda pair: _load(*pair), chosen))

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
        needed = self._chunk_bytes() + sum(data.size for _, data, _ in large)
        for reader in self._readers:
            reader.forget_tail(chunk)
        if self.residency == "mapped":
            return
        if needed <= self.budget_bytes:
            for reader, data, parsed in large:
                reader.hold(chunk, data, parsed)
        elif self.residency == "ram":
            raise self._too_large(needed)

    def _chunk_bytes(self) -> int:
        return sum(reader.held_bytes for reader in self._large)

    def _too_large(self, needed: int) -> BudgetError:
        return BudgetError(
            f"{self._path}: residency 'ram' needs {needed:,} bytes for encoded chunks, the budget is"
            f" {self.budget_bytes:,}; raise budget_bytes, use residency 'auto', or a smaller mode"
        )


def _load(reader: ColumnReader, chunk: int) -> None:
    try:
        reader.load(chunk)
    except Evicted:  # by a writer elsewhere, meanwhile
        pass
