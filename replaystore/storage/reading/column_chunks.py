"""`ColumnChunks`: finds the chunks of a column in memory, in chunk files or in the tail, and checks files once."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import checksums
from replaystore.columns.chunks import CachedChunk, ChunkMap, ChunkSource, SealedColumn
from replaystore.columns.column import Column
from replaystore.errors import ChunkError, Evicted
from replaystore.kernels.memory_maps import absent_chunks
from replaystore.runtime.counters import Counters
from replaystore.runtime.memory_map import MemoryMap
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format.checksums import read_chunk, read_segment
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import Segment
from replaystore.storage.reading.missing import Missing
from replaystore.storage.reading.open_files import OpenFile, OpenFiles

_logger = logging.getLogger(__name__)

MOST_MAPS = 8192  # maps of a column at once; the system allows a process 65,530 in all

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Source(ChunkSource):
    """Where the rows of a chunk are, sealed or not.

    Attributes:
        segments: the commits in the tail file. None for a sealed chunk.
    """

    segments: list[Segment] | None = None


class ColumnChunks:
    """Finds the chunks of a column, and keeps those in memory that `ChunkCache` chose. Thread-safe.

    Attributes:
        column: the column.
        chunk_rows: rows per chunk.
        files_at_once: most files that one thread uses at once.

    Args:
        column: the column.
        paths: the files of the store.
        catalog: the state of the log.
        files: the open files of the store.
        lock: guards the catalog.
        counters: the counters of the store.
        maps: whether chunk files are mapped. If not, and for files that cannot be mapped, `pread` reads them.
    """

    def __init__(
        self, column: Column, paths: Paths, catalog: Catalog, files: OpenFiles, lock: threading.RLock,
        counters: Counters, maps: bool,
    ) -> None:  # fmt: skip
        self.column = column
        self.chunk_rows = catalog.spec.chunk_rows
        self.files_at_once = max(1, files.most // 8)
        self._paths = paths
        self._catalog = catalog
        self._files = files
        self._lock = lock
        self._counters = counters
        self._cached: dict[int, CachedChunk] = {}
        self._cached_bytes = 0
        self._maps = maps and not column.is_small
        self._mapped: dict[int, CachedChunk] = {}
        self._map: ChunkMap | None = None
        self._tables: dict[int, Any] = {}  # one per encoded chunk file
        self._row_checked: dict[int, NDArray[np.bool_]] = {}
        self._file_checked: set[int] = set()
        self._tail_checked: dict[int, int] = {}

    # Chunks in memory, read or mapped

    @property
    def cached_bytes(self) -> int:
        """Encoded bytes of the chunks in memory."""
        return self._cached_bytes

    @property
    def num_cached(self) -> int:
        """Number of chunks in memory."""
        return len(self._cached)

    def is_cached(self, chunk: int) -> bool:
        """Returns whether a chunk is in memory."""
        return chunk in self._cached

    def map(self) -> ChunkMap:
        """Returns the chunks in memory as arrays for kernels."""
        chunks = self._map
        if chunks is None:
            with self._lock:
                chunks = self._map = self.column.codec.map_of({**self._mapped, **self._cached}, self.chunk_rows)
        return chunks

    def map_files(self, rows: I64) -> None:
        """Maps the chunk files of rows that are neither in memory nor mapped, if files are mapped.

        Args:
            rows: int64, row numbers. -1 stands for a row of zeros.

        Raises:
            Missing: a file is not where the catalog says.
            ChunkError: a file is damaged.
        """
        if not self._maps:
            return
        chunks, absent = self.map(), np.empty(rows.size, np.int64)
        count = absent_chunks(chunks.addresses, chunks.first_chunk, chunks.chunk_rows, rows.reshape(-1), absent)
        for chunk in sorted(set(absent[:count].tolist())):
            with self._lock:
                seal = self._catalog.seals.get(chunk)
            if seal is not None and len(self._mapped) < MOST_MAPS:
                self._map_file(chunk, seal.files[self.column.position])

    def _map_file(self, chunk: int, sealed: SealedColumn) -> None:
        path = self._chunk_path(chunk)
        try:
            file = MemoryMap(path)
        except FileNotFoundError as err:
            raise self._missing(chunk, path) from err
        except OSError as err:  # no room for maps
            _logger.warning("%s: cannot be mapped (%s): it and later chunks are read as files", path, err.strerror)
            self._maps = False
            return
        mapped = self.column.codec.map_chunk(file, sealed, self.chunk_rows)
        if mapped is None:
            self._maps = False
            return
        with self._lock:
            if chunk in self._catalog.seals and chunk not in self._cached:  # else nothing would drop it
                self._mapped[chunk] = mapped
                self._map = None

    def keep(self, chunk: int, cached: CachedChunk) -> None:
        """Keeps a sealed chunk in memory until it is dropped. Does nothing if the chunk has no live rows any more."""
        with self._lock:
            if chunk in self._catalog.seals:  # else it was retired while it was read, and nothing would drop it
                self._cached[chunk] = cached
                self._cached_bytes += cached.data.size
                self._mapped.pop(chunk, None)
                self._tables.pop(chunk, None)
                self._map = None

    def load(self, chunk: int) -> None:
        """Reads a sealed chunk into memory and checks every byte. Does nothing if it is there, or was evicted.

        Raises:
            Missing: the file is not where the catalog says.
            ChunkError: the file is damaged.
        """
        if chunk in self._cached:
            return
        with self._lock:
            seal = self._catalog.seals.get(chunk)
        if seal is None:  # it was evicted
            return
        file = self._open(chunk, self._chunk_path(chunk), is_dead=False)
        cached = read_chunk(file, self.column, seal.files[self.column.position], seal.num_rows)
        file.drop_cache()
        self._counters.add(chunk_files_loaded=1, bytes_loaded=cached.data.size)
        self.keep(chunk, cached)

    def drop(self, chunk: int) -> None:
        """Drops a released chunk from memory, closes its files, and discards what is known of them."""
        with self._lock:
            self._catalog.dead_seals.pop(chunk, None)
            cached = self._cached.pop(chunk, None)
            self._cached_bytes -= 0 if cached is None else cached.data.size
            self._mapped.pop(chunk, None)
            self._tables.pop(chunk, None)
            self._map = None
        self._row_checked.pop(chunk, None)
        self._file_checked.discard(chunk)
        self._files.forget(self._chunk_path(chunk))
        self.forget_tail(chunk)

    def forget_tail(self, chunk: int) -> None:
        """Closes the tail file of a chunk that was sealed."""
        self._tail_checked.pop(chunk, None)
        self._files.forget(self._paths.tail(self.column.name, chunk))

    def clear(self) -> None:
        """Drops all chunks from memory."""
        with self._lock:
            self._cached.clear()
            self._mapped.clear()
            self._cached_bytes = 0
            self._map = None

    def reset_after_fork(self, lock: threading.RLock) -> None:
        """Makes the object usable in a forked child.

        Args:
            lock: the child's lock, which guards the catalog.
        """
        self._lock = lock

    # Sources

    def find(self, chunk: int) -> Source:
        """Finds a chunk in memory, in its chunk file, or in its tail file.

        It checks a file when it is first used. An encoded chunk file is checked up to the end of its group table. The
        groups have checksums of their own. A chunk file of plain rows is checked by its length if each row has a
        checksum (see `check_rows`), and in full otherwise. A tail file is checked in full, as far as it is committed.

        Returns:
            The source of its rows.

        Raises:
            Missing: a file is not where the catalog says, or the catalog has no such chunk.
            Evicted: the chunk has no live rows, and its file is gone.
            ChunkError: the file is damaged.
        """
        cached = self._cached.get(chunk)
        if cached is not None:
            return Source(chunk, cached=cached)
        with self._lock:
            dead = self._catalog.dead_seals.get(chunk)
            seal = self._catalog.seals.get(chunk, dead)
            segments = self._catalog.segments.get(chunk)
        if seal is not None:
            file = self._open(chunk, self._chunk_path(chunk), is_dead=dead is not None)
            sealed = seal.files[self.column.position]
            if self.column.codec.is_encoded:
                return Source(chunk, file=file, sealed=sealed, table=self._table(chunk, file, sealed))
            self._check_file(chunk, file, sealed)
            return Source(chunk, file=file, sealed=sealed)
        if segments is None:
            raise Missing((self.column.name, chunk), self._evicted(chunk))
        file = self._open(chunk, self._paths.tail(self.column.name, chunk), is_dead=False)
        self._check_tail(chunk, file, segments)
        return Source(chunk, file=file, segments=segments)

    def _chunk_path(self, chunk: int) -> Path:
        return self._paths.chunk(self.column.name, chunk, self.column.ndim)

    def _open(self, chunk: int, path: Path, *, is_dead: bool) -> OpenFile:
        try:
            return self._files.get(path)
        except FileNotFoundError as err:
            if is_dead:  # a writer elsewhere has removed it
                raise self._evicted(chunk) from err
            raise self._missing(chunk, path) from err

    def _missing(self, chunk: int, path: Path) -> Missing:
        return Missing((self.column.name, chunk), ChunkError(f"{path}: missing; restore the file from a copy"))

    def _evicted(self, chunk: int) -> Evicted:
        return Evicted(f"{self._paths.root}: chunk {chunk} of {self.column.name!r} is no longer live; draw again")

    # Checks at first touch

    def _table(self, chunk: int, file: OpenFile, sealed: SealedColumn) -> Any:
        table = self._tables.get(chunk)
        if table is None:
            table = self.column.codec.read_table(file, sealed, str(file.path))
            with self._lock:
                is_known = chunk in self._catalog.seals or chunk in self._catalog.dead_seals
                if is_known and chunk not in self._cached:  # else nothing would drop it
                    table = self._tables.setdefault(chunk, table)
        return table

    def _check_file(self, chunk: int, file: OpenFile, sealed: SealedColumn) -> None:
        if chunk in self._file_checked:
            return
        checksums.check_file(file, sealed)
        self._file_checked.add(chunk)

    def _check_tail(self, chunk: int, file: OpenFile, segments: list[Segment]) -> None:
        done, count = self._tail_checked.get(chunk, 0), len(segments)
        for segment in segments[done:count]:
            if self.column.position not in segment.checked:
                read_segment(file, self.column, segment, self.chunk_rows)
                segment.checked.add(self.column.position)
        self._tail_checked[chunk] = count

    def check_rows(self, source: Source, rows_in_chunk: I64, out: U8, targets: I64) -> None:
        """Compares rows from a sealed file with their checksums. A row is checked only the first time.

        Args:
            source: the sealed file that the rows were read from.
            rows_in_chunk: int64 (n,), numbers of the rows within the chunk.
            out: uint8 (m, row_bytes), holds the rows.
            targets: int64 (n,), the position of each row in `out`.

        Raises:
            ChunkError: a row differs from what was written.
        """
        assert source.sealed is not None
        flags = self._row_checked.get(source.chunk)
        if flags is None:
            flags = self._row_checked.setdefault(source.chunk, np.zeros(self.chunk_rows, bool))
        todo = np.flatnonzero(~flags[rows_in_chunk])
        if todo.size:
            checksums.check_rows(source.label, source.sealed.row_crcs, out[targets[todo]], rows_in_chunk[todo])
            flags[rows_in_chunk[todo]] = True
