"""A sampler with priorities, as naive as can be: what the protocol has to carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from replaystore import Draw, RowSampler
from replaystore.errors import NotEnoughData
from replaystore.index.snapshot import IndexSnapshot


class Prioritised(RowSampler):
    """Draws rows by priorities, 1 for new ones, and says which rows and weights they are."""

    follows_rows: ClassVar[bool] = True
    draws_change_state: ClassVar[bool] = False

    def __init__(self, n_step: int = 1) -> None:
        self.n_step = n_step
        self.priorities: dict[int, float] = {}

    def appended(self, rows: Any, snapshot: IndexSnapshot) -> None:
        assert not self.priorities.keys() & set(rows.tolist())
        self.priorities.update(dict.fromkeys(rows.tolist(), 1.0))

    def evicted(self, rows: Any, snapshot: IndexSnapshot) -> None:
        for row in rows.tolist():
            del self.priorities[row]

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        rows = np.array(sorted(self.priorities), np.int64)
        episodes, times = snapshot.locate(rows)
        assert (episodes >= 0).all()  # exactly the live rows are known
        assert len(rows) == snapshot.num_rows
        rows = rows[(times >= 1) & (times + self.n_step <= snapshot.episode_num_rows[episodes])]
        if not len(rows):
            raise NotEnoughData("no row has so many steps")
        priorities = np.array([self.priorities[row] for row in rows.tolist()])
        chosen = rng.choice(len(rows), size, p=priorities / priorities.sum())
        weights = (priorities.sum() / len(rows) / priorities[chosen]).astype(np.float32)
        return Draw(rows[chosen], weights, {"row": rows[chosen]})

    def update(self, rows: Any, priorities: Any) -> None:
        for row, priority in zip(rows.tolist(), priorities.tolist(), strict=True):
            if row in self.priorities:  # else it was evicted meanwhile
                self.priorities[row] = priority

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [*self.priorities], "priorities": [*self.priorities.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.update(np.array(state["rows"]), np.array(state["priorities"]))
