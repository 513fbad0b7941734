"""Packs and parses frame_delta chunks (docs/format.md): header, table of groups, payload. Parsing checks everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ChunkError, FormatVersionError
from replaystore.kernels.frame_layout import ENTROPY_PACKED, FORM_LIST

MAGIC = b"RSFRAME\0"
VERSION, PACKED_VERSION = 1, 2  # of the header; the second one is that of entropy `packed`
HEADER = np.dtype(
    {
        "names": ["magic", "version", "header_bytes", "num_rows", "num_groups", "keyframe_interval", "reference",
                  "entropy", "keyframe_filter", "color", "channels_moved", "ndim", "shape", "payload_bytes", "crc"],
        "formats": ["S8", "<u2", "<u2", "<u4", "<u4", "<u2", "u1", "u1", "u1", "u1", "u1", "u1", ("<u4", (3,)),
                    "<u8", "<u4"],
        "offsets": [0, 8, 10, 12, 16, 20, 22, 23, 24, 25, 26, 27, 28, 40, 60],
        "itemsize": 64,
    }
)  # fmt: skip
GROUP = np.dtype(
    [("first_row", "<u4"), ("num_rows", "<u2"), ("form", "u1"), ("zero", "u1"), ("offset", "<u8"), ("length", "<u4"),
     ("crc", "<u4")]
)  # fmt: skip

REFERENCES = ("keyframe", "previous", "inward")
ENTROPIES = ("none", "lz4", "zstd", "spans", "points", "packed")
FILTERS = ("none", "left", "up")
COLOR_NONE, COLOR_LAST, COLOR_FIRST = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """How the frames of a chunk are encoded. The header of the chunk holds this and some counts.

    Attributes:
        frame_shape: (height, width), or with a channel axis first or last.
        channels_moved: whether the payload has the channel axis, first in `frame_shape`, at the end.
        color: `COLOR_NONE`, or R and B minus G with channels last or first in the payload.
    """

    frame_shape: tuple[int, ...]
    keyframe_interval: int
    reference: int
    entropy: int
    keyframe_filter: int
    color: int
    channels_moved: bool

    @cached_property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.frame_shape)

    @property
    def version(self) -> int:
        """Version of the chunk's header. It is 2 with entropy `packed`, which releases for version 1 refuse."""
        return PACKED_VERSION if self.entropy == ENTROPY_PACKED else VERSION

    @cached_property
    def filter_view(self) -> tuple[int, int]:
        """(pixels per row, channels) of a payload frame, for keyframe filters. Planar frames have one channel."""
        if self.channels_moved:
            return self.frame_shape[2], self.frame_shape[0]
        if self.color == COLOR_LAST or (len(self.frame_shape) == 3 and self.frame_shape[2] <= 4):
            return self.frame_shape[1], self.frame_shape[2]
        return self.frame_shape[-1], 1

    @cached_property
    def points_width(self) -> int:
        """Columns of a frame in the published scheme, which sees it as (everything, last axis)."""
        return self.frame_shape[-1]

    @cached_property
    def points_wide(self) -> bool:
        """Whether an index of that scheme needs more than 8 bits."""
        return max(self.points_width, self.frame_bytes // self.points_width) > 256


@dataclass(frozen=True)
class FrameChunk:
    """A parsed header and table.

    Attributes:
        format: how the frames are encoded.
        num_rows: rows of the chunk, including padding.
        table: the table of groups, a structured array of `GROUP`.
        payload_start: bytes before the payload.
        payload_bytes: bytes of the payload.
        root_crc: CRC32C of header and table.
    """

    format: FrameFormat
    num_rows: int
    table: NDArray[Any]
    payload_start: int
    payload_bytes: int
    root_crc: int

    @cached_property
    def table_address(self) -> int:
        """Address of `table` in memory."""
        return int(self.table.ctypes.data)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Byte in the chunk at which each group starts, int64. The last entry is the end of the chunk."""
        ends = self.payload_start + np.cumsum(self.table["length"], dtype=np.int64)
        return np.concatenate(([self.payload_start], ends))


def pack_chunk(frame_format: FrameFormat, num_rows: int, groups: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Returns the bytes of a chunk of `groups`, each (rows, form, bytes), in row order."""
    table = np.zeros(len(groups), GROUP)
    offset = row = 0
    for entry, (rows, form, payload) in zip(table, groups, strict=True):
        entry["first_row"], entry["num_rows"], entry["form"] = row, rows, form
        entry["offset"], entry["length"], entry["crc"] = offset, len(payload), google_crc32c.value(payload)
        row += rows
        offset += len(payload)
    assert row == num_rows, (row, num_rows)
    header = np.zeros(1, HEADER)
    header["magic"], header["version"], header["header_bytes"] = MAGIC, frame_format.version, HEADER.itemsize
    header["num_rows"], header["num_groups"], header["payload_bytes"] = num_rows, len(groups), offset
    header["keyframe_interval"], header["reference"] = frame_format.keyframe_interval, frame_format.reference
    header["entropy"], header["keyframe_filter"] = frame_format.entropy, frame_format.keyframe_filter
    header["color"], header["channels_moved"] = frame_format.color, frame_format.channels_moved
    header["ndim"] = len(frame_format.frame_shape)
    header["shape"][0, : len(frame_format.frame_shape)] = frame_format.frame_shape
    head = header.tobytes()[:60]
    crc = google_crc32c.extend(google_crc32c.value(head), table.tobytes())
    header["crc"] = crc
    return b"".join((header.tobytes(), table.tobytes(), *(payload for _, _, payload in groups)))


def table_bytes(head: bytes | memoryview, where: str) -> int:
    """Returns the bytes of header and table together, from the first 64 bytes of a chunk.

    Raises:
        ChunkError: the bytes are not a frame_delta chunk.
        FormatVersionError: this release does not read the chunk's version.
    """
    if len(head) < HEADER.itemsize:
        raise ChunkError(f"{where}: truncated: expected a header of {HEADER.itemsize} bytes, found {len(head)}")
    header = np.frombuffer(head, HEADER, 1)[0]
    if bytes(head[:8]) != MAGIC:
        raise ChunkError(f"{where}: not a frame_delta chunk: expected magic {MAGIC!r}, found {bytes(head[:8])!r}")
    if header["version"] not in (VERSION, PACKED_VERSION) or header["header_bytes"] != HEADER.itemsize:
        raise FormatVersionError(
            f"{where}: chunk format version {header['version']}, this release reads {VERSION} and {PACKED_VERSION};"
            " upgrade replaystore"
        )
    return HEADER.itemsize + GROUP.itemsize * int(header["num_groups"])


def parse_chunk(head: bytes | memoryview, chunk_bytes: int, where: str) -> FrameChunk:
    """Returns the header and table of a chunk. Checks every field against the others and the chunk's length.

    Args:
        head: at least the first `table_bytes` bytes of the chunk.
        chunk_bytes: length of the whole chunk.
        where: name of the chunk in errors.

    Raises:
        ChunkError: the chunk is damaged or truncated, or is no frame_delta chunk.
        FormatVersionError: this release does not read the chunk's version.
    """
    end = table_bytes(head, where)
    if len(head) < end:
        raise ChunkError(f"{where}: truncated: expected a table up to byte {end}, found {len(head)} bytes")
    header = np.frombuffer(head, HEADER, 1)[0]
    table = np.frombuffer(head, GROUP, int(header["num_groups"]), HEADER.itemsize)
    crc = google_crc32c.extend(google_crc32c.value(bytes(head[:60])), bytes(head[HEADER.itemsize : end]))
    if crc != int(header["crc"]):
        raise ChunkError(f"{where}: header or table damaged: CRC32C expected {int(header['crc']):08x}, found {crc:08x}")
    num_rows, payload_bytes, ndim = int(header["num_rows"]), int(header["payload_bytes"]), int(header["ndim"])
    if end + payload_bytes != chunk_bytes:
        raise ChunkError(f"{where}: expected {end + payload_bytes} bytes, found {chunk_bytes}")
    shape = tuple(int(n) for n in header["shape"][:ndim])
    known = (
        ndim in (2, 3)
        and all(shape)
        and not any(header["shape"][ndim:])
        and not any(head[48:60])
        and math.prod(shape) < 1 << 31
        and header["reference"] < len(REFERENCES)
        and header["entropy"] < len(ENTROPIES)
        and (header["entropy"] == ENTROPY_PACKED) == (header["version"] == PACKED_VERSION)
        and header["keyframe_filter"] < len(FILTERS)
        and header["color"] <= COLOR_FIRST
        and (header["color"] == COLOR_NONE or (ndim == 3 and 3 in (shape[0], shape[2])))
        and header["channels_moved"] <= (ndim == 3)
        and header["keyframe_interval"] >= 1
    )
    if not known:
        raise ChunkError(f"{where}: header holds values outside the format: {header}")
    first, rows = table["first_row"].astype(np.int64), table["num_rows"].astype(np.int64)
    offset, length = table["offset"].astype(np.uint64), table["length"].astype(np.uint64)
    in_order = (
        np.array_equal(first, np.concatenate(([0], np.cumsum(rows)))[:-1])
        and int(rows.sum()) == num_rows
        and bool(np.all((rows >= 1) & (rows <= int(header["keyframe_interval"]))))
        and np.array_equal(offset, np.concatenate((np.zeros(1, np.uint64), np.cumsum(length)))[:-1])
        and int(length.sum()) == payload_bytes
        and bool(np.all(table["form"] <= FORM_LIST))
        and not np.any(table["zero"])
    )
    if not in_order:
        raise ChunkError(f"{where}: the groups do not cover {num_rows} rows and {payload_bytes} bytes in order")
    frame_format = FrameFormat(
        frame_shape=shape,
        keyframe_interval=int(header["keyframe_interval"]),
        reference=int(header["reference"]),
        entropy=int(header["entropy"]),
        keyframe_filter=int(header["keyframe_filter"]),
        color=int(header["color"]),
        channels_moved=bool(header["channels_moved"]),
    )
    return FrameChunk(frame_format, num_rows, table, end, payload_bytes, crc)
