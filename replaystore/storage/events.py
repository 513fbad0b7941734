"""Events of chunks: sealed, retired, released."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replaystore.columns.chunks import CachedChunk

Sealed = Callable[[int, Sequence[CachedChunk]], None]
Chunks = Callable[[list[int]], None]


class ChunkEvents:
    """Publishes events of chunks to subscribers.

    Each open store has one such object. Subscribers are called in the order in which they subscribed, in the thread
    that publishes the event.

    - sealed: a chunk with live rows has its files. Subscribers get its number and its contents, one per column.
    - retired: chunks have lost their last live row. The publisher holds the store's lock.
    - released: no batch in flight needs these retired chunks any more. The publisher holds the store's lock.
    """

    def __init__(self) -> None:
        self._on_sealed: list[Sealed] = []
        self._on_retired: list[Chunks] = []
        self._on_released: list[Chunks] = []

    def subscribe(
        self, *, sealed: Sealed | None = None, retired: Chunks | None = None, released: Chunks | None = None
    ) -> None:
        """Calls these functions from now on.

        Args:
            sealed: called for each sealed chunk. If it raises an error, the writer's next call raises that error.
            retired: called with the numbers of retired chunks.
            released: called with the numbers of released chunks.
        """
        self._on_sealed += [] if sealed is None else [sealed]
        self._on_retired += [] if retired is None else [retired]
        self._on_released += [] if released is None else [released]

    def sealed(self, chunk: int, contents: Sequence[CachedChunk]) -> None:
        """Publishes that a chunk was sealed.

        Args:
            chunk: number of the chunk.
            contents: what its files hold, one per column.
        """
        for call in self._on_sealed:
            call(chunk, contents)

    def retired(self, chunks: list[int]) -> None:
        """Publishes that chunks have lost their last live row."""
        for call in self._on_retired:
            call(chunks)

    def released(self, chunks: list[int]) -> None:
        """Publishes that no batch in flight needs these chunks any more."""
        for call in self._on_released:
            call(chunks)
