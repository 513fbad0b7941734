"""Turns whole episodes, and episodes that arrive row by row, into commits."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

from replaystore.episodes.builder import EpisodeBuilder
from replaystore.episodes.checks import EpisodeArrays, check_episode
from replaystore.episodes.values import is_set
from replaystore.errors import EpisodeError, WriteError
from replaystore.index.parts import Part
from replaystore.recording.limits import Limits
from replaystore.recording.turns import Turns
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.reading.small_fields import SmallFields
from replaystore.storage.writing.commits import StoreWriter

Env = int | str


class OpenEpisodes:
    """Takes in episodes, whole or row by row, and commits them. Thread-safe: threads take turns.

    Args:
        catalog: the state of the log.
        writer: commits parts of episodes.
        small: gets the small fields of rows before they are committed.
        lock: guards the catalog.
        limits: the limits of the store. They are applied after every commit.
        turns: held by the thread that writes.
        commit_every: rows after which `add` commits a part. None: it commits whole episodes.
    """

    def __init__(
        self, catalog: Catalog, writer: StoreWriter, small: SmallFields, lock: threading.RLock, limits: Limits,
        turns: Turns, commit_every: int | None,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._writer = writer
        self._small = small
        self._lock = lock
        self._limits = limits
        self._turns = turns
        self._commit_every = commit_every
        self._has_warned = False
        self._builders: dict[Env, EpisodeBuilder] = {}
        self._idle: list[EpisodeBuilder] = []  # builders of ended episodes; new episodes use their memory again
        self._unwritten: dict[Env, tuple[EpisodeArrays, bool]] = {}
        self._episodes: dict[Env, int] = {}  # ids of open episodes with committed parts

    def append(self, episode: Mapping[str, Any]) -> int:
        """Commits a whole episode.

        Args:
            episode: the rows of each field, by field name.

        Returns:
            The episode's id.

        Raises:
            EpisodeError: the data do not fit the fields. Nothing was written.
            CapacityError: the episode is longer than the capacity. Nothing was evicted.
            WriteError: nothing was committed.
        """
        with self._turns:
            arrays = check_episode(self._catalog.spec, episode, f"episode {self._catalog.index.next_episode_id}")
            return self._commit(arrays, None, 0, last=True)

    def add(self, time_step: Any, env: Env, last: bool | None) -> int | None:
        """Adds one row of one environment. The last row commits the episode, and every `commit_every`-th row a part.

        Args:
            time_step: values by field name. It is a mapping, or an object with attributes or items of these names.
            env: the environment.
            last: whether the episode ends with this row. None: `time_step.last()` decides.

        Returns:
            The episode's id if it ended, else None.

        Raises:
            EpisodeError: the row does not fit. It was not added.
            CapacityError: the episode is longer than the capacity. The row was not added, and nothing was evicted.
            WriteError: nothing was committed. The rows are kept.
        """
        with self._turns:
            return self._add(time_step, env, last)

    def _add(self, time_step: Any, env: Env, last: bool | None) -> int | None:
        values = {field.name: _value_of(time_step, field.name) for field in self._catalog.spec.fields}
        if last is None:
            ends = getattr(time_step, "last", None)
            if not callable(ends):
                raise EpisodeError(f"env {env}: the time step has no last(); say add(..., last=True or False)")
            last = bool(ends())
        builder = self._builders.get(env)
        starts = getattr(time_step, "first", None)
        if env in self._unwritten or (builder is not None and builder.num_rows and callable(starts) and starts()):
            raise EpisodeError(
                f"env {env}: a new row while an episode is open that has not been ended or written;"
                " call end_episode(env) or discard_episode(env) before"
            )
        if builder is None:
            if self._idle:
                builder = self._idle.pop()
                builder.restart(env)
            else:
                builder = EpisodeBuilder(self._catalog.spec, env)
            self._builders[env] = builder
        if builder.num_rows:
            self._limits.check_length(builder.num_rows, f"env {env}")
        if last:
            self._writer.sealer.raise_pending()
        builder.add(values)
        if last:
            return self.commit_open(env, last=True)
        if self._commit_every is not None and builder.num_rows - builder.committed_rows >= self._commit_every:
            self.commit_open(env, last=False)
        return None

    def commit_open(self, env: Env, *, last: bool) -> int | None:
        """Commits the rows of an open episode that are not committed yet.

        If the commit fails, the rows are kept and the next call tries again.

        Args:
            env: the environment.
            last: whether the episode ends.

        Returns:
            The episode's id. None if it has no rows.

        Raises:
            CapacityError: the rows do not fit the capacity. Nothing was evicted.
            WriteError: nothing was committed.
        """
        with self._turns:
            return self._commit_open(env, last=last)

    def _commit_open(self, env: Env, *, last: bool) -> int | None:
        builder = self._builders.get(env)
        if builder is None:
            return None
        episode = self._episodes.get(env)
        if env not in self._unwritten and builder.num_rows > builder.committed_rows:
            self._unwritten[env] = (builder.take_part(last), last)
        if env in self._unwritten:
            arrays, ends = self._unwritten[env]
            ends = ends or last
            t_start = builder.num_rows - arrays.num_rows
            episode = self._commit(arrays, episode, t_start, last=ends)
            if t_start == 0:
                self._warn_without_reset(arrays, episode, env)
            del self._unwritten[env]
            self._episodes[env] = episode
            last = ends
        elif last and episode is not None:
            self.end_committed(episode)
        if last:
            self._forget(env)
        return episode

    def discard(self, env: Env) -> None:
        """Drops the rows of an open episode that are not committed. The committed ones stay, as an ended episode."""
        with self._turns:
            episode = self._episodes.get(env)
            self._forget(env)
            if episode is not None:
                self.end_committed(episode)

    def end_open_episodes(self) -> None:
        """Ends every open episode with committed parts. Its rows that are not committed are dropped."""
        for env in list(self._episodes):
            self.discard(env)

    def end_committed(self, episode: int) -> None:
        """Ends an episode whose rows are all committed."""
        info = self._catalog.index.episode(episode)
        self._writer.commit_end(Part(episode, info.num_rows, self._catalog.next_row, 0, True, info.zero_padding))
        self._limits.evict()  # now that it has ended, it can be evicted

    def _forget(self, env: Env) -> None:
        builder = self._builders.pop(env, None)
        if builder is not None:
            self._idle.append(builder)
        self._unwritten.pop(env, None)
        self._episodes.pop(env, None)

    def _warn_without_reset(self, arrays: EpisodeArrays, episode: int, env: Env) -> None:
        """Warns once if row 0 of an episode looks like a step."""
        if self._has_warned:
            return
        for field in self._catalog.spec.fields:
            if field.role not in ("reward", "action"):
                continue
            if is_set(arrays.arrays[field.name][0]):
                self._has_warned = True
                warnings.warn(
                    f"episode {episode}, env {env}, row 0: the {field.role} is not zero, and no transition"
                    " reads it; if it belongs to a step, the row of the reset is missing: after last=True add the"
                    " observation of the reset first, with a reward and an action of zero",
                    stacklevel=2,
                )
                return

    def _commit(self, arrays: EpisodeArrays, episode: int | None, t_start: int, *, last: bool) -> int:
        number = self._catalog.index.next_episode_id if episode is None else episode
        open_episodes = {*self._episodes.values(), *(() if episode is None else (episode,))}
        self._limits.check_fits(arrays.num_rows - (t_start == 0), open_episodes, f"episode {number}")
        rows, clamped = [], []
        for column in self._catalog.columns:
            stored, count = column.codec.to_rows(arrays.arrays[column.name])
            rows.append(stored)
            clamped.append(count)
        part = Part(number, t_start, self._catalog.next_row, arrays.num_rows, last, arrays.zero_padding)
        with self._lock:
            self._small.put(part.first_row, rows)  # before the index names these rows
        self._writer.commit(rows, clamped, part)
        try:
            self._limits.evict()
        except WriteError as err:  # the episode is committed, so this call must not fail
            self._writer.sealer.defer(err)
        return number


def _value_of(time_step: Any, name: str) -> Any:
    if isinstance(time_step, Mapping):
        if name not in time_step:
            raise EpisodeError(f"the time step has no field {name!r}; it has {list(time_step)}")
        return time_step[name]
    try:
        return getattr(time_step, name)
    except AttributeError:
        pass
    try:
        return time_step[name]
    except (TypeError, KeyError, IndexError, AttributeError) as err:
        raise EpisodeError(f"the time step ({type(time_step).__name__}) has no field {name!r}") from err
