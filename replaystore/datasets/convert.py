"""Converts a directory of episode files into a store, and adds new files to it later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replaystore.datasets.drqv2_npz import DEFAULT_MAX_BYTES, EpisodePath
from replaystore.datasets.files import EpisodeFiles
from replaystore.datasets.new_store import create_store, is_unused
from replaystore.datasets.resume_checks import (
    ConversionOptions,
    check_fields,
    check_options,
    check_sources,
    files_present,
)
from replaystore.datasets.rows import Array
from replaystore.datasets.sources import Source, SourceLog, Sources, read_sources
from replaystore.episodes.checks import check_episode
from replaystore.errors import CapacityError, EpisodeError, StoreError, StoreExists, StoreNotFound
from replaystore.spec import Channels, Durability, Mode, Role
from replaystore.store import ReplayStore

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Skipped:
    """A file that was left out.

    Attributes:
        file: its name.
        reason: why it was left out.
    """

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        store: path of the store.
        converted: episodes added now.
        already_present: files whose episodes an earlier run had added.
        skipped: files left out, with the reason.
        transitions: transitions of the episodes added now.
        seconds: duration, up to the last fsync.
        notes: what was changed in the arrays or looks wrong, each with the first file; see `store_rows`.
    """

    store: str
    converted: int
    already_present: int
    skipped: tuple[Skipped, ...] = field(default=())
    transitions: int
    seconds: float
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def convert(
    episode_dir: str | os.PathLike[str],
    store_path: str | os.PathLike[str],
    *,
    mode: Mode = "full",
    frame_stack: int | None = None,
    channels: Channels | None = None,
    roles: Mapping[str, Role] | None = None,
    skip: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    allow_nonfinite: Collection[str] = (),
    capacity: int | None = None,
    chunk_rows: int | None = None,
    schemes: Mapping[str, Mapping[str, Any]] | None = None,
    frame_delta: Mapping[str, Any] | None = None,
    durability: Durability | None = None,
    skip_damaged: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
    follow_links: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Adds every episode file of a directory that is not in a store yet. Makes the store if it is absent.

    The call can be interrupted or killed at any point. The same call then goes on, adds nothing twice and writes
    nothing again. If the store exists, `mode` and every option that is not None must be those of the store.

    The files have the names and the rows of DrQ-v2, or arrays by step, as in Gym, D4RL and Minari. Flags of an end make
    a discount where there is none. `store_rows` says what becomes of the arrays, and the report's notes say it too.

    Args:
        episode_dir: directory of episode files, taken in the order of `list_episode_files`.
        store_path: the store. It may be absent, an empty directory, or the store of an earlier conversion.
        mode: how images are stored.
        frame_stack: see `fields_from_episode`. The fields are derived from the first readable file.
        channels: see `fields_from_episode`.
        roles: see `fields_from_episode`. A name with a role means nothing else.
        skip: arrays that are left out, whatever they hold.
        rename: field names by the names of arrays.
        allow_nonfinite: fields that may hold NaN and infinity.
        capacity: most transitions. The oldest episodes are evicted first. None sets no limit.
        chunk_rows: rows per chunk. None takes 1,024, and fewer for large fields.
        schemes: codec configurations by field name; see `with_schemes`.
        frame_delta: options of `FrameDelta` for all images that `schemes` does not name.
        durability: `"process"` or `"power"`. None takes `"process"`.
        skip_damaged: whether to leave out and report files that are damaged or do not fit, instead of stopping.
        max_bytes: most uncompressed bytes per episode.
        follow_links: whether symbolic links to files are episode files.
        progress: called with (files done, files in all).

    Raises:
        EpisodeFileError: a file is damaged, or the directory has no episode files.
        EpisodeError: an episode does not fit the others, or its rows cannot be told from its arrays.
        SpecError: the options cannot work, or differ from those of the store.
        StoreExists: `store_path` holds something else.
        StoreLocked: another writer has the store open.
        CapacityError: an episode is longer than the capacity.
    """
    started = time.monotonic()
    files = EpisodeFiles(
        episode_dir, max_bytes=max_bytes, follow_links=follow_links, skip=skip, rename=rename or {}, plain=roles or (),
    )  # fmt: skip
    path = Path(store_path)
    options = ConversionOptions(
        mode=mode,
        frame_stack=frame_stack,
        channels=channels,
        roles=roles,
        allow_nonfinite=frozenset(allow_nonfinite),
        capacity=capacity,
        chunk_rows=chunk_rows,
        schemes=schemes,
        frame_delta=frame_delta,
        durability=durability,
    )
    if is_unused(path):
        create_store(path, files.first_readable(skip_damaged), options)
    with _open(path) as store:
        check_options(store, options)
        next_episode = check_sources(store, _sources_of(path))
        log = SourceLog(path, next_episode)
        try:
            done = files_present(path, files, log.sources)
            pending = [entry for entry in files.entries if entry.path.name not in done]
            run = _Run(store, log, next_episode, files, skip_damaged)
            for number, (entry, rows_read) in enumerate(_read_ahead(files, pending)):
                if progress is not None:
                    progress(len(done) + number, len(files.entries))
                run.take(entry, rows_read)
            store.flush(sync=True)
            log.mark_complete()
        finally:
            log.close()
    if progress is not None:
        progress(len(files.entries), len(files.entries))
    return ConversionReport(
        store=str(path),
        converted=run.converted,
        already_present=len(done),
        skipped=tuple(run.skipped),
        transitions=run.transitions,
        seconds=time.monotonic() - started,
        notes=files.notes,
    )


class _Run:
    """One pass over the files that are not in the store."""

    def __init__(
        self, store: ReplayStore, log: SourceLog, next_episode: int, files: EpisodeFiles, skip_damaged: bool
    ) -> None:  # fmt: skip
        self._store = store
        self._log = log
        self._next_episode = next_episode
        self._files = files
        self._skip_damaged = skip_damaged
        self._is_first = True
        self.converted = 0
        self.transitions = 0
        self.skipped: list[Skipped] = []

    def take(self, entry: EpisodePath, rows_read: Future[dict[str, Array]]) -> None:
        """Commits the episode of one file, or leaves it out. The first one has to have the fields of the store."""
        try:
            arrays = rows_read.result()
            if self._is_first:
                check_fields(self._store.spec, arrays, str(entry.path))
                self._is_first = False
            check_episode(self._store.spec, arrays, str(entry.path))
        except EpisodeError as err:
            if not self._skip_damaged:
                raise
            self.skipped.append(Skipped(entry.path.name, str(err)))
            return
        rows = len(next(iter(arrays.values())))
        self._log.announce(Source(self._next_episode, entry.path.name, self._files.size(entry), rows))
        try:
            episode = self._store.append(arrays)
        except CapacityError as err:
            raise CapacityError(f"{entry.path}: {err}") from err
        if episode != self._next_episode:
            raise StoreError(
                f"{self._store.path}: expected episode {self._next_episode} next, got {episode}; report it"
            )
        self._next_episode += 1
        self.converted += 1
        self.transitions += rows - 1


def _read_ahead(
    files: EpisodeFiles, pending: list[EpisodePath]
) -> Iterator[tuple[EpisodePath, Future[dict[str, Array]]]]:
    """Yields each file with its rows. The next file is read meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="replaystore-convert") as pool:
        upcoming = None
        for number, entry in enumerate(pending):
            current = upcoming or pool.submit(files.read, entry)
            upcoming = None
            if number + 1 < len(pending):
                upcoming = pool.submit(files.read, pending[number + 1])
            yield entry, current


def _open(path: Path) -> ReplayStore:
    try:
        return ReplayStore.open(path, residency="mapped")
    except StoreNotFound as err:
        raise StoreExists(f"{path}: exists and holds no store; choose another path") from err


def _sources_of(path: Path) -> Sources:
    sources = read_sources(path)
    if sources is None:
        raise StoreExists(f"{path}: expected a store made by a conversion, found another one; choose another path")
    return sources
