"""`ReplayStore`: experience in one directory, written by one process, read by any number."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.gather import Gatherer
from replaystore.batches.layout import Batch
from replaystore.batches.protocol import BatchView
from replaystore.batches.transitions import view_or_transitions
from replaystore.errors import SpecError, StoreClosed, StoreError
from replaystore.index.parts import EpisodeInfo
from replaystore.index.snapshot import IndexSnapshot
from replaystore.recording.limits import check_positive
from replaystore.recording.session import WritingSession
from replaystore.runtime.counters import Counters, StoreStats
from replaystore.sampling.protocol import RowSampler
from replaystore.spec import DEFAULT_CHUNK_ROWS, Durability, FieldSpec, Mode, Residency
from replaystore.storage.catalog.opening import OpenedStore, create_store, new_spec, open_to_read, open_to_write
from replaystore.storage.reading.field_reader import FieldReader
from replaystore.storage.reading.session import ReadingSession
from replaystore.storage.statistics import store_statistics
from replaystore.storage.verify import Report, verify_store

_logger = logging.getLogger(__name__)

DEFAULT_THREADS = min(4, os.cpu_count() or 1)


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
        check_positive("num_threads", num_threads)
        check_positive("budget_bytes", budget_bytes)
        catalog = files.catalog
        self.path = files.paths.root
        self.spec = catalog.spec
        self._files = files
        self._catalog = catalog
        self._closed = False
        self._counters = Counters()
        self._reading = ReadingSession(files, residency, budget_bytes, num_threads, self._counters)
        self._fields = FieldReader(catalog.columns, self._reading.readers, self._reading.small.rows)
        self._gatherer = Gatherer(self.spec, self._fields, self._reading, num_threads, self._counters)
        self._writing = None
        if files.log is not None:
            self._writing = WritingSession(files, files.log, self._reading, self._counters)
        _logger.info(
            "%s: opened to %s: mode %s, %d episodes, %d transitions, residency %s",
            self.path, "read" if self.read_only else "write", self.spec.mode, self.num_episodes,
            self.num_transitions, residency,
        )  # fmt: skip

    # Opening and closing

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], fields: Iterable[FieldSpec], *, mode: Mode = "full",
        capacity: int | None = None, disk_budget_bytes: int | None = None, chunk_rows: int = DEFAULT_CHUNK_ROWS,
        durability: Durability = "process", residency: Residency = "auto", budget_bytes: int | None = None,
        num_threads: int = DEFAULT_THREADS,
    ) -> Self:  # fmt: skip
        """Makes a store and opens it for writing.

        Args:
            path: a directory that does not exist yet, or is empty.
            fields: what a row holds.
            mode: how images are stored: `"disk"` whole stacks, `"half"` each frame once, `"full"` frame differences.
            capacity: most transitions; the oldest whole episodes are evicted first. None: no limit.
            disk_budget_bytes: most bytes on disk, chunks and tail; evicts likewise. Freed one chunk at a time.
            chunk_rows: rows per chunk, of every field.
            durability: `"process"`: what is committed survives the process; `"power"`: it survives a power cut too.
            residency: as in `open`.
            budget_bytes: as in `open`.
            num_threads: as in `open`.

        Raises:
            SpecError: the configuration cannot work.
            StoreExists: the path is in use.
            WriteError: the directory cannot be made there.
        """
        check_positive("capacity", capacity)
        check_positive("disk_budget_bytes", disk_budget_bytes)
        spec = new_spec(fields, mode, chunk_rows, durability)
        files = create_store(Path(path).absolute(), spec, capacity, disk_budget_bytes)
        return cls._from_files(files, residency, budget_bytes, num_threads)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, residency: Residency = "auto",
        budget_bytes: int | None = None, num_threads: int = DEFAULT_THREADS,
    ) -> Self:  # fmt: skip
        """Opens a store, to write as its only writer, or to read. Reading makes no attempt to write.

        Args:
            path: the store's directory.
            read_only: open beside a writer, or from a file system that cannot be written.
            residency: `"ram"`: sealed chunks are held in memory, as they are encoded, and what does not fit is
                refused. `"mapped"`: they stay in files, of which the OS keeps what it can. `"auto"`: they are held
                while they fit; many of them are read in the background (see `wait_until_filled`).
                Fields with rows of at most 256 bytes are held always.
            budget_bytes: for chunks in memory. None: what is available (`"ram"`), or half of it (`"auto"`).
            num_threads: threads that work on one batch.

        Raises:
            StoreNotFound: there is no store.
            StoreLocked: it is open for writing elsewhere.
            FormatVersionError: another release wrote it.
            LogError: its log is damaged.
            ChunkError: a chunk is damaged or missing.
            BudgetError: residency `"ram"`, and the chunks do not fit.
        """
        whole = Path(path).absolute()  # the process may go elsewhere
        files = open_to_read(whole) if read_only else open_to_write(whole)
        return cls._from_files(files, residency, budget_bytes, num_threads)

    @classmethod
    def _from_files(cls, files: OpenedStore, residency: Residency, budget_bytes: int | None, num_threads: int) -> Self:
        try:
            return cls(files, residency, budget_bytes, num_threads)
        except BaseException:
            files.abandon()
            raise

    def close(self) -> None:
        """Ends the store's use; a writer seals what is left, fsyncs, and lets the next one in.

        Rows of open episodes that were not committed are dropped. Plain Zarr readers then see every committed row.

        Raises:
            ReplayStoreError: what went wrong since the last call. The store is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._writing is not None and not self.read_only:
                self._writing.close()
        finally:
            self._reading.close()
            _logger.info("%s: closed", self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Writing

    def append(self, episode: Mapping[str, Any]) -> int:
        """Commits a whole episode. When it returns, the episode survives this process.

        Args:
            episode: for each field its rows, the reset row first: the field's dtype, shape (rows, *stacked shape) or,
                for images, (rows, *frame shape).

        Returns:
            The episode's id.

        Raises:
            EpisodeError: the data do not fit the fields; nothing was written.
            CapacityError: the episode is longer than the capacity; nothing was evicted.
            WriteError: nothing was committed.
        """
        return self._require_writing().episodes.append(episode)

    def add(self, time_step: Any, *, env: int | str = 0, last: bool | None = None) -> int | None:
        """Adds one row of one environment, and commits the episode when it ends.

        Args:
            time_step: a mapping of fields to values, or an object whose `time_step[name]` or attributes are those.
            env: which environment it comes from; each has its own open episode.
            last: whether the episode ends with this row. None: `time_step.last()`.

        Returns:
            The episode's id where it ends, else None.

        Raises:
            EpisodeError: the row does not fit; it was not added.
            CapacityError: as `append`, when it commits.
            WriteError: as `append`, when it commits.
        """
        return self._require_writing().episodes.add(time_step, env, last)

    def commit_part(self, env: int | str = 0) -> None:
        """Commits what the open episode of `env` has so far, so that it can be sampled; the episode goes on."""
        self._require_writing().episodes.commit_open(env, last=False)

    def end_episode(self, env: int | str = 0) -> int | None:
        """Commits the open episode of `env` as it is, and ends it; returns its id, or None if it has no rows."""
        return self._require_writing().episodes.commit_open(env, last=True)

    def discard_episode(self, env: int | str = 0) -> None:
        """Forgets the rows of `env` that are not committed; parts that are remain, as an episode that ended there."""
        self._require_writing().episodes.discard(env)

    def set_capacity(self, capacity: int | None) -> None:
        """Changes the capacity, in transitions; episodes beyond it are evicted at once."""
        self._require_writing().limits.set_capacity(capacity)

    def flush(self, *, sync: bool = False) -> None:
        """Waits until all full chunks are sealed, and raises what went wrong; with `sync` fsyncs everything."""
        self._require_writing().flush(sync=sync)

    # Reading

    def snapshot(self) -> IndexSnapshot:
        """What is live now. While it is in use, its chunks stay on disk (in the writer's process)."""
        self._require_open()
        return self._reading.snapshot()

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
        chosen = view_or_transitions(view, n_step, discount)
        return self._gatherer.gather(rows, chosen, out, snapshot, num_threads)

    def allocate(self, batch_size: int, *, view: BatchView | None = None) -> Batch:
        """Empty arrays for `gather(out=...)`.

        Args:
            batch_size: the first axis.
            view: as in `gather`; None: of transitions.
        """
        return self._gatherer.allocate(view_or_transitions(view), batch_size)

    def episodes(self) -> list[EpisodeInfo]:
        """The live episodes, oldest first."""
        self._require_open()
        with self._reading.lock:
            return self._catalog.index.episodes()

    def read_episode(self, episode: int) -> dict[str, NDArray[Any]]:
        """All committed rows of an episode, as they would be appended again: images as (rows, *stacked shape)."""
        snapshot = self.snapshot()
        info = next((info for info in self.episodes() if info.episode == episode), None)
        if info is None:
            raise StoreError(f"{self.path}: no live episode {episode}; see store.episodes()")
        rows = [np.arange(part.first_row, part.first_row + part.num_rows, dtype=np.int64) for part in info.parts]
        return self._reading.with_refresh(lambda: self._fields.read_rows(snapshot, np.concatenate(rows)))

    def wait_until_filled(self) -> None:
        """Waits for what residency `"auto"` takes into memory in the background; nothing has to. For measurements."""
        self._require_open()
        self._reading.cache.wait()

    def refresh(self) -> bool:
        """Looks for what the writer committed since the last time; returns whether there was anything.

        Sampling does so by itself, every quarter of a second.
        """
        self._require_open()
        return self._reading.refresh()

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
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def read_only(self) -> bool:
        """Whether the store was opened to read, or inherited by a forked child."""
        return not self._reading.writes

    @property
    def residency(self) -> Residency:
        """Where bytes live: `"mapped"`, `"ram"` or `"auto"`."""
        return self._reading.cache.residency

    @property
    def held_bytes(self) -> int:
        """Bytes of encoded chunks and of small fields held in memory."""
        return self._reading.held_bytes

    def __len__(self) -> int:
        return self.num_transitions

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.num_episodes} episodes, {self.num_transitions} transitions"
        return f"<ReplayStore {str(self.path)!r} mode={self.spec.mode!r} {state}>"

    def info(self) -> dict[str, Any]:
        """Figures about the store: plain data, bytes as on disk now."""
        self._require_open()
        return store_statistics(self._files, self._reading)

    def stats(self) -> StoreStats:
        """What this object did since it was opened: `StoreStats` has the meaning of each counter. Also when closed."""
        return self._counters.stats(chunk_files_held=self._reading.cache.num_cached, bytes_held=self.held_bytes)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> Report:
        """Compares every byte of the store with what its log says.

        Args:
            progress: called with (files done, files in all).

        Returns:
            What was checked and a line for each problem; `report.ok` where there is none.
        """
        self._require_open()
        if not self.read_only:
            self._require_writing().publish()
        with self._reading.lock:
            return verify_store(self._files.paths, self._catalog, progress=progress)

    # Inside

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path}: the store has been closed; open it again")

    def _require_writing(self) -> WritingSession:
        self._require_open()
        if self._writing is None or self.read_only:
            raise StoreError(f"{self.path}: not open for writing in this process; open it here without read_only")
        return self._writing
