"""Transitions of several environments become open episodes of a store."""

from __future__ import annotations

import uuid
import warnings
from dataclasses import dataclass

import numpy as np

from replaystore.adapters.sb3.fields import Observations
from replaystore.errors import EpisodeError
from replaystore.store import ReplayStore


@dataclass(kw_only=True)
class EnvironmentEpisode:
    """The episode that one environment has open in a store.

    Attributes:
        key: names the environment for the store.
        last_observation: of its newest row; None: no episode is open.
        num_rows: transitions in it.
        num_uncommitted: transitions since the last commit.
        lost: whether a transition is missing, so that nothing is added until the next reset.
        last_lost: observation after the newest transition that was dropped. None: none was since the last reset.
    """

    key: str
    last_observation: Observations | None = None
    num_rows: int = 0
    num_uncommitted: int = 0
    lost: bool = False
    last_lost: Observations | None = None

    def goes_on_from(self, observation: Observations) -> bool:
        """Returns whether `observation` is that of the newest row."""
        return _same(self.last_observation, observation)


def _same(one: Observations | None, other: Observations) -> bool:
    return one is not None and all(np.array_equal(one[name], other[name], equal_nan=True) for name in other)


class EpisodeWriter:
    """Adds transitions to a store. Each environment has its own episode.

    Args:
        store: open for writing.
        num_envs: environments.
        frame_stack: frames in an image; with more than one, episodes are never cut.
        commit_every: transitions of an open episode after which they are committed.
        max_rows: transitions after which an episode is cut, where its rows are no stacks.
        stacks_fitted: whether stacks are known to have followed each other, so that one that does not fit is a
            missing transition and no wrong `frame_stack`.

    Attributes:
        num_dropped: transitions that were not kept, because the stacks before them are missing.
    """

    def __init__(
        self, store: ReplayStore, num_envs: int, *, frame_stack: int, commit_every: int, max_rows: int,
        stacks_fitted: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._frame_stack = frame_stack
        self._commit_every = commit_every
        self._max_rows = max_rows
        self._stacks_fitted = stacks_fitted
        self.num_dropped = 0
        prefix = uuid.uuid4().hex  # episodes of other buffers may be open in the same store
        self._episodes = [EnvironmentEpisode(key=f"{prefix}-{env}") for env in range(num_envs)]

    def add(self, env: int, observation: Observations, row: Observations, *, last: bool) -> None:
        """Adds a transition.

        Args:
            env: number of the environment.
            observation: before the step.
            row: of the step: the observation after it, action, reward and discount.
            last: whether the episode ends with it.

        Raises:
            EpisodeError: the stack of an observation does not follow the one before, and neither did the last one.
            CapacityError: open episodes exceed the capacity of the store.
        """
        episode = self._episodes[env]
        if not episode.lost and not episode.goes_on_from(observation):
            episode.lost = not self._start(episode, observation, row)
        if not episode.lost and not self._add_row(episode, row, last):
            self._end(episode)
            episode.lost = True
        if episode.lost:
            self._drop(episode, observation, row, last)
            return
        episode.last_lost = None
        episode.num_rows += 1
        episode.num_uncommitted += 1
        episode.last_observation = {name: row[name] for name in observation}
        self._stacks_fitted = self._stacks_fitted or episode.num_rows > self._frame_stack
        if last or (self._frame_stack == 1 and episode.num_rows >= self._max_rows):
            self._end(episode)
        elif episode.num_uncommitted >= self._commit_every:
            self._commit(episode)

    def _drop(self, episode: EnvironmentEpisode, observation: Observations, row: Observations, last: bool) -> None:
        """Counts a transition that cannot be kept.

        After an interruption the rest of an episode is dropped. Transitions that do not even follow each other come in
        no order, and none of them could be kept.
        """
        if episode.last_lost is not None and not _same(episode.last_lost, observation):
            raise EpisodeError(
                f"{self._store.path}: two transitions in a row do not follow the one before; stacks of"
                f" {self._frame_stack} frames are stored once for each frame, so add whole episodes in order, from"
                " their reset on, or add transitions in any order to a buffer with frame_stack=1"
            )
        if not self.num_dropped:
            warnings.warn(
                f"{self._store.path}: a transition does not follow the one before, so it and the rest of its episode"
                " are not kept (frame_stack needs all frames of an episode); num_dropped counts them",
                stacklevel=2,
            )
        self.num_dropped += 1
        episode.lost = not last
        episode.last_lost = None if last else {name: row[name] for name in observation}

    def commit(self) -> None:
        """Commits what open episodes have so far."""
        for episode in self._episodes:
            if episode.num_uncommitted:
                self._commit(episode)

    def _start(self, episode: EnvironmentEpisode, observation: Observations, row: Observations) -> bool:
        """Begins an episode with the row of a reset, after what is open was ended where it stands."""
        self._end(episode)
        reset = {
            "action": np.zeros_like(row["action"]),
            "reward": np.zeros_like(row["reward"]),
            "discount": np.ones_like(row["discount"]),
        }
        return self._add_row(episode, {**observation, **reset}, last=False)

    def _add_row(self, episode: EnvironmentEpisode, row: Observations, last: bool) -> bool:
        """Adds a row; False where the older frames of an observation are not those before it.

        An algorithm that was interrupted goes on a transition later in the same episode: one is missing, and what
        follows in that episode is left out. Before any stack has fitted, it is `frame_stack` that does not fit.
        """
        try:
            self._store.add(row, env=episode.key, last=last)
        except EpisodeError:
            if self._frame_stack == 1 or not self._stacks_fitted:
                raise
            return False
        return True

    def _end(self, episode: EnvironmentEpisode) -> None:
        self._store.end_episode(episode.key)
        episode.last_observation, episode.num_rows, episode.num_uncommitted = None, 0, 0

    def _commit(self, episode: EnvironmentEpisode) -> None:
        self._store.commit_part(episode.key)
        episode.num_uncommitted = 0
