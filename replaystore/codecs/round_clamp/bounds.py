"""Derives the bounds of a `RoundClamp` from data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SpecError


def tight_bounds(values: NDArray[Any], clamped_share: float = 0.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the closest bounds for each value of a row that leave at most a share of the rows outside.

    The closest pair of bounds that leaves at most `clamped_share` of a column outside is chosen. If several are equally
    close, it is the lowest. The bounds are symmetric only if the data are. Later data may be clamped more often. The
    store counts what it clamps.

    >>> tight_bounds(np.array([[0.0], [1.0], [2.0], [900.0]]), clamped_share=0.25)
    (array([0.]), array([2.]))

    Args:
        values: (rows, D) float, at least one row, finite.
        clamped_share: share of the rows that may lie outside, from 0 up to but not including 1.

    Returns:
        (low, high), each (D,) of the dtype of `values`.

    Raises:
        SpecError: the shape or dtype is wrong, a number is not finite, or the share is out of range.
    """
    if values.ndim != 2 or not len(values) or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise SpecError(
            f"tight_bounds: expected finite floats (rows, values), got {values.dtype} {values.shape}; flatten rows,"
            " remove NaN and infinities"
        )
    if not 0.0 <= clamped_share < 1.0:
        raise SpecError(f"tight_bounds: clamped_share is 0 up to but not including 1, got {clamped_share}")
    ordered = np.sort(values, axis=0)
    num_outside = int(clamped_share * len(values))
    kept = len(values) - num_outside
    # Each pair of bounds is two values of the sorted column with the kept values between them. The closest pair wins.
    # The values are halved first because the distance of two large floats may overflow.
    distance = ordered[kept - 1 :] / 2 - ordered[: num_outside + 1] / 2
    first = np.argmin(distance, axis=0)
    columns = np.arange(values.shape[1])
    return ordered[first, columns], ordered[first + kept - 1, columns]
