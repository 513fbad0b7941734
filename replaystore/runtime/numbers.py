"""Whole numbers and sizes, in the forms in which people and configuration files give them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np

from replaystore.errors import SpecError

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_TEXT = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]{1,3})?)\s*([A-Za-z]*)")


def whole_number(value: Any, label: str, *, least: int = 1) -> int:
    """Returns a count as an int.

    It takes what configuration files and NumPy give: `np.int64(5)`, `1e6`, `"1e6"` and `"1M"`.

    >>> whole_number("1.5M", "capacity"), whole_number(1e6, "capacity")
    (1500000, 1000000)

    Args:
        value: the number.
        label: name of the argument, for the error.
        least: smallest number that is allowed.

    Raises:
        SpecError: `value` is not a whole number of at least `least`.
    """
    number = _whole(value, _COUNTS)
    if number is None or number < least:
        raise SpecError(f"{label}: expected a whole number of at least {least}, got {value!r}")
    return number


def limit(value: Any, label: str) -> int | None:
    """Returns None for None, which means no limit, and `whole_number(value, label)` for anything else."""
    return None if value is None else whole_number(value, label)


def byte_limit(value: Any, label: str) -> int | None:
    """Returns None for None, which means no limit, and `byte_size(value, label)` for anything else."""
    return None if value is None else byte_size(value, label)


def byte_size(value: Any, label: str) -> int:
    """Returns a number of bytes, at least 1, from a whole number or from text with a unit.

    >>> byte_size("16GiB", "budget_bytes"), byte_size("1.5 KiB", "budget_bytes")
    (17179869184, 1536)

    Args:
        value: the size.
        label: name of the argument, for the error.

    Raises:
        SpecError: `value` is no size.
    """
    number = _whole(value, _BYTES, rounds=isinstance(value, str))
    if number is None or number < 1:
        raise SpecError(f"{label}: expected a size in bytes such as 1048576, '500MB' or '16GiB', got {value!r}")
    return number


def _whole(value: Any, units: dict[str, int], *, rounds: bool = False) -> int | None:
    if isinstance(value, str):
        match = _TEXT.fullmatch(value.strip())
        factor = units.get(match[2].upper()) if match else None
        if match is None or factor is None:
            return None
        exact = Decimal(match[1]) * factor
        return int(exact) if rounds or exact == int(exact) else None
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0 or isinstance(value, np.bool_):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value else None
