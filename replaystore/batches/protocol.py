"""What a batch view is: it says which stored rows a drawn row becomes, and in which arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.fields_by_role import FieldsByRole
from replaystore.batches.layout import Batch, Layout
from replaystore.columns.column import Column
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import Draw
from replaystore.spec import StoreSpec

I64 = NDArray[np.int64]

_NO_ROWS: Mapping[str, I64] = MappingProxyType({})


class Read(NamedTuple):
    """Values of one field for one batch. Each read is one call of a compiled kernel, so a view makes one per field.

    Attributes:
        column: the field.
        windows: (count, depth) int64, the stored rows of each value, oldest first; -1 is a frame of zeros. See
            `FieldsByRole.windows`.
        into: names of the arrays of the batch that take the values, in order. An array (batch, ...) takes one value
            for each entry, an array (batch, time, ...) takes those of the first entry first. Two arrays that are
            halves of one are filled in one pass (`ArrayLayout.pair`).
    """

    column: Column
    windows: I64
    into: tuple[str, ...]


class ViewRows(NamedTuple):
    """What a view reads for one batch.

    Attributes:
        reads: filled in this order.
        other: rows by name that `finish` needs.
    """

    reads: Sequence[Read]
    other: Mapping[str, I64] = _NO_ROWS


class BatchView(Protocol):
    """What drawn rows become in a batch.

    A view is configuration: it does not change, threads share it, and a data set pickles it. It works on whole batches
    and never loops over rows in Python.
    """

    @property
    def num_steps(self) -> int:
        """Time steps that a drawn row needs of its episode: its own and those after it.

        A drawn row is never the first of its episode. A row with fewer steps is refused when it is gathered.
        """
        ...

    def layout(self, spec: StoreSpec) -> Layout:
        """The arrays of a batch, in order.

        Raises:
            SpecError: the store lacks what the view needs.
        """
        ...

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: FieldsByRole) -> ViewRows:
        """Which rows become values of the batch, and of which arrays.

        Args:
            draw: at least one row.
            snapshot: the rows are looked up in it.
            fields: of the store.

        Raises:
            Evicted: a row is not live, or what the view needs leaves its episode.
        """
        ...

    def finish(self, batch: Batch, rows: ViewRows, fields: FieldsByRole) -> None:
        """Fills what no read fills: sums, masks.

        Args:
            batch: its arrays, with what the reads have filled.
            rows: what `rows_of` returned.
            fields: of the store.
        """
        ...
