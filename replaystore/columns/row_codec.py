"""What a kind of column is: how values become stored rows, what chunk files hold, and how rows are read back."""

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
from replaystore.errors import ChunkError, SpecError
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.spec import FieldSpec

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

ROW_CRC_BYTES = 1024  # rows at least this large have a checksum each
NO_CRCS = np.empty(0, np.uint32)


class RowCodec(ABC):
    """How one column is stored. Frozen: one object serves all threads.

    A new kind is a subclass in a module of its own, and a line in `registry`. The defaults are those of a kind whose
    chunk files are the rows themselves, one after another. A kind that encodes its chunk files sets `is_encoded` and
    overrides `encode_chunk`, `parse`, `seal`, `verify`, `read_table` and `read_encoded` together.

    Attributes:
        scheme: the `id` of the codec's configuration in a field's scheme; None for fields without one.
        is_encoded: whether sealed chunk files hold something other than the rows.
        stores_values: whether a stored row is the bytes of its value.
        shape: of the value of a stored row, as Zarr shows it.
        dtype: of the values, as they come back.
        row_bytes: of a stored row in tail files, and in chunk files that are not encoded.
    """

    scheme: ClassVar[str | None] = None
    is_encoded: ClassVar[bool] = False
    stores_values: ClassVar[bool] = False
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    row_bytes: int

    # What fields the kind is for

    @classmethod
    def takes(cls, scheme: str | None) -> bool:
        """Whether a field with a scheme of this id, or without one, is a column of this kind."""
        return scheme == cls.scheme

    @classmethod
    @abstractmethod
    def of_field(cls, field: FieldSpec, mode: str) -> Self:
        """The kind with the settings of a field.

        Raises:
            SpecError: the scheme does not load, or does not fit the field or the mode.
        """

    @classmethod
    def implied_scheme(cls, field: FieldSpec, mode: str) -> Mapping[str, Any] | None:
        """The scheme of this kind for a field that names none in a store of `mode`; None where there is none."""
        return None

    @abstractmethod
    def zarr_codec(self) -> dict[str, Any]:
        """The serializer of the Zarr array, as JSON."""

    # Values and rows

    @abstractmethod
    def to_rows(self, values: NDArray[Any]) -> tuple[U8, int]:
        """Stored rows, uint8 (rows, row_bytes), of values (rows, *shape), and how many values were clamped.

        Raises:
            EpisodeError: the kind cannot store a value.
        """

    @abstractmethod
    def from_rows(self, rows: U8, out: NDArray[Any], targets: I64 | None = None) -> None:
        """out[targets[j]] = the value of stored row j.

        Args:
            rows: uint8 (n, row_bytes).
            out: (n, ...), or with more rows where there are targets; C-contiguous.
            targets: int64 (n,); None: one after another.

        Raises:
            ChunkError: the bytes are no value of the kind.
        """

    def place(self, rows: U8, placement: Placement) -> None:
        """Puts the values of stored rows, uint8 (n, row_bytes), into a batch."""
        assert placement.depth == 1, "values of several rows"
        self.from_rows(rows, placement.out, placement.targets)

    def direct_rows(self, out: NDArray[Any], depth: int) -> U8 | None:
        """`out` as uint8 (n * depth, row_bytes) where stored rows can be copied straight into it; else None."""
        return None

    # Chunks in memory

    def map_of(self, cached: Mapping[int, CachedChunk], chunk_rows: int) -> ChunkMap:
        """The arrays through which `read_cached` finds chunks in memory, by number."""
        return ChunkMap.of(cached, chunk_rows)

    def read_cached(
        self, chunks: ChunkMap, window_rows: I64, out: NDArray[Any], workers: Workers, counters: Counters
    ) -> I64:
        """The fast path: reads rows of chunks in memory, with one call of a kernel for each worker.

        Args:
            chunks: what `map_of` returned.
            window_rows: int64 (n, depth), C-contiguous; the stored rows of each value, -1 for a row of zeros.
            out: values, (n, ...), C-contiguous.
            workers: threads that share the work.
            counters: count what is read.

        Returns:
            int64, the positions in `window_rows`, counted flat, of the rows that were not read.

        Raises:
            ChunkError: a chunk is damaged.
        """
        return np.arange(window_rows.size)

    # Sealed chunks

    def encode_chunk(self, rows: U8, starts: Sequence[int], helper: Executor | None) -> bytes | None:
        """The bytes of a chunk file; None where they are the rows themselves.

        Args:
            rows: uint8 (rows per chunk, row_bytes), padded with zeros.
            starts: rows of the chunk at which a commit starts, ascending, and last the number of rows in use.
            helper: a second thread to encode with; None where there is none.
        """
        return None

    def parse(self, data: U8, label: str) -> Any:
        """What reading from memory needs of the bytes of a chunk file, uint8 (file bytes,); None for nothing.

        Raises:
            ChunkError: they are no chunk of this kind; `label` names it.
        """
        return None

    def seal(self, chunk: CachedChunk, num_rows: int) -> SealedColumn:
        """What the log says of a chunk file with `num_rows` rows in use."""
        data = chunk.data
        if self._has_row_crcs:
            return SealedColumn(data.size, 0, checksums.row_crcs(data.reshape(-1, self.row_bytes)[:num_rows]))
        return SealedColumn(data.size, checksums.crc_of(data), NO_CRCS)

    def verify(self, data: U8, sealed: SealedColumn, num_rows: int, label: str) -> CachedChunk:
        """The chunk, after every byte of its file was compared with what was sealed.

        Args:
            data: uint8 (file bytes,), of the length that was sealed.
            sealed: what the log says of it.
            num_rows: rows in use.
            label: names the file in errors.

        Raises:
            ChunkError: it is not what was sealed.
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
        """What `read_encoded` needs to know of an encoded chunk file before it reads rows of it.

        Raises:
            ChunkError: the file is damaged, or not what was sealed.
        """
        raise NotImplementedError(f"{type(self).__name__}: chunk files hold the rows themselves")

    def read_encoded(
        self, sources: Sequence[ChunkSource], rows: I64, chunk_rows: int, placement: Placement, counters: Counters
    ) -> None:
        """Reads rows of sealed chunks, in files or in memory, into a batch.

        Args:
            sources: the chunks, each in memory, or an open file and its table.
            rows: int64 (n,), ascending; row r of source s is number s * chunk_rows + r.
            chunk_rows: rows per chunk.
            placement: where each row goes.
            counters: count what is read.

        Raises:
            ChunkError: a chunk is damaged.
        """
        raise NotImplementedError(f"{type(self).__name__}: chunk files hold the rows themselves")

    @property
    def _has_row_crcs(self) -> bool:
        return self.row_bytes >= ROW_CRC_BYTES


def stored_shape(field: FieldSpec, mode: str) -> tuple[int, ...]:
    """The shape of a stored row: of a whole stack in mode `disk`, else of a frame or value."""
    return field.stacked_shape if mode == "disk" else field.shape


def row_bytes_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of a row of values."""
    return math.prod(shape) * dtype.itemsize


def load_scheme(field: FieldSpec, codec_class: type[Codec]) -> Any:
    """The codec of a class with the settings of a field's scheme.

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
    """The serializer of a codec of this package, as JSON."""
    settings = dict(codec.get_config())
    return {"name": settings.pop("id"), "configuration": settings}
