"""`Draws` draws from a growing store, and saves and restores the state of the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.following import RowFollower
from replaystore.sampling.generators import generator_state, restore_generator
from replaystore.sampling.protocol import Draw, RowSampler
from replaystore.store import ReplayStore


class Draws:
    """Draws live rows of a store. It notifies the sampler of new and evicted rows before each draw. For one thread.

    Args:
        store: the store, open in this process.
        sampler: the sampler. No other object may use it at the same time.
        rng: the source of randomness. The draws advance it.
    """

    def __init__(self, store: ReplayStore, sampler: RowSampler, rng: np.random.Generator) -> None:
        self._store = store
        self._sampler = sampler
        self._rng = rng
        self._follower = RowFollower(sampler)
        has_state = getattr(type(sampler), "state_dict", None) is not RowSampler.state_dict
        self._has_state_of_draws = has_state and sampler.draws_change_state
        self._has_state_of_rows = has_state and not sampler.draws_change_state

    def draw(self, size: int) -> tuple[IndexSnapshot, Draw]:
        """Draws rows.

        Returns:
            The snapshot that the rows were drawn from, and the draw.

        Raises:
            NotEnoughData: no row can be drawn. Nothing has changed.
        """
        snapshot = self._store.snapshot()
        self._follower.update(snapshot)
        return snapshot, self._sampler.draw(snapshot, self._rng, size)

    def state(self) -> dict[str, Any]:
        """Returns the current state of everything that draws change."""
        state: dict[str, Any] = {"generator": generator_state(self._rng)}
        if self._has_state_of_draws:
            state["sampler"] = self._sampler.state_dict()
        return state

    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the sampler's state to an earlier `state`, if draws do not change that state."""
        return {**state, "sampler": self._sampler.state_dict()} if self._has_state_of_rows else dict(state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues as after the draw at which `state` was taken.

        Args:
            state: the result of `state` or `whole_state`. If it has no `sampler`, the sampler keeps its state.

        Raises:
            SpecError: `state` does not hold the state of a generator.
        """
        self._rng = restore_generator(state["generator"])
        if "sampler" in state:
            if self._sampler.follows_rows:
                self._follower.update(self._store.snapshot())
            self._sampler.load_state_dict(state["sampler"])
