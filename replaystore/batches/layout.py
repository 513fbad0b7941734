"""The arrays of a batch: names, shapes, dtypes and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SpecError
from replaystore.sampling.protocol import Draw

Batch = dict[str, NDArray[Any]]
Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]


class ArrayLayout(NamedTuple):
    """One array of a batch.

    Attributes:
        shape: without the batch, the first axis.
        dtype: of the values.
        pair: None, or the name of the next array of the batch, which has the same shape and dtype. The two are then
            made as halves of one array, so that one read fills both.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pair: str | None = None


Layout = dict[str, ArrayLayout]


def allocate_batch(layout: Mapping[str, ArrayLayout], batch_size: int, empty: Empty = np.empty) -> Batch:
    """Empty arrays for a batch.

    Args:
        layout: of a batch view.
        batch_size: the first axis.
        empty: `empty(shape, dtype)` makes the memory.
    """
    batch: Batch = {}
    for name, (shape, dtype, pair) in layout.items():
        if pair is not None:
            batch[name], batch[pair] = empty((2, batch_size, *shape), dtype)
        elif name not in batch:
            batch[name] = empty((batch_size, *shape), dtype)
    return batch


def halves_of_one(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any] | None:
    """The array of which two arrays of one shape are the halves, joined along the first axis; None if they are not."""
    whole = first.base
    if not isinstance(whole, np.ndarray) or whole is not second.base or whole.shape != (2, *first.shape):
        return None
    # Both have the size of a half and lie inside: what does not touch the one half is the other.
    if not whole.flags.c_contiguous or np.may_share_memory(first, whole[1]) or np.may_share_memory(second, whole[0]):
        return None
    return whole.reshape(2 * len(first), *first.shape[1:])


def check_batch(layout: Mapping[str, ArrayLayout], batch_size: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Refuses arrays that a batch does not fit into.

    Raises:
        SpecError: `out` lacks an array of the layout, or one has another shape or dtype or is not C-contiguous.
    """
    for name, (shape, dtype, _) in layout.items():
        array = out.get(name)
        wanted = batch_size, *shape
        if array is None or array.shape != wanted or array.dtype != dtype or not array.flags.c_contiguous:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise SpecError(
                f"out[{name!r}]: expected C-contiguous {dtype} {wanted}, got {found}; see ReplayStore.allocate"
            )


def with_extras(batch: Batch, draw: Draw) -> Batch:
    """The arrays of a batch, and the weights and columns of its draw.

    Raises:
        SpecError: an array of the draw has not one entry for each row, the weights are not float32, or a name is taken.
    """
    extras = draw.extras()
    for name, array in extras.items():
        if name in batch:
            raise SpecError(f"draw: {name!r} is the name of an array of the batch already; give the column another one")
        is_weight = draw.weights is array
        if array.shape[:1] != draw.rows.shape or (is_weight and (array.ndim != 1 or array.dtype != np.float32)):
            wanted = f"float32 ({len(draw.rows)},)" if is_weight else f"({len(draw.rows)}, ...)"
            raise SpecError(f"draw: {name!r}: expected {wanted}, one for each row, got {array.dtype} {array.shape}")
    return {**batch, **extras}
