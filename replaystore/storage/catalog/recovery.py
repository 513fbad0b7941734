"""Recovers a store after a restart of the machine. The result is a prefix of the committed records, never garbage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from replaystore.errors import DamageError
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogReader
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths, Record
from replaystore.storage.format.records import end_row_of
from replaystore.storage.verify import check_sealed, check_tail

_logger = logging.getLogger(__name__)


def replay(paths: Paths, reader: LogReader, *, beyond_head: bool) -> Catalog:
    """Returns the catalog of a store.

    If the machine has restarted since the head was written, the data of all unsynced records are read and compared. The
    log then ends before the first record whose data did not reach the disk.

    Args:
        paths: the files of the store.
        reader: reads the log.
        beyond_head: whether to apply whole records behind those that the head counts, too.

    Raises:
        LogError: the log is damaged in its synced part, or damaged without a restart.
    """
    where = str(paths.log(reader.head.generation))
    catalog = Catalog(where)
    doubtful = reader.replay(catalog, beyond_head=beyond_head)
    written, num_doubtful = catalog.next_row, len(doubtful)
    if not reader.restarted:
        return catalog
    chunk_rows = catalog.spec.chunk_rows
    unsynced = bool(doubtful) or reader.head.committed > reader.head.synced
    seals = [record for record in doubtful if record.kind == layout.SEAL]
    while doubtful and (lost := _first_lost_row(paths, catalog, doubtful)) is not None:
        end = reader.head.synced
        kept = []
        for record in doubtful:
            if end_row_of(record, chunk_rows) > lost:
                break
            end = record.end
            kept.append(record)
        if len(kept) == len(doubtful):
            break  # synced rows are damaged, and reading them raises the error
        doubtful = kept
        catalog = Catalog(where)
        reader.replay(catalog, beyond_head=beyond_head, stop=end)
        # A seal record may stand behind later commits. Chunks without a lost row stay sealed: their tails are gone.
        for record in seals:
            end_row = end_row_of(record, chunk_rows)
            if record.end > end and end_row <= lost and end_row // chunk_rows - 1 in catalog.segments:
                catalog.adopt(record.payload)
    if num_doubtful:
        _logger.log(
            logging.INFO if len(doubtful) == num_doubtful else logging.WARNING,
            "%s: the machine was restarted with %d records not synced: %d kept, %d dropped because their data did not"
            " reach the disk; rows end at %d, before at %d",
            where, num_doubtful, len(doubtful), num_doubtful - len(doubtful), catalog.next_row, written,
        )  # fmt: skip
    if unsynced or beyond_head:
        catalog.published = False  # files for plain Zarr readers may be newer or lost; a writer renews them
    return catalog


def episodes_without_chunks(paths: Paths, catalog: Catalog) -> list[int]:
    """Returns the live episodes with a missing sealed chunk. The machine stopped while they were being evicted."""
    missing = {chunk for chunk in catalog.seals if _is_missing(paths, catalog, chunk)}
    chunk_rows = catalog.spec.chunk_rows
    return [
        info.episode
        for info in catalog.index.episodes()
        if any(
            chunk in missing
            for part in info.parts
            for chunk in range(part.first_row // chunk_rows, -(-(part.first_row + part.num_rows) // chunk_rows))
        )
    ]


def _first_lost_row(paths: Paths, catalog: Catalog, doubtful: list[Record]) -> int | None:
    """Returns the first row of the doubtful records whose bytes differ from those written. None if all agree."""
    chunk_rows = catalog.spec.chunk_rows
    chunks = {
        (end_row_of(record, chunk_rows) - 1) // chunk_rows
        for record in doubtful
        if record.kind in (layout.COMMIT, layout.SEAL) and end_row_of(record, chunk_rows)
    }
    first = min(chunks, default=0)
    if catalog.capacity is not None or catalog.disk_budget_bytes is not None:
        # Eviction starts with the oldest chunks. If they are gone, the log has lost the record of their eviction.
        present = [chunk for chunk in (*catalog.seals, *catalog.segments) if not _is_missing(paths, catalog, chunk)]
        first = max(first, min(present, default=0))
    lost = [
        chunk * chunk_rows
        for column in catalog.columns
        for chunk in catalog.seals
        if chunk >= first and not _intact(check_sealed, paths, catalog, column, chunk)
    ]
    lost += [
        segment.first_row
        for column in catalog.columns
        for chunk, segments in catalog.segments.items()
        for segment in segments
        if not _intact(check_tail, paths, catalog, column, chunk, [segment])
    ]
    return min(lost, default=None)


def _is_missing(paths: Paths, catalog: Catalog, chunk: int) -> bool:
    """Whether a sealed chunk lacks the file of any column. Eviction unlinks the files one by one."""
    return chunk in catalog.seals and not all(
        paths.chunk(column.name, chunk, column.ndim).exists() for column in catalog.columns
    )


def _intact(check: Callable[..., int], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except DamageError:
        return False
    return True
