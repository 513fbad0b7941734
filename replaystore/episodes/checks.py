"""Checks a whole episode against the fields of a store before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.episodes.stacks import (
    Padding,
    split_stacks,
    stacks_from_frames,
)
from replaystore.episodes.values import episode_values
from replaystore.errors import EpisodeError
from replaystore.spec import FieldSpec, StoreSpec

Array = npt.NDArray[Any]

EITHER = Padding(repeat=True, zeros=True)


@dataclass(frozen=True)
class EpisodeArrays:
    """Checked rows of an episode, in the form in which they are stored.

    Attributes:
        num_rows: rows of each array.
        zero_padding: whether the episode's first stacks hold zeros before its first frame.
        arrays: C-contiguous arrays by field name, in the order of the store's fields. Images are stacks (rows,
            *stacked_shape) in mode `"disk"` and frames (rows, *shape) in other modes. Other fields are (rows, *shape).
            The arrays may share memory with the input.
    """

    num_rows: int
    zero_padding: bool
    arrays: dict[str, Array]


def check_names(spec: StoreSpec, values: Mapping[str, Any], where: str) -> None:
    """Checks that `values` has exactly the fields of the store.

    Args:
        spec: the fields of the store.
        values: values by field name.
        where: place to name in the error.

    Raises:
        EpisodeError: `values` is no mapping, or fields are missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise EpisodeError(f"{where}: expected a mapping of fields to arrays, got {type(values).__name__}")
    names = [field.name for field in spec.fields]
    missing = [name for name in names if name not in values]
    unknown = sorted((name for name in values if name not in names), key=repr)
    if missing or unknown:
        raise EpisodeError(
            f"{where}: expected the fields {names}, got {list(values)}: missing {missing}, unknown {unknown};"
            " give exactly the store's fields"
        )


def check_episode(spec: StoreSpec, episode: Mapping[str, Any], where: str = "episode") -> EpisodeArrays:
    """Checks a whole episode and converts it to stored form. `episode_values` says what it accepts.

    Args:
        spec: the fields of the store.
        episode: one array per field, rows first. Single frames of images are stacked with the first one repeated.
        where: place to name in errors, such as `"episode 12"`.

    Raises:
        EpisodeError: fields are missing or unknown, a number is not finite, or a shape, dtype, byte order, number of
            rows or stack does not fit.
    """
    check_names(spec, episode, where)
    given = {field.name: episode_values(field, episode[field.name], where) for field in spec.fields}
    num_rows = {name: len(array) for name, array in given.items()}
    if len(set(num_rows.values())) > 1 or 0 in num_rows.values():
        raise EpisodeError(f"{where}: expected the same number of rows, at least 1, in all fields, got {num_rows}")
    arrays: dict[str, Array] = {}
    padding = EITHER
    for field in spec.fields:
        array = given[field.name]
        if field.frame_stack > 1:
            frames, allowed = _frames_of(field, array, where)
            padding = agreed_padding(padding, allowed, f"field {field.name!r}, {where}")
            if spec.mode != "disk":
                array = frames
            elif array.shape[1:] == field.shape:
                array = stacks_from_frames(field, frames, zero_padding=False)
        arrays[field.name] = np.ascontiguousarray(array)
    return EpisodeArrays(next(iter(num_rows.values())), not padding.repeat, arrays)


def _frames_of(field: FieldSpec, array: Array, where: str) -> tuple[Array, Padding]:
    if array.shape[1:] == field.shape:
        return array, Padding(repeat=True, zeros=not array[0].any())
    return split_stacks(field, array, where)


def agreed_padding(one: Padding, other: Padding, where: str) -> Padding:
    """Returns the paddings that both arguments allow.

    Args:
        one: paddings that some fields allow.
        other: paddings that another field allows.
        where: place to name in the error.

    Raises:
        EpisodeError: no padding is allowed by both.
    """
    both = Padding(one.repeat and other.repeat, one.zeros and other.zeros)
    if not any(both):
        raise EpisodeError(
            f"{where}, row 0: expected the first stack padded as in the other image fields, got the first frame"
            " repeated in one and zeros in another; pad all image fields in the same way"
        )
    return both
