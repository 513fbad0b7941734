"""Putting transitions together from stored rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import Evicted, SpecError
from replaystore.index_snapshot import IndexSnapshot
from replaystore.kernels.transitions import n_step_returns, step_rows, window_rows
from replaystore.spec import FieldSpec, StoreSpec
from replaystore.storage.columns import Column
from replaystore.storage.reader import ColumnReader
from replaystore.storage.resident import ResidentRows
from replaystore.storage.workers import Workers

Batch = dict[str, NDArray[Any]]
Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
I64 = NDArray[np.int64]

_MIN_SHARE_BYTES = 1 << 20  # of a batch; smaller shares cost more than they gain


def batch_layout(spec: StoreSpec, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name, shape and dtype of every array of a batch, in order."""
    result: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for field in spec.fields:
        shape = (batch_size, *field.stacked_shape)
        if field.role in ("reward", "discount"):
            result[field.name] = (shape, np.dtype(np.float32))
        else:
            result[field.name] = (shape, np.dtype(field.dtype))
        if field.role == "observation":
            result[f"next_{field.name}"] = (shape, np.dtype(field.dtype))
    reward = next((field for field in spec.fields if field.role == "reward"), None)
    if reward is not None and not any(field.role == "discount" for field in spec.fields):
        result["discount"] = ((batch_size, *reward.shape), np.dtype(np.float32))
    return result


def allocate_batch(spec: StoreSpec, batch_size: int, empty: Empty = np.empty) -> Batch:
    """Empty arrays for a batch. An observation and its next one are halves of one array, so one pass fills both.

    `empty(shape, dtype)` makes the memory.
    """
    batch: Batch = {}
    for name, (shape, dtype) in batch_layout(spec, batch_size).items():
        if name in batch:
            continue
        following = f"next_{name}"
        if any(field.name == name and field.role == "observation" for field in spec.fields):
            batch[name], batch[following] = empty((2, *shape), dtype)
        else:
            batch[name] = empty(shape, dtype)
    return batch


def _halves_of_one(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any] | None:
    """The array of which two arrays of one shape are the halves, joined along the first axis; None if they are not."""
    if first.base is None or first.base is not second.base or second.ctypes.data != first.ctypes.data + first.nbytes:
        return None
    strides = first.strides
    return np.lib.stride_tricks.as_strided(first, (2 * len(first), *first.shape[1:]), strides)


def check_batch(spec: StoreSpec, batch_size: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Raises `SpecError` unless `out` has exactly the arrays of a batch, C-contiguous."""
    expected = batch_layout(spec, batch_size)
    for name, (shape, dtype) in expected.items():
        array = out.get(name)
        if array is None or array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise SpecError(f"out[{name!r}]: expected C-contiguous {dtype} {shape}, got {found}; see allocate_batch")


def _depth(column: Column) -> int:
    """Stored rows of an observation."""
    return column.spec.frame_stack if column.stacks_on_read else 1


class Gatherer:
    """Reads transitions of a store. Thread-safe.

    Args:
        readers: one a column. resident: of columns with small rows, else None.
    """

    def __init__(
        self, spec: StoreSpec, columns: Sequence[Column], readers: Sequence[ColumnReader],
        resident: Sequence[ResidentRows | None],
    ) -> None:  # fmt: skip
        self._spec = spec
        self._columns = {column.name: column for column in columns}
        self._readers = {column.name: reader for column, reader in zip(columns, readers, strict=True)}
        self._resident = {column.name: rows for column, rows in zip(columns, resident, strict=True)}

    def gather(
        self, snapshot: IndexSnapshot, rows: I64, n_step: int, discount: float, out: Batch,
        pool: ThreadPoolExecutor | None = None, num_threads: int = 1,
    ) -> None:  # fmt: skip
        """Transitions `rows` into the arrays of `out`, on `num_threads`: the caller's and others of `pool`.

        Raises:
            Evicted: a row is not live, or its transition leaves its episode. ChunkError: damaged bytes.
        """
        if not len(rows):
            return
        count = min(num_threads, max(1, sum(array.nbytes for array in out.values()) // _MIN_SHARE_BYTES))
        workers = Workers(pool, count)
        targets = np.arange(len(rows))
        steps = np.empty((len(rows), n_step), np.int64)
        failed = step_rows(
            rows, n_step, snapshot.part_first_row, snapshot.part_num_rows, snapshot.part_t_start,
            snapshot.part_next, steps,
        )  # fmt: skip
        self._raise_unless_live(failed, rows, n_step)
        for field in self._spec.fields:
            column = self._columns[field.name]
            if field.role == "observation":
                self._observe_both(snapshot, column, rows, steps, targets, out, workers)
            elif field.role in ("action", "extra"):
                frames = steps[:, :1] if _depth(column) == 1 else self._windows(snapshot, column, rows, 0)
                self.read_stacks(column, frames, targets, out[field.name], workers)
        self._returns(steps, discount, targets, out)

    def _observe_both(
        self, snapshot: IndexSnapshot, column: Column, rows: I64, steps: I64, targets: I64, out: Batch, workers: Workers
    ) -> None:
        """The observation and the next one; in one pass where they are halves of one array: they share groups."""
        now, following = out[column.name], out[f"next_{column.name}"]
        before = self._windows(snapshot, column, rows, -1)
        after = steps[:, -1:] if _depth(column) == 1 else self._windows(snapshot, column, rows, steps.shape[1] - 1)
        both = _halves_of_one(now, following)
        if both is not None:
            frames, places = np.concatenate((before, after)), np.concatenate((targets, targets + len(now)))
            self.read_stacks(column, frames, places, both, workers)
        else:
            self.read_stacks(column, before, targets, now, workers)
            self.read_stacks(column, after, targets, following, workers)

    def _windows(self, snapshot: IndexSnapshot, column: Column, rows: I64, shift: int) -> I64:
        """Stored rows of the observations `shift` time steps from `rows`, int64 (n, depth)."""
        depth = _depth(column)
        frames = np.empty((len(rows), depth), np.int64)
        failed = window_rows(
            rows, shift, depth, snapshot.part_first_row, snapshot.part_num_rows, snapshot.part_t_start,
            snapshot.part_prev, snapshot.part_next, snapshot.part_zero_padding, frames,
        )  # fmt: skip
        self._raise_unless_live(failed, rows, shift)
        return frames

    def read_stacks(
        self, column: Column, frames: I64, targets: I64, out: NDArray[Any], workers: Workers | None = None
    ) -> None:
        """out[targets[b]] = the stored rows frames[b], int64 (n, depth), as one observation."""
        resident = self._resident[column.name]
        if resident is not None:
            column.from_rows(resident.take(frames[:, 0]), out, targets)
            return
        reader = self._readers[column.name]
        if column.spec.is_image:
            reader.read_windows(frames, targets, out.reshape(len(out), -1).view(np.uint8), workers or Workers())
        elif not reader.unpack_held(frames[:, 0], targets, out):
            raw = np.empty((len(frames), column.row_bytes), np.uint8)
            reader.read(frames[:, 0], np.arange(len(frames)), np.zeros(len(frames), np.int64), 1, raw)
            column.from_rows(raw, out, targets)

    def read_rows(self, snapshot: IndexSnapshot, rows: I64) -> Batch:
        """All fields of single rows, as they would be appended: images as (rows, *stacked shape)."""
        out: Batch = {}
        for field in self._spec.fields:
            out[field.name] = np.empty((len(rows), *field.stacked_shape), field.dtype)
            column = self._columns[field.name]
            frames = self._windows(snapshot, column, rows, 0)
            self.read_stacks(column, frames, np.arange(len(rows)), out[field.name])
        return out

    def _returns(self, steps: I64, gamma: float, targets: I64, out: Batch) -> None:
        reward = next((field for field in self._spec.fields if field.role == "reward"), None)
        factor = next((field for field in self._spec.fields if field.role == "discount"), None)
        if reward is None and factor is None:
            return
        rewards = np.zeros(steps.shape, np.float32) if reward is None else self._scalars(reward, steps)
        factors = np.ones(steps.shape, np.float32) if factor is None else self._scalars(factor, steps)
        sums, products = np.empty(len(steps), np.float32), np.empty(len(steps), np.float32)
        n_step_returns(rewards, factors, np.float32(gamma), sums, products)
        if reward is not None:
            out[reward.name].reshape(-1)[targets] = sums
        out["discount" if factor is None else factor.name].reshape(-1)[targets] = products

    def _scalars(self, field: FieldSpec, steps: I64) -> NDArray[np.float32]:
        values = np.empty((steps.size, *field.shape), field.dtype)
        self.read_stacks(self._columns[field.name], steps.reshape(-1, 1), np.arange(steps.size), values)
        return values.reshape(steps.shape).astype(np.float32, copy=False)

    @staticmethod
    def _raise_unless_live(failed: int, rows: I64, shift: int) -> None:
        if failed >= 0:
            raise Evicted(
                f"row {int(rows[failed])}: no live transition reaching {shift} steps on; draw rows with this store's"
                " sampler and the same n_step, and draw again where episodes were evicted since"
            )
