"""`RawRows` stores values unchanged, little-endian. A row of images is one frame, or in mode `disk` a whole stack."""

from __future__ import annotations

import sys
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.chunks import ChunkMap, Placement, SealedColumn
from replaystore.columns.mapped import MappedChunk, MappedFile, map_rows, touched_rows
from replaystore.columns.row_codec import I64, U8, RowCodec, row_bytes_of, stored_shape
from replaystore.kernels.observations import PixelLayout, emit_frames
from replaystore.kernels.row_copies import copy_windows
from replaystore.runtime import trace
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import FieldSpec

_LITTLE_ENDIAN = sys.byteorder == "little"


class RawRows(RowCodec):
    """A column whose rows are the bytes of their values.

    Args:
        shape: shape of a value.
        dtype: dtype of a value.
        channels_last: whether channels come last. The frames of a stack are then interleaved pixel by pixel.
    """

    stores_values = True

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, channels_last: bool = False) -> None:
        self.shape = shape
        self.dtype = dtype
        self.row_bytes = row_bytes_of(shape, dtype)
        self._channels_last = channels_last

    @classmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Self:
        """Returns the column of a field without a scheme."""
        return cls(stored_shape(field, mode), np.dtype(field.dtype), channels_last=field.channels == "last")

    def zarr_codec(self) -> dict[str, Any]:
        """Returns Zarr's `bytes` codec, as JSON."""
        return bytes_codec(self.dtype)

    def to_rows(self, values: NDArray[Any]) -> tuple[U8, int]:
        """Returns the bytes of the values. It clamps none."""
        little = np.ascontiguousarray(values, dtype=self.dtype.newbyteorder("<"))
        return little.reshape(len(values), -1).view(np.uint8).reshape(len(values), self.row_bytes), 0

    def from_rows(self, rows: U8, out: NDArray[Any], targets: I64 | None = None) -> None:
        """Copies the values of stored rows. See `RowCodec.from_rows`."""
        values = rows.reshape(-1).view(self.dtype.newbyteorder("<")).reshape(len(rows), *self.shape)
        out.reshape(len(out), *self.shape)[slice(None) if targets is None else targets] = values

    def place(self, rows: U8, placement: Placement) -> None:
        """Writes stored rows into a batch. See `RowCodec.place`."""
        depth, out = placement.depth, placement.out
        if depth == 1:
            self.from_rows(rows, out, placement.targets)
            return
        last = self._channels_last
        channels = 1 if len(self.shape) == 2 else self.shape[-1] if last else self.shape[0]
        layout = PixelLayout(self.row_bytes // channels, channels, last, False, last)
        frames = np.arange(len(rows))
        status = emit_frames(rows, frames, placement.targets, placement.slots, depth, layout, out.reshape(len(out), -1))
        assert status == 0, "indices outside the batch"

    def direct_rows(self, out: NDArray[Any], depth: int) -> U8 | None:
        """Returns `out` as rows. None if the frames of a stack are interleaved pixel by pixel."""
        if (depth > 1 and self._channels_last) or not (_LITTLE_ENDIAN or self.dtype.itemsize == 1):
            return None
        return out.reshape(-1).view(np.uint8).reshape(len(out) * depth, self.row_bytes)

    def map_chunk(self, file: MappedFile, sealed: SealedColumn, chunk_rows: int) -> MappedChunk | None:
        """Makes a chunk of a file of rows in a map. See `RowCodec.map_chunk`."""
        return map_rows(file, sealed, chunk_rows)

    def read_cached(
        self, chunks: ChunkMap, window_rows: I64, out: NDArray[Any], workers: Workers, counters: Counters
    ) -> I64:
        """Copies the values whose rows are all in memory. See `RowCodec.read_cached`."""
        num_windows, depth = window_rows.shape
        direct = self.direct_rows(out, depth) if chunks.cached else None
        if direct is None:
            return np.arange(window_rows.size)
        values = direct.reshape(num_windows, depth * self.row_bytes)
        missing = np.empty(num_windows, np.int64)
        results: list[tuple[int, int, int, int]] = []

        def copy(start: int, stop: int) -> None:
            with touched_rows(chunks, window_rows[start:stop], self.row_bytes) as mapped_bytes:
                count, copied = trace.call(
                    copy_windows, chunks.addresses, chunks.sizes, chunks.first_chunk, chunks.chunk_rows, self.row_bytes,
                    window_rows[start:stop], values[start:stop], missing[start:stop],
                )  # fmt: skip
            results.append((start, count, copied, mapped_bytes))

        workers.share(copy, workers.edges(num_windows))
        from_maps = sum(mapped_bytes for _, _, _, mapped_bytes in results)
        copied = self.row_bytes * sum(copied for _, _, copied, _ in results)
        counters.add(memory_bytes_read=max(0, copied - from_maps), file_bytes_read=min(copied, from_maps))
        left = [start + missing[start : start + count] for start, count, _, _ in results if count]
        if not left:
            return np.empty(0, np.int64)
        windows = np.concatenate(left)
        return np.repeat(windows * depth, depth) + np.tile(np.arange(depth), len(windows))


def bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Returns Zarr's codec for unchanged little-endian values, as JSON."""
    return {"name": "bytes", **({"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {})}
