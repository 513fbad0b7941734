"""Counts what a store object has done since it was opened."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """What one store object did in this process since it was opened. A forked child counts from 0.

    "Stored bytes" are the encoded bytes of rows and of groups of frames. They are counted each time they are read.
    Fields of at most 256 bytes per row are always in memory, and `memory_bytes_read` leaves them out.

    Attributes:
        rows_appended: rows committed by `append`, by `add`, or as parts of episodes.
        episodes_appended: episodes whose first row was committed.
        rows_evicted: rows removed to keep the capacity and the disk budget. 0 for a reader.
        episodes_evicted: episodes removed with them. 0 for a reader.
        batches_gathered: calls of `gather` that returned, including those of loaders. A loader's batch counts once it
            is filled, before the loader returns it.
        transitions_gathered: transitions in those batches.
        memory_bytes_read: stored bytes read from chunks in memory, for batches and `read_episode`.
        file_bytes_read: stored bytes read from chunk files and tail files. They are read for batches, for
            `read_episode`, and for the small fields of rows that came with opening or `refresh`. Whether they came from
            the page cache is not known. Reads that only check a file, and `bytes_loaded`, are not counted here.
        groups_decoded: groups of frames decoded, in whole or in part, in mode `full`.
        encoder_waits: commits that waited because too many full chunks were not encoded yet.
        encoder_wait_seconds: time that those commits waited.
        chunks_sealed: chunks that were encoded and written. All fields of a chunk count as one.
        bytes_sealed: size of their files.
        sealing_seconds: time that sealing took in the background.
        chunk_files_loaded: chunk files read whole to keep them in memory. A chunk has one file per field. Chunks that
            this object sealed need no reading.
        bytes_loaded: size of those files.
        refreshes: times that a reader found new commits.
        chunk_files_held: chunk files in memory now.
        bytes_held: bytes in memory now, as `ReplayStore.held_bytes`.
    """

    rows_appended: int
    episodes_appended: int
    rows_evicted: int
    episodes_evicted: int
    batches_gathered: int
    transitions_gathered: int
    memory_bytes_read: int
    file_bytes_read: int
    groups_decoded: int
    encoder_waits: int
    encoder_wait_seconds: float
    chunks_sealed: int
    bytes_sealed: int
    sealing_seconds: float
    chunk_files_loaded: int
    bytes_loaded: int
    refreshes: int
    chunk_files_held: int
    bytes_held: int


_NOW = ("chunk_files_held", "bytes_held")  # these describe the present and are not counted
_COUNTED = tuple(field.name for field in fields(StoreStats) if field.name not in _NOW)


class Counters:
    """The counters of a store. Thread-safe: no increment is lost.

    Count once per batch, or per part of a batch that a thread reads, and not per row.

    >>> counters = Counters()
    >>> counters.add(batches_gathered=1, transitions_gathered=256)
    >>> counters.stats(chunk_files_held=0, bytes_held=0).transitions_gathered
    256
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Sets all counters to 0 and makes a new lock. The lock that a forked child inherits may be taken."""
        self._lock = threading.Lock()
        self._counts: dict[str, Any] = dict.fromkeys(_COUNTED, 0)

    def add(self, **increments: float) -> None:
        """Adds to counters by name.

        Raises:
            KeyError: `StoreStats` has no such counter.
        """
        with self._lock:
            for name, increment in increments.items():
                self._counts[name] += increment

    def stats(self, *, chunk_files_held: int, bytes_held: int) -> StoreStats:
        """Returns all counters at one moment.

        Args:
            chunk_files_held: chunk files in memory now.
            bytes_held: bytes in memory now.
        """
        with self._lock:
            counts = dict(self._counts)
        return StoreStats(**counts, chunk_files_held=chunk_files_held, bytes_held=bytes_held)
