"""Comparisons that the contracts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ReplayStoreError

Arrays = Mapping[str, Any]


def same_arrays(found: Arrays, expected: Arrays, label: str) -> None:
    """Raises `AssertionError` unless both have the same names and the same values, bit for bit."""
    if found.keys() != expected.keys():
        raise AssertionError(f"{label}: expected the arrays {sorted(expected)}, got {sorted(found)}")
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(array), f"{label}: {name}", strict=True)


def copied(batch: Arrays) -> dict[str, NDArray[Any]]:
    """Returns copies of the arrays or tensors of a batch."""
    return {name: np.asarray(array).copy() for name, array in batch.items()}


def raises(error: type[ReplayStoreError], call: Callable[[], object], label: str) -> None:
    """Raises `AssertionError` unless `call` raises `error`."""
    try:
        call()
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{label}: expected {error.__name__}, got {other!r}") from other
    raise AssertionError(f"{label}: expected {error.__name__}, and nothing was raised")
