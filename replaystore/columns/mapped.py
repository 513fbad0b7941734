"""Chunks in memory maps. Bytes are brought into memory before kernels read them, and checked at the first read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.columns import checksums
from replaystore.columns.chunks import CachedChunk, ChunkFile, ChunkMap, SealedColumn
from replaystore.errors import ChunkError
from replaystore.kernels.group_request import GroupRequest
from replaystore.kernels.memory_maps import group_ranges, populate, window_ranges
from replaystore.runtime import reclaimed

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


class MappedFile(ChunkFile, Protocol):
    """A chunk file in a memory map. `np.asarray` makes an array of it."""

    @property
    def address(self) -> int:
        """Address of its first byte."""
        ...

    def unreadable(self, offset: int, length: int) -> ChunkError:
        """Returns the error for bytes that the system could not bring into memory."""
        ...


@dataclass(frozen=True)
class MappedChunk(CachedChunk):
    """A sealed chunk in a memory map. Its header is checked, and the rest is checked when it is first read.

    Its parts are its rows, or its groups of frames.

    Attributes:
        file: the map.
        crcs: uint32 (parts,), CRC32C of each part. Empty if the whole file was checked.
        checked: uint8 (parts,), whether each was compared with its checksum.
    """

    file: MappedFile
    crcs: NDArray[np.uint32]
    checked: U8

    @cached_property
    def flags_address(self) -> int:
        """Address of `checked`."""
        return int(self.checked.ctypes.data)

    def check(self, part: int, name: str, offset: int, length: int) -> None:
        """Compares a part with its checksum, unless that was done before.

        Args:
            part: number of the part.
            name: names it in the error.
            offset: its first byte in the file.
            length: its bytes.

        Raises:
            ChunkError: it is not what was written.
        """
        if not self.checked[part]:
            found = checksums.crc_of(self.data[offset : offset + length])
            checksums.check_crc(f"{self.file.path}, {name}", int(self.crcs[part]), found)
            self.checked[part] = 1


def map_rows(file: MappedFile, sealed: SealedColumn, chunk_rows: int) -> MappedChunk:
    """Makes a chunk of a file that holds rows of a fixed size. See `RowCodec.map_chunk`.

    Rows that have a checksum each are checked when they are first read. Otherwise the whole file is checked now.
    """
    checksums.check_file(file, sealed)
    checked = np.full(chunk_rows, not sealed.row_crcs.size, np.uint8)
    return MappedChunk(np.asarray(file), None, file, sealed.row_crcs, checked)


@contextmanager
def touched_rows(chunks: ChunkMap, window_rows: I64, row_bytes: int) -> Iterator[int]:
    """Makes rows of a fixed size ready to be read in the `with` block, as far as they lie in memory maps.

    Args:
        chunks: the chunks in memory.
        window_rows: int64 (n, depth), rows. -1 stands for a row of zeros.
        row_bytes: bytes per row.

    Yields:
        Bytes of the rows in maps.

    Raises:
        ChunkError: they cannot be read, or they are not those that were written.
    """
    if not chunks.has_maps:
        yield 0
        return
    starts, lengths, unchecked = np.empty((3, window_rows.size), np.int64)
    count, num_unchecked, mapped_rows = window_ranges(
        chunks.addresses, chunks.sizes, chunks.flags, chunks.first_chunk, chunks.chunk_rows, row_bytes, window_rows,
        reclaimed.lately(), starts, lengths, unchecked,
    )  # fmt: skip
    _bring(chunks, starts[:count], lengths[:count])
    for row in unchecked[:num_unchecked].tolist():
        number, row_in_chunk = divmod(row, chunks.chunk_rows)
        chunk = chunks.cached[number]
        assert isinstance(chunk, MappedChunk), "only mapped chunks have flags"
        chunk.check(row_in_chunk, f"row {row_in_chunk} of the chunk", row_in_chunk * row_bytes, row_bytes)
    with reclaimed.watched():
        yield mapped_rows * row_bytes


@contextmanager
def touched_groups(chunks: ChunkMap, request: GroupRequest, start: int, stop: int) -> Iterator[int]:
    """Makes groups of frames ready to be decoded in the `with` block. See `touched_rows`.

    Args:
        chunks: the chunks in memory.
        request: groups of them.
        start: the first group to touch.
        stop: the first group not to touch.
    """
    if not chunks.has_maps or stop <= start:
        yield 0
        return
    starts, lengths, unchecked = np.empty((3, stop - start), np.int64)
    count, num_unchecked, mapped_bytes = group_ranges(
        chunks.flags, request.chunks[start:stop], request.numbers[start:stop], request.places[start:stop],
        request.lengths[start:stop], reclaimed.lately(), starts, lengths, unchecked,
    )  # fmt: skip
    _bring(chunks, starts[:count], lengths[:count])
    for g in (start + unchecked[:num_unchecked]).tolist():
        chunk = chunks.cached[chunks.first_chunk + int(request.chunks[g])]
        assert isinstance(chunk, MappedChunk), "only mapped chunks have flags"
        number, offset = int(request.numbers[g]), int(request.places[g]) - chunk.address
        chunk.check(number, f"group {number}", offset, int(request.lengths[g]))
    with reclaimed.watched():
        yield mapped_bytes


def _bring(chunks: ChunkMap, starts: I64, lengths: I64) -> None:
    if not starts.size:
        return
    failed, was_read = populate(starts, lengths)
    if was_read:
        reclaimed.note()
    if failed < 0:
        return
    address = int(starts[failed])
    for chunk in chunks.cached.values():
        if isinstance(chunk, MappedChunk) and chunk.address <= address < chunk.address + chunk.data.size:
            raise chunk.file.unreadable(address - chunk.address, int(lengths[failed]))
    raise AssertionError("a range outside all chunks")
