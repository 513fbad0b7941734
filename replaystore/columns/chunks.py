"""What the storage hands to a `RowCodec`. The storage finds the chunks of a column, and the `RowCodec` reads them."""

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
    """The log's record of the chunk file of one column.

    Attributes:
        file_bytes: length of the file.
        root_crc: CRC32C of the whole file, or of the part that its kind checks first. 0 if each row has a CRC.
        row_crcs: uint32 (rows,), CRC32C of each row. Empty if rows have none.
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
        """Fills `out`, uint8 (n,), from byte `offset`.

        Raises:
            ChunkError: the file is too short, or the device fails.
        """
        ...


@dataclass(frozen=True)
class CachedChunk:
    """A sealed chunk in memory. It holds all bytes of its file, and they have been checked (but see `MappedChunk`).

    Attributes:
        data: uint8 (file bytes,).
        parsed: the result of `RowCodec.parse`.
    """

    data: U8
    parsed: Any

    @cached_property
    def address(self) -> int:
        """The address of the first byte."""
        return int(self.data.ctypes.data)

    @property
    def flags_address(self) -> int:
        """Address of the flags that say what was checked. 0: everything was."""
        return 0


@dataclass(frozen=True)
class ChunkSource:
    """The place to read a chunk's rows from: memory or an open file.

    Attributes:
        chunk: number of the chunk.
        cached: the chunk in memory. None if it is not there.
        file: the open file. None if the chunk is in memory.
        sealed: the log's record of the file. None if the chunk is in memory or not sealed.
        table: the result of `RowCodec.read_table`. None if the kind needs no table.
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
    """The chunks of a column that are in memory at one moment, as arrays for kernels.

    Entry c of an array describes chunk `first_chunk + c`.

    Attributes:
        first_chunk: number of the first chunk.
        chunk_rows: rows per chunk.
        addresses: int64 (chunks,), address of each chunk. 0 if the chunk is not in memory.
        sizes: int64 (chunks,), bytes of each chunk. 0 if the chunk is not in memory.
        flags: int64 (chunks,), address of the flags of each chunk in a memory map (see `MappedChunk`), else 0.
        has_maps: whether a chunk is in a memory map. Its bytes have to be touched before kernels read them.
        cached: the chunks by number. This mapping keeps their memory alive.
    """

    first_chunk: int
    chunk_rows: int
    addresses: I64
    sizes: I64
    flags: I64
    has_maps: bool
    cached: Mapping[int, CachedChunk]

    @classmethod
    def of(cls, cached: Mapping[int, CachedChunk], chunk_rows: int) -> ChunkMap:
        """Returns the map of chunks given by number. It keeps the mapping, so do not change it afterwards."""
        first = min(cached, default=0)
        addresses, sizes, flags = np.zeros((3, max(cached, default=-1) - first + 1), np.int64)
        for number, chunk in cached.items():
            addresses[number - first], sizes[number - first] = chunk.address, chunk.data.size
            flags[number - first] = chunk.flags_address
        return cls(first, chunk_rows, addresses, sizes, flags, bool(flags.any()), cached)


@dataclass(frozen=True)
class Placement:
    """Where stored rows go in a batch.

    A value of the batch is built from `depth` stored rows. Row j becomes row `slots[j]` of the value `out[targets[j]]`.

    Attributes:
        targets: int64 (rows,), position of the value in the batch.
        slots: int64 (rows,), position of the row in the value.
        depth: stored rows per value.
        out: (batch, ...), C-contiguous, the values.
    """

    targets: I64
    slots: I64
    depth: int
    out: NDArray[Any]

    def some(self, which: slice | NDArray[np.bool_]) -> Placement:
        """Returns the placement of some of the rows."""
        return Placement(self.targets[which], self.slots[which], self.depth, self.out)
