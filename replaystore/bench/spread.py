"""Median and spread of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median and percentiles of repeated measurements.

    >>> Spread.of([1.0, 2.0, 9.0]).median
    2.0

    Attributes:
        median: the median.
        p5: 5th percentile.
        p95: 95th percentile.
        count: number of measurements.
    """

    median: float
    p5: float
    p95: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Returns the spread of `values`, at least one."""
        found = list(values)
        low, high = (float(np.percentile(found, percent)) for percent in (5, 95))
        return cls(statistics.median(found), low, high, len(found))
