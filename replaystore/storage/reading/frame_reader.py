"""Reading frames out of frame_delta chunks: the groups that a batch needs, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import groups as frame_groups
from replaystore.codecs.frame_delta.chunk import FrameChunk, FrameFormat, parse_chunk, table_bytes
from replaystore.columns.column import Column
from replaystore.errors import ChunkError
from replaystore.kernels.group_lookup import TABLE_UNKNOWN, locate_groups, locate_windows
from replaystore.kernels.row_copies import read_ranges
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.storage.format import checksums
from replaystore.storage.reading.chunk_map import ChunkMap
from replaystore.storage.reading.sources import Source

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_HEAD_GUESS = 8192  # bytes read at first of a chunk; most tables fit


@dataclass(frozen=True)
class _Wanted:
    """Groups that a batch needs, as `locate_groups` finds them, and where their frames go; int64 arrays.

    `places`: offsets in their chunks, or addresses in memory.
    """

    chunks: I64
    numbers: I64
    places: I64
    lengths: I64
    forms: I64
    num_rows: I64
    bounds: I64
    local: I64
    targets: I64
    slots: I64

    def pick(self, groups: Mask) -> _Wanted:
        """Only these groups, bool (groups,)."""
        if groups.all():
            return self
        counts = np.diff(self.bounds)
        entries = np.repeat(groups, counts)
        bounds = np.concatenate(([0], np.cumsum(counts[groups])))
        return _Wanted(
            self.chunks[groups], self.numbers[groups], self.places[groups], self.lengths[groups], self.forms[groups],
            self.num_rows[groups], bounds, self.local[entries], self.targets[entries], self.slots[entries],
        )  # fmt: skip


class FrameReader:
    """Decodes frames of one column. Thread-safe.

    Args:
        find: the source of a chunk. files_at_once: most files to hold open.
    """

    def __init__(
        self, column: Column, chunk_rows: int, find: Callable[[int], Source], files_at_once: int, counters: Counters
    ) -> None:
        self._counters = counters
        self._channels_last = column.spec.channels == "last"
        self._chunk_rows = chunk_rows
        self._find = find
        self._files_at_once = files_at_once
        self._group_checked: dict[int, Mask] = {}

    def drop(self, chunk: int) -> None:
        """Forgets a chunk that is gone."""
        self._group_checked.pop(chunk, None)

    def read(self, known: ChunkMap, rows: I64, targets: I64, slots: I64, depth: int, out: U8) -> bool:
        """Stored rows into observations, uint8 (batch, depth * frame bytes).

        rows: int64 (n,), ascending, at least one.

        Returns whether `known` has the tables of all their chunks; else nothing was done.

        Raises:
            ChunkError: a group is damaged. Evicted: a chunk is gone.
        """
        n = len(rows)
        chunks, numbers, places, lengths, forms, num_rows, local = np.empty((7, n), np.int64)
        bounds = np.empty(n + 1, np.int64)
        count = locate_groups(
            rows, self._chunk_rows, known.tables, known.num_groups, known.payload_offsets, known.first_chunk,
            chunks, numbers, places, lengths, forms, num_rows, bounds, local,
        )  # fmt: skip
        if count == TABLE_UNKNOWN:
            return False
        if count < 0:
            raise ChunkError(f"rows {rows[0]} to {rows[-1]}: one is in no group of its chunk; the chunk is damaged")
        wanted = _Wanted(
            chunks[:count], numbers[:count], places[:count], lengths[:count], forms[:count], num_rows[:count],
            bounds[: count + 1], local, targets, slots,
        )  # fmt: skip
        for number, fmt in enumerate(known.all_formats):
            of_format = known.formats[wanted.chunks] == number
            held = known.payloads[wanted.chunks] != 0
            some = wanted.pick(of_format & held)
            self._decode_held(known, fmt, some, known.data[some.chunks] + some.places, depth, out, Workers())
            in_files = wanted.pick(of_format & ~held)
            places = np.unique(in_files.chunks)
            for at in range(0, len(places), self._files_at_once):
                step = places[at : at + self._files_at_once]
                some = in_files.pick((in_files.chunks >= step[0]) & (in_files.chunks <= step[-1]))
                self._decode_files(known, fmt, step, some, depth, out)
        return True

    def read_windows(self, known: ChunkMap, frames: I64, out: U8, workers: Workers) -> I64 | None:
        """out[b] = the rows frames[b], as far as they are in chunks held in memory.

        frames: int64 (n, depth). out: uint8 (n, depth * frame bytes).

        Returns the frames, counted flat, that are not; or None where these are so many that nothing was done.

        Raises:
            ChunkError: a group is damaged.
        """
        size, depth = frames.size, frames.shape[1]
        if not known.has_one_format:
            return None
        chunks, numbers, places, lengths, forms, num_rows, local, targets, slots, others = np.empty(
            (10, size), np.int64
        )
        bounds = np.empty(size + 1, np.int64)
        count, num_others = locate_windows(
            frames, self._chunk_rows, known.tables, known.num_groups, known.payloads, known.first_chunk,
            chunks, numbers, places, lengths, forms, num_rows, bounds, local, targets, slots, others,
        )  # fmt: skip
        if count == TABLE_UNKNOWN:
            return None
        if count < 0:
            raise ChunkError(
                f"rows {frames.min()} to {frames.max()}: one is in no group of its chunk; the chunk is damaged"
            )
        wanted = _Wanted(
            chunks[:count], numbers[:count], places[:count], lengths[:count], forms[:count], num_rows[:count],
            bounds[: count + 1], local, targets, slots,
        )  # fmt: skip
        self._decode_held(known, known.all_formats[0], wanted, wanted.places, depth, out, workers)
        return others[:num_others]

    def _decode_held(
        self, known: ChunkMap, fmt: FrameFormat, wanted: _Wanted, addresses: I64, depth: int, out: U8, workers: Workers
    ) -> None:
        def decode(start: int, stop: int) -> None:
            def where(g: int) -> str:
                return (
                    f"chunk {known.first_chunk + wanted.chunks[start + g]} in memory, group {wanted.numbers[start + g]}"
                )

            self._decode(addresses, fmt, wanted, depth, out, where, start, stop)

        ends = np.cumsum(wanted.lengths)
        workers.share(decode, workers.edges_by_weight(ends))
        if len(ends):
            self._counters.add(groups_decoded=len(ends), memory_bytes_read=int(ends[-1]))

    def _decode_files(
        self, known: ChunkMap, fmt: FrameFormat, places: I64, wanted: _Wanted, depth: int, out: U8
    ) -> None:
        sources = [self._find(known.first_chunk + place) for place in places.tolist()]
        which = np.searchsorted(places, wanted.chunks)
        starts = np.cumsum(wanted.lengths) - wanted.lengths
        offsets = wanted.places
        buffer = np.empty(int(wanted.lengths.sum()), np.uint8)
        in_file = np.ones(len(which), bool)
        files = np.full(len(sources), -1, np.int64)
        for s, source in enumerate(sources):
            if source.file is not None:
                files[s] = source.file.fd
                continue
            assert source.held is not None  # taken into memory since the map was made
            for g in np.flatnonzero(which == s).tolist():
                in_file[g] = False
                buffer[starts[g] :][: wanted.lengths[g]] = source.held.data[offsets[g] :][: wanted.lengths[g]]
        ranges = np.flatnonzero(in_file)
        failed = read_ranges(files[which[ranges]], offsets[ranges], wanted.lengths[ranges], buffer, starts[ranges])
        if failed >= 0:
            g = int(ranges[failed])
            file = sources[which[g]].file
            assert file is not None
            # Again, through the call that names the cause.
            file.read_into(buffer[starts[g] :][: wanted.lengths[g]], int(offsets[g]))
            raise ChunkError(f"{file.path}: {wanted.lengths[g]} bytes at {offsets[g]} could not be read; try again")

        def where(g: int) -> str:
            return f"{sources[which[g]].where}, group {wanted.numbers[g]}"

        self._check_groups(known, wanted, ranges, buffer, starts, where)
        self._decode(buffer.ctypes.data + starts, fmt, wanted, depth, out, where)
        from_files = buffer.size if len(ranges) == len(which) else int(wanted.lengths[ranges].sum())
        self._counters.add(
            groups_decoded=len(which), file_bytes_read=from_files, memory_bytes_read=buffer.size - from_files
        )

    def _check_groups(
        self, known: ChunkMap, wanted: _Wanted, ranges: I64, buffer: U8, starts: I64, where: Callable[[int], str]
    ) -> None:
        """Compares groups read from files with their CRC, each once."""
        for g in ranges.tolist():
            chunk, number = known.first_chunk + int(wanted.chunks[g]), int(wanted.numbers[g])
            table = known.heads[chunk].table
            flags = self._group_checked.get(chunk)
            if flags is None:
                flags = self._group_checked.setdefault(chunk, np.zeros(len(table), bool))
            if not flags[number]:
                payload = buffer[starts[g] :][: wanted.lengths[g]]
                checksums.check_crc(where(g), int(table["crc"][number]), checksums.crc_of(payload))
                flags[number] = True

    def _decode(
        self, addresses: I64, fmt: FrameFormat, wanted: _Wanted, depth: int, out: U8, where: Callable[[int], str],
        start: int = 0, stop: int | None = None,
    ) -> None:  # fmt: skip
        """Groups from `start` to `stop`."""
        stop = len(addresses) if stop is None else stop
        some = slice(start, stop)
        groups = frame_groups.Groups(
            addresses[some], wanted.lengths[some], wanted.forms[some], wanted.num_rows[some],
            wanted.bounds[start : stop + 1], wanted.local,
        )  # fmt: skip
        if len(groups.addresses):
            frame_groups.decode_groups(
                groups, fmt, self._channels_last, wanted.targets, wanted.slots, depth, out, where
            )


def read_head(source: Source) -> FrameChunk:
    """Header and table of a sealed chunk file, checked.

    Raises:
        ChunkError: they are damaged, or not what was sealed.
    """
    assert source.file is not None
    assert source.sealed is not None
    file = source.file
    checksums.check_length(source.where, source.sealed.file_bytes, file.size)
    start = np.empty(min(_HEAD_GUESS, file.size), np.uint8)
    file.read_into(start, 0)
    needed = min(table_bytes(start.data, source.where), file.size)
    if needed > start.size:
        start = np.empty(needed, np.uint8)
        file.read_into(start, 0)
    parsed = parse_chunk(start.data, file.size, source.where)
    checksums.check_root(source.where, source.sealed, parsed)
    return parsed
