"""Where the chunks of a column lie in memory, as arrays for kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk, FrameFormat
from replaystore.storage.reading.sources import Held

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class ChunkMap:
    """Chunks known at one moment; a batch uses one map throughout. Entry c is of chunk `first_chunk + c`.

    Attributes:
        data, sizes: int64, address and length of a chunk held in memory; 0 where it is not.
        files: int64, -1 each: for kernels that take either.
        tables, num_groups: int64, address and entries of a frame chunk's table of groups; 0 where it is not known.
        payloads: int64, where a held frame chunk's groups start; 0 where it is not held.
        payload_offsets: int64, the same, counted from the start of the chunk.
        formats: int64, index in `all_formats`.
        held, heads: chunks in memory; headers and tables of others. They keep the memory alive.
    """

    first_chunk: int
    data: I64
    sizes: I64
    files: I64
    tables: I64
    num_groups: I64
    payloads: I64
    payload_offsets: I64
    formats: I64
    all_formats: tuple[FrameFormat, ...]
    held: Mapping[int, Held]
    heads: Mapping[int, FrameChunk]

    @property
    def has_one_format(self) -> bool:
        """Whether all frame chunks are of one format, as is usual."""
        return len(self.all_formats) == 1

    def holds(self, chunks: I64) -> NDArray[np.bool_]:
        """Which chunks are in memory, bool like `chunks`."""
        return self._known(self.data, chunks)

    def has_table(self, chunks: I64) -> NDArray[np.bool_]:
        """Of which chunks the table of groups is known, bool like `chunks`."""
        return self._known(self.tables, chunks)

    def _known(self, addresses: I64, chunks: I64) -> NDArray[np.bool_]:
        if not addresses.size:
            return np.zeros(chunks.shape, bool)
        places = chunks - self.first_chunk
        known: NDArray[np.bool_] = addresses[places.clip(0, addresses.size - 1)] != 0
        return known & (places >= 0) & (places < addresses.size)


def make_chunk_map(held: Mapping[int, Held], heads: Mapping[int, FrameChunk]) -> ChunkMap:
    """The map of chunks held, and of those in files whose header and table were read. Takes the mappings over."""
    numbers = [*held, *(number for number in heads if number not in held)]
    first = min(numbers, default=0)
    count = max(numbers, default=-1) - first + 1
    data, sizes, tables, num_groups, payloads, payload_offsets, formats = np.zeros((7, count), np.int64)
    indices: dict[FrameFormat, int] = {}
    for number in numbers:
        at = number - first
        chunk = held.get(number)
        parsed = heads[number] if chunk is None else chunk.parsed
        if chunk is not None:
            data[at], sizes[at] = chunk.address, chunk.data.size
        if parsed is not None:
            tables[at], num_groups[at] = parsed.table_address, len(parsed.table)
            payload_offsets[at] = parsed.payload_start
            payloads[at] = 0 if chunk is None else chunk.address + parsed.payload_start
            formats[at] = indices.setdefault(parsed.format, len(indices))
    return ChunkMap(
        first, data, sizes, np.full(count, -1, np.int64), tables, num_groups, payloads, payload_offsets, formats,
        tuple(indices), held, heads,
    )  # fmt: skip
