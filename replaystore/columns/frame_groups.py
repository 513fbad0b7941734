"""`FrameGroups` stores images as frame differences. Tail rows are raw frames, and chunk files hold groups of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.frame_delta.chunk import FrameChunk
from replaystore.codecs.frame_delta.codec import check_groups
from replaystore.codecs.frame_delta.groups import decode_groups
from replaystore.codecs.frame_delta.requests import find_window_groups
from replaystore.columns.chunks import CachedChunk, ChunkFile, ChunkMap, ChunkSource, Placement, SealedColumn
from replaystore.columns.frame_encoding import encode_frames
from replaystore.columns.frame_files import FrameTable, check_root, read_frame_table, read_frames
from replaystore.columns.frame_map import FrameMap
from replaystore.columns.mapped import MappedChunk, MappedFile, touched_groups
from replaystore.columns.raw_rows import RawRows
from replaystore.columns.row_codec import I64, NO_CRCS, U8, load_scheme, stored_shape, zarr_codec_of
from replaystore.errors import SpecError
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import FieldSpec


class FrameGroups(RawRows):
    """A column of frames whose chunk files the `Codec` `FrameDelta` encodes.

    Args:
        codec: encodes the frames.
        channels_last: whether channels come last in observations.
    """

    scheme = FrameDelta.codec_id
    is_encoded = True

    def __init__(self, codec: FrameDelta, *, channels_last: bool) -> None:
        super().__init__(codec.frame_shape, np.dtype(np.uint8), channels_last=channels_last)
        self._codec = codec

    @classmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Self:
        """Returns the column of a field with scheme `frame_delta`. See `RowCodec.of_field`."""
        if mode != "full" or not field.is_image:
            raise SpecError(f"field {field.name!r}: frame_delta is for images in mode 'full', not {mode!r}")
        codec: FrameDelta = load_scheme(field, FrameDelta)
        shape = stored_shape(field, mode)
        if codec.frame_shape != shape or (len(shape) == 3 and codec.channels != field.channels):
            raise SpecError(
                f"field {field.name!r}: frame_delta holds frames {codec.frame_shape} channels {codec.channels},"
                f" the field has {field.shape} channels {field.channels}"
            )
        return cls(codec, channels_last=field.channels == "last")

    @classmethod
    def implied_scheme(cls, field: FieldSpec, mode: str) -> Mapping[str, Any] | None:
        """Returns the codec's defaults for images in mode `full`, and None for other fields."""
        if mode != "full" or not field.is_image:
            return None
        scheme: dict[str, Any] = FrameDelta(frame_shape=field.shape, channels=field.channels or "first").get_config()
        return scheme

    def zarr_codec(self) -> dict[str, Any]:
        """Returns the serializer that encodes frames, as JSON."""
        return zarr_codec_of(self._codec)

    # Chunks in memory

    def map_of(self, cached: Mapping[int, CachedChunk], chunk_rows: int) -> ChunkMap:
        """Returns the map of the chunks, with their tables of groups. See `RowCodec.map_of`."""
        return FrameMap.of(cached, chunk_rows)

    def read_cached(
        self, chunks: ChunkMap, window_rows: I64, out: NDArray[Any], workers: Workers, counters: Counters
    ) -> I64:
        """Decodes frames of chunks in memory, each group once. See `RowCodec.read_cached`."""
        assert isinstance(chunks, FrameMap), "a map of another column"
        found = find_window_groups(chunks.table, window_rows) if len(chunks.formats) == 1 else None
        if found is None:
            return np.arange(window_rows.size)
        request, others = found
        fmt, depth, observations = chunks.formats[0], window_rows.shape[1], out.reshape(len(out), -1)

        def label(g: int) -> str:
            return f"chunk {chunks.first_chunk + request.chunks[g]} in memory, group {request.numbers[g]}"

        from_maps: list[int] = []

        def decode(start: int, stop: int) -> None:
            with touched_groups(chunks, request, start, stop) as mapped_bytes:
                decode_groups(request, fmt, self._channels_last, depth, observations, label, start, stop)
            from_maps.append(mapped_bytes)

        ends = np.cumsum(request.lengths)
        workers.share(decode, workers.edges_by_weight(ends))
        if len(ends):
            mapped_bytes = sum(from_maps)
            counters.add(
                groups_decoded=len(ends), memory_bytes_read=int(ends[-1]) - mapped_bytes, file_bytes_read=mapped_bytes
            )
        return others

    # Sealed chunks

    def encode_chunk(self, rows: U8, starts: Sequence[int], helper: Executor | None) -> bytes | None:
        """Encodes a chunk as groups of frames. No group crosses a commit, and the helper encodes half of them."""
        return encode_frames(self._codec, rows.reshape(len(rows), *self.shape), starts, helper)

    def parse(self, data: U8, label: str) -> FrameChunk:
        """Parses and checks the header and table of a chunk."""
        return self._codec.parse(data.data, label)

    def seal(self, chunk: CachedChunk, num_rows: int) -> SealedColumn:
        """Returns the log's record: the CRC of header and table. The table holds the CRCs of the groups."""
        return SealedColumn(chunk.data.size, chunk.parsed.root_crc, NO_CRCS)

    def verify(self, data: U8, sealed: SealedColumn, num_rows: int, label: str) -> CachedChunk:
        """Checks the header, the table and every group of a chunk. See `RowCodec.verify`."""
        parsed = self.parse(data, label)
        check_root(label, sealed, parsed)
        check_groups(data.data[parsed.payload_start :], parsed, label)
        return CachedChunk(data, parsed)

    def read_table(self, file: ChunkFile, sealed: SealedColumn, label: str) -> FrameTable:
        """Reads the header and table of a chunk file. See `RowCodec.read_table`."""
        return read_frame_table(file, sealed, label)

    def map_chunk(self, file: MappedFile, sealed: SealedColumn, chunk_rows: int) -> MappedChunk:
        """Reads the header and table of a chunk in a map. Its groups are checked when they are first read."""
        chunk = self.read_table(file, sealed, str(file.path)).chunk
        return MappedChunk(np.asarray(file), chunk, file, chunk.table["crc"], np.zeros(len(chunk.table), np.uint8))

    def read_encoded(
        self, sources: Sequence[ChunkSource], rows: I64, chunk_rows: int, placement: Placement, counters: Counters
    ) -> None:
        """Decodes frames of sealed chunks, each group once. See `RowCodec.read_encoded`."""
        read_frames(sources, rows, chunk_rows, placement, self._channels_last, counters)
