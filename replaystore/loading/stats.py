"""`LoaderStats`: the counters of a loader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """The counters of one loader since it was made.

    Attributes:
        batches: batches returned to the consumer.
        waits: times that the next batch was not filled yet.
        wait_seconds: time that the consumer waited for batches.
        redraws: batches drawn again because another process had evicted some of their rows.
        buffers: times that memory for a batch was allocated.
    """

    batches: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    redraws: int = 0
    buffers: int = 0
