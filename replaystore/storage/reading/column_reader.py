"""Reading rows of one field, wherever they are: held in memory, in a chunk file, or in the tail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk
from replaystore.columns.column import Column
from replaystore.errors import ChunkError, Evicted
from replaystore.kernels.observations import emit_frames
from replaystore.kernels.row_copies import copy_rows, copy_windows, find_rows
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format import checksums
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import SealedColumn, Segment
from replaystore.storage.reading.chunk_map import ChunkMap, make_chunk_map
from replaystore.storage.reading.frame_reader import FrameReader, read_head
from replaystore.storage.reading.open_files import OpenFile, OpenFiles
from replaystore.storage.reading.sources import Held, Source

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


class ColumnReader:
    """Reads rows of a column. Thread-safe; `lock` guards the catalog.

    Args:
        follow: called when a file is missing: brings the catalog up to date, if it can be.
    """

    def __init__(
        self, column: Column, paths: Paths, catalog: Catalog, files: OpenFiles, lock: threading.RLock,
        follow: Callable[[], None], counters: Counters,
    ) -> None:  # fmt: skip
        self.column = column
        self._counters = counters
        self._paths = paths
        self._catalog = catalog
        self._files = files
        self._lock = lock
        self._follow = follow
        self._chunk_rows = catalog.spec.chunk_rows
        self._files_at_once = max(1, files.most // 8)  # open files in use by one thread
        self._held: dict[int, Held] = {}
        self._held_bytes = 0
        self._heads: dict[int, FrameChunk] = {}
        self._map: ChunkMap | None = None
        self._frames = None
        if column.frames is not None:
            self._frames = FrameReader(column, self._chunk_rows, self._source, self._files_at_once, counters)
        self._row_checked: dict[int, NDArray[np.bool_]] = {}
        self._file_checked: set[int] = set()
        self._tail_checked: dict[int, int] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes of chunks held in memory."""
        return self._held_bytes

    @property
    def num_held(self) -> int:
        """Chunks held in memory."""
        return len(self._held)

    def holds(self, chunk: int) -> bool:
        """Whether a chunk is held in memory."""
        return chunk in self._held

    def reset_after_fork(self, lock: threading.RLock) -> None:
        """Takes the child's lock."""
        self._lock = lock

    def hold(self, chunk: int, data: U8, parsed: FrameChunk | None) -> None:
        """Keeps a sealed chunk in memory while it is live. data: all bytes of its file, checked."""
        with self._lock:
            if chunk in self._catalog.seals:  # else it died while it was read, and nobody would drop it
                self._held[chunk] = Held(data, parsed)
                self._held_bytes += data.size
                self._heads.pop(chunk, None)
                self._map = None

    def load(self, chunk: int) -> None:
        """Reads a sealed chunk into memory, checking every byte."""
        source = self._source(chunk)
        seal = self._catalog.seals.get(chunk)  # None: evicted this moment
        if source.held is None and source.sealed is not None and source.file is not None and seal is not None:
            data, parsed = checksums.read_chunk(source.file, self.column, source.sealed, seal.num_rows)
            source.file.drop_cache()
            self._counters.add(chunk_files_loaded=1, bytes_loaded=data.size)
            self.hold(chunk, data, parsed)

    def drop(self, chunk: int) -> None:
        """Forgets a chunk that is gone."""
        with self._lock:
            self._catalog.dead_seals.pop(chunk, None)
            held = self._held.pop(chunk, None)
            self._held_bytes -= 0 if held is None else held.data.size
            self._heads.pop(chunk, None)
            self._map = None
        for table in (self._row_checked, self._tail_checked):
            table.pop(chunk, None)
        if self._frames is not None:
            self._frames.drop(chunk)
        self._file_checked.discard(chunk)
        for path in (self._chunk_path(chunk), self._paths.tail(self.column.name, chunk)):
            self._files.forget(path)

    def clear(self) -> None:
        """Lets go of all chunks in memory."""
        with self._lock:
            self._held.clear()
            self._held_bytes = 0
            self._map = None

    def forget_tail(self, chunk: int) -> None:
        """Forgets the tail file of a chunk that was sealed."""
        self._tail_checked.pop(chunk, None)
        self._files.forget(self._paths.tail(self.column.name, chunk))

    def read_windows(self, frames: I64, out: U8, workers: Workers) -> None:
        """out[b] = the stored rows frames[b], -1: zeros, as one observation.

        frames: int64 (n, depth). out: uint8 (n, depth * row_bytes), C-contiguous.

        Raises:
            Evicted: a row is not live any more. ChunkError: its bytes are damaged.
        """
        known = self._chunk_map()
        depth = frames.shape[1]
        if self._frames is not None:
            others = self._frames.read_windows(known, frames, out, workers)
            if others is not None:
                if others.size:
                    self._read_rows(frames.reshape(-1)[others], others // depth, others % depth, depth, out)
                return
        if self.column.frames is None and not self._interleaves(depth):
            targets = self._copy_windows(known, frames, out, workers)
            if targets is None:
                return
            frames = frames[targets]
        else:
            targets = np.arange(len(frames))
        # Neighbours in one range share their groups, and files are read in order.
        order = np.argsort(frames[:, -1], kind="stable")
        frames, targets = frames[order], targets[order]
        workers.share(
            lambda start, stop: self.read(frames[start:stop], targets[start:stop], out), workers.edges(len(frames))
        )

    def _copy_windows(self, known: ChunkMap, frames: I64, out: U8, workers: Workers) -> I64 | None:
        """Copies observations whose rows are all in memory; returns the numbers of the others, None for none."""
        missing = np.empty(len(frames), np.int64)
        counts = []

        def copy(start: int, stop: int) -> None:
            some = missing[start:stop]
            count, copied = copy_windows(
                known.data, known.sizes, known.first_chunk, self._chunk_rows, self.column.row_bytes, frames[start:stop],
                out[start:stop], some,
            )  # fmt: skip
            self._counters.add(memory_bytes_read=int(copied) * self.column.row_bytes)
            if count:
                some += start
                counts.append((start, count))

        workers.share(copy, workers.edges(len(frames)))
        return np.concatenate([missing[start : start + count] for start, count in counts]) if counts else None

    def _interleaves(self, depth: int) -> bool:
        """Whether the frames of an observation are mixed in memory."""
        return depth > 1 and self.column.spec.channels == "last"

    def read(self, frames: I64, targets: I64, out: U8) -> None:
        """out[targets[b]] = the stored rows frames[b], -1: zeros, as one observation.

        frames: int64 (n, depth). targets: int64 (n,). out: uint8 (batch, depth * row_bytes), C-contiguous.

        Raises:
            Evicted: a row is not live any more. ChunkError: its bytes are damaged.
        """
        depth = frames.shape[1]
        slots = np.tile(np.arange(depth), len(frames))
        self._read_rows(frames.reshape(-1), np.repeat(targets, depth), slots, depth, out)

    def _read_rows(self, rows: I64, targets: I64, slots: I64, depth: int, out: U8) -> None:
        """Row `rows[j]` becomes the `slots[j]`-th of the `depth` frames of out[targets[j]]; -1: zeros."""
        order = np.argsort(rows)
        rows, targets, slots = rows[order], targets[order], slots[order]
        if rows.size and rows[0] < 0:
            count = int(np.searchsorted(rows, 0))
            black = np.zeros((1, self.column.row_bytes), np.uint8)
            self._emit(black, np.zeros(count, np.int64), targets[:count], slots[:count], depth, out)
            rows, targets, slots = rows[count:], targets[count:], slots[count:]
        if self.column.frames is None and not self._interleaves(depth):
            self._copy(rows, targets * depth + slots, out.reshape(-1, self.column.row_bytes))
        else:
            self._read_stored(rows, targets, slots, depth, out)

    def unpack_held(self, rows: I64, out: NDArray[Any]) -> bool:
        """out[j] = the value of packed row `rows[j]`, read where it lies; whether all lie in memory."""
        packing = self.column.packing
        if packing is None:
            return False
        known = self._chunk_map()
        which, local = np.empty((2, len(rows)), np.int64)
        if find_rows(rows, self._chunk_rows, known.first_chunk, known.data, which, local) < len(rows):
            return False
        values = out.reshape(len(out), -1)
        if not packing.decode_buffers(known.data, known.sizes, which, local, values, np.arange(len(rows))):
            return False
        self._counters.add(memory_bytes_read=len(rows) * self.column.row_bytes)
        return True

    def _read_stored(self, rows: I64, targets: I64, slots: I64, depth: int, out: U8) -> None:
        """The same for rows in ascending order, none of them -1."""
        while rows.size:
            known = self._chunk_map()
            if self._frames is not None and self._frames.read(known, rows, targets, slots, depth, out):
                return
            chunks = rows // self._chunk_rows
            in_groups = known.has_table(chunks) if self._frames is not None else np.zeros(len(rows), bool)
            if self._frames is not None and in_groups.any():
                self._frames.read(known, rows[in_groups], targets[in_groups], slots[in_groups], depth, out)
            rows, targets, slots, chunks = (array[~in_groups] for array in (rows, targets, slots, chunks))
            done = np.zeros(len(rows), bool)
            bounds = np.flatnonzero(np.diff(chunks, prepend=-1, append=-1)).tolist()
            for start, stop in pairwise(bounds):
                span = slice(start, stop)
                source = self._source(int(chunks[start]))
                if self._frames is not None and source.segments is None:
                    self._learn(source)
                else:
                    local = rows[span] - source.chunk * self._chunk_rows
                    self._copy_and_emit(source, local, targets[span], slots[span], depth, out)
                    done[span] = True
            rows, targets, slots = rows[~done], targets[~done], slots[~done]

    def _chunk_map(self) -> ChunkMap:
        known = self._map
        if known is None:
            with self._lock:
                known = self._map = make_chunk_map(dict(self._held), dict(self._heads))
        return known

    def _learn(self, source: Source) -> None:
        """Reads the table of groups of a chunk file."""
        if source.held is not None:
            return  # taken into memory since the map was made
        head = read_head(source)
        with self._lock:
            is_known = source.chunk in self._catalog.seals or source.chunk in self._catalog.dead_seals
            if is_known and source.chunk not in self._held:  # else nobody would drop it
                self._heads[source.chunk] = head
                self._map = None

    def _copy_and_emit(self, source: Source, local: I64, targets: I64, slots: I64, depth: int, out: U8) -> None:
        raw = np.empty((len(local), self.column.row_bytes), np.uint8)
        everything = np.arange(len(local))
        self._copy_from([source], np.zeros(len(local), np.int64), local, everything, raw)
        self._emit(raw, everything, targets, slots, depth, out)

    def _emit(self, raw: U8, sources: I64, targets: I64, slots: I64, depth: int, out: U8) -> None:
        shape = self.column.shape
        last = self.column.spec.channels == "last"
        channels = 1 if len(shape) == 2 else shape[-1] if last else shape[0]
        status = emit_frames(
            raw, sources, targets, slots, raw.shape[1] // channels, channels, last, False, last, depth, out
        )
        assert status == 0, "indices outside the batch"

    # Rows of a fixed size

    def _copy(self, rows: I64, targets: I64, out: U8) -> None:
        """out[targets[j]] = row rows[j], in ascending order."""
        known = self._chunk_map()
        chunks = rows // self._chunk_rows
        held = known.holds(chunks)
        if held.any():
            self._copy_held(known, rows[held], targets[held], out)
            rows, targets, chunks = rows[~held], targets[~held], chunks[~held]
        numbers, which = np.unique(chunks, return_inverse=True)
        local = rows - chunks * self._chunk_rows
        for start in range(0, len(numbers), self._files_at_once):
            sources = [self._source(chunk) for chunk in numbers[start : start + self._files_at_once].tolist()]
            low, high = np.searchsorted(which, (start, start + len(sources)))
            self._copy_from(sources, which[low:high] - start, local[low:high], targets[low:high], out)

    def _copy_held(self, known: ChunkMap, rows: I64, targets: I64, out: U8) -> None:
        chunks = rows // self._chunk_rows
        failed = copy_rows(
            known.data, known.sizes, known.files, chunks - known.first_chunk, rows - chunks * self._chunk_rows, targets,
            self.column.row_bytes, out,
        )  # fmt: skip
        if failed >= 0:
            raise ChunkError(f"chunk {chunks[failed]} in memory: it does not hold row {rows[failed]}")
        self._counters.add(memory_bytes_read=len(rows) * self.column.row_bytes)

    def _copy_from(self, sources: list[Source], which: I64, local: I64, targets: I64, out: U8) -> None:
        addresses = np.zeros(len(sources), np.int64)
        sizes = np.zeros(len(sources), np.int64)
        descriptors = np.full(len(sources), -1, np.int64)
        for s, source in enumerate(sources):
            if source.held is not None:
                addresses[s], sizes[s] = source.held.address, source.held.data.size
            else:
                assert source.file is not None
                descriptors[s] = source.file.fd
                sizes[s] = np.iinfo(np.int64).max if source.segments is not None else source.file.size
                self._check_file(source)
        failed = copy_rows(addresses, sizes, descriptors, which, local, targets, self.column.row_bytes, out)
        if failed >= 0:
            source = sources[int(which[failed])]
            if source.file is not None:  # again, through the call that names the cause
                source.file.read_into(out[targets[failed]], int(local[failed]) * self.column.row_bytes)
            raise ChunkError(f"{source.where}: row {int(local[failed])} of the chunk could not be read; try again")
        any_held = any(source.held is not None for source in sources)
        in_memory = int((descriptors[which] < 0).sum()) if any_held else 0
        self._counters.add(
            memory_bytes_read=in_memory * self.column.row_bytes,
            file_bytes_read=(len(which) - in_memory) * self.column.row_bytes,
        )
        if self.column.has_row_crcs:
            edges = np.searchsorted(which, np.arange(len(sources) + 1)).tolist()
            for source, (start, stop) in zip(sources, pairwise(edges), strict=True):
                if source.held is None and source.sealed is not None:
                    self._check_rows(source, source.sealed, local[start:stop], targets[start:stop], out)

    def _check_rows(self, source: Source, sealed: SealedColumn, local: I64, targets: I64, out: U8) -> None:
        flags = self._row_checked.get(source.chunk)
        if flags is None:
            flags = self._row_checked.setdefault(source.chunk, np.zeros(self._chunk_rows, bool))
        todo = np.flatnonzero(~flags[local])
        if todo.size:
            checksums.check_rows(source.where, sealed.row_crcs, out[targets[todo]], local[todo])
            flags[local[todo]] = True

    def _check_file(self, source: Source) -> None:
        assert source.file is not None
        if source.segments is not None:
            self._check_tail(source.chunk, source.file, source.segments)
            return
        assert source.sealed is not None
        if source.chunk in self._file_checked:
            return
        checksums.check_length(source.where, source.sealed.file_bytes, source.file.size)
        if not self.column.has_row_crcs and self.column.frames is None:
            data = np.empty(source.file.size, np.uint8)
            source.file.read_into(data, 0)
            checksums.check_crc(source.where, source.sealed.root_crc, checksums.crc_of(data))
        self._file_checked.add(source.chunk)

    def _check_tail(self, chunk: int, file: OpenFile, segments: list[Segment]) -> None:
        done, count = self._tail_checked.get(chunk, 0), len(segments)
        for segment in segments[done:count]:
            if self.column.position not in segment.checked:
                checksums.read_segment(file, self.column, segment, self._chunk_rows)
                segment.checked.add(self.column.position)
        self._tail_checked[chunk] = count

    # Sources

    def _chunk_path(self, chunk: int) -> Path:
        return self._paths.chunk(self.column.name, chunk, self.column.ndim)

    def _source(self, chunk: int) -> Source:
        for attempt in range(3):
            held = self._held.get(chunk)
            with self._lock:
                dead = self._catalog.dead_seals.get(chunk)
                seal = self._catalog.seals.get(chunk, dead)
                segments = self._catalog.segments.get(chunk)
            if held is not None:
                sealed = None if seal is None else seal.files[self.column.position]
                return Source(chunk, held=held, sealed=sealed)
            try:
                if seal is not None:
                    file = self._files.get(self._chunk_path(chunk))
                    return Source(chunk, file=file, sealed=seal.files[self.column.position])
                path = self._paths.tail(self.column.name, chunk)
                if segments is not None:
                    return Source(chunk, file=self._files.get(path), segments=segments)
            except FileNotFoundError as err:
                if dead is not None:
                    break  # a writer elsewhere has unlinked it
                if attempt == 2:
                    raise ChunkError(f"{err.filename}: missing; restore the file from a copy") from err
            self._follow()
        raise Evicted(f"{self._paths.root}: chunk {chunk} of {self.column.name!r} is no longer live; draw again")
