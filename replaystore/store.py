"""`ReplayStore`: a replay buffer in a directory, written by one process and read by any number."""

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
from replaystore.errors import SpecError, StoreClosed, StoreError, StoreLocked
from replaystore.index.parts import EpisodeInfo
from replaystore.index.snapshot import IndexSnapshot
from replaystore.recording.session import WritingSession
from replaystore.runtime.counters import Counters, StoreStats
from replaystore.runtime.numbers import byte_limit, limit
from replaystore.runtime.paths import local_path
from replaystore.sampling.protocol import RowSampler
from replaystore.spec import Durability, FieldSpec, Mode, Residency
from replaystore.storage.catalog.opening import OpenedStore, create_store, new_spec, open_to_read, open_to_write
from replaystore.storage.reading.field_reader import FieldReader
from replaystore.storage.reading.options import ReadingOptions
from replaystore.storage.reading.session import ReadingSession
from replaystore.storage.statistics import store_statistics
from replaystore.storage.verify import Report, verify_store

_logger = logging.getLogger(__name__)

DEFAULT_THREADS = min(4, os.cpu_count() or 1)

_writers: dict[Path, ReplayStore] = {}  # open for writing in this process, by resolved path


class ReplayStore:
    """A replay buffer in a directory, as a Zarr group that plain `zarr.open_group` reads.

    `create` and `open` make one. A lock ensures that one process writes. Any number of processes read, and see what it
    commits within a second. All methods are thread-safe. Threads that write take turns, and threads that add rows of
    the same environment have to agree on their order.

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

    def __init__(self, files: OpenedStore, reading: ReadingOptions, commit_every: int | None) -> None:
        catalog = files.catalog
        self.path = files.paths.root
        self.spec = catalog.spec
        self._files = files
        self._catalog = catalog
        self._closed = False
        self._counters = Counters()
        self._reading = ReadingSession(files, *reading, self._counters)
        self._fields = FieldReader(catalog.columns, self._reading.readers, self._reading.small.rows)
        self._gatherer = Gatherer(self.spec, self._fields, self._reading, reading.num_threads, self._counters)
        self._writing = None
        if files.log is not None:
            self._writing = WritingSession(files, files.log, self._reading, self._counters, commit_every)
            _writers[self.path.resolve()] = self
        _logger.info(
            "%s: opened to %s: mode %s, %d episodes, %d transitions, residency %s",
            self.path, "read" if self.read_only else "write", self.spec.mode, self.num_episodes,
            self.num_transitions, self.residency,
        )  # fmt: skip

    # Opening and closing

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], fields: Iterable[FieldSpec], *, mode: Mode = "full",
        capacity: int | None = None, disk_budget_bytes: int | str | None = None, chunk_rows: int | None = None,
        durability: Durability = "process", residency: Residency = "auto", budget_bytes: int | str | None = None,
        num_threads: int = DEFAULT_THREADS, commit_every: int | None = None,
    ) -> Self:  # fmt: skip
        """Makes a store and opens it for writing.

        Args:
            path: a directory that does not exist yet, or is empty.
            fields: the fields of a row.
            mode: how images are stored. `"disk"` stores whole stacks, `"half"` each frame once, `"full"` the
                differences between frames.
            capacity: most transitions. The oldest whole episodes are evicted to keep it. None: no limit.
            disk_budget_bytes: most bytes on disk, chunks and tail together, as a number or text such as `"100GB"`. The
                oldest whole episodes are evicted to keep it, and their space is freed one chunk at a time. None: no
                limit.
            chunk_rows: rows per chunk, for every field. None: 1,024, and fewer for large fields (see
                `default_chunk_rows`).
            durability: with `"process"`, committed rows survive the death of the process. With `"power"`, they survive
                a power cut too.
            residency: as in `open`.
            budget_bytes: as in `open`.
            num_threads: as in `open`.
            commit_every: as in `open`.

        Returns:
            The open store.

        Raises:
            SpecError: the configuration cannot work.
            StoreExists: the path is in use.
            WriteError: the directory cannot be made.
        """
        root, reading = local_path(path), ReadingOptions.checked(residency, budget_bytes, num_threads)
        commit_every = limit(commit_every, "commit_every")
        limits = limit(capacity, "capacity"), byte_limit(disk_budget_bytes, "disk_budget_bytes")
        files = create_store(root, new_spec(fields, mode, chunk_rows, durability), *limits)
        return cls._from_files(files, reading, commit_every)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, residency: Residency = "auto",
        budget_bytes: int | str | None = None, num_threads: int = DEFAULT_THREADS, commit_every: int | None = None,
    ) -> Self:  # fmt: skip
        """Opens a store, as its only writer or to read it.

        Args:
            path: the store's directory.
            read_only: open only to read. Works beside a writer and on a read-only file system, and writes nothing.
            residency: where sealed chunks are held, in their encoded form. `"ram"` holds all of them in memory, and
                raises `BudgetError` if they do not fit. `"mapped"` maps the files: the system caches what it can, and
                processes share it. If a file is truncated from outside or its device fails, reading it raises an error
                where the system allows it, but a page that was dropped and is read again can end the process. `"files"`
                reads the files without maps, for network file systems, where `"mapped"` does the same. `"auto"` holds
                as many chunks as fit, oldest first, and reads the others from their files. If they are many, it fills
                memory in the background (see `wait_until_filled`). Fields with rows of at most 256 bytes are always in
                memory.
            budget_bytes: most bytes of chunks in memory, as a number or text such as `"16GiB"`. None: the available
                memory (`"ram"`), or half of it (`"auto"`).
            num_threads: threads that work on one batch.
            commit_every: rows after which `add` commits what an open episode has so far, as `commit_part` does. This
                bounds the memory of long episodes. None: `add` commits whole episodes.

        Returns:
            The open store.

        Raises:
            StoreNotFound: there is no store.
            StoreLocked: another process, or another object in this one, has it open for writing.
            FormatVersionError: this release cannot read its format.
            LogError: its log is damaged.
            ChunkError: a chunk is damaged or missing.
            BudgetError: residency is `"ram"` and the chunks do not fit.
        """
        root, reading = local_path(path), ReadingOptions.checked(residency, budget_bytes, num_threads)
        commit_every = limit(commit_every, "commit_every")
        try:
            files = open_to_read(root) if read_only else open_to_write(root)
        except StoreLocked as err:
            if cls.opened(root) is None:
                raise
            raise StoreLocked(
                f"{root}: already open for writing by process {os.getpid()}, which is this one: it was not closed,"
                f" perhaps after an exception; get it with ReplayStore.opened({str(path)!r}), and use or close it"
            ) from err
        return cls._from_files(files, reading, commit_every)

    @staticmethod
    def opened(path: str | os.PathLike[str]) -> ReplayStore | None:
        """Returns the store at `path` that this process has open for writing, or None.

        Only one object can write to a store. This finds it, for code that knows the path alone, and after an exception
        that left a store open.

        Args:
            path: the store's directory.
        """
        store = _writers.get(local_path(path).resolve())
        return None if store is None or store.closed or store.read_only else store

    @classmethod
    def _from_files(cls, files: OpenedStore, reading: ReadingOptions, commit_every: int | None) -> Self:
        try:
            return cls(files, reading, commit_every)
        except BaseException:
            files.abandon()
            raise

    def close(self) -> None:
        """Closes the store. Does nothing if it is closed.

        A writer first drops the uncommitted rows of open episodes, seals the tail, and calls fsync. Plain Zarr readers
        then see every committed row, and another process can open the store for writing.

        Raises:
            ReplayStoreError: a background error since the last call, or a write failed. The store is closed
                nevertheless.
        """
        if self._closed:
            return
        self._closed = True
        if _writers.get(self.path.resolve()) is self:
            del _writers[self.path.resolve()]
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
        """Commits a whole episode. When it returns, the episode survives the death of the process.

        Args:
            episode: maps each field to an array of the field's dtype, the reset row first. Its shape is
                (rows, *stacked shape). Images may also be single frames, (rows, *frame shape).

        Returns:
            The episode's id.

        Raises:
            EpisodeError: the data do not fit the fields. Nothing was written.
            CapacityError: the episode is longer than the capacity. Nothing was evicted.
            WriteError: a file could not be written. Nothing was committed.
        """
        return self._require_writing().episodes.append(episode)

    def add(self, time_step: Any, *, env: int | str = 0, last: bool | None = None) -> int | None:
        """Adds one row of an environment. The last row of an episode commits it.

        Args:
            time_step: the values by field name, as a mapping, as attributes or as `time_step[name]`.
            env: the environment that the row comes from. Each environment has an open episode of its own.
            last: whether the episode ends with this row. None: what `time_step.last()` returns.

        Returns:
            The episode's id if it ended, else None.

        Raises:
            EpisodeError: the row does not fit. It was not added.
            CapacityError: the open episode has reached the capacity. The row was not added, and nothing was evicted.
            WriteError: rows could not be committed. They are kept, and `end_episode` tries again.
        """
        return self._require_writing().episodes.add(time_step, env, last)

    def commit_part(self, env: int | str = 0) -> None:
        """Commits the rows that the open episode of `env` has so far. They can be sampled, and the episode goes on."""
        self._require_writing().episodes.commit_open(env, last=False)

    def end_episode(self, env: int | str = 0) -> int | None:
        """Ends the open episode of `env` and commits it. Returns its id, or None if it has no rows."""
        return self._require_writing().episodes.commit_open(env, last=True)

    def discard_episode(self, env: int | str = 0) -> None:
        """Drops the uncommitted rows of the open episode of `env`. Its committed rows stay, as an ended episode."""
        self._require_writing().episodes.discard(env)

    def set_capacity(self, capacity: int | None) -> None:
        """Changes the capacity, in transitions. The oldest episodes beyond it are evicted at once. None: no limit."""
        self._require_writing().limits.set_capacity(capacity)

    def flush(self, *, sync: bool = False) -> None:
        """Waits until all full chunks are sealed.

        Args:
            sync: also call fsync, so that everything committed survives a power cut.

        Raises:
            ReplayStoreError: a background error since the last call, or the fsync failed.
        """
        self._require_writing().flush(sync=sync)

    # Reading

    def snapshot(self) -> IndexSnapshot:
        """Returns what is live now. In the writer's process, its chunks stay on disk while it is in use."""
        self._require_open()
        return self._reading.snapshot()

    def draw(
        self, sampler: RowSampler, rng: np.random.Generator, batch_size: int, *, snapshot: IndexSnapshot | None = None
    ) -> NDArray[np.int64]:
        """Draws rows for `gather`, with a sampler whose draws have neither weights nor columns, such as `Sampler`.

        For other samplers call `sampler.draw(store.snapshot(), rng, batch_size)` and pass the result to `gather`.

        Args:
            sampler: chooses the rows.
            rng: the random generator that the sampler uses.
            batch_size: number of rows.
            snapshot: the rows to choose from. None: what is live now.

        Returns:
            int64 (batch_size,), row numbers.

        Raises:
            NotEnoughData: there is no valid row yet.
            SpecError: the draw has weights or columns, which this method would drop.
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
        """Reads a batch.

        Args:
            rows: int64 (batch,) row numbers, or a sampler's `Draw`.
            view: turns the rows into a batch. None: `TransitionView(n_step=n_step, discount=discount)`.
            n_step: steps per transition. None: 1. Not together with `view`.
            discount: discount per step. None: 0.99. Not together with `view`.
            out: the arrays to fill (see `allocate`). None: new arrays.
            snapshot: the snapshot that the rows were drawn from. Its chunks stay readable if they are evicted
                meanwhile.
            num_threads: threads to use. None: as the store was opened.

        Returns:
            The arrays of `view.layout(store.spec)`. Without a view these are: `name` and `next_name` for each
            observation field, (batch, *stacked shape); actions and extra fields at the row; reward and discount as
            float32. A `Draw` adds its weights as `weight`, and its columns.

        Raises:
            Evicted: a row is not live, or the view needs steps beyond the end of its episode.
            ChunkError: stored bytes are damaged.
            SpecError: an argument cannot work, or two contradict each other.
        """
        self._require_open()
        chosen = view_or_transitions(view, n_step, discount)
        return self._gatherer.gather(rows, chosen, out, snapshot, num_threads)

    def allocate(self, batch_size: int, *, view: BatchView | None = None) -> Batch:
        """Returns empty arrays for `gather(out=...)`.

        Args:
            batch_size: length of the first axis.
            view: as in `gather`. None: transitions.
        """
        return self._gatherer.allocate(view_or_transitions(view), batch_size)

    def episodes(self) -> list[EpisodeInfo]:
        """Returns the live episodes, oldest first."""
        self._require_open()
        with self._reading.lock:
            return self._catalog.index.episodes()

    def read_episode(self, episode: int) -> dict[str, NDArray[Any]]:
        """Returns all committed rows of an episode, in the form that `append` takes.

        Args:
            episode: the episode's id.

        Returns:
            Maps each field to its rows. Images have the shape (rows, *stacked shape).

        Raises:
            StoreError: there is no such live episode.
            ChunkError: stored bytes are damaged.
        """
        snapshot = self.snapshot()
        try:
            with self._reading.lock:
                info = self._catalog.index.episode(episode)
        except ValueError as err:
            raise StoreError(f"{self.path}: no live episode {episode}; see store.episodes()") from err
        rows = [np.arange(part.first_row, part.first_row + part.num_rows, dtype=np.int64) for part in info.parts]
        return self._reading.with_refresh(lambda: self._fields.read_rows(snapshot, np.concatenate(rows)))

    def wait_until_filled(self) -> None:
        """Waits until residency `"auto"` has read its chunks into memory. Useful before a measurement."""
        self._require_open()
        self._reading.cache.wait()

    def refresh(self) -> bool:
        """Takes in what the writer has committed. Sampling does so by itself, every quarter of a second.

        Returns:
            Whether there was anything new.
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
        """Id of the next new episode: one more than the largest id ever committed."""
        return self._catalog.index.next_episode_id

    @property
    def capacity(self) -> int | None:
        """Most transitions. None: no limit."""
        return self._catalog.capacity

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def read_only(self) -> bool:
        """Whether this object only reads: it was opened to read, or a forked child inherited it."""
        return not self._reading.writes

    @property
    def residency(self) -> Residency:
        """Where sealed chunks are held: `"mapped"`, `"files"`, `"ram"` or `"auto"`."""
        return self._reading.cache.residency

    @property
    def held_bytes(self) -> int:
        """Bytes of encoded chunks and of small fields in memory."""
        return self._reading.held_bytes

    def __len__(self) -> int:
        return self.num_transitions

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.num_episodes} episodes, {self.num_transitions} transitions"
        return f"<ReplayStore {str(self.path)!r} mode={self.spec.mode!r} {state}>"

    def info(self) -> dict[str, Any]:
        """Returns figures of the store, as plain data that JSON can hold.

        Returns:
            - `path`, `format_version`, `mode`, `chunk_rows`, `durability`, `capacity`, `disk_budget_bytes`: as created
              or set.
            - `transitions`, `episodes`, `rows`: what is live.
            - `chunks`, `rows_in_tail`: sealed chunks, and rows that are not sealed.
            - `bytes_on_disk`: bytes of chunks, tail and log. Padding that was never written does not count.
            - `bytes_per_transition`, `observation_bytes_per_transition`: bytes of chunks and tail per live transition,
              of all fields and of observations. None without transitions.
            - `compression_factor`: bytes of the live observations as whole stacks, over their bytes on disk.
            - `residency`, `budget_bytes`: as in `open`.
            - `held_bytes`, `cached_bytes`: bytes in memory, with and without small fields.
            - `fields`: for each field `role`, `dtype`, `shape`, `stored_shape`, `scheme`, `bytes_on_disk`, and
              `values_clamped`, the number of values that a codec changed to fit its range.
        """
        self._require_open()
        return store_statistics(self._files, self._reading)

    def stats(self) -> StoreStats:
        """Returns counters of what this object has done since it was opened. Works on a closed store too."""
        return self._counters.stats(chunk_files_held=self._reading.cache.num_cached, bytes_held=self.held_bytes)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> Report:
        """Compares every byte of the store with its log. A writer first seals the full chunks.

        Args:
            progress: called with (files checked, files in all) after each file.

        Returns:
            A report of what was checked, with one line per problem. `report.ok` is True if there is none.
        """
        self._require_open()
        if not self.read_only:
            self._require_writing().publish()
        with self._reading.lock:
            return verify_store(self._files.paths, self._catalog, progress=progress)

    # Private

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path}: the store has been closed; open it again")

    def _require_writing(self) -> WritingSession:
        self._require_open()
        if self._writing is None or self.read_only:
            raise StoreError(f"{self.path}: not open for writing in this process; open it here without read_only")
        return self._writing
