"""Draws transitions from a snapshot of the index, with a generator that the caller owns."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from replaystore.errors import NotEnoughData, SpecError
from replaystore.index.snapshot import IndexSnapshot

Distribution = Literal["uniform", "per_episode"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "per_episode")


def _whole(value: Any, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise SpecError(f"{what} is a whole number from 1 on, got {value!r}")
    return number


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How transitions are drawn.

    Attributes:
        n_step: length of the n-step return; an episode of L + 1 rows has the transitions i = 1 .. L - n_step + 1.
        distribution: `"uniform"`: every valid transition with the same probability. `"per_episode"`: an episode
            uniformly among those that have a valid transition, then one of its transitions uniformly (as DrQ-v2 does).
        window: None, or draw only from the newest whole episodes whose transitions total at most `window`; at least
            from the newest one that has a valid transition.

    Raises:
        SpecError: a value that cannot work.
    """

    n_step: int = 1
    distribution: Distribution = "uniform"
    window: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_step", _whole(self.n_step, "n_step"))
        if self.distribution not in DISTRIBUTIONS:
            raise SpecError(f"distribution is one of {DISTRIBUTIONS}, got {self.distribution!r}")
        if self.window is not None:
            object.__setattr__(self, "window", _whole(self.window, "window (in transitions)"))

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, batch_size: int) -> npt.NDArray[np.int64]:
        """Draws transitions, with replacement.

        The same snapshot contents and the same state of `rng` give the same rows.

        Args:
            snapshot: what is live.
            rng: advanced by the draw.
            batch_size: transitions to draw.

        Returns:
            (batch_size,) int64 transition ids: the row of i.

        Raises:
            NotEnoughData: no episode has a valid transition; `rng` is not advanced.
            SpecError: `batch_size` is not a whole number from 1 on.
        """
        batch_size = _whole(batch_size, "batch_size")
        if self.distribution == "uniform":
            start, cumulative = snapshot.counts(self.n_step, self.window)
            total = int(cumulative[-1]) if len(cumulative) else 0
            if total == 0:
                raise self._nothing(snapshot)
            return snapshot.transitions(rng.random(batch_size), start, cumulative)
        positions, valid = snapshot.drawable(self.n_step, self.window)
        if len(positions) == 0:
            raise self._nothing(snapshot)
        chosen = rng.integers(0, len(positions), batch_size)
        return snapshot.rows_of(positions[chosen], rng.integers(0, valid[chosen]) + 1)

    def _nothing(self, snapshot: IndexSnapshot) -> NotEnoughData:
        longest = int(snapshot.episode_num_rows.max(initial=0))
        return NotEnoughData(
            f"no transition to draw: n_step={self.n_step} needs an episode of at least {self.n_step + 1} rows,"
            f" the longest of {snapshot.num_episodes} episodes has {longest}; append longer episodes or lower n_step"
        )
