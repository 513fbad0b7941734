"""Draws transitions from a snapshot of the index, with a generator that the caller owns."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from replaystore.errors import NotEnoughData, SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import Draw, RowSampler

Distribution = Literal["uniform", "per_episode"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "per_episode")


def whole_number(value: Any, label: str) -> int:
    """`value` as an int.

    Raises:
        SpecError: it is not a whole number from 1 on.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise SpecError(f"{label} is a whole number from 1 on, got {value!r}")
    return number


@dataclass(frozen=True, kw_only=True)
class Sampler(RowSampler):
    """Draws transitions: uniformly, or an episode first, from all episodes or from the newest.

    It has no state but the generator, and needs no notification of rows.

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
        object.__setattr__(self, "n_step", whole_number(self.n_step, "n_step"))
        if self.distribution not in DISTRIBUTIONS:
            raise SpecError(f"distribution is one of {DISTRIBUTIONS}, got {self.distribution!r}")
        if self.window is not None:
            object.__setattr__(self, "window", whole_number(self.window, "window (in transitions)"))

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        """Draws transitions, with replacement.

        The same snapshot contents and the same state of `rng` give the same rows.

        Args:
            snapshot: what is live.
            rng: advanced by the draw.
            size: transitions to draw.

        Returns:
            Transition ids: the row of i. All weigh the same.

        Raises:
            NotEnoughData: no episode has a valid transition; `rng` is not advanced.
            SpecError: `size` is not a whole number from 1 on.
        """
        size = whole_number(size, "batch_size")
        if self.distribution == "uniform":
            start, cumulative = snapshot.counts(self.n_step, self.window)
            total = int(cumulative[-1]) if len(cumulative) else 0
            if total == 0:
                raise self._nothing(snapshot)
            return Draw(snapshot.transitions(rng.random(size), start, cumulative))
        positions, valid = snapshot.drawable(self.n_step, self.window)
        if len(positions) == 0:
            raise self._nothing(snapshot)
        chosen = rng.integers(0, len(positions), size)
        return Draw(snapshot.rows_of(positions[chosen], rng.integers(0, valid[chosen]) + 1))

    def _nothing(self, snapshot: IndexSnapshot) -> NotEnoughData:
        longest = int(snapshot.episode_num_rows.max(initial=0))
        return NotEnoughData(
            f"no transition to draw: n_step={self.n_step} needs an episode of at least {self.n_step + 1} rows,"
            f" the longest of {snapshot.num_episodes} episodes has {longest}; append longer episodes or lower n_step"
        )
