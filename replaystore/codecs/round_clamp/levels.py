"""The levels between two bounds: their number, the first and the last one, and their bits.

All of it is exact, with whole numbers. This module also parses the settings of the codec.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import numpy as np

from replaystore.errors import SpecError
from replaystore.kernels.packed_bits import Levels

MAX_DECIMALS = 22
"""10**22 is the last power of ten that float64 holds exactly."""

MAX_LEVELS = 1 << 53

Bound = float | tuple[float, ...]


def level_bounds(decimals: int, low: float, high: float) -> tuple[int, int]:
    """Returns the first and last level: round(low * 10**decimals) and round(high * 10**decimals).

    The rounding is exact, half to even. There are last - first + 1 levels. Level k stands for k * 10**-decimals.

    >>> level_bounds(2, -127.0, 127.0)
    (-12700, 12700)
    """
    scale = Fraction(10) ** decimals
    return round(Fraction(low) * scale), round(Fraction(high) * scale)


def parse_bound(name: str, value: Any) -> Bound:
    """Returns a finite number as float, or a flat sequence of them as tuple.

    Args:
        name: the setting, for the error.
        value: what was given.

    Raises:
        SpecError: `value` is anything else.
    """
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as err:
        raise SpecError(f"round_clamp: {name} is a number or a sequence of numbers, got {value!r}") from err
    if array.ndim > 1 or array.size == 0 or not np.isfinite(array).all():
        raise SpecError(f"round_clamp: {name} is a finite number or a flat sequence of them, got {value!r}")
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def parse_whole(name: str, value: Any) -> int:
    """Returns a whole number as int.

    Args:
        name: the setting, for the error.
        value: what was given.

    Raises:
        SpecError: `value` is anything else.
    """
    try:
        return operator.index(value)
    except TypeError as err:
        raise SpecError(f"round_clamp: {name} is a whole number, got {value!r}") from err


def parse_constant(name: str, value: Any) -> float | None:
    """Returns a finite number as float, or None.

    Args:
        name: the setting, for the error.
        value: what was given.

    Raises:
        SpecError: `value` is anything else.
    """
    if value is None:
        return None
    number = parse_bound(name, value)
    if isinstance(number, tuple):
        raise SpecError(f"round_clamp: {name} is one finite number or None, got {value!r}")
    return number


def build_levels(*, decimals: int, low: Bound, high: Bound, dtype: str, row_size: int) -> Levels:
    """The levels of a row of values.

    Args:
        decimals: to which values are rounded.
        low: the lower bounds; rounded to `dtype` first.
        high: the upper bounds; rounded to `dtype` first.
        dtype: of the values.
        row_size: values of a row.

    Raises:
        SpecError: bounds out of order or beyond `dtype`, more than 2**53 levels or levels beyond +-2**53.
    """
    lows, highs = (bound if isinstance(bound, tuple) else (bound,) * row_size for bound in (low, high))
    pairs = list(zip(lows, highs, strict=True))
    ranges = {pair: _value_range(decimals, *pair, dtype) for pair in set(pairs)}
    columns = list(zip(*(ranges[pair] for pair in pairs), strict=True))
    widths = [(last - first).bit_length() for first, last in zip(columns[2], columns[3], strict=True)]
    return Levels(
        low=np.array(columns[0], np.float64),
        high=np.array(columns[1], np.float64),
        first=np.array(columns[2], np.int64),
        last=np.array(columns[3], np.int64),
        widths=np.array(widths, np.int64),
        scale=float(10 ** abs(decimals)),
        is_divided=decimals < 0,
    )


def _value_range(decimals: int, low: float, high: float, dtype: str) -> tuple[float, float, int, int]:
    """Returns both bounds as `dtype` represents them, and the first and last level.

    Raises:
        SpecError: a level or its value cannot be represented.
    """
    where = f"round_clamp: bounds {low} and {high} at {decimals} decimals"
    with np.errstate(over="ignore"):
        low, high = (float(np.dtype(dtype).type(bound)) for bound in (low, high))
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise SpecError(f"{where}: expected low <= high, finite in {dtype}, got {low} and {high}")
    first, last = level_bounds(decimals, low, high)
    if last - first + 1 > MAX_LEVELS or max(abs(first), abs(last)) > MAX_LEVELS:
        raise SpecError(
            f"{where}: expected at most 2**53 levels, none beyond +-2**53, got {first} to {last}; take fewer decimals"
            " or closer bounds"
        )
    scale = Fraction(10) ** -decimals
    with np.errstate(over="ignore"):
        try:
            ends = np.array([float(first * scale), float(last * scale)]).astype(dtype)
        except OverflowError:
            ends = np.array([np.inf])
    if not np.isfinite(ends).all():
        raise SpecError(f"{where}: rounding leads beyond {dtype}; take closer bounds or more decimals")
    return low, high, first, last
