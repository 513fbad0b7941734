"""`Catalog`: the state of a store according to its log. Writers and readers both keep one."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from replaystore.columns.chunks import SealedColumn
from replaystore.columns.column import Column, columns_of
from replaystore.errors import FormatVersionError, LogError, ReplayStoreError, SpecError
from replaystore.index.episode_index import EpisodeIndex
from replaystore.index.parts import Part
from replaystore.spec import FORMAT_VERSION, StoreSpec
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Record
from replaystore.storage.format.records import (
    COMMIT_HEAD,
    EVICT_HEAD,
    LAST_FLAG,
    SEAL_FIELD,
    SEAL_HEAD,
    ZERO_PADDING_FLAG,
    Seal,
    Segment,
)


class Catalog:
    """The state of a store according to its log: specification, episodes, chunks and limits.

    Args:
        where: path of the log, for errors.

    Attributes:
        where: as given.
        spec: the specification. Set by the first record.
        columns: one per field. Set by the first record.
        index: the live episodes. Set by the first record.
        seals: sealed chunks with live rows, by number.
        segments: the commits of each chunk that is not sealed, by number of the chunk.
        next_row: number of the row where the next commit starts.
        capacity: largest number of transitions. None: no limit.
        disk_budget_bytes: largest number of bytes on disk. None: no limit.
        clamped: values clamped so far, one number per column.
        published: whether the files for plain Zarr readers are up to date.
        sequence: number of the next record.
        end: bytes of the log up to the next record.
        dead_seals: sealed chunks without live rows that readers have not dropped yet.
        adopted: payloads of seal records that `adopt` took in, by number of the chunk.
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
        # Batches in flight may still need these chunks. `ColumnChunks.drop` removes them.
        self.dead_seals: dict[int, Seal] = {}
        self.adopted: dict[int, bytes] = {}
        self._left_out: set[int] = set()

    def apply(self, record: Record) -> list[int]:
        """Applies the next record of the log.

        Returns:
            The chunks that lost their last live row.

        Raises:
            LogError: the record contradicts the records before it.
            FormatVersionError: the store has another format version.
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
        try:
            self.spec = StoreSpec.from_json(data)
            self.columns = columns_of(self.spec)
        except SpecError as err:  # the record is whole: its checksum was compared
            raise FormatVersionError(
                f"{self.where}: this installation cannot read the store's fields: {err}; open it with the release that"
                " wrote it, and with the packages of its codecs installed"
            ) from err
        self.index = EpisodeIndex(chunk_rows=self.spec.chunk_rows)
        self.clamped = [0] * len(self.columns)

    def _commit(self, payload: bytes) -> None:
        episode, t_start, first_row, num_rows, flags, num_columns = COMMIT_HEAD.unpack_from(payload)
        chunk_rows = self.spec.chunk_rows
        if num_columns != len(self.columns) or first_row < self.next_row or num_rows < 0:
            raise ValueError(f"commit of {num_rows} rows at {first_row}, {num_columns} fields; next is {self.next_row}")
        first_chunk, last_chunk = first_row // chunk_rows, (first_row + num_rows - 1) // chunk_rows
        num_chunks = last_chunk - first_chunk + 1 if num_rows else 0
        if len(payload) != COMMIT_HEAD.size + num_columns * (4 * num_chunks + 8):
            raise ValueError("commit record of the wrong length")
        crcs = np.frombuffer(payload, "<u4", num_columns * num_chunks, COMMIT_HEAD.size).reshape(
            num_chunks, num_columns
        )
        clamped = np.frombuffer(payload, "<u8", num_columns, len(payload) - 8 * num_columns)
        zero_padding = bool(flags & ZERO_PADDING_FLAG)
        self.index.add_part(Part(episode, t_start, first_row, num_rows, bool(flags & LAST_FLAG), zero_padding))
        for chunk, chunk_crcs in zip(range(first_chunk, first_chunk + num_chunks), crcs.tolist(), strict=True):
            start = max(first_row, chunk * chunk_rows)
            stop = min(first_row + num_rows, (chunk + 1) * chunk_rows)
            self.segments.setdefault(chunk, []).append(Segment(start, stop - start, tuple(chunk_crcs), set()))
        self.clamped = [total + int(more) for total, more in zip(self.clamped, clamped, strict=True)]
        self.next_row = first_row + num_rows

    def _seal(self, payload: bytes) -> list[int]:
        chunk, num_rows, num_columns = SEAL_HEAD.unpack_from(payload)
        if self.adopted.pop(chunk, None) == payload:
            return []
        if num_columns != len(self.columns) or chunk in self.seals or chunk not in self.segments:
            raise ValueError(f"seal of chunk {chunk}, which has no open rows")
        files, at = [], SEAL_HEAD.size
        for _ in range(num_columns):
            file_bytes, root_crc, count = SEAL_FIELD.unpack_from(payload, at)
            at += SEAL_FIELD.size
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
        """Applies a seal record from behind the point where the log is cut. A writer then logs it again."""
        self._seal(payload)
        self.adopted[SEAL_HEAD.unpack_from(payload)[0]] = payload

    def _evict(self, payload: bytes) -> list[int]:
        count, _ = EVICT_HEAD.unpack_from(payload)
        if len(payload) != EVICT_HEAD.size + 8 * count:
            raise ValueError("evict record of the wrong length")
        episodes = np.frombuffer(payload, "<i8", count, EVICT_HEAD.size).tolist()
        return self._remove([episode for episode in episodes if episode not in self._left_out])

    def leave_out(self, episodes: Sequence[int]) -> None:
        """Removes episodes whose eviction record the log has lost. A writer then logs the eviction again."""
        self._remove(episodes)
        self._left_out.update(episodes)

    def _remove(self, episodes: Sequence[int]) -> list[int]:
        emptied = self.index.remove_episodes(episodes)
        # A chunk that is not sealed keeps its tail, because more rows may come. Sealing then finds it dead.
        dead = [chunk for chunk in emptied if chunk in self.seals]
        for chunk in dead:
            self.dead_seals[chunk] = self.seals.pop(chunk)
        return dead
