"""`Missing`: a chunk is not where the catalog says."""

from __future__ import annotations

from replaystore.errors import ChunkError, Evicted


class Missing(Exception):
    """A chunk is not where the catalog says. The files may be newer than the catalog: refresh it and try again.

    Attributes:
        chunk: name of the column and number of the chunk.
        error: the error to raise if the chunk stays missing.
    """

    def __init__(self, chunk: tuple[str, int], error: Evicted | ChunkError) -> None:
        super().__init__(str(error))
        self.chunk = chunk
        self.error = error
