"""The arrays of a batch: names, shapes, dtypes and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SpecError
from replaystore.spec import StoreSpec

Batch = dict[str, NDArray[Any]]
Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]


def batch_layout(spec: StoreSpec) -> Layout:
    """Name, shape without the batch and dtype of every array of a batch, in order."""
    result: Layout = {}
    for field in spec.fields:
        is_scalar = field.role in ("reward", "discount")
        result[field.name] = field.stacked_shape, np.dtype(np.float32 if is_scalar else field.dtype)
        if field.role == "observation":
            result[f"next_{field.name}"] = result[field.name]
    reward = next((field for field in spec.fields if field.role == "reward"), None)
    if reward is not None and not any(field.role == "discount" for field in spec.fields):
        result["discount"] = reward.shape, np.dtype(np.float32)
    return result


def allocate_batch(spec: StoreSpec, batch_size: int, empty: Empty = np.empty) -> Batch:
    """Empty arrays for a batch. An observation and its next one are halves of one array, so one pass fills both.

    `empty(shape, dtype)` makes the memory.
    """
    observations = {field.name for field in spec.fields if field.role == "observation"}
    batch: Batch = {}
    for name, (shape, dtype) in batch_layout(spec).items():
        if name in observations:
            batch[name], batch[f"next_{name}"] = empty((2, batch_size, *shape), dtype)
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


def check_batch(layout: Layout, batch_size: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Raises `SpecError` unless `out` has exactly the arrays of a batch, C-contiguous."""
    for name, (shape, dtype) in layout.items():
        array = out.get(name)
        wanted = batch_size, *shape
        if array is None or array.shape != wanted or array.dtype != dtype or not array.flags.c_contiguous:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise SpecError(f"out[{name!r}]: expected C-contiguous {dtype} {wanted}, got {found}; see allocate_batch")
