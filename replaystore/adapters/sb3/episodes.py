"""Transitions of several environments become open episodes of a store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np

from replaystore.adapters.sb3.fields import REPEATED, Observations
from replaystore.episodes.stacks import by_frame
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
    """

    key: str
    last_observation: Observations | None = None
    num_rows: int = 0
    num_uncommitted: int = 0

    def goes_on_from(self, observation: Observations) -> bool:
        """Returns whether `observation` is that of the newest row."""
        last = self.last_observation
        return last is not None and all(
            np.array_equal(last[name], observation[name], equal_nan=True) for name in observation
        )


class EpisodeWriter:
    """Adds transitions to a store, in any order. Each environment has its own episode.

    A transition that does not follow the one before starts an episode. If its stack is not that of a reset, the frames
    of the stack come first, in rows of their own, and the transitions of these rows are marked as repeated.

    Args:
        store: open for writing.
        num_envs: environments.
        frame_stack: frames in an image.
        commit_every: transitions of an open episode after which they are committed.
        max_rows: transitions after which an episode is cut.
    """

    def __init__(
        self, store: ReplayStore, num_envs: int, *, frame_stack: int, commit_every: int, max_rows: int
    ) -> None:  # fmt: skip
        self._store = store
        self._frame_stack = frame_stack
        self._commit_every = commit_every
        self._max_rows = max_rows
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
            EpisodeError: the stack after the step does not continue the one before it. The transition was not added.
            CapacityError: open episodes exceed the capacity of the store.
        """
        episode = self._episodes[env]
        if not episode.goes_on_from(observation):
            self._start(episode, observation, row)
        try:
            self._add_row(episode, row, repeated=False, last=last)
        except EpisodeError:
            if not episode.num_rows:
                self._store.discard_episode(episode.key)
            raise
        episode.num_rows += 1
        episode.num_uncommitted += 1
        episode.last_observation = {name: row[name] for name in observation}
        if last or episode.num_rows >= self._max_rows:
            self._end(episode)
        elif episode.num_uncommitted >= self._commit_every:
            self._commit(episode)

    def commit(self) -> None:
        """Commits what open episodes have so far."""
        for episode in self._episodes:
            if episode.num_uncommitted:
                self._commit(episode)

    def _start(self, episode: EnvironmentEpisode, observation: Observations, row: Observations) -> None:
        """Begins an episode with the row of a reset, or with those of a stack's frames. Ends the open one before."""
        self._end(episode)
        reset = {
            **observation,
            "action": np.zeros_like(row["action"]),
            "reward": np.zeros_like(row["reward"]),
            "discount": np.ones_like(row["discount"]),
        }
        try:
            self._add_row(episode, reset, repeated=False, last=False)
        except EpisodeError:
            if self._frame_stack == 1:
                raise
            stacked = [field for field in self._store.spec.fields if field.frame_stack > 1]
            frames = {field.name: by_frame(field, observation[field.name][None])[0] for field in stacked}
            for k in range(self._frame_stack):
                one = {name: stack[k] for name, stack in frames.items()}
                self._add_row(episode, reset | one, repeated=k > 0, last=False)

    def _add_row(self, episode: EnvironmentEpisode, row: Observations, *, repeated: bool, last: bool) -> None:
        if self._frame_stack > 1:
            row = {**row, REPEATED: np.array(repeated)}
        self._store.add(row, env=episode.key, last=last)

    def _end(self, episode: EnvironmentEpisode) -> None:
        self._store.end_episode(episode.key)
        episode.last_observation, episode.num_rows, episode.num_uncommitted = None, 0, 0

    def _commit(self, episode: EnvironmentEpisode) -> None:
        self._store.commit_part(episode.key)
        episode.num_uncommitted = 0
