"""Checks a whole store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from replaystore.columns.column import Column
from replaystore.errors import ChunkError, DamageError, FormatVersionError, LogError
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogReader
from replaystore.storage.format import checksums, layout
from replaystore.storage.format.layout import Paths
from replaystore.storage.format.records import Segment
from replaystore.storage.format.zarr_metadata import published_files
from replaystore.storage.reading.open_files import OpenFile


@dataclass
class Report:
    """The result of `ReplayStore.verify`.

    Attributes:
        problems: one line per problem. Empty if the store is whole.
        num_files: files read and compared.
        num_bytes: bytes read and compared.
    """

    problems: list[str] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def _open(path: Path) -> OpenFile:
    try:
        return OpenFile(path)
    except FileNotFoundError as err:
        raise ChunkError(f"{path}: missing; restore the file from a copy") from err


def check_sealed(paths: Paths, catalog: Catalog, column: Column, chunk: int) -> int:
    """Checks every byte of a sealed chunk file.

    Returns:
        The bytes checked.

    Raises:
        ChunkError: the file is missing or damaged.
    """
    file, seal = _open(paths.chunk(column.name, chunk, column.ndim)), catalog.seals[chunk]
    checksums.read_chunk(file, column, seal.files[column.position], seal.num_rows)
    return file.size


def check_tail(paths: Paths, catalog: Catalog, column: Column, chunk: int, segments: list[Segment]) -> int:
    """Checks the committed rows of a chunk that is not sealed.

    Returns:
        The bytes checked.

    Raises:
        ChunkError: the tail file is missing or damaged.
    """
    file = _open(paths.tail(column.name, chunk))
    return sum(checksums.read_segment(file, column, segment, catalog.spec.chunk_rows).size for segment in segments)


def verify_store(paths: Paths, catalog: Catalog, *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Compares every file of a store with the log.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        progress: called with the files done and the files in all, after each file.
    """
    report = Report()
    work: list[Callable[[], int]] = [partial(_check_head, paths), partial(_check_log, paths)]
    for column in catalog.columns:
        work += [partial(check_sealed, paths, catalog, column, chunk) for chunk in catalog.seals]
        work += [partial(check_tail, paths, catalog, column, *item) for item in catalog.segments.items()]
    work.append(partial(_check_published, paths, catalog, report))
    for done, check in enumerate(work):
        try:
            report.num_bytes += check()
            report.num_files += 1
        except (DamageError, FormatVersionError) as err:
            report.problems.append(str(err))
        if progress is not None:
            progress(done + 1, len(work))
    return report


def _check_head(paths: Paths) -> int:
    data = paths.head.read_bytes()
    size = layout.HEAD_SLOT_BYTES
    if len(data) != 2 * size:
        raise LogError(f"{paths.head}: expected {2 * size} bytes, found {len(data)}")
    for number in range(2):
        if layout.slot_is_damaged(data[number * size : (number + 1) * size]):
            raise LogError(f"{paths.head}: slot {number} is damaged; the other one is in use")
    return len(data)


def _check_log(paths: Paths) -> int:
    reader = LogReader(paths)
    try:
        fresh = Catalog(str(paths.log(reader.head.generation)))
        reader.replay(fresh, beyond_head=False)
        return fresh.end
    finally:
        reader.close()


def _check_published(paths: Paths, catalog: Catalog, report: Report) -> int:
    """Compares the files for plain Zarr readers with the log. Files that are not published yet may be older."""
    total = 0
    before = published_files(paths, catalog, named=False)  # older releases did not name axes
    for path, expected in published_files(paths, catalog).items():
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            report.problems.append(f"{path}: missing; open the store for writing and close it to make it anew")
            continue
        total += len(found)
        if found not in (expected, before[path]) and (catalog.published or not _parses(found)):
            report.problems.append(f"{path}: not what the log says; open the store for writing and close it to mend it")
    return total


def _parses(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return len(data) % 8 == 0
    return True
