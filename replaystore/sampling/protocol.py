"""What a sampler is: it draws rows of a store, with weights and named columns where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.index.snapshot import IndexSnapshot

_NO_COLUMNS: Mapping[str, NDArray[Any]] = MappingProxyType({})


class Draw(NamedTuple):
    """Drawn rows, in the order of the batch, and what comes with them.

    Attributes:
        rows: (size,) int64, the row from which a batch view starts reading.
        weights: (size,) float32, or None where all rows weigh the same. A batch carries them as `weight`.
        columns: arrays of which the first axis is the batch, by name. A view may read them, and a batch carries them
            by their names: the rows themselves for a sampler whose priorities are updated, the store for a mixture of
            stores, the row of the goal for hindsight.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    columns: Mapping[str, NDArray[Any]] = _NO_COLUMNS

    def extras(self) -> dict[str, NDArray[Any]]:
        """The arrays that a batch carries beside those of its view: the columns and `weight`."""
        return dict(self.columns) if self.weights is None else {**self.columns, "weight": self.weights}


class RowSampler(Protocol):
    """Draws rows of a store.

    Classes that inherit from this one need to define `draw` alone; the other methods do nothing here. A loader calls
    all methods in the consumer's thread, so a sampler needs no locks. A sampler for `ReplayDataset` can be pickled.

    Attributes:
        follows_rows: whether `appended` and `evicted` are to be called. They cost a comparison of the index for each
            commit.
        draws_change_state: whether `draw` changes what `state_dict` returns. A loader draws ahead of its consumer, so
            it then takes the state after every draw. A sampler with a large state that only notifications and updates
            change sets this to False; the state is then taken when the loader's is.
    """

    follows_rows: ClassVar[bool] = False
    draws_change_state: ClassVar[bool] = True

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        """Draws rows, with new arrays for each call.

        The same snapshot contents, the same state of `rng` and the same state of the sampler give the same draw.

        Args:
            snapshot: what is live. Only rows of it are drawn.
            rng: the only source of randomness; advanced by the draw.
            size: rows to draw.

        Raises:
            NotEnoughData: no row can be drawn; neither `rng` nor the sampler has changed.
        """
        ...

    def appended(self, rows: NDArray[np.int64], snapshot: IndexSnapshot) -> None:
        """Notes rows that became live since the last notification; the first one names all live rows.

        A row that was appended earlier may become drawable now, because the steps after it have arrived.

        Args:
            rows: (count,) int64, ascending. A row's number is never used again.
            snapshot: the one that is drawn from next.
        """
        return  # without a statement the method would be abstract

    def evicted(self, rows: NDArray[np.int64], snapshot: IndexSnapshot) -> None:
        """Notes rows that are not live any more; called before `appended`.

        Args:
            rows: (count,) int64, ascending; `appended` had named them.
            snapshot: the one that is drawn from next.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """What draws, notifications and updates changed, in plain data; later changes leave what was returned alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state.

        A sampler that follows rows knows the live rows when this is called. `state` may name rows that are gone, which
        are to be ignored, and may lack rows that were appended later, which stay as they are.
        """
        return
