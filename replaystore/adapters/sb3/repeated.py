"""Rows that repeat frames for the stack of a later row, and whose own transitions are not drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaystore.adapters.sb3.fields import REPEATED
from replaystore.batches.fields_by_role import FieldsByRole
from replaystore.batches.layout import ArrayLayout, Batch, Layout
from replaystore.batches.protocol import BatchView, Read, ViewRows
from replaystore.errors import NotEnoughData
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import Draw
from replaystore.sampling.sampler import Sampler
from replaystore.spec import StoreSpec
from replaystore.store import ReplayStore

_MOST_DRAWS = 1000


class _Marks(BatchView):
    """Batches that say of each row whether it is marked."""

    num_steps = 1

    def layout(self, spec: StoreSpec) -> Layout:
        return {REPEATED: ArrayLayout((), np.dtype(bool))}

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: FieldsByRole) -> ViewRows:
        column = fields.columns[REPEATED]
        return ViewRows([Read(column, fields.windows(snapshot, column, draw.rows), (REPEATED,))])

    def finish(self, batch: Batch, rows: ViewRows, fields: FieldsByRole) -> None:
        return


def draw_unmarked(store: ReplayStore, sampler: Sampler, rng: np.random.Generator, batch_size: int) -> NDArray[np.int64]:
    """Draws rows that are not marked, each with the same probability.

    Raises:
        NotEnoughData: there are none, or next to none.
    """
    chosen: list[NDArray[np.int64]] = []
    missing = batch_size
    for _ in range(_MOST_DRAWS):
        rows = store.draw(sampler, rng, batch_size)
        rows = rows[~store.gather(rows, view=_Marks())[REPEATED]][:missing]
        chosen.append(rows)
        missing -= len(rows)
        if not missing:
            return np.concatenate(chosen)
    raise NotEnoughData(f"{store.path}: next to no transition can be drawn; add more")


def count_marked(store: ReplayStore, frame_stack: int) -> int:
    """Returns the transitions that are marked. In an episode they are the first ones."""
    snapshot = store.snapshot()
    episodes = np.flatnonzero(snapshot.episode_num_rows > 1)
    if not len(episodes):
        return 0
    marks = store.gather(snapshot.rows_of(episodes, np.ones_like(episodes)), view=_Marks(), snapshot=snapshot)[REPEATED]
    return int(np.minimum(snapshot.episode_num_rows[episodes][marks] - 1, frame_stack - 1).sum())
