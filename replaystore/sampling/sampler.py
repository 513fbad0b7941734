"""`Sampler` draws transitions from a snapshot of the index, with the caller's random generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from replaystore.errors import NotEnoughData, SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.runtime.numbers import whole_number
from replaystore.sampling.protocol import Draw, RowSampler

Distribution = Literal["uniform", "per_episode"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "per_episode")


@dataclass(frozen=True, kw_only=True)
class Sampler(RowSampler):
    """Draws transitions with replacement, from all episodes or from the newest ones.

    >>> import tempfile
    >>> from replaystore.testing.episodes import make_store
    >>> with make_store(tempfile.mkdtemp() + "/store") as store:
    ...     draw = Sampler(n_step=3).draw(store.snapshot(), np.random.default_rng(0), 4)
    >>> draw.rows.shape, draw.rows.dtype.name
    ((4,), 'int64')

    The sampler has no state of its own and needs no notification of rows.

    Attributes:
        n_step: steps of the n-step return. An episode of L + 1 rows has the transitions i = 1 .. L - n_step + 1.
        distribution: `"uniform"` draws every valid transition with the same probability. `"per_episode"` draws an
            episode uniformly among those with a valid transition, and then one of its transitions uniformly, as DrQ-v2
            does.
        window: draws only from the newest whole episodes whose transitions total at most `window`. The newest episode
            with a valid transition is always among them. None: draws from all episodes.

    Raises:
        SpecError: a value is outside its range.
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
        """Draws transitions with replacement.

        Equal contents of the snapshot and equal states of `rng` give equal rows.

        Args:
            snapshot: the live rows.
            rng: the source of randomness. The draw advances it.
            size: transitions to draw.

        Returns:
            The row of i for each transition, without weights.

        Raises:
            NotEnoughData: no episode has a valid transition. `rng` is not advanced.
            SpecError: `size` is not a whole number of at least 1.
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
