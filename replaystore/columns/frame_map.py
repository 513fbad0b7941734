"""Frame chunks in memory, as arrays for kernels. The table of groups inside a chunk serves as the index of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replaystore.codecs.frame_delta.chunk import FrameFormat
from replaystore.columns.chunks import CachedChunk, ChunkMap
from replaystore.kernels.group_request import GroupTable


@dataclass(frozen=True)
class FrameMap(ChunkMap):
    """A `ChunkMap` of frame chunks.

    Attributes:
        table: the tables of groups of all chunks. Its `payloads` are addresses.
        formats: the formats of the chunks, each once. Usually there is one.
    """

    table: GroupTable
    formats: tuple[FrameFormat, ...]

    @classmethod
    def of(cls, cached: Mapping[int, CachedChunk], chunk_rows: int) -> FrameMap:
        """Returns the map of frame chunks given by number. It keeps the mapping, so do not change it afterwards."""
        base = ChunkMap.of(cached, chunk_rows)
        addresses, num_groups, payloads = np.zeros((3, len(base.addresses)), np.int64)
        for number, chunk in cached.items():
            at, parsed = number - base.first_chunk, chunk.parsed
            addresses[at], num_groups[at] = parsed.table_address, len(parsed.table)
            payloads[at] = chunk.address + parsed.payload_start
        table = GroupTable(addresses, num_groups, payloads, base.first_chunk, chunk_rows)
        formats = tuple({chunk.parsed.format for chunk in cached.values()})
        return cls(**vars(base), table=table, formats=formats)
