"""What the log says: the one account of specification, episodes, chunks and limits, kept by writers and readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatVersionError, LogError, ReplayStoreError
from replaystore.index import EpisodeIndex, Part
from replaystore.spec import FORMAT_VERSION, StoreSpec
from replaystore.storage import layout
from replaystore.storage.columns import Column, columns_of
from replaystore.storage.layout import Record

_COMMIT = struct.Struct("<qqqqII")
_SEAL = struct.Struct("<qII")
_SEAL_FIELD = struct.Struct("<QII")
_EVICT = struct.Struct("<II")
_LAST, _ZERO_PADDING = 1, 2


@dataclass
class Segment:
    """Committed rows of one chunk that came in one commit. `crcs`: of their stored bytes, one a column.

    `checked`: columns whose bytes this process has compared with the CRC, or has written itself.
    """

    first_row: int
    num_rows: int
    crcs: tuple[int, ...]
    checked: set[int]


@dataclass(frozen=True)
class SealedColumn:
    """A sealed chunk file. `root_crc` and `row_crcs` as in docs/format.md."""

    file_bytes: int
    root_crc: int
    row_crcs: NDArray[np.uint32]


@dataclass(frozen=True)
class Seal:
    """A sealed chunk: rows used, and its files, one a column."""

    chunk: int
    num_rows: int
    files: tuple[SealedColumn, ...]


def pack_create(spec: StoreSpec) -> bytes:
    """Payload of a create record."""
    return json.dumps(spec.to_json(), sort_keys=True).encode()


def pack_commit(part: Part, crcs: Sequence[Sequence[int]], clamped: Sequence[int]) -> bytes:
    """Payload of a commit record. `crcs`: one sequence a chunk touched, each with one CRC a column."""
    flags = (_LAST if part.last else 0) | (_ZERO_PADDING if part.zero_padding else 0)
    head = _COMMIT.pack(part.episode, part.t_start, part.first_row, part.num_rows, flags, len(clamped))
    flat = [crc for chunk in crcs for crc in chunk]
    return head + np.asarray(flat, "<u4").tobytes() + np.asarray(clamped, "<u8").tobytes()


def pack_seal(seal: Seal) -> bytes:
    """Payload of a seal record."""
    out = [_SEAL.pack(seal.chunk, seal.num_rows, len(seal.files))]
    for file in seal.files:
        out.append(_SEAL_FIELD.pack(file.file_bytes, file.root_crc, len(file.row_crcs)))
        out.append(file.row_crcs.astype("<u4").tobytes())
    return b"".join(out)


def pack_evict(episodes: Sequence[int]) -> bytes:
    """Payload of an evict record."""
    return _EVICT.pack(len(episodes), 0) + np.asarray(episodes, "<i8").tobytes()


def pack_config(capacity: int | None, disk_budget_bytes: int | None) -> bytes:
    """Payload of a config record."""
    return json.dumps({"capacity": capacity, "disk_budget_bytes": disk_budget_bytes}).encode()


def end_row_of(record: Record, chunk_rows: int) -> int:
    """One past the last row that a commit or seal record speaks of; 0 for other records."""
    if record.kind == layout.COMMIT:
        _, _, first_row, num_rows, _, _ = _COMMIT.unpack_from(record.payload)
        return int(first_row + num_rows)
    if record.kind == layout.SEAL:
        return int((_SEAL.unpack_from(record.payload)[0] + 1) * chunk_rows)
    return 0


class Ledger:
    """The state that a log amounts to.

    Attributes:
        spec, columns: known after the first record.
        index: live episodes.
        seals: sealed chunks with live rows, by number. segments: commits of chunks that are not sealed.
        published: whether the files for plain Zarr readers are up to date.
        next_row: where the next commit starts. sequence, end: of the next record.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.spec: StoreSpec
        self.columns: tuple[Column, ...] = ()
        self.index: EpisodeIndex
        self.seals: dict[int, Seal] = {}
        self.segments: dict[int, list[Segment]] = {}
        self.next_row = 0
        self.capacity: int | None = None
        self.disk_budget_bytes: int | None = None
        self.clamped: list[int] = []
        self.published = False
        self.sequence = 0
        self.end = 0
        # Of chunks without a live row, until their reader drops them: batches in flight may speak of them.
        self.dead_seals: dict[int, Seal] = {}
        self.adopted: dict[int, bytes] = {}
        self._left_out: set[int] = set()

    def apply(self, record: Record) -> list[int]:
        """Takes in the next record; returns the chunks that lost their last live row.

        Raises:
            LogError: the record does not follow from those before it. FormatVersionError: of another version.
        """
        try:
            dead = self._apply(record)
        except FormatVersionError:
            raise
        except (ReplayStoreError, ValueError, KeyError, TypeError, struct.error, AttributeError) as err:
            raise LogError(
                f"{self.where}, record {record.sequence}: does not follow from the ones before: {err}"
            ) from err
        self.published = record.kind == layout.PUBLISH
        self.sequence = record.sequence + 1
        self.end = record.end
        return dead

    def _apply(self, record: Record) -> list[int]:
        if (record.kind == layout.CREATE) != (record.sequence == 0):
            raise ValueError("the first record, and only the first, creates the store")
        if record.kind == layout.CREATE:
            self._create(record.payload)
        elif record.kind == layout.COMMIT:
            self._commit(record.payload)
        elif record.kind == layout.SEAL:
            return self._seal(record.payload)
        elif record.kind == layout.EVICT:
            return self._evict(record.payload)
        elif record.kind == layout.CONFIG:
            limits = json.loads(record.payload)
            self.capacity, self.disk_budget_bytes = limits["capacity"], limits["disk_budget_bytes"]
        elif record.kind != layout.PUBLISH or record.payload:
            raise ValueError(f"unknown kind {record.kind}")
        return []

    def _create(self, payload: bytes) -> None:
        data: dict[str, Any] = json.loads(payload)
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"{self.where}: format version {version}, this release reads version {FORMAT_VERSION};"
                " open it with the release that wrote it, or upgrade replaystore"
            )
        self.spec = StoreSpec.from_json(data)
        self.columns = columns_of(self.spec)
        self.index = EpisodeIndex(chunk_rows=self.spec.chunk_rows)
        self.clamped = [0] * len(self.columns)

    def _commit(self, payload: bytes) -> None:
        episode, t_start, first_row, num_rows, flags, num_columns = _COMMIT.unpack_from(payload)
        chunk_rows = self.spec.chunk_rows
        if num_columns != len(self.columns) or first_row < self.next_row or num_rows < 0:
            raise ValueError(f"commit of {num_rows} rows at {first_row}, {num_columns} fields; next is {self.next_row}")
        first_chunk, last_chunk = first_row // chunk_rows, (first_row + num_rows - 1) // chunk_rows
        num_chunks = last_chunk - first_chunk + 1 if num_rows else 0
        if len(payload) != _COMMIT.size + num_columns * (4 * num_chunks + 8):
            raise ValueError("commit record of the wrong length")
        crcs = np.frombuffer(payload, "<u4", num_columns * num_chunks, _COMMIT.size).reshape(num_chunks, num_columns)
        clamped = np.frombuffer(payload, "<u8", num_columns, len(payload) - 8 * num_columns)
        zero_padding = bool(flags & _ZERO_PADDING)
        self.index.add_part(Part(episode, t_start, first_row, num_rows, bool(flags & _LAST), zero_padding))
        for chunk, chunk_crcs in zip(range(first_chunk, first_chunk + num_chunks), crcs.tolist(), strict=True):
            start = max(first_row, chunk * chunk_rows)
            stop = min(first_row + num_rows, (chunk + 1) * chunk_rows)
            self.segments.setdefault(chunk, []).append(Segment(start, stop - start, tuple(chunk_crcs), set()))
        self.clamped = [total + int(more) for total, more in zip(self.clamped, clamped, strict=True)]
        self.next_row = first_row + num_rows

    def _seal(self, payload: bytes) -> list[int]:
        chunk, num_rows, num_columns = _SEAL.unpack_from(payload)
        if self.adopted.pop(chunk, None) == payload:
            return []
        if num_columns != len(self.columns) or chunk in self.seals or chunk not in self.segments:
            raise ValueError(f"seal of chunk {chunk}, which has no open rows")
        files, at = [], _SEAL.size
        for _ in range(num_columns):
            file_bytes, root_crc, count = _SEAL_FIELD.unpack_from(payload, at)
            at += _SEAL_FIELD.size
            files.append(SealedColumn(file_bytes, root_crc, np.frombuffer(payload, "<u4", count, at)))
            at += 4 * count
        if at != len(payload):
            raise ValueError("seal record of the wrong length")
        del self.segments[chunk]
        self.next_row = max(self.next_row, (chunk + 1) * self.spec.chunk_rows)
        self.seals[chunk] = Seal(chunk, num_rows, tuple(files))
        if not self.index.chunk_is_live(chunk):
            self.dead_seals[chunk] = self.seals.pop(chunk)
            return [chunk]
        return []

    def adopt(self, payload: bytes) -> None:
        """Takes in a seal record from behind the end of a log that was cut; a writer logs it anew."""
        self._seal(payload)
        self.adopted[_SEAL.unpack_from(payload)[0]] = payload

    def _evict(self, payload: bytes) -> list[int]:
        count, _ = _EVICT.unpack_from(payload)
        if len(payload) != _EVICT.size + 8 * count:
            raise ValueError("evict record of the wrong length")
        episodes = np.frombuffer(payload, "<i8", count, _EVICT.size).tolist()
        return self._remove([episode for episode in episodes if episode not in self._left_out])

    def leave_out(self, episodes: Sequence[int]) -> None:
        """Forgets episodes whose eviction the log has lost; a writer that finds them missing logs it anew."""
        self._remove(episodes)
        self._left_out.update(episodes)

    def _remove(self, episodes: Sequence[int]) -> list[int]:
        emptied = self.index.remove_episodes(episodes)
        # A chunk that is not sealed yet keeps its tail: more rows may come, and sealing finds it dead.
        dead = [chunk for chunk in emptied if chunk in self.seals]
        for chunk in dead:
            self.dead_seals[chunk] = self.seals.pop(chunk)
        return dead
