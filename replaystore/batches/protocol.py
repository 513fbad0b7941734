"""The protocol of batch views, which turn drawn rows into the arrays of a batch."""

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
    """A request for values of one field. Each read costs a kernel call, so a view makes one per field.

    Attributes:
        column: the field.
        windows: (count, depth) int64, the stored rows of each value, oldest first. -1 stands for a frame of zeros. See
            `FieldsByRole.windows`.
        into: names of the arrays that take the values, in order. An array (batch, ...) takes one value per entry. An
            array (batch, time, ...) takes `time` values per entry, all of the first entry first. One pass fills two
            arrays that are a pair (`ArrayLayout.pair`).
    """

    column: Column
    windows: I64
    into: tuple[str, ...]


class ViewRows(NamedTuple):
    """The stored rows that a view needs for one batch.

    Attributes:
        reads: the requests, in the order in which they are read.
        other: further rows that `finish` needs, by name.
    """

    reads: Sequence[Read]
    other: Mapping[str, I64] = _NO_ROWS


class BatchView(Protocol):
    """Turns drawn rows into a batch. Derive your own views from this class.

    >>> from replaystore.batches.layout import ArrayLayout
    >>> class Rewards(BatchView):
    ...     num_steps = 1
    ...
    ...     def layout(self, spec):
    ...         return {"reward": ArrayLayout((1,), np.dtype(np.float32))}
    ...
    ...     def rows_of(self, draw, snapshot, fields):
    ...         windows = fields.windows(snapshot, fields.reward, draw.rows)
    ...         return ViewRows([Read(fields.reward, windows, ("reward",))])
    ...
    ...     def finish(self, batch, rows, fields):
    ...         pass
    >>> import tempfile
    >>> from replaystore.testing.episodes import make_store
    >>> with make_store(tempfile.mkdtemp() + "/store") as store:
    ...     batch = store.gather([1, 2], view=Rewards())
    >>> batch["reward"].shape
    (2, 1)

    A view is configuration. It never changes, threads share it, and a data set pickles it. It works on whole batches
    and never loops over rows in Python.
    """

    @property
    def num_steps(self) -> int:
        """Time steps of its episode that a drawn row needs, from the row itself on.

        A drawn row is never the first of its episode. `gather` raises `Evicted` for a row with fewer steps.
        """
        ...

    def layout(self, spec: StoreSpec) -> Layout:
        """Returns the arrays of a batch, in order.

        Args:
            spec: the specification of the store.

        Raises:
            SpecError: the store lacks what the view needs.
        """
        ...

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: FieldsByRole) -> ViewRows:
        """Returns the stored rows that the batch is built from, and the arrays that take them.

        Args:
            draw: at least one row.
            snapshot: the rows are looked up in it.
            fields: the fields of the store.

        Raises:
            Evicted: a row is not live, or the view needs steps beyond the end of an episode.
        """
        ...

    def finish(self, batch: Batch, rows: ViewRows, fields: FieldsByRole) -> None:
        """Fills the arrays that no read fills, such as sums and masks.

        Args:
            batch: the arrays of the batch. The reads have filled theirs.
            rows: the result of `rows_of`.
            fields: the fields of the store.
        """
        ...
