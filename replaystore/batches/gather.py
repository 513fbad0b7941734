"""`Gatherer` fills the arrays of a batch with the stored rows that a batch view asks for."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

from replaystore.batches.fields_by_role import FieldsByRole
from replaystore.batches.layout import Batch, Layout, halves_of_one
from replaystore.batches.protocol import BatchView, Read
from replaystore.errors import SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.runtime.workers import Workers
from replaystore.sampling.protocol import Draw
from replaystore.spec import StoreSpec
from replaystore.storage.reading.field_reader import FieldReader

_MIN_SHARE_BYTES = 1 << 20  # bytes of a batch per thread; smaller shares cost more than they gain


class Gatherer:
    """Reads batches of a store. Thread-safe.

    Args:
        spec: the specification of the store.
        values: reads the fields of the store.
    """

    def __init__(self, spec: StoreSpec, values: FieldReader) -> None:
        self._spec = spec
        self._values = values
        self._fields = FieldsByRole(values)
        self._last: tuple[BatchView, Layout] | None = None

    def layout(self, view: BatchView) -> Layout:
        """Returns the arrays of a batch of `view`. Do not change the result."""
        last = self._last  # read once: another thread may set it for its own view
        if last is None or last[0] is not view:
            self._last = last = view, view.layout(self._spec)
        return last[1]

    def gather(
        self, snapshot: IndexSnapshot, draw: Draw, view: BatchView, out: Batch,
        pool: ThreadPoolExecutor | None = None, num_threads: int = 1,
    ) -> None:  # fmt: skip
        """Fills the arrays of `out`.

        Args:
            snapshot: the rows are looked up in it.
            draw: the drawn rows.
            view: turns the rows into a batch.
            out: the arrays of `layout(view)`.
            pool: threads that help the caller. None: the caller works alone.
            num_threads: threads to use, including the caller. A small batch uses fewer.

        Raises:
            Missing: a chunk is not where the catalog says. See `ReadingSession.with_refresh`.
            Evicted: a row is not live, or the view needs steps beyond the end of an episode.
            ChunkError: stored bytes are damaged.
            SpecError: the view's reads do not fit its layout.
        """
        if not len(draw.rows):
            return
        workers = Workers(
            pool, min(num_threads, max(1, sum(array.nbytes for array in out.values()) // _MIN_SHARE_BYTES))
        )
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
