"""What a reader raises where a chunk is not where the catalog says."""

from __future__ import annotations

from replaystore.errors import ChunkError, Evicted


class Missing(Exception):
    """A chunk is not where the catalog says. The catalog may be behind the files: look again after a refresh.

    Attributes:
        chunk: name of the column, and number of the chunk.
        error: what to raise where the chunk stays missing.
    """

    def __init__(self, chunk: tuple[str, int], error: Evicted | ChunkError) -> None:
        super().__init__(str(error))
        self.chunk = chunk
        self.error = error
