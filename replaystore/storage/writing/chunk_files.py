"""Sealing: turning the tail of a full chunk into its immutable files."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.frame_delta.chunk import FrameChunk, pack_chunk
from replaystore.columns.column import Column
from replaystore.runtime.durable_files import sync_directory, sync_file
from replaystore.storage.format import checksums
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import SealedColumn, Segment
from replaystore.storage.format.zarr_metadata import replace_file
from replaystore.storage.reading.open_files import OpenFile

_logger = logging.getLogger(__name__)

U8 = NDArray[np.uint8]

NO_CRCS = np.empty(0, np.uint32)


def seal_column(
    paths: Paths, column: Column, chunk: int, chunk_rows: int, segments: list[Segment], *, power: bool,
    helper: Executor | None = None,
) -> tuple[SealedColumn, U8, FrameChunk | None]:  # fmt: skip
    """Writes the sealed file of one field's chunk from its tail; returns what the log says of it, and its bytes.

    Rows of a fixed size stay where they are: the file gets a second name. Frames are encoded, groups restarting at
    every commit; half of them by `helper` where there is one. Repeating it after a kill is safe.

    Holds the rows of the chunk in memory, and those of frames once more in the form that is compressed.

    Raises:
        ChunkError: the tail is damaged. OSError: writing failed.
    """
    used = segments[-1].first_row + segments[-1].num_rows - chunk * chunk_rows
    tail = paths.tail(column.name, chunk)
    file = OpenFile(tail)
    rows = np.zeros((chunk_rows, column.row_bytes), np.uint8)
    file.read_into(rows[:used].reshape(-1), 0)
    for segment in segments:
        if column.position not in segment.checked:
            start = segment.first_row - chunk * chunk_rows
            checksums.check_segment(str(tail), column, segment, rows[start : start + segment.num_rows])
    target = paths.chunk(column.name, chunk, column.ndim)
    if column.frames is None:
        crcs = checksums.row_crcs(rows[:used]) if column.has_row_crcs else NO_CRCS
        root = 0 if column.has_row_crcs else checksums.crc_of(rows)
        _link_tail(tail, target, used * column.row_bytes, rows.size, power=power)
        return SealedColumn(rows.size, root, crcs), rows.reshape(-1), None
    starts = [segment.first_row - chunk * chunk_rows for segment in segments]
    encoded = encode_chunk(column.frames, rows.reshape(chunk_rows, *column.shape), [*starts, used], helper)
    replace_file(target, encoded, power=power)
    data = np.frombuffer(encoded, np.uint8)
    parsed = column.frames.parse(memoryview(encoded))
    return SealedColumn(data.size, parsed.root_crc, NO_CRCS), data, parsed


def encode_chunk(codec: FrameDelta, frames: U8, starts: Sequence[int], helper: Executor | None) -> bytes:
    """`codec.encode_frames(frames, starts)`, byte for byte, on two threads where `helper` is given.

    starts: ascending; rows behind the last one are padding.
    """
    bounds = sorted({0, len(frames), *starts})
    groups = [row for start, stop in pairwise(bounds) for row in range(start, stop, codec.group_rows)]
    cut = min(groups, key=lambda row: abs(2 * row - starts[-1]))
    if helper is None or cut == 0:
        return codec.encode_frames(frames, starts)
    second = helper.submit(codec.encode_frames, frames[cut:], [row - cut for row in starts if row >= cut])
    first = codec.encode_frames(frames[:cut], [row for row in starts if row < cut])
    entries: list[tuple[int, int, bytes]] = []
    for half in (first, second.result()):
        parsed = codec.parse(memoryview(half))
        edges = parsed.starts.tolist()
        forms, rows = parsed.table["form"].tolist(), parsed.table["num_rows"].tolist()
        entries += [
            (count, form, half[start:stop])
            for count, form, (start, stop) in zip(rows, forms, pairwise(edges), strict=True)
        ]
    return pack_chunk(codec.format, len(frames), entries)


def _link_tail(tail: Path, target: Path, used_bytes: int, file_bytes: int, *, power: bool) -> None:
    descriptor = os.open(tail, os.O_RDWR | os.O_CLOEXEC)
    try:
        # What an append that failed half-way left behind the committed rows goes; the padding takes no space.
        os.ftruncate(descriptor, used_bytes)
        os.ftruncate(descriptor, file_bytes)
        if power:
            sync_file(descriptor)
    finally:
        os.close(descriptor)
    target.unlink(missing_ok=True)  # left by a seal that was interrupted; no log speaks of it
    try:
        os.link(tail, target)
    except OSError as err:  # a file system without hard links
        _logger.debug("%s: no hard link (%s), copied", target, err.strerror)
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(tail, partial)
        partial.replace(target)
    if power:
        sync_directory(target.parent)


def sync_files(files: list[Path]) -> None:
    """fsync of files and of the directories they are in; files that are gone are passed over."""
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            sync_file(descriptor)
        finally:
            os.close(descriptor)
    for directory in {path.parent for path in files}:
        sync_directory(directory)
