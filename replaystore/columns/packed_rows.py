"""`PackedRows`: rows packed by a `PackingCodec`, such as floats rounded and clamped by `RoundClamp`."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.packing import PackingCodec, packing_codec
from replaystore.columns.chunks import ChunkMap, SealedColumn
from replaystore.columns.mapped import MappedChunk, MappedFile, map_rows, touched_rows
from replaystore.columns.row_codec import I64, U8, RowCodec, load_scheme, stored_shape, zarr_codec_of
from replaystore.errors import SpecError
from replaystore.kernels.row_copies import find_rows
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import FieldSpec


class PackedRows(RowCodec):
    """A column whose rows a `PackingCodec` packs.

    Args:
        codec: packs a row.
        shape: shape of a value. It has as many numbers as a row of the codec.
    """

    def __init__(self, codec: PackingCodec, shape: tuple[int, ...]) -> None:
        self._codec = codec
        self.shape = shape
        self.dtype = np.dtype(codec.dtype)
        self.row_bytes = codec.row_bytes

    @classmethod
    def takes(cls, scheme: str | None) -> bool:
        """Whether numcodecs knows a codec of this id that packs rows."""
        return packing_codec(scheme) is not None

    @classmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Self:
        """Rows of a field whose scheme is a packing codec; see `RowCodec`."""
        assert field.scheme is not None
        codec_class = packing_codec(field.scheme["id"])
        assert codec_class is not None
        name = field.scheme["id"].removeprefix("replaystore.")
        if field.is_image:
            raise SpecError(f"field {field.name!r}: {name} packs numbers, not images; leave the scheme out")
        codec: PackingCodec = load_scheme(field, codec_class)
        shape = stored_shape(field, mode)
        if codec.row_size != math.prod(shape) or codec.dtype != field.dtype:
            raise SpecError(
                f"field {field.name!r}: {name} packs rows of {codec.row_size} {codec.dtype}, the field has"
                f" {math.prod(shape)} {field.dtype}; give row_size={math.prod(shape)}, dtype={field.dtype!r}"
            )
        return cls(codec, shape)

    def zarr_codec(self) -> dict[str, Any]:
        """Returns the serializer that packs, as JSON."""
        return zarr_codec_of(self._codec)

    def to_rows(self, values: NDArray[Any]) -> tuple[U8, int]:
        """Packs values. See `RowCodec.to_rows`."""
        return self._codec.encode_rows(values.reshape(len(values), -1))

    def from_rows(self, rows: U8, out: NDArray[Any], targets: I64 | None = None) -> None:
        """Unpacks rows. See `RowCodec.from_rows`."""
        self._codec.decode_rows(rows, out.reshape(len(out), -1), targets=targets)

    def map_chunk(self, file: MappedFile, sealed: SealedColumn, chunk_rows: int) -> MappedChunk | None:
        """Makes a chunk of a file of rows in a map. See `RowCodec.map_chunk`."""
        return map_rows(file, sealed, chunk_rows)

    def read_cached(
        self, chunks: ChunkMap, window_rows: I64, out: NDArray[Any], workers: Workers, counters: Counters
    ) -> I64:
        """Unpacks rows where they lie if all are in memory, and otherwise reads none. See `RowCodec.read_cached`."""
        rows = window_rows.reshape(-1)
        which, rows_in_chunk = np.empty((2, len(rows)), np.int64)
        found = 0
        if chunks.cached:
            found = find_rows(rows, chunks.chunk_rows, chunks.first_chunk, chunks.addresses, which, rows_in_chunk)
        values = out.reshape(len(out), -1)
        if found < len(rows):
            return np.arange(len(rows))
        with touched_rows(chunks, window_rows, self.row_bytes) as from_maps:
            is_decoded = self._codec.decode_buffers(
                chunks.addresses, chunks.sizes, which, rows_in_chunk, values, np.arange(len(rows))
            )
        if not is_decoded:
            return np.arange(len(rows))
        counters.add(memory_bytes_read=len(rows) * self.row_bytes - from_maps, file_bytes_read=from_maps)
        return np.empty(0, np.int64)
