"""What a store object has done since it was opened, in numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """What one store object did since it was opened, in this process. A forked child counts from 0.

    "Stored bytes" are those of rows and groups of frames as they are encoded, counted as often as they are read.
    Fields whose rows have at most 256 bytes are left out of `memory_bytes_read`: they are in memory always.

    Attributes:
        rows_appended: rows committed, by `append`, by `add`, or as parts of episodes.
        episodes_appended: episodes of which a first row was committed.
        rows_evicted, episodes_evicted: taken out to keep capacity and disk budget; 0 for a reader.
        batches_gathered: calls of `gather` that returned, those of loaders included. A batch of a loader counts when
            it is filled, which is before it is handed out.
        transitions_gathered: in those batches.
        memory_bytes_read: stored bytes read from chunks in memory, for batches and for `read_episode`.
        file_bytes_read: stored bytes read from chunk files and tail files, for batches, for `read_episode`, and for
            the small fields of rows that came with opening or `refresh`. Whether the system had them in its cache is
            not known. Without what is read once to check a file, and without `bytes_loaded`.
        groups_decoded: groups of frames decoded, in part or whole, in mode `full`.
        encoder_waits: commits that waited because too many full chunks were not encoded yet.
        encoder_wait_seconds: time that those commits waited.
        chunks_sealed: chunks that were encoded and written, all fields of a chunk together.
        bytes_sealed: size of their files.
        sealing_seconds: time that this took, behind the caller.
        chunk_files_loaded: chunk files read whole to hold them in memory. A chunk has a file for each field. Chunks
            that this object sealed itself need no reading.
        bytes_loaded: size of those files.
        refreshes: times that a reader looked for new commits and found some.
        chunk_files_held: chunk files held in memory now.
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


_NOW = ("chunk_files_held", "bytes_held")  # what is, and not what happened
_COUNTED = tuple(field.name for field in fields(StoreStats) if field.name not in _NOW)


class Counters:
    """The counters of a store. Thread-safe: no increment is lost.

    Count once for a batch, or for a part of it that a thread reads, and not for each row.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts at 0 again, with a lock of its own: a forked child may have inherited one that is taken."""
        self._lock = threading.Lock()
        self._counts: dict[str, Any] = dict.fromkeys(_COUNTED, 0)

    def add(self, **increments: float) -> None:
        """Adds to counters by name. Raises `KeyError` for a name that `StoreStats` does not have."""
        with self._lock:
            for name, increment in increments.items():
                self._counts[name] += increment

    def stats(self, *, chunk_files_held: int, bytes_held: int) -> StoreStats:
        """All counters at one moment, and what the caller knows of the present."""
        with self._lock:
            counts = dict(self._counts)
        return StoreStats(**counts, chunk_files_held=chunk_files_held, bytes_held=bytes_held)
