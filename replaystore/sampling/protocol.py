"""The protocol of samplers. A sampler draws rows of a store, and may add weights and named columns."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SpecError
from replaystore.index.snapshot import IndexSnapshot

_NO_COLUMNS: Mapping[str, NDArray[Any]] = MappingProxyType({})


class Draw(NamedTuple):
    """Drawn rows in the order of the batch, with optional weights and columns.

    >>> draw = Draw(np.array([4, 7]), weights=np.ones(2, np.float32), columns={"row": np.array([4, 7])})
    >>> sorted(draw.extras())
    ['row', 'weight']

    Attributes:
        rows: (size,) int64, the row from which a batch view starts reading.
        weights: (size,) float32. None if all rows weigh the same. A batch holds them as `weight`.
        columns: arrays by name, whose first axis is the batch. A view may read them, and a batch holds them under their
            names. A sampler with priorities adds the rows, a mixture of stores adds the number of the store, and
            hindsight adds the row of the goal.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    columns: Mapping[str, NDArray[Any]] = _NO_COLUMNS

    def extras(self) -> dict[str, NDArray[Any]]:
        """Returns the arrays that a batch holds besides those of its view: the columns and `weight`."""
        return dict(self.columns) if self.weights is None else {**self.columns, "weight": self.weights}


def row_ids(rows: Any) -> NDArray[np.int64]:
    """Returns row ids as an array, (batch,) int64, C-contiguous.

    Raises:
        SpecError: `rows` are no whole numbers, or have another number of axes.
    """
    array = np.asarray(rows)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise SpecError(
            f"rows: expected whole numbers (batch,), got {array.dtype} {array.shape}; give what a sampler drew"
        )
    return np.ascontiguousarray(array, np.int64)


class RowSampler(Protocol):
    """Draws rows of a store. Derive your own samplers from this class.

    >>> class Newest(RowSampler):
    ...     def draw(self, snapshot, rng, size):
    ...         part = snapshot.index
    ...         return Draw(np.full(size, part.part_first_row[-1] + part.part_num_rows[-1] - 1))
    >>> Newest().state_dict()
    {}

    A derived class must define `draw`. The other methods do nothing by default. A loader calls all methods in the
    consumer's thread, so a sampler needs no locks. A sampler for `ReplayDataset` must support pickling.

    Attributes:
        follows_rows: whether to call `appended` and `evicted`. The calls cost one comparison of the index per commit.
        draws_change_state: whether `draw` changes the result of `state_dict`. A loader draws ahead of its consumer, so
            it then takes the state after every draw. If only notifications and updates change a large state, set this
            to False. A loader then takes the state only when its own state is taken.
    """

    follows_rows: ClassVar[bool] = False
    draws_change_state: ClassVar[bool] = True

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        """Draws rows. Each call returns new arrays.

        Equal contents of the snapshot and equal states of `rng` and the sampler give equal draws.

        Args:
            snapshot: the live rows. Draw no other rows.
            rng: the only source of randomness. The draw advances it.
            size: rows to draw.

        Raises:
            NotEnoughData: no row can be drawn. Neither `rng` nor the sampler has changed.
        """
        ...

    def appended(self, rows: NDArray[np.int64], snapshot: IndexSnapshot) -> None:
        """Notes the rows that became live since the last notification. The first call names all live rows.

        A row that was appended earlier may become drawable now, because the steps after it have arrived.

        Args:
            rows: (count,) int64, ascending. No row number is used twice.
            snapshot: the one that the next draw uses.
        """
        return  # without a statement the method would be abstract

    def evicted(self, rows: NDArray[np.int64], snapshot: IndexSnapshot) -> None:
        """Notes the rows that are no longer live. It is called before `appended`.

        Args:
            rows: (count,) int64, ascending. Earlier calls of `appended` have named them.
            snapshot: the one that the next draw uses.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that draws, notifications and updates change, as plain data.

        Later changes of the sampler do not change the returned data.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state of `state_dict`.

        A sampler that follows rows has been notified of all live rows before. Ignore rows of `state` that are no longer
        live. Live rows that `state` lacks were appended later, and keep the state that they have.
        """
        return
