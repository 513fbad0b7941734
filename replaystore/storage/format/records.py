"""The payloads of the records of the log."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from replaystore.columns.chunks import SealedColumn
from replaystore.index.parts import Part
from replaystore.spec import StoreSpec
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Record

COMMIT_HEAD = struct.Struct("<qqqqII")
SEAL_HEAD = struct.Struct("<qII")
SEAL_FIELD = struct.Struct("<QII")
EVICT_HEAD = struct.Struct("<II")
LAST_FLAG, ZERO_PADDING_FLAG = 1, 2


@dataclass
class Segment:
    """The rows of one commit that lie in one chunk.

    Attributes:
        first_row: number of the first row in the store.
        num_rows: rows.
        crcs: CRC32C of the stored rows, one per column.
        checked: positions of the columns whose rows this process has checked or has written itself.
    """

    first_row: int
    num_rows: int
    crcs: tuple[int, ...]
    checked: set[int]


@dataclass(frozen=True)
class Seal:
    """A sealed chunk.

    Attributes:
        chunk: number of the chunk.
        num_rows: rows in use.
        files: the records of its files, one per column.
    """

    chunk: int
    num_rows: int
    files: tuple[SealedColumn, ...]


def pack_create(spec: StoreSpec) -> bytes:
    """Returns the payload of a create record."""
    return json.dumps(spec.to_json(), sort_keys=True).encode()


def pack_commit(part: Part, crcs: Sequence[Sequence[int]], clamped: Sequence[int]) -> bytes:
    """Returns the payload of a commit record.

    Args:
        part: the committed part of an episode.
        crcs: for each chunk that the part touches, one CRC per column.
        clamped: clamped values, one number per column.
    """
    flags = (LAST_FLAG if part.last else 0) | (ZERO_PADDING_FLAG if part.zero_padding else 0)
    head = COMMIT_HEAD.pack(part.episode, part.t_start, part.first_row, part.num_rows, flags, len(clamped))
    flat = [crc for chunk in crcs for crc in chunk]
    return head + np.asarray(flat, "<u4").tobytes() + np.asarray(clamped, "<u8").tobytes()


def pack_seal(seal: Seal) -> bytes:
    """Returns the payload of a seal record."""
    out = [SEAL_HEAD.pack(seal.chunk, seal.num_rows, len(seal.files))]
    for file in seal.files:
        out.append(SEAL_FIELD.pack(file.file_bytes, file.root_crc, len(file.row_crcs)))
        out.append(file.row_crcs.astype("<u4").tobytes())
    return b"".join(out)


def pack_evict(episodes: Sequence[int]) -> bytes:
    """Returns the payload of an evict record."""
    return EVICT_HEAD.pack(len(episodes), 0) + np.asarray(episodes, "<i8").tobytes()


def pack_config(capacity: int | None, disk_budget_bytes: int | None) -> bytes:
    """Returns the payload of a config record."""
    return json.dumps({"capacity": capacity, "disk_budget_bytes": disk_budget_bytes}).encode()


def end_row_of(record: Record, chunk_rows: int) -> int:
    """Returns one past the last row of a commit or seal record. 0 for other records."""
    if record.kind == layout.COMMIT:
        _, _, first_row, num_rows, _, _ = COMMIT_HEAD.unpack_from(record.payload)
        return int(first_row + num_rows)
    if record.kind == layout.SEAL:
        return int((SEAL_HEAD.unpack_from(record.payload)[0] + 1) * chunk_rows)
    return 0
