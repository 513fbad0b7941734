"""Converts what environments give to the arrays of a field, and refuses what would change the meaning of a run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.errors import EpisodeError
from replaystore.spec import FieldSpec

Array = npt.NDArray[Any]

_SCALARS = ("reward", "discount")
_FREE_AT_RESET = ("reward", "action")  # no transition reads their row 0
_AT_RESET = {"reward": 0, "action": 0, "discount": 1}  # for None, which dm_env gives


def episode_values(field: FieldSpec, value: Any, where: str) -> Array:
    """Returns the rows of a field.

    A reward or a discount may have any number of axes of length 1 behind the rows, and any numeric dtype. It is cast to
    the field's dtype. Floats are rounded. Whole numbers must survive exactly.

    Args:
        field: the field.
        value: its rows, an array or what NumPy makes one of. Images are stacks (rows, *stacked_shape) or single
            frames (rows, *shape).
        where: place to name in errors, such as `"episode 12"`.

    Returns:
        The rows, of the field's dtype, (rows, *stacked_shape) or (rows, *shape).

    Raises:
        EpisodeError: the shape or the dtype does not fit, a value does not survive the cast, or a number is not finite
            and the field does not allow that.
    """
    array = _as_array(field, value, where)
    if field.role in _SCALARS and array.ndim and array.size == len(array):
        array = _cast(field, array, where).reshape(len(array), *field.shape)
    if array.dtype != field.dtype or array.ndim == 0 or array.shape[1:] not in (field.stacked_shape, field.shape):
        raise _mismatch(field, array, where, "rows")
    if array.dtype.kind == "f" and _is_checked(field):
        free = 1 if field.role in _FREE_AT_RESET else 0
        finite = np.isfinite(array[free:])
        if not finite.all():
            row = free + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
            raise _not_finite(field, array[row], f"{where}, row {row}")
    return array


def row_value(field: FieldSpec, value: Any, row: int, env: int | str) -> Array:
    """Returns the value of one row. See `episode_values`.

    In row 0 of an episode None stands for a reward of 0, a discount of 1 and an action of zeros.

    Args:
        field: the field.
        value: its value, without a row axis.
        row: number of the row in its episode.
        env: environment to name in errors.

    Returns:
        The value, of the field's dtype, (*stacked_shape) or (*shape).

    Raises:
        EpisodeError: as `episode_values`.
    """
    if value is None and row == 0 and field.role in _AT_RESET:
        return np.full(field.shape, _AT_RESET[field.role], field.dtype)
    array = _as_array(field, value, f"env {env}, row {row}")
    fits = array.shape == field.shape or array.shape == field.stacked_shape
    if field.role in _SCALARS and array.size == 1 and not (fits and array.dtype == field.dtype):
        array, fits = _cast(field, array, f"env {env}, row {row}").reshape(field.shape), True
    if not fits or array.dtype != field.dtype:
        raise _mismatch(field, array, f"env {env}, row {row}", "")
    if array.dtype.kind == "f" and _is_checked(field) and not (row == 0 and field.role in _FREE_AT_RESET):
        is_finite = math.isfinite(array.item()) if array.size == 1 else np.isfinite(array).all()
        if not is_finite:
            raise _not_finite(field, array, f"env {env}, row {row}")
    return array


def is_set(value: Array) -> bool:
    """Whether the reward or action of a reset looks like that of a step: it is neither zero nor NaN, for no value."""
    return bool(np.any((value != 0) & (value == value)))


def _as_array(field: FieldSpec, value: Any, where: str) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise EpisodeError(
            f"field {field.name!r}, {where}: expected an array of {field.dtype}, got {type(value).__name__};"
            " convert it to a NumPy array before append"
        ) from err


def _cast(field: FieldSpec, array: Array, where: str) -> Array:
    """Returns an array of the field's dtype. Arrays that are not numeric come back unchanged."""
    if array.dtype == field.dtype or array.dtype.kind not in "biuf":
        return array
    with np.errstate(over="ignore"):
        result = array.astype(field.dtype)
    if array.dtype.kind in "iu":
        exact = 2 ** (np.finfo(result.dtype).nmant + 1)  # whole numbers up to here have a float of their own
        lost = (array > exact) | (array < -exact if array.dtype.kind == "i" else False)
    else:
        lost = np.isfinite(array) & ~np.isfinite(result) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    if np.any(lost):
        raise EpisodeError(
            f"field {field.name!r}, {where}: {array[lost].flat[0]} does not survive the cast from {array.dtype} to"
            f" {field.dtype}; scale it, or make the store with a wider dtype"
        )
    return result


def _is_checked(field: FieldSpec) -> bool:
    return not field.allow_nonfinite and field.scheme is None  # a codec decides for itself


def _not_finite(field: FieldSpec, values: Array, where: str) -> EpisodeError:
    found = np.asarray(values).reshape(-1)
    found = found[~np.isfinite(found)]
    return EpisodeError(
        f"field {field.name!r}, {where}: expected finite numbers, got {found[0]}; mend the environment, or make the"
        f" store with FieldSpec({field.name!r}, ..., allow_nonfinite=True)"
    )


def _mismatch(field: FieldSpec, array: Array, where: str, lead: str) -> EpisodeError:
    shapes = dict.fromkeys((field.stacked_shape, field.shape))
    expected = " or ".join(f"{field.dtype} ({', '.join([*([lead] if lead else []), *map(str, s)])})" for s in shapes)
    return EpisodeError(
        f"field {field.name!r}, {where}: expected {expected}, got"
        f" {array.dtype if array.dtype.isnative else array.dtype.str} {array.shape}; convert it before append"
    )
