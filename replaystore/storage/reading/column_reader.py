"""`ColumnReader`: reads rows of a column from memory, chunk files and the tail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.chunks import Placement
from replaystore.errors import ChunkError
from replaystore.kernels.row_copies import RowSources, copy_rows
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.storage.reading.column_chunks import ColumnChunks, Source

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_UNLIMITED = np.iinfo(np.int64).max


class ColumnReader:
    """Reads rows of a column. Thread-safe.

    Args:
        chunks: finds the chunks of the column.
        counters: the counters of the store.
    """

    def __init__(self, chunks: ColumnChunks, counters: Counters) -> None:
        self._chunks = chunks
        self._counters = counters
        self._codec = chunks.column.codec

    def read(self, window_rows: I64, out: NDArray[Any], workers: Workers) -> None:
        """Reads values: out[b] is made of the stored rows window_rows[b].

        Args:
            window_rows: int64 (n, depth), C-contiguous, row numbers. -1 stands for a row of zeros.
            out: (n, ...), C-contiguous, takes the values.
            workers: threads that share the work.

        Raises:
            Missing: a chunk is not where the catalog says.
            Evicted: a row is not live any more.
            ChunkError: stored bytes are damaged.
        """
        self._chunks.map_files(window_rows)
        left = self._codec.read_cached(self._chunks.map(), window_rows, out, workers, self._counters)
        if not left.size:
            return
        # Sorted once for all workers: neighbours share groups of frames, and files are read in order.
        rows, depth = window_rows.reshape(-1)[left], window_rows.shape[1]
        order = np.argsort(rows)
        rows, left = rows[order], left[order]
        targets = left // depth
        placement = Placement(targets, left - targets * depth, depth, out)
        if rows[0] < 0:
            num_zeros = int(np.searchsorted(rows, 0))
            self._place_zeros(placement.some(slice(num_zeros)))
            rows, placement = rows[num_zeros:], placement.some(slice(num_zeros, None))

        def read(start: int, stop: int) -> None:
            self._read_sorted(rows[start:stop], placement.some(slice(start, stop)))

        workers.share(read, workers.edges(len(rows)))

    def read_stored(self, rows: I64, targets: I64, out: U8) -> None:
        """Reads stored rows: out[targets[j]] is row rows[j]. The column's codec must not encode its chunk files.

        Args:
            rows: int64 (n,), ascending row numbers.
            targets: int64 (n,), positions in `out`.
            out: uint8 (m, row_bytes), C-contiguous, takes the rows.

        Raises:
            Missing: a chunk is not where the catalog says.
            Evicted: a row is not live any more.
            ChunkError: stored bytes are damaged.
        """
        for span, sources, which, rows_in_chunk in self._shares(rows):
            self._copy(sources, which, rows_in_chunk, targets[span], out)

    def _place_zeros(self, placement: Placement) -> None:
        direct = self._codec.direct_rows(placement.out, placement.depth)
        if direct is not None:
            direct[placement.targets * placement.depth + placement.slots] = 0
        else:
            self._codec.place(np.zeros((len(placement.targets), self._codec.row_bytes), np.uint8), placement)

    def _shares(self, rows: I64) -> Iterator[tuple[slice, list[Source], I64, I64]]:
        """Splits ascending rows into shares that need at most `files_at_once` open files each.

        Yields:
            The share as a slice of `rows`, the sources of its chunks, and for each of its rows the position of its
            source in that list and its number within the chunk.
        """
        chunks = rows // self._chunks.chunk_rows
        rows_in_chunk = rows - chunks * self._chunks.chunk_rows
        first_of = np.flatnonzero(np.diff(chunks, prepend=-1))  # where the rows of each chunk start
        bounds = np.append(first_of, len(rows))
        for start in range(0, len(first_of), self._chunks.files_at_once):
            stop = min(start + self._chunks.files_at_once, len(first_of))
            span = slice(int(bounds[start]), int(bounds[stop]))
            sources = [self._chunks.find(chunk) for chunk in chunks[first_of[start:stop]].tolist()]
            which = np.repeat(np.arange(stop - start), np.diff(bounds[start : stop + 1]))
            yield span, sources, which, rows_in_chunk[span]

    def _read_sorted(self, rows: I64, placement: Placement) -> None:
        for span, sources, which, rows_in_chunk in self._shares(rows):
            placed = placement.some(span)
            if not self._codec.is_encoded:
                self._read_plain(sources, which, rows_in_chunk, placed)
                continue
            is_sealed = np.array([source.segments is None for source in sources])
            for kind, read in ((is_sealed, self._read_encoded), (~is_sealed, self._read_plain)):
                if kind.all():
                    read(sources, which, rows_in_chunk, placed)
                elif kind.any():
                    some, positions = kind[which], np.cumsum(kind) - 1
                    chosen = [source for source, is_chosen in zip(sources, kind, strict=True) if is_chosen]
                    read(chosen, positions[which[some]], rows_in_chunk[some], placed.some(some))

    def _read_encoded(self, sources: list[Source], which: I64, rows_in_chunk: I64, placement: Placement) -> None:
        chunk_rows = self._chunks.chunk_rows
        self._codec.read_encoded(sources, which * chunk_rows + rows_in_chunk, chunk_rows, placement, self._counters)

    def _read_plain(self, sources: list[Source], which: I64, rows_in_chunk: I64, placement: Placement) -> None:
        direct = self._codec.direct_rows(placement.out, placement.depth)
        if direct is not None:
            self._copy(sources, which, rows_in_chunk, placement.targets * placement.depth + placement.slots, direct)
            return
        rows = np.empty((len(which), self._codec.row_bytes), np.uint8)
        self._copy(sources, which, rows_in_chunk, np.arange(len(which)), rows)
        self._codec.place(rows, placement)

    def _copy(self, sources: list[Source], which: I64, rows_in_chunk: I64, targets: I64, out: U8) -> None:
        """Copies rows: out[targets[j]] is row rows_in_chunk[j] of sources[which[j]]."""
        row_bytes = self._codec.row_bytes
        addresses = np.array([0 if source.cached is None else source.cached.address for source in sources])
        files = np.array([-1 if source.file is None else source.file.fd for source in sources])
        sizes = np.array([_size_of(source) for source in sources])
        failed = copy_rows(RowSources(addresses, sizes, files), which, rows_in_chunk, targets, row_bytes, out)
        if failed >= 0:
            source, row = sources[int(which[failed])], int(rows_in_chunk[failed])
            if source.file is not None:  # read it again with a call that names the cause
                source.file.read_into(out[targets[failed]], row * row_bytes)
            raise ChunkError(f"{source.label}: row {row} of the chunk could not be read; try again")
        in_memory = int((files[which] < 0).sum()) * row_bytes
        self._counters.add(memory_bytes_read=in_memory, file_bytes_read=len(which) * row_bytes - in_memory)
        edges = np.searchsorted(which, np.arange(len(sources) + 1)).tolist()
        for source, (start, stop) in zip(sources, pairwise(edges), strict=True):
            if source.sealed is not None and source.sealed.row_crcs.size:
                self._chunks.check_rows(source, rows_in_chunk[start:stop], out, targets[start:stop])


def _size_of(source: Source) -> int:
    if source.cached is not None:
        return source.cached.data.size
    assert source.file is not None
    return _UNLIMITED if source.segments is not None else source.file.size
