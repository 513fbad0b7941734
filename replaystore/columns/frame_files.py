"""Reads frames from sealed frame chunks. It reads only the groups that a batch needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from replaystore.codecs.frame_delta.chunk import FrameChunk, FrameFormat, parse_chunk, table_bytes
from replaystore.codecs.frame_delta.groups import decode_groups
from replaystore.codecs.frame_delta.requests import find_groups
from replaystore.columns import checksums
from replaystore.columns.chunks import ChunkFile, ChunkSource, Placement, SealedColumn
from replaystore.errors import ChunkError
from replaystore.kernels.group_request import GroupRequest, GroupTable
from replaystore.kernels.row_copies import read_ranges
from replaystore.runtime.counters import Counters

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_HEAD_GUESS_BYTES = 8192  # read first; most tables fit


@dataclass(frozen=True)
class FrameTable:
    """Header and table of a frame chunk in a file.

    Attributes:
        chunk: the parsed header and table.
        checked: bool (groups,), whether this process has checked the CRC of a group.
    """

    chunk: FrameChunk
    checked: NDArray[np.bool_]


def check_root(label: str, sealed: SealedColumn, parsed: FrameChunk) -> None:
    """Checks the CRC of a frame chunk's header and table against the log.

    Raises:
        ChunkError: they differ.
    """
    checksums.check_crc(f"{label}, header and table", sealed.root_crc, parsed.root_crc)


def read_frame_table(file: ChunkFile, sealed: SealedColumn, label: str) -> FrameTable:
    """Reads and checks the header and table of a sealed chunk file.

    Raises:
        ChunkError: they are damaged, or they differ from those that were sealed.
    """
    checksums.check_length(label, sealed.file_bytes, file.size)
    head = np.empty(min(_HEAD_GUESS_BYTES, file.size), np.uint8)
    file.read_into(head, 0)
    needed = min(table_bytes(head.data, label), file.size)
    if needed > head.size:
        head = np.empty(needed, np.uint8)
        file.read_into(head, 0)
    parsed = parse_chunk(head.data, file.size, label)
    check_root(label, sealed, parsed)
    return FrameTable(parsed, np.zeros(len(parsed.table), bool))


def read_frames(
    sources: Sequence[ChunkSource], rows: I64, chunk_rows: int, placement: Placement, channels_last: bool,
    counters: Counters,
) -> None:  # fmt: skip
    """Decodes rows of sealed frame chunks into observations. See `RowCodec.read_encoded`."""
    chunks = [source.table.chunk if source.cached is None else source.cached.parsed for source in sources]
    bases = [
        chunk.payload_start if source.cached is None else source.cached.address + chunk.payload_start
        for source, chunk in zip(sources, chunks, strict=True)
    ]
    table = GroupTable(
        tables=np.array([chunk.table_address for chunk in chunks]),
        num_groups=np.array([len(chunk.table) for chunk in chunks]), payloads=np.array(bases), first_chunk=0,
        chunk_rows=chunk_rows,
    )  # fmt: skip
    label = f"{sources[0].label} to {sources[-1].label}"
    request = find_groups(table, rows, placement.targets, placement.slots, label)

    def label_of(g: int) -> str:
        return f"{sources[request.chunks[g]].label}, group {request.numbers[g]}"

    ready, buffer = _read_groups(sources, request, label_of)
    for fmt, which in _by_format(chunks, ready):
        picked = np.flatnonzero(which)
        out = placement.out.reshape(len(placement.out), -1)
        decode_groups(ready.pick(which), fmt, channels_last, placement.depth, out, partial(_label_at, label_of, picked))
    counters.add(
        groups_decoded=len(ready.chunks), file_bytes_read=buffer.size,
        memory_bytes_read=int(request.lengths.sum()) - buffer.size,
    )  # fmt: skip


def _read_groups(
    sources: Sequence[ChunkSource], request: GroupRequest, label: Callable[[int], str]
) -> tuple[GroupRequest, U8]:
    """Reads and checks the groups that lie in files.

    Returns:
        The request with all groups in memory, and the memory that the groups from files are in.
    """
    files = np.array([-1 if source.file is None else source.file.fd for source in sources])[request.chunks]
    in_files = np.flatnonzero(files >= 0)
    offsets, lengths = request.places[in_files], request.lengths[in_files]
    starts = np.cumsum(lengths) - lengths
    buffer = np.empty(int(lengths.sum()), np.uint8)
    failed = read_ranges(files[in_files], offsets, lengths, buffer, starts)
    if failed >= 0:
        file = sources[request.chunks[in_files[failed]]].file
        assert file is not None
        # Read once more, with the call that names the cause.
        file.read_into(buffer[starts[failed] :][: lengths[failed]], int(offsets[failed]))
        raise ChunkError(f"{file.path}: {lengths[failed]} bytes at {offsets[failed]} could not be read; try again")
    for g, start, length in zip(in_files.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        table, number = sources[request.chunks[g]].table, request.numbers[g]
        if not table.checked[number]:
            found = checksums.crc_of(buffer[start : start + length])
            checksums.check_crc(label(g), int(table.chunk.table["crc"][number]), found)
            table.checked[number] = True
    addresses = request.places.copy()
    addresses[in_files] = buffer.ctypes.data + starts
    return request._replace(places=addresses), buffer


def _by_format(chunks: Sequence[FrameChunk], request: GroupRequest) -> Iterator[tuple[FrameFormat, NDArray[np.bool_]]]:
    """Yields each format and which groups of the request have it, bool (groups,). Usually there is one format."""
    formats: dict[FrameFormat, int] = {}
    format_of = np.array([formats.setdefault(chunk.format, len(formats)) for chunk in chunks])[request.chunks]
    for fmt, number in formats.items():
        yield fmt, format_of == number


def _label_at(label: Callable[[int], str], picked: I64, g: int) -> str:
    return label(int(picked[g]))
