"""`ReplayStore`: experience in one directory, written by one process, read by any number."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.field_rows import FieldRows
from replaystore.batches.gather import Gatherer
from replaystore.batches.layout import Batch, allocate_batch, check_batch, with_extras
from replaystore.batches.protocol import BatchView
from replaystore.batches.transitions import TransitionView
from replaystore.columns.column import columns_of
from replaystore.columns.registry import resolved_fields
from replaystore.errors import Evicted, SpecError, StoreClosed, StoreError
from replaystore.index.parts import EpisodeInfo
from replaystore.index.snapshot import IndexSnapshot
from replaystore.recording.open_episodes import OpenEpisodes
from replaystore.runtime.counters import Counters, StoreStats
from replaystore.runtime.preemption import let_others_preempt
from replaystore.sampling.protocol import Draw, RowSampler
from replaystore.spec import DEFAULT_CHUNK_ROWS, Durability, FieldSpec, Mode, Residency, StoreSpec
from replaystore.storage.catalog.opening import OpenedStore, create_store, open_to_read, open_to_write
from replaystore.storage.reading.chunk_cache import ChunkCache
from replaystore.storage.reading.column_chunks import ColumnChunks
from replaystore.storage.reading.column_reader import ColumnReader
from replaystore.storage.reading.missing import Missing
from replaystore.storage.reading.open_files import OpenFiles
from replaystore.storage.reading.retention import Retention
from replaystore.storage.reading.small_fields import SmallFields
from replaystore.storage.statistics import store_statistics
from replaystore.storage.verify import Report, verify_store
from replaystore.storage.writing.commits import StoreWriter

_logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25  # a reader looks for new episodes at most this often
DEFAULT_THREADS = min(4, os.cpu_count() or 1)
_ATTEMPTS = 3  # to find a chunk

_Result = TypeVar("_Result")

_open_stores: weakref.WeakSet[ReplayStore] = weakref.WeakSet()


class ReplayStore:
    """Experience of a run: episodes in one directory, in a Zarr group that plain `zarr.open_group` reads.

    Made by `create` and `open`. One process writes, enforced by a lock; any number read and see what it commits
    within a second. Reading is thread-safe; `append` and `add` are for one thread at a time.

    >>> import tempfile, numpy as np
    >>> from replaystore import Sampler
    >>> fields = [FieldSpec.image("observation", (1, 8, 8), frame_stack=3),
    ...           FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward")]
    >>> path = tempfile.mkdtemp() + "/store"
    >>> with ReplayStore.create(path, fields, mode="full") as store:
    ...     _ = store.append({"observation": np.zeros((11, 1, 8, 8), np.uint8), "reward": np.ones((11, 1), np.float32)})
    ...     rows = store.draw(Sampler(n_step=3), np.random.default_rng(0), batch_size=4)
    ...     batch = store.gather(rows, n_step=3, discount=0.5)
    >>> batch["observation"].shape, float(batch["reward"][0, 0])
    ((4, 3, 8, 8), 1.75)
    """

    def __init__(self, files: OpenedStore, residency: Residency, budget_bytes: int | None, num_threads: int) -> None:
        _check_limit("num_threads", num_threads)
        _check_limit("budget_bytes", budget_bytes)
        catalog = files.catalog
        self.path = files.paths.root
        self.spec = catalog.spec
        self._files = files
        self._catalog = catalog
        self._writer: StoreWriter | None = None
        self._open_episodes: OpenEpisodes | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._next_refresh = 0.0
        self._retention = Retention()
        self._counters = Counters()
        self._open_files = OpenFiles()
        self._chunks = [
            ColumnChunks(column, files.paths, catalog, self._open_files, self._lock, self._counters)
            for column in catalog.columns
        ]
        readers = [ColumnReader(chunks, self._counters) for chunks in self._chunks]
        self._cache = ChunkCache(self.path, catalog, self._chunks, residency, budget_bytes)
        self._small = SmallFields(catalog.columns, readers, catalog, self._first_needed_row)
        self._fields = FieldRows(catalog.columns, readers, self._small.rows)
        self._gatherer = Gatherer(self.spec, self._fields)
        self._load_small(0)
        self._with_refresh(self._cache.fill)
        if files.log is not None:
            self._writer = StoreWriter(
                files.paths, catalog, files.log, self._lock, self._cache.admit, self._retention.retire, self._counters
            )
            self._open_episodes = OpenEpisodes(catalog, self._writer, self._small, self._lock, self._purge)
            unended = [info.episode for info in catalog.index.episodes() if not info.complete]
            for episode in unended:  # whoever wrote it is gone, and so is the rest of it
                self._open_episodes.end_committed(episode)
            if unended:
                _logger.info("%s: ended %d episodes that an earlier writer left open", self.path, len(unended))
            self._open_episodes.evict()
        _logger.info(
            "%s: opened to %s: mode %s, %d episodes, %d transitions, residency %s",
            self.path, "read" if self._writer is None else "write", self.spec.mode, self.num_episodes,
            self.num_transitions, residency,
        )  # fmt: skip
        _open_stores.add(self)

    # Opening and closing

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        fields: Iterable[FieldSpec],
        *,
        mode: Mode = "full",
        capacity: int | None = None,
        disk_budget_bytes: int | None = None,
        chunk_rows: int = DEFAULT_CHUNK_ROWS,
        durability: Durability = "process",
        residency: Residency = "auto",
        budget_bytes: int | None = None,
        num_threads: int = DEFAULT_THREADS,
    ) -> Self:
        """Makes a store and opens it for writing.

        Args:
            path: a directory that does not exist yet, or is empty.
            fields: what a row holds.
            mode: how images are stored: `"disk"` whole stacks, `"half"` each frame once, `"full"` frame differences.
            capacity: most transitions; the oldest whole episodes go first. None: no limit.
            disk_budget_bytes: most bytes on disk, chunks and tail; likewise. Freed a chunk at a time.
            chunk_rows: rows a chunk, of every field.
            durability: `"process"`: what is committed survives the process; `"power"`: and a power cut.
            residency, budget_bytes, num_threads: as in `open`.

        Raises:
            SpecError: the configuration cannot work. StoreExists: the path is in use.
        """
        _check_limit("capacity", capacity)
        _check_limit("disk_budget_bytes", disk_budget_bytes)
        spec = StoreSpec(
            mode=mode,
            fields=resolved_fields(mode, tuple(fields)),
            chunk_rows=chunk_rows,
            durability=durability,
            store_id=uuid.uuid4().hex,
        )
        columns_of(spec)
        files = create_store(Path(path).absolute(), spec, capacity, disk_budget_bytes)
        return cls._from_files(files, residency, budget_bytes, num_threads)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        residency: Residency = "auto",
        budget_bytes: int | None = None,
        num_threads: int = DEFAULT_THREADS,
    ) -> Self:
        """Opens a store, to write as its only writer, or to read.

        Nothing that was committed is written again. Reading makes no attempt to write.

        Args:
            path: the store's directory.
            read_only: open beside a writer, or from a file system that cannot be written.
            residency: `"ram"`: sealed chunks are held in memory, as they are encoded, and what does not fit is
                refused; `"mapped"`: they stay in files and the OS keeps of them what it can; `"auto"`: held while
                they fit, the rest in files; many of them are read in the background, and from their files until then
                (see `wait_until_filled`).
                Fields with rows of at most 256 bytes are held always.
            budget_bytes: for chunks in memory. None: what is available (`ram`), or half of it (`auto`).
            num_threads: threads that work on one batch.

        Raises:
            StoreNotFound, StoreLocked, FormatVersionError, LogError, ChunkError, BudgetError
        """
        whole = Path(path).absolute()  # the process may go elsewhere
        files = open_to_read(whole) if read_only else open_to_write(whole)
        return cls._from_files(files, residency, budget_bytes, num_threads)

    @classmethod
    def _from_files(cls, files: OpenedStore, residency: Residency, budget_bytes: int | None, num_threads: int) -> Self:
        try:
            return cls(files, residency, budget_bytes, num_threads)
        except BaseException:
            if files.log is not None:
                files.log.close()
            files.close()
            raise

    @classmethod
    def opened(cls, path: str | os.PathLike[str]) -> ReplayStore | None:
        """The store at `path` that this process has open for writing, if any."""
        wanted = Path(path).resolve()
        for store in list(_open_stores):
            if store._writer is not None and not store._closed and store.path.resolve() == wanted:
                return store
        return None

    def close(self) -> None:
        """Ends the store's use; a writer seals what is left, fsyncs, and lets the next one in.

        Rows of open episodes that were not committed are dropped. Plain Zarr readers then see every committed row.
        """
        if self._closed:
            return
        try:
            if self._open_episodes is not None:
                self._open_episodes.end_open_episodes()
        finally:
            self._closed = True
            try:
                self._cache.close()
                if self._pool is not None:
                    self._pool.shutdown()
                if self._writer is not None:
                    self._purge(everything=True)
                    self._writer.close()
            finally:
                self._files.close()
                self._open_files.clear()
                for chunks in self._chunks:
                    chunks.clear()
                _logger.info("%s: closed", self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Writing

    def append(self, episode: Mapping[str, Any]) -> int:
        """Commits a whole episode; returns its id. When it returns, the episode survives this process.

        Args:
            episode: for each field its rows, the reset row first: the field's dtype, shape (rows, *stacked shape) or,
                for images, (rows, *frame shape).

        Raises:
            EpisodeError: the data do not fit the fields; nothing was written. CapacityError: longer than the
            capacity; nothing was evicted. WriteError: nothing was committed.
        """
        return self._require_open_episodes().append(episode)

    def add(self, time_step: Any, *, env: int | str = 0, last: bool | None = None) -> int | None:
        """Adds one row of one environment; commits the episode when it ends, and returns its id then.

        Args:
            time_step: a mapping of fields to values, or an object whose `time_step[name]` or attributes are those.
            env: which environment it comes from; each has its own open episode.
            last: whether the episode ends with this row. None: `time_step.last()`.

        Raises:
            EpisodeError: the row does not fit; it was not added. As `append` when it commits.
        """
        return self._require_open_episodes().add(time_step, env, last)

    def commit_part(self, env: int | str = 0) -> None:
        """Commits what the open episode of `env` has so far, so that it can be sampled; the episode goes on."""
        self._require_open_episodes().commit_open(env, last=False)

    def end_episode(self, env: int | str = 0) -> int | None:
        """Commits the open episode of `env` as it is, and ends it; returns its id, or None if it has no rows."""
        return self._require_open_episodes().commit_open(env, last=True)

    def discard_episode(self, env: int | str = 0) -> None:
        """Forgets the rows of `env` that are not committed; parts that are remain, as an episode that ended there."""
        self._require_open_episodes().discard(env)

    def set_capacity(self, capacity: int | None) -> None:
        """Changes the capacity, in transitions; episodes beyond it are evicted at once."""
        writer = self._require_writer()
        _check_limit("capacity", capacity)
        writer.set_limits(capacity, self._catalog.disk_budget_bytes)
        self._require_open_episodes().evict()

    def flush(self, *, sync: bool = False) -> None:
        """Waits until all full chunks are sealed, and raises what went wrong; with `sync` fsyncs everything."""
        writer = self._require_writer()
        writer.flush()
        self._purge()
        if sync:
            writer.sync()

    # Reading

    def snapshot(self) -> IndexSnapshot:
        """What is live now. While somebody holds it, the chunks it speaks of stay on disk (in the writer's process)."""
        self._require_open()
        if self._writer is None and time.monotonic() >= self._next_refresh:
            self.refresh()
        with self._lock:
            return self._retention.hand_out(self._catalog.index.snapshot())

    def draw(
        self, sampler: RowSampler, rng: np.random.Generator, batch_size: int, *, snapshot: IndexSnapshot | None = None
    ) -> NDArray[np.int64]:
        """Draws rows for `gather`, with a sampler whose draws are rows alone, as those of `Sampler` are.

        `sampler.draw(store.snapshot(), rng, batch_size)` returns the whole draw of any sampler, and `gather` takes it.

        Args:
            sampler: of transitions, say.
            rng: advanced by the draw.
            batch_size: rows to draw.
            snapshot: what to draw from; None: what is live now.

        Returns:
            (batch_size,) int64 rows.

        Raises:
            NotEnoughData: there is no valid row yet.
            SpecError: the draw has weights or columns, which rows alone would lose.
        """
        draw = sampler.draw(self.snapshot() if snapshot is None else snapshot, rng, batch_size)
        if draw.weights is not None or draw.columns:
            raise SpecError(
                f"{type(sampler).__name__}: expected a draw of rows alone, got one with {sorted(draw.extras())}; call"
                " sampler.draw(store.snapshot(), rng, batch_size) and give all of it to gather"
            )
        return draw.rows

    def gather(
        self, rows: Any, *, view: BatchView | None = None, n_step: int | None = None, discount: float | None = None,
        out: Batch | None = None, snapshot: IndexSnapshot | None = None, num_threads: int | None = None,
    ) -> Batch:  # fmt: skip
        """Reads a batch: transitions, or what a view makes of rows.

        Args:
            rows: (batch,) int64, or a sampler's `Draw`.
            view: what the rows become; None: `TransitionView(n_step=n_step, discount=discount)`.
            n_step: of the transitions, 1 where it is None. Not together with `view`.
            discount: of the transitions, 0.99 where it is None. Not together with `view`.
            out: arrays to fill (see `allocate`); None: new ones.
            snapshot: what the rows were drawn from; keeps their chunks readable although evicted meanwhile.
            num_threads: threads to use; None: as opened.

        Returns:
            The arrays of `view.layout(store.spec)`, of transitions without a view: for each observation field `name`
            and `next_name`, (batch, *stacked shape); actions and extra fields at the row; reward and discount float32.
            A draw adds its `weight` and columns.

        Raises:
            Evicted: a row is not live (any more), or what the view needs leaves its episode.
            ChunkError: damaged data.
            SpecError: a value that cannot work, or two that contradict.
        """
        self._require_open()
        draw = rows if isinstance(rows, Draw) else Draw(rows)
        draw = draw._replace(rows=np.ascontiguousarray(draw.rows, np.int64))
        if view is None:
            view = _transition_view(1 if n_step is None else n_step, 0.99 if discount is None else float(discount))
        elif n_step is not None or discount is not None:
            name = "discount" if n_step is None else "n_step"
            raise SpecError(f"gather: {name}= is part of a view, and view= is given; give it to the view alone")
        layout = self._gatherer.layout(view)
        if out is None:
            out = allocate_batch(layout, len(draw.rows))
        else:
            check_batch(layout, len(draw.rows), out)
        live = self.snapshot() if snapshot is None else snapshot
        threads = self._num_threads if num_threads is None else num_threads
        pool = self._threads(threads)
        self._with_refresh(lambda: self._gatherer.gather(live, draw, view, out, pool, threads))
        self._counters.add(batches_gathered=1, transitions_gathered=len(draw.rows))
        if draw.weights is None and not draw.columns:
            return out
        return with_extras(out, draw)

    def allocate(self, batch_size: int, *, view: BatchView | None = None) -> Batch:
        """Empty arrays for `gather(out=...)`.

        Args:
            batch_size: the first axis.
            view: as in `gather`; None: of transitions.
        """
        return allocate_batch(self._gatherer.layout(_transition_view(1, 0.99) if view is None else view), batch_size)

    def episodes(self) -> list[EpisodeInfo]:
        """The live episodes, oldest first."""
        self._require_open()
        with self._lock:
            return self._catalog.index.episodes()

    def read_episode(self, episode: int) -> dict[str, NDArray[Any]]:
        """All committed rows of an episode, as they would be appended again: images as (rows, *stacked shape)."""
        self._require_open()
        snapshot = self.snapshot()
        info = next((info for info in self.episodes() if info.episode == episode), None)
        if info is None:
            raise StoreError(f"{self.path}: no live episode {episode}; see store.episodes()")
        rows = np.concatenate(
            [np.arange(part.first_row, part.first_row + part.num_rows, dtype=np.int64) for part in info.parts]
        )
        return self._with_refresh(lambda: self._fields.read_rows(snapshot, rows))

    def wait_until_filled(self) -> None:
        """Waits for what residency `"auto"` takes into memory in the background; nothing has to. For measurements."""
        self._require_open()
        self._cache.wait()

    def refresh(self) -> bool:
        """Looks for what the writer committed since the last time; returns whether there was anything.

        Sampling does so by itself, every quarter of a second.
        """
        self._require_open()
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        if self._writer is not None:
            return False
        changed = self._follow()
        if changed:
            self._with_refresh(self._cache.fill)
            self._purge()
        return changed

    def _follow(self) -> bool:
        """Takes in what the writer committed since the last time, small fields too; whether there was anything."""
        with self._lock:
            loaded = self._catalog.next_row
            changed = self._follow_log()
            if changed:
                self._load_small(loaded)
        if changed:
            _logger.debug("%s: found commits, %d transitions now", self.path, self.num_transitions)
        return changed

    def _follow_log(self) -> bool:
        """Brings the catalog up to date with the log; whether there was anything. The writer's always is."""
        if self._writer is not None or self._closed:
            return False
        with self._lock:
            changed, dead = self._files.reader.follow(self._catalog)
            self._retention.retire(dead)
            if changed:
                self._counters.add(refreshes=1)
        return changed

    def _load_small(self, first_row: int) -> None:
        """Reads the small fields of the live rows from `first_row` on. What is evicted meanwhile is left out."""
        while True:
            end = self._catalog.end
            try:
                self._with_refresh(lambda: self._small.load(first_row), self._follow_log)
            except Evicted:
                if self._catalog.end == end:
                    raise
                continue
            return

    def _with_refresh(self, read: Callable[[], _Result], refresh: Callable[[], object] | None = None) -> _Result:
        """What `read` returns. Where a chunk is not where the catalog says, refreshes the catalog and tries again.

        In the writer's process trying again suffices: what was a tail has become a chunk. Chunks are not taken into
        memory here, because the caller may hold the lock that the loading threads need.

        Args:
            read: reads from chunks.
            refresh: brings the catalog up to date; None: the small fields too.

        Raises:
            Evicted: a chunk stays missing because its rows are not live any more.
            ChunkError: a chunk stays missing although they are.
        """
        attempts: Counter[tuple[str, int]] = Counter()
        while True:
            try:
                return read()
            except Missing as missing:
                attempts[missing.chunk] += 1
                if attempts[missing.chunk] == _ATTEMPTS:
                    raise missing.error from missing.__cause__
            (refresh or self._follow)()

    def _first_needed_row(self) -> int:
        """The oldest row that is live, or in a snapshot in use; the next one where there is none."""
        first = self._retention.first_row(self._catalog.index.snapshot())
        return self._catalog.next_row if first is None else first

    # Figures

    @property
    def num_transitions(self) -> int:
        """Live transitions (with n_step 1)."""
        return self._catalog.index.num_transitions

    @property
    def num_episodes(self) -> int:
        """Live episodes."""
        return self._catalog.index.num_episodes

    @property
    def num_rows(self) -> int:
        """Live rows."""
        return self._catalog.index.num_rows

    @property
    def next_episode_id(self) -> int:
        """One past the largest episode id ever committed; what the next new episode gets."""
        return self._catalog.index.next_episode_id

    @property
    def capacity(self) -> int | None:
        """Most transitions, or None."""
        return self._catalog.capacity

    @property
    def read_only(self) -> bool:
        """Whether the store was opened to read, or inherited by a forked child."""
        return self._writer is None

    @property
    def residency(self) -> Residency:
        """Where bytes live: `"mapped"`, `"ram"` or `"auto"`."""
        return self._cache.residency

    @property
    def held_bytes(self) -> int:
        """Bytes of encoded chunks and of small fields held in memory."""
        return self._cache.cached_bytes + self._small.nbytes

    def __len__(self) -> int:
        return self.num_transitions

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.num_episodes} episodes, {self.num_transitions} transitions"
        return f"<ReplayStore {str(self.path)!r} mode={self.spec.mode!r} {state}>"

    def info(self) -> dict[str, Any]:
        """Figures about the store: plain data, bytes as on disk now."""
        self._require_open()
        with self._lock:
            statistics = store_statistics(self._files.paths, self._catalog)
        return {
            **statistics,
            "residency": self.residency,
            "held_bytes": self.held_bytes,
            "budget_bytes": self._cache.budget_bytes,
        }

    def stats(self) -> StoreStats:
        """What this object did since it was opened: `StoreStats` has the meaning of each counter. Also when closed."""
        return self._counters.stats(chunk_files_held=self._cache.num_cached, bytes_held=self.held_bytes)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> Report:
        """Compares every byte of the store with what its log says.

        Args:
            progress: called with (files done, files in all).

        Returns:
            What was checked and a line for each problem; `report.ok` where there is none.
        """
        self._require_open()
        if self._writer is not None:
            self._writer.flush()
            self._writer.publish()
        with self._lock:
            return verify_store(self._files.paths, self._catalog, progress=progress)

    # Inside

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path}: the store has been closed; open it again")

    def _require_writer(self) -> StoreWriter:
        self._require_open()
        if self._writer is None:
            raise StoreError(f"{self.path}: not open for writing in this process; open it here without read_only")
        return self._writer

    def _require_open_episodes(self) -> OpenEpisodes:
        self._require_writer()
        assert self._open_episodes is not None
        return self._open_episodes

    def _threads(self, count: int) -> ThreadPoolExecutor | None:
        if count == 1:
            return None
        with self._lock:
            if self._pool is None:
                workers = max(count, self._num_threads)
                self._pool = ThreadPoolExecutor(workers, "replaystore-read", let_others_preempt)
            return self._pool

    def _purge(self, *, everything: bool = False) -> None:
        """Drops dead chunks that no batch in flight can need any more."""
        with self._lock:
            dead = self._retention.release(everything=everything)
            for chunk in dead:
                for chunks in self._chunks:
                    chunks.drop(chunk)
            if self._writer is not None:
                self._writer.unlink_chunks(dead)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._counters.reset()
        self._open_files.reset_after_fork()
        self._cache.reset_after_fork()
        for chunks in self._chunks:
            chunks.reset_after_fork(self._lock)
        self._pool = None
        self._writer = None
        self._open_episodes = None
        if self._files.lock is not None:
            self._files.lock.close_in_child()
            self._files.lock = None


@lru_cache(typed=True)  # the layout of a view that was just used is at hand
def _transition_view(n_step: int, discount: float) -> TransitionView:
    return TransitionView(n_step=n_step, discount=discount)


def _check_limit(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise SpecError(f"{name} is a positive number or None, got {value}")


_locked: list[ReplayStore] = []  # while this process forks


def _lock_stores() -> None:
    # A child must not inherit a catalog that another thread is changing.
    _locked[:] = sorted(_open_stores, key=id)
    for store in _locked:
        store._lock.acquire()


def _unlock_stores() -> None:
    while _locked:
        _locked.pop()._lock.release()


def _reset_stores_in_child() -> None:
    _locked.clear()
    for store in list(_open_stores):
        store._after_fork_in_child()


os.register_at_fork(before=_lock_stores, after_in_parent=_unlock_stores, after_in_child=_reset_stores_in_child)
