"""What a loader counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """What one loader did since it was made.

    Attributes:
        batches: returned to the consumer.
        waits: times that the batch asked for was not filled yet.
        wait_seconds: time that the consumer waited then.
        redraws: batches drawn again because another process had evicted rows of them.
        buffers: times that new memory was taken for a batch.
    """

    batches: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    redraws: int = 0
    buffers: int = 0
