"""The base class of all kinds of columns: values to stored rows, rows to chunk files, and back into batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar, Self

import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

from replaystore.columns import checksums
from replaystore.columns.chunks import CachedChunk, ChunkFile, ChunkMap, ChunkSource, Placement, SealedColumn
from replaystore.columns.mapped import MappedChunk, MappedFile
from replaystore.errors import ChunkError, SpecError
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import FieldSpec

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

ROW_CRC_BYTES = 1024  # rows at least this large have a checksum each
NO_CRCS = np.empty(0, np.uint32)


class RowCodec(ABC):
    """A kind of column: how the rows of a field are stored, checked and read. Threads share one frozen object.

    This is not a numcodecs `Codec`. A `Codec` turns an array into bytes and back, and plain Zarr readers use it to
    decode a chunk (see `replaystore.codecs`). A `RowCodec` does everything that the store does with a column. Where the
    field has a scheme, it calls the `Codec` of that scheme.

    A new kind is a subclass in its own module and a line in `registry`. The defaults suit a kind whose chunk files hold
    the rows one after another. A kind that encodes its chunk files sets `is_encoded` and overrides `encode_chunk`,
    `parse`, `seal`, `verify`, `read_table` and `read_encoded` together.

    Attributes:
        scheme: `id` of the `Codec` in the scheme of a field. None for fields without a scheme.
        is_encoded: whether sealed chunk files hold something other than the rows.
        stores_values: whether a stored row is the bytes of its value.
        shape: shape of the value of a stored row, as Zarr shows it.
        dtype: dtype of the values that reading returns.
        row_bytes: bytes per stored row in tail files, and in chunk files that are not encoded.
    """

    scheme: ClassVar[str | None] = None
    is_encoded: ClassVar[bool] = False
    stores_values: ClassVar[bool] = False
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    row_bytes: int

    # Fields

    @classmethod
    def takes(cls, scheme: str | None) -> bool:
        """Whether a field with a scheme of this id, or without one, is a column of this kind."""
        return scheme == cls.scheme

    @classmethod
    @abstractmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Self:
        """Returns an object of this kind with the settings of a field.

        Raises:
            SpecError: the scheme does not load, or it does not fit the field or the mode.
        """

    @classmethod
    def implied_scheme(cls, field: FieldSpec, mode: str) -> Mapping[str, Any] | None:
        """Returns the scheme that this kind gives to a field without one in a store of `mode`. None: it gives none."""
        return None

    @abstractmethod
    def zarr_codec(self) -> dict[str, Any]:
        """Returns the serializer of the Zarr array, as JSON."""

    # Values and rows

    @abstractmethod
    def to_rows(self, values: NDArray[Any]) -> tuple[U8, int]:
        """Converts values to stored rows.

        Args:
            values: (rows, *shape).

        Returns:
            The rows, uint8 (rows, row_bytes), and the number of values that were clamped.

        Raises:
            EpisodeError: the kind cannot store a value.
        """

    @abstractmethod
    def from_rows(self, rows: U8, out: NDArray[Any], targets: I64 | None = None) -> None:
        """Converts stored rows to values: `out[targets[j]]` becomes the value of row j.

        Args:
            rows: uint8 (n, row_bytes).
            out: (n, ...), C-contiguous. It may be longer if there are targets.
            targets: int64 (n,). None: row j goes to `out[j]`.

        Raises:
            ChunkError: the bytes are not a value of this kind.
        """

    def place(self, rows: U8, placement: Placement) -> None:
        """Writes the values of stored rows, uint8 (n, row_bytes), into a batch."""
        assert placement.depth == 1, "values of several rows"
        self.from_rows(rows, placement.out, placement.targets)

    def direct_rows(self, out: NDArray[Any], depth: int) -> U8 | None:
        """Returns `out` as uint8 (n * depth, row_bytes) if stored rows can be copied straight into it, else None."""
        return None

    # Chunks in memory

    def map_of(self, cached: Mapping[int, CachedChunk], chunk_rows: int) -> ChunkMap:
        """Returns the arrays through which `read_cached` finds the chunks in memory.

        Args:
            cached: the chunks by number. The map keeps this mapping, so do not change it afterwards.
            chunk_rows: rows per chunk.
        """
        return ChunkMap.of(cached, chunk_rows)

    def read_cached(
        self, chunks: ChunkMap, window_rows: I64, out: NDArray[Any], workers: Workers, counters: Counters
    ) -> I64:
        """Reads rows of chunks in memory. This is the fast path: it calls one kernel per worker.

        The default reads nothing.

        Args:
            chunks: the map that `map_of` returned.
            window_rows: int64 (n, depth), C-contiguous, the stored rows of each value. -1 stands for a row of zeros.
            out: (n, ...), C-contiguous, the values.
            workers: threads that share the work.
            counters: count the bytes read.

        Returns:
            int64, positions in the flattened `window_rows` of the rows that were not read.

        Raises:
            ChunkError: a chunk is damaged.
        """
        return np.arange(window_rows.size)

    def map_chunk(self, file: MappedFile, sealed: SealedColumn, chunk_rows: int) -> MappedChunk | None:
        """Makes a chunk of a sealed file in a memory map, for `map_of` and `read_cached`.

        The default returns None, and the files are read with `pread` in place of a map. A kind that overrides it has to
        touch what its `read_cached` reads, with `touched_rows` or `touched_groups`.

        Args:
            file: the map.
            sealed: the log's record of the file.
            chunk_rows: rows per chunk.

        Raises:
            ChunkError: the file is damaged.
        """
        return None

    # Sealed chunks

    def encode_chunk(self, rows: U8, starts: Sequence[int], helper: Executor | None) -> bytes | None:
        """Returns the bytes of a chunk file. None if the file holds the rows themselves.

        Args:
            rows: uint8 (rows per chunk, row_bytes), padded with zeros. If a chunk is returned, they may have changed.
            starts: rows in the chunk where a commit starts, ascending. The last entry is the number of rows in use.
            helper: runs a second thread for encoding. None: encode in the calling thread alone.
        """
        return None

    def parse(self, data: U8, label: str) -> Any:
        """Parses the bytes of a chunk file as far as reading it from memory needs.

        Args:
            data: uint8 (file bytes,).
            label: names the chunk in errors.

        Returns:
            The parsed form, which `CachedChunk.parsed` holds. None if the kind needs none.

        Raises:
            ChunkError: the bytes are not a chunk of this kind.
        """
        return None

    def seal(self, chunk: CachedChunk, num_rows: int) -> SealedColumn:
        """Returns what the log records about a chunk file with `num_rows` rows in use."""
        data = chunk.data
        if self._has_row_crcs:
            return SealedColumn(data.size, 0, checksums.row_crcs(data.reshape(-1, self.row_bytes)[:num_rows]))
        return SealedColumn(data.size, checksums.crc_of(data), NO_CRCS)

    def verify(self, data: U8, sealed: SealedColumn, num_rows: int, label: str) -> CachedChunk:
        """Checks every byte of a chunk file against the log and returns the chunk.

        Args:
            data: uint8 (file bytes,), as long as the log says.
            sealed: the log's record of the file.
            num_rows: rows in use.
            label: names the file in errors.

        Raises:
            ChunkError: the file differs from the one that was sealed.
        """
        if self._has_row_crcs:
            rows = data.reshape(-1, self.row_bytes)
            checksums.check_rows(label, sealed.row_crcs, rows[:num_rows], np.arange(num_rows))
            if rows[num_rows:].any():
                raise ChunkError(f"{label}: bytes behind its {num_rows} rows are not zero; the file is damaged")
        else:
            checksums.check_crc(label, sealed.root_crc, checksums.crc_of(data))
        return CachedChunk(data, self.parse(data, label))

    # Chunk files that are encoded

    def read_table(self, file: ChunkFile, sealed: SealedColumn, label: str) -> Any:
        """Reads the table that `read_encoded` needs before it reads rows of an encoded chunk file.

        Raises:
            ChunkError: the file is damaged, or it differs from the one that was sealed.
        """
        raise NotImplementedError(f"{type(self).__name__}: chunk files hold the rows themselves")

    def read_encoded(
        self, sources: Sequence[ChunkSource], rows: I64, chunk_rows: int, placement: Placement, counters: Counters
    ) -> None:
        """Reads rows of sealed, encoded chunks into a batch.

        Args:
            sources: the chunks. Each is in memory, or is an open file with its table.
            rows: int64 (n,), ascending. Row r of source s has the number s * chunk_rows + r.
            chunk_rows: rows per chunk.
            placement: where each row goes.
            counters: count the bytes read.

        Raises:
            ChunkError: a chunk is damaged.
        """
        raise NotImplementedError(f"{type(self).__name__}: chunk files hold the rows themselves")

    @property
    def _has_row_crcs(self) -> bool:
        return self.row_bytes >= ROW_CRC_BYTES


def stored_shape(field: FieldSpec, mode: str) -> tuple[int, ...]:
    """Returns the shape of a stored row. It is a whole stack in mode `disk`, else one frame or value."""
    return field.stacked_shape if mode == "disk" else field.shape


def row_bytes_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Returns the bytes per row of values."""
    return math.prod(shape) * dtype.itemsize


def load_scheme(field: FieldSpec, codec_class: type[Codec]) -> Any:
    """Returns a `Codec` with the settings of a field's scheme.

    Args:
        field: a field with a scheme.
        codec_class: the class that the scheme's `id` names.

    Raises:
        SpecError: the settings do not load.
    """
    assert field.scheme is not None
    settings = dict(field.scheme)
    identity = settings.pop("id")
    try:
        return codec_class.from_config(settings)
    except (ValueError, TypeError) as err:
        raise SpecError(f"field {field.name!r}: scheme {identity!r} does not load: {err}") from err


def zarr_codec_of(codec: Codec) -> dict[str, Any]:
    """Returns the serializer of a `Codec` of this package, as JSON."""
    settings = dict(codec.get_config())
    return {"name": settings.pop("id"), "configuration": settings}
