"""`Gatherer` fills the arrays of a batch with the stored rows that a batch view asks for."""

from __future__ import annotations

import math
from typing import Any

from replaystore.batches.fields_by_role import FieldsByRole
from replaystore.batches.layout import Batch, Layout, allocate_batch, check_batch, halves_of_one, with_extras
from replaystore.batches.protocol import BatchView, Read
from replaystore.errors import SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.runtime.counters import Counters
from replaystore.runtime.workers import Workers
from replaystore.sampling.protocol import Draw, row_ids
from replaystore.spec import StoreSpec
from replaystore.storage.reading.field_reader import FieldReader
from replaystore.storage.reading.session import ReadingSession

_MIN_SHARE_BYTES = 1 << 20  # bytes of a batch per thread; smaller shares cost more than they gain


class Gatherer:
    """Reads batches of a store. Thread-safe.

    Args:
        spec: the specification of the store.
        values: reads the fields of the store.
        reading: has the snapshots of the store, and the threads that share the work on a batch.
        num_threads: threads per batch, unless `gather` gets a number.
        counters: the counters of the store.
    """

    def __init__(
        self, spec: StoreSpec, values: FieldReader, reading: ReadingSession, num_threads: int, counters: Counters
    ) -> None:
        self._spec = spec
        self._values = values
        self._reading = reading
        self._num_threads = num_threads
        self._counters = counters
        self._fields = FieldsByRole(values)
        self._last: tuple[BatchView, Layout] | None = None

    def layout(self, view: BatchView) -> Layout:
        """Returns the arrays of a batch of `view`. Do not change the result."""
        last = self._last  # read once: another thread may set it for its own view
        if last is None or last[0] is not view:
            self._last = last = view, view.layout(self._spec)
        return last[1]

    def allocate(self, view: BatchView, batch_size: int) -> Batch:
        """Returns empty arrays for a batch of `view`."""
        return allocate_batch(self.layout(view), batch_size)

    def gather(
        self, rows: Any, view: BatchView, out: Batch | None, snapshot: IndexSnapshot | None, num_threads: int | None
    ) -> Batch:
        """Returns a batch, as `ReplayStore.gather` does.

        Args:
            rows: (batch,) int64 rows, or a `Draw`.
            view: turns the rows into a batch.
            out: the arrays of `layout(view)`. None: new ones.
            snapshot: the rows are looked up in it. None: in a new snapshot.
            num_threads: threads to use, including the caller. A small batch uses fewer. None: as the store.

        Raises:
            Evicted: a row is not live, or the view needs steps beyond the end of an episode.
            ChunkError: stored bytes are damaged.
            SpecError: `out` or the draw does not fit the view, or the view's reads do not fit its layout.
        """
        draw = rows if isinstance(rows, Draw) else Draw(rows)
        draw = Draw(row_ids(draw.rows), draw.weights, draw.columns)
        if out is None:
            out = self.allocate(view, len(draw.rows))
        else:
            check_batch(self.layout(view), len(draw.rows), out)
        live = self._reading.snapshot() if snapshot is None else snapshot
        threads = self._num_threads if num_threads is None else num_threads
        self._reading.with_refresh(lambda: self._fill(live, draw, view, out, threads))
        self._counters.add(batches_gathered=1, transitions_gathered=len(draw.rows))
        if draw.weights is None and not draw.columns:
            return out
        return with_extras(out, draw)

    def _fill(self, snapshot: IndexSnapshot, draw: Draw, view: BatchView, out: Batch, num_threads: int) -> None:
        if not len(draw.rows):
            return
        most = max(1, sum(array.nbytes for array in out.values()) // _MIN_SHARE_BYTES)
        workers = Workers(self._reading.threads(num_threads), min(num_threads, most))
        rows = view.rows_of(draw, snapshot, self._fields)
        for read in rows.reads:
            self._read(read, out, workers)
        view.finish(out, rows, self._fields)

    def _read(self, read: Read, out: Batch, workers: Workers) -> None:
        column, windows, into = read
        arrays = [out[name] for name in into]
        both = halves_of_one(*arrays) if len(arrays) == 2 else None
        if both is not None:  # read both in one pass, because they share groups of frames
            arrays = [both]
        start = 0
        for array in arrays:
            values = array.reshape(-1, *column.spec.stacked_shape)
            stop = start + len(values)
            if values.dtype != column.dtype or stop > len(windows):
                break
            self._values.read(column, windows[start:stop], values, workers)
            start = stop
        else:
            if start == len(windows):
                return
        places = sum(out[name].size for name in into) // math.prod(column.spec.stacked_shape)
        raise SpecError(
            f"field {column.name!r} into {list(into)}: expected {places} windows and {column.dtype} arrays, got"
            f" {len(windows)} windows and {[out[name].dtype.name for name in into]}; mend the view's layout or rows_of"
        )
