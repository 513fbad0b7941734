"""What happens to chunks, and who has to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replaystore.columns.chunks import CachedChunk

Sealed = Callable[[int, Sequence[CachedChunk]], None]
Chunks = Callable[[list[int]], None]


class ChunkEvents:
    """Passes on what happens to chunks, in the thread in which it happens.

    A store is put together with one such object. Subscribers are called in the order in which they came.

    - sealed: a chunk with live rows has its files. Subscribers get its number and, one per column, what its file
      holds.
    - retired: chunks have lost their last live row. Published under the store's lock.
    - released: no batch in flight can need these retired chunks any more. Published under the store's lock.
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
            sealed: for each sealed chunk. What it raises, the writer's next call raises.
            retired: for retired chunks.
            released: for released chunks.
        """
        self._on_sealed += [] if sealed is None else [sealed]
        self._on_retired += [] if retired is None else [retired]
        self._on_released += [] if released is None else [released]

    def sealed(self, chunk: int, contents: Sequence[CachedChunk]) -> None:
        """Publishes that a chunk was sealed.

        Args:
            chunk: its number.
            contents: one per column.
        """
        for call in self._on_sealed:
            call(chunk, contents)

    def retired(self, chunks: list[int]) -> None:
        """Publishes that chunks have lost their last live row."""
        for call in self._on_retired:
            call(chunks)

    def released(self, chunks: list[int]) -> None:
        """Publishes that no batch in flight can need these chunks."""
        for call in self._on_released:
            call(chunks)
