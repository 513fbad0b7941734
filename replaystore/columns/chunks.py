"""Chunks of a column as they are passed between the storage, which finds them, and the kinds of columns, which read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class SealedColumn:
    """What the log says of the chunk file of one column.

    Attributes:
        file_bytes: length of the file.
        root_crc: CRC32C of the whole file, or of what its kind checks first; 0 where each row has a CRC.
        row_crcs: uint32 (rows,), CRC32C of each row; empty where rows have none.
    """

    file_bytes: int
    root_crc: int
    row_crcs: NDArray[np.uint32]


class ChunkFile(Protocol):
    """An open chunk file."""

    @property
    def path(self) -> Path:
        """Its path."""
        ...

    @property
    def fd(self) -> int:
        """Its descriptor."""
        ...

    @property
    def size(self) -> int:
        """Its length in bytes."""
        ...

    def read_into(self, out: U8, offset: int) -> None:
        """Fills `out`, uint8 (n,), from byte `offset`; raises `ChunkError`."""
        ...


@dataclass(frozen=True)
class CachedChunk:
    """A sealed chunk in memory: all bytes of its file, checked.

    Attributes:
        data: uint8 (file bytes,).
        parsed: what `RowCodec.parse` makes of them.
    """

    data: U8
    parsed: Any

    @cached_property
    def address(self) -> int:
        """The address of the first byte."""
        return int(self.data.ctypes.data)


@dataclass(frozen=True)
class ChunkSource:
    """Where the rows of one chunk can be read: in memory, or in an open file.

    Attributes:
        chunk: number of the chunk.
        cached: the chunk in memory; None where it is not.
        file: the open file; None where the chunk is in memory.
        sealed: what the log says of the file; None where the chunk is not sealed or in memory.
        table: what `RowCodec.read_table` found in the file; None where the kind needs no table.
    """

    chunk: int
    cached: CachedChunk | None = None
    file: ChunkFile | None = None
    sealed: SealedColumn | None = None
    table: Any = None

    @property
    def label(self) -> str:
        """Names the source in errors."""
        return str(self.file.path) if self.file is not None else f"chunk {self.chunk} in memory"


@dataclass(frozen=True)
class ChunkMap:
    """The chunks of a column in memory at one moment, as arrays for kernels. Entry c is of chunk `first_chunk + c`.

    Attributes:
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        addresses: int64 (chunks,), address of each chunk; 0 where it is not in memory.
        sizes: int64 (chunks,), bytes of each chunk; 0 where it is not in memory.
        cached: the chunks by number; they keep the memory alive.
    """

    first_chunk: int
    chunk_rows: int
    addresses: I64
    sizes: I64
    cached: Mapping[int, CachedChunk]

    @classmethod
    def of(cls, cached: Mapping[int, CachedChunk], chunk_rows: int) -> ChunkMap:
        """The map of chunks by number. Takes the mapping over."""
        first = min(cached, default=0)
        addresses, sizes = np.zeros((2, max(cached, default=-1) - first + 1), np.int64)
        for number, chunk in cached.items():
            addresses[number - first], sizes[number - first] = chunk.address, chunk.data.size
        return cls(first, chunk_rows, addresses, sizes, cached)


@dataclass(frozen=True)
class Placement:
    """Where stored rows go in a batch: row j becomes the `slots[j]`-th of the `depth` rows of out[targets[j]].

    Attributes:
        targets: int64 (rows,).
        slots: int64 (rows,).
        depth: stored rows in a value of the batch.
        out: values, (batch, ...), C-contiguous.
    """

    targets: I64
    slots: I64
    depth: int
    out: NDArray[Any]

    def some(self, which: slice | NDArray[np.bool_]) -> Placement:
        """The placement of some of the rows."""
        return Placement(self.targets[which], self.slots[which], self.depth, self.out)
