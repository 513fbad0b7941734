"""Seals a chunk: turns its tail files into immutable chunk files."""

from __future__ import annotations

import logging
import os
import shutil
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from replaystore.columns.chunks import CachedChunk, SealedColumn
from replaystore.columns.column import Column
from replaystore.runtime.durable_files import replace_file, sync_directory, sync_file
from replaystore.storage.format import checksums
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import Segment
from replaystore.storage.reading.open_files import OpenFile

_logger = logging.getLogger(__name__)


def seal_column(
    paths: Paths, column: Column, chunk: int, chunk_rows: int, segments: list[Segment], *, power: bool,
    helper: Executor | None = None,
) -> tuple[SealedColumn, CachedChunk]:  # fmt: skip
    """Writes the chunk file of one column from its tail file. It may be repeated after the process was killed.

    Rows that are not encoded are not copied: the tail file gets a second name. The call needs memory for the chunk's
    rows and for their encoded form.

    Args:
        paths: the files of the store.
        column: the column.
        chunk: number of the chunk.
        chunk_rows: rows per chunk.
        segments: the commits of the chunk.
        power: whether the file must survive a power cut.
        helper: runs a second thread for encoding. None: encode in the calling thread alone.

    Returns:
        What the log records about the file, and the chunk in memory.

    Raises:
        ChunkError: the tail is damaged.
        OSError: writing failed.
    """
    used = segments[-1].first_row + segments[-1].num_rows - chunk * chunk_rows
    tail = paths.tail(column.name, chunk)
    file = OpenFile(tail)
    rows = np.zeros((chunk_rows, column.row_bytes), np.uint8)
    file.read_into(rows[:used].reshape(-1), 0)
    starts = [segment.first_row - chunk * chunk_rows for segment in segments]
    for segment, start in zip(segments, starts, strict=True):
        if column.position not in segment.checked:
            checksums.check_segment(str(tail), column, segment, rows[start : start + segment.num_rows])
    target = paths.chunk(column.name, chunk, column.ndim)
    encoded = column.codec.encode_chunk(rows, [*starts, used], helper)
    if encoded is None:
        data = rows.reshape(-1)
        _link_tail(tail, target, used * column.row_bytes, data.size, power=power)
    else:
        data = np.frombuffer(encoded, np.uint8)
        replace_file(target, encoded, sync=power)
    cached = CachedChunk(data, column.codec.parse(data, str(target)))
    return column.codec.seal(cached, used), cached


def _link_tail(tail: Path, target: Path, used_bytes: int, file_bytes: int, *, power: bool) -> None:
    descriptor = os.open(tail, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Cut what a failed append left behind the committed rows. The padding is a hole and takes no space.
        os.ftruncate(descriptor, used_bytes)
        os.ftruncate(descriptor, file_bytes)
        if power:
            sync_file(descriptor)
    finally:
        os.close(descriptor)
    target.unlink(missing_ok=True)  # left by a seal that was interrupted; no log names it
    try:
        os.link(tail, target)
    except OSError as err:  # a file system without hard links
        _logger.debug("%s: no hard link (%s), copied", target, err.strerror)
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(tail, partial)
        partial.replace(target)
    if power:
        sync_directory(target.parent)
