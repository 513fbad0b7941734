"""The environments of `replaystore.collect` as time steps that `drqv2_patch` stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.collect import CollectConfig
from replaystore.collect.environment import PixelEnvironment, Row


@dataclass(frozen=True)
class ArraySpec:
    """Name, shape and dtype of a part of a time step."""

    name: str
    shape: tuple[int, ...]
    dtype: npt.DTypeLike


@dataclass(frozen=True)
class TimeStep:
    """One row, as `ReplayBufferStorage.add` takes it.

    Attributes:
        number: rows before it in its episode. `Row` describes the others.
    """

    number: int
    observation: npt.NDArray[np.uint8]
    action: npt.NDArray[Any]
    reward: float
    discount: float
    ends: bool

    def first(self) -> bool:
        """Whether it is the reset."""
        return self.number == 0

    def last(self) -> bool:
        """Whether the episode ends here."""
        return self.ends

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def data_specs(image_shape: tuple[int, int, int], num_actions: int) -> tuple[ArraySpec, ...]:
    """Returns the specs of a time step: a uint8 image (channel, height, width), float32 action, reward and discount."""
    return (
        ArraySpec("observation", image_shape, np.uint8),
        ArraySpec("action", (num_actions,), np.float32),
        ArraySpec("reward", (1,), np.float32),
        ArraySpec("discount", (1,), np.float32),
    )


class Environment:
    """Plays episodes of a task, one after the other. The randomness of an episode depends only on (seed, its number).

    Args:
        config: the task and its rendering. Its `max_steps` ends episodes early, as a time limit does.
        seed: seed of the run.
        episode: number of the first episode.

    Raises:
        SpecError: the suite has no such task.
        MissingDependency: a package is not installed.
        RenderingUnavailable: nothing can be rendered.
    """

    def __init__(self, config: CollectConfig, seed: int, episode: int = 0) -> None:
        self._config = config
        self._seed = seed
        self._next_episode = episode
        self._pixels = self._build()
        self._used = False
        self._rows = 0
        self.num_actions = self._pixels.num_actions

    def skip_to(self, episode: int) -> None:
        """Continues with this episode, unless the next one is later anyway."""
        if episode > self._next_episode:
            self._next_episode = episode
            self._used = True  # what was built is another episode's

    def reset(self) -> TimeStep:
        """Starts the next episode."""
        if self._used:
            self._pixels.close()
            self._pixels = self._build()
        self._used = True
        self._next_episode += 1
        self._rows = 0
        return self._time_step(self._pixels.reset())

    def step(self, action: npt.NDArray[np.floating[Any]]) -> TimeStep:
        """Returns the row that `action`, (action,) in [-1, 1], leads to."""
        self._rows += 1
        row = self._pixels.step(action)
        limit = self._config.max_steps
        return self._time_step(row if limit is None or self._rows < limit else replace(row, last=True))

    def close(self) -> None:
        """Frees the physics and the rendering context."""
        self._pixels.close()

    def _build(self) -> PixelEnvironment:
        words = np.random.SeedSequence([self._seed, self._next_episode]).generate_state(1)
        return PixelEnvironment(self._config, int(words[0]))

    def _time_step(self, row: Row) -> TimeStep:
        return TimeStep(self._rows, row.observation, row.action, row.reward, row.discount, row.last)
