"""Reading frames out of frame_delta chunks: the groups that a batch needs, and no others."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs import frame_groups
from replaystore.codecs.frame_chunk import FrameChunk, parse_chunk, table_bytes
from replaystore.storage import checks
from replaystore.storage.columns import Column
from replaystore.storage.sources import Source

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_HEAD_GUESS = 8192  # bytes read at first of a chunk; most tables fit


@dataclass(frozen=True)
class _Head:
    """Header and table of a chunk, and which groups were compared with their CRC."""

    parsed: FrameChunk
    group_checked: NDArray[np.bool_]


@dataclass(frozen=True)
class FrameRead:
    """Rows to decode from one chunk, sorted, and where they go. `spans`: (group, first, end) in `local`."""

    source: Source
    head: _Head
    local: I64
    targets: I64
    slots: I64
    spans: list[tuple[int, int, int]]


class FrameReader:
    """Decodes frames of one column. Thread-safe."""

    def __init__(self, column: Column) -> None:
        self._channels_last = column.spec.channels == "last"
        self._heads: dict[int, _Head] = {}
        self._scratch = threading.local()

    def drop(self, chunk: int) -> None:
        """Forgets a chunk that is gone."""
        self._heads.pop(chunk, None)

    def plan(self, source: Source, local: I64, targets: I64, slots: I64) -> FrameRead:
        """Finds the groups of rows `local` of a chunk (int64, ascending) and tells the system which bytes to fetch."""
        head = self._head(source)
        group_of = np.searchsorted(head.parsed.first_rows, local, side="right") - 1
        bounds = np.flatnonzero(np.diff(group_of, prepend=-1, append=-1)).tolist()
        spans = [(int(group_of[start]), start, stop) for start, stop in pairwise(bounds)]
        if source.file is not None:
            starts = head.parsed.starts
            for number, _, _ in spans:
                begin, end = int(starts[number]), int(starts[number + 1])
                os.posix_fadvise(source.file.fd, begin, end - begin, os.POSIX_FADV_WILLNEED)
        return FrameRead(source, head, local, targets, slots, spans)

    def decode(self, read: FrameRead, depth: int, out: U8) -> None:
        """Frames into observations, uint8 (batch, depth * frame bytes).

        Raises:
            ChunkError: a group is damaged.
        """
        parsed = read.head.parsed
        scratch = self._scratch_frames(parsed.format.keyframe_interval, parsed.format.frame_bytes)
        for number, start, stop in read.spans:
            payload = self._group_bytes(read.source, read.head, number)
            entry = parsed.table[number]
            sources = read.local[start:stop] - parsed.first_rows[number]
            frame_groups.decode_group(
                payload, int(entry["form"]), int(entry["num_rows"]), parsed.format, int(sources[0]),
                int(sources[-1]), scratch, f"{read.source.where}, group {number}",
            )  # fmt: skip
            frame_groups.write_frames(
                scratch, sources, parsed.format, out, read.targets[start:stop], read.slots[start:stop], depth,
                self._channels_last,
            )  # fmt: skip

    def _group_bytes(self, source: Source, head: _Head, number: int) -> U8:
        start, end = int(head.parsed.starts[number]), int(head.parsed.starts[number + 1])
        if source.held is not None:
            return source.held.data[start:end]
        assert source.file is not None
        payload = np.empty(end - start, np.uint8)
        source.file.read_into(payload, start)
        if not head.group_checked[number]:
            expected = int(head.parsed.table[number]["crc"])
            checks.check_crc(f"{source.where}, group {number}", expected, checks.crc_of(payload))
            head.group_checked[number] = True
        return payload

    def _head(self, source: Source) -> _Head:
        head = self._heads.get(source.chunk)
        if head is None:
            if source.held is not None:
                assert source.held.parsed is not None
                head = _Head(source.held.parsed, np.ones(len(source.held.parsed.table), bool))
            else:
                parsed = _read_head(source)
                head = _Head(parsed, np.zeros(len(parsed.table), bool))
            self._heads[source.chunk] = head
        return head

    def _scratch_frames(self, rows: int, frame_bytes: int) -> U8:
        frames: U8 | None = getattr(self._scratch, "frames", None)
        if frames is None or frames.shape[0] < rows or frames.shape[1] != frame_bytes:
            frames = self._scratch.frames = np.empty((rows, frame_bytes), np.uint8)
        return frames


def _read_head(source: Source) -> FrameChunk:
    assert source.file is not None
    assert source.sealed is not None
    file = source.file
    checks.check_length(source.where, source.sealed.file_bytes, file.size)
    start = np.empty(min(_HEAD_GUESS, file.size), np.uint8)
    file.read_into(start, 0)
    needed = min(table_bytes(start.data, source.where), file.size)
    if needed > start.size:
        start = np.empty(needed, np.uint8)
        file.read_into(start, 0)
    parsed = parse_chunk(start.data, file.size, source.where)
    checks.check_root(source.where, source.sealed, parsed)
    return parsed
