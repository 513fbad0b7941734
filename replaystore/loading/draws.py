"""Draws from a store as it grows: a sampler, its generator, and the state of both."""

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
    """Draws rows of what is live, and notifies the sampler before of what changed. For one thread.

    Args:
        store: open in this process.
        sampler: used by this object alone.
        rng: advanced by the draws.
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
        """The snapshot drawn from, and the draw.

        Raises:
            NotEnoughData: there is no row to draw; nothing was drawn.
        """
        snapshot = self._store.snapshot()
        self._follower.update(snapshot)
        return snapshot, self._sampler.draw(snapshot, self._rng, size)

    def state(self) -> dict[str, Any]:
        """What draws change, as it is now."""
        state: dict[str, Any] = {"generator": generator_state(self._rng)}
        if self._has_state_of_draws:
            state["sampler"] = self._sampler.state_dict()
        return state

    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state`, of an earlier moment, with the state of a sampler that draws do not change."""
        return {**state, "sampler": self._sampler.state_dict()} if self._has_state_of_rows else dict(state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on as after the draw at which `state` was taken. Without `sampler` the sampler is left as it is.

        Raises:
            SpecError: `state` is of no generator.
        """
        self._rng = restore_generator(state["generator"])
        if "sampler" in state:
            if self._sampler.follows_rows:
                self._follower.update(self._store.snapshot())
            self._sampler.load_state_dict(state["sampler"])
