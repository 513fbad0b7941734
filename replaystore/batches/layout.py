"""Describes and allocates the arrays of a batch: names, shapes, dtypes and memory."""

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
        shape: shape without the first axis, which is the batch.
        dtype: dtype of the values.
        pair: name of another array of the batch with the same shape and dtype. The two are allocated as halves of one
            array, so that one read fills both. None: the array stands alone.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pair: str | None = None


Layout = dict[str, ArrayLayout]


def allocate_batch(layout: Mapping[str, ArrayLayout], batch_size: int, empty: Empty = np.empty) -> Batch:
    """Allocates the arrays of a batch. Their content is undefined.

    Args:
        layout: the layout of a batch view.
        batch_size: length of the first axis.
        empty: allocates an array, as `empty(shape, dtype)`.
    """
    batch: Batch = {}
    for name, (shape, dtype, pair) in layout.items():
        if pair is not None:
            batch[name], batch[pair] = empty((2, batch_size, *shape), dtype)
        elif name not in batch:
            batch[name] = empty((batch_size, *shape), dtype)
    return batch


def halves_of_one(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any] | None:
    """Returns two arrays as one, joined along the first axis, without a copy. None if they are not halves of one array.

    Args:
        first: the first half.
        second: the second half, of the same shape.
    """
    whole = first.base
    if not isinstance(whole, np.ndarray) or whole is not second.base or whole.shape != (2, *first.shape):
        return None
    # Both lie inside `whole` and have the size of a half. An array that does not touch one half is the other half.
    if not whole.flags.c_contiguous or np.may_share_memory(first, whole[1]) or np.may_share_memory(second, whole[0]):
        return None
    return whole.reshape(2 * len(first), *first.shape[1:])


def check_batch(layout: Mapping[str, ArrayLayout], batch_size: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Checks that arrays can take a batch.

    Args:
        layout: the layout of a batch view.
        batch_size: length of the first axis.
        out: the arrays, by name.

    Raises:
        SpecError: `out` lacks an array of the layout, or an array has another shape or dtype or is not C-contiguous.
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
    """Returns the arrays of a batch together with the weights and columns of its draw.

    Raises:
        SpecError: an array of the draw does not have one entry per row, the weights are not float32, or the batch
            already has an array of that name.
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
