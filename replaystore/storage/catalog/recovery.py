"""What a store amounts to after the machine was restarted: a prefix of what was committed, never garbage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from replaystore.errors import DamageError
from replaystore.storage.catalog.catalog import Ledger
from replaystore.storage.catalog.log import LogReader
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths, Record
from replaystore.storage.format.records import end_row_of
from replaystore.storage.verify import check_sealed, check_tail

_logger = logging.getLogger(__name__)


def replay(paths: Paths, reader: LogReader, *, beyond_head: bool) -> Ledger:
    """The ledger of a store.

    Where the machine was restarted since the head was written, the data that records behind the synced ones speak of
    are read and compared; the log ends before the first record whose data did not reach the disk. Episodes whose
    chunks were unlinked by an eviction that the log lost are left out.

    Raises:
        LogError: the log is damaged where it was synced, or where no restart explains it.
    """
    where = str(paths.log(reader.head.generation))
    ledger = Ledger(where)
    doubtful = reader.replay(ledger, beyond_head=beyond_head)
    written, num_doubtful = ledger.next_row, len(doubtful)
    if not reader.restarted:
        return ledger
    chunk_rows = ledger.spec.chunk_rows
    unsynced = bool(doubtful) or reader.head.committed > reader.head.synced
    seals = [record for record in doubtful if record.kind == layout.SEAL]
    while doubtful and (lost := _first_lost_row(paths, ledger, doubtful)) is not None:
        end = reader.head.synced
        kept = []
        for record in doubtful:
            if end_row_of(record, chunk_rows) > lost:
                break
            end = record.end
            kept.append(record)
        if len(kept) == len(doubtful):
            break  # rows that were synced are damaged: whoever reads them is told
        doubtful = kept
        ledger = Ledger(where)
        reader.replay(ledger, beyond_head=beyond_head, stop=end)
        # Chunks are sealed behind later commits: those without a lost row stay sealed, for their tails are gone.
        for record in seals:
            end_row = end_row_of(record, chunk_rows)
            if record.end > end and end_row <= lost and end_row // chunk_rows - 1 in ledger.segments:
                ledger.adopt(record.payload)
    if num_doubtful:
        _logger.log(
            logging.INFO if len(doubtful) == num_doubtful else logging.WARNING,
            "%s: the machine was restarted with %d records not synced: %d kept, %d dropped because their data did not"
            " reach the disk; rows end at %d, before at %d",
            where, num_doubtful, len(doubtful), num_doubtful - len(doubtful), ledger.next_row, written,
        )  # fmt: skip
    if unsynced or beyond_head:
        ledger.published = False  # the files for plain Zarr readers may be newer, or lost: a writer renews them
    return ledger


def episodes_without_chunks(paths: Paths, ledger: Ledger) -> list[int]:
    """Live episodes of which a sealed chunk is gone: their eviction was under way when the machine stopped."""
    missing = {chunk for chunk in ledger.seals if _is_missing(paths, ledger, chunk)}
    chunk_rows = ledger.spec.chunk_rows
    return [
        info.episode
        for info in ledger.index.episodes()
        if any(
            chunk in missing
            for part in info.parts
            for chunk in range(part.first_row // chunk_rows, -(-(part.first_row + part.num_rows) // chunk_rows))
        )
    ]


def _first_lost_row(paths: Paths, ledger: Ledger, doubtful: list[Record]) -> int | None:
    """The first row, among those that doubtful records speak of, whose bytes are not what was written."""
    chunk_rows = ledger.spec.chunk_rows
    chunks = {
        (end_row_of(record, chunk_rows) - 1) // chunk_rows
        for record in doubtful
        if record.kind in (layout.COMMIT, layout.SEAL) and end_row_of(record, chunk_rows)
    }
    first = min(chunks, default=0)
    if ledger.capacity is not None or ledger.disk_budget_bytes is not None:
        # Eviction starts with the oldest chunks. Where those are gone, the log has lost that they were evicted.
        present = [chunk for chunk in (*ledger.seals, *ledger.segments) if not _is_missing(paths, ledger, chunk)]
        first = max(first, min(present, default=0))
    lost = [
        chunk * chunk_rows
        for column in ledger.columns
        for chunk in ledger.seals
        if chunk >= first and not _intact(check_sealed, paths, ledger, column, chunk)
    ]
    lost += [
        segment.first_row
        for column in ledger.columns
        for chunk, segments in ledger.segments.items()
        for segment in segments
        if not _intact(check_tail, paths, ledger, column, chunk, [segment])
    ]
    return min(lost, default=None)


def _is_missing(paths: Paths, ledger: Ledger, chunk: int) -> bool:
    """Whether a sealed chunk lacks a file: of any field, for they are unlinked one by one."""
    return chunk in ledger.seals and not all(
        paths.chunk(column.name, chunk, column.ndim).exists() for column in ledger.columns
    )


def _intact(check: Callable[..., int], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except DamageError:
        return False
    return True
