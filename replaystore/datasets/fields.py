"""Derives the fields of a store from the arrays of one episode."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.datasets.rows import Array, is_rows
from replaystore.episodes.stacks import frames_from_stacks
from replaystore.errors import EpisodeError, SpecError
from replaystore.spec import Channels, FieldSpec, Role

Scheme = Mapping[str, Any]

OBSERVATION_PREFIXES = ("obs", "state", "proprio", "pixel", "camera", "image", "rgb", "depth")
_MAX_STACK = 64
_FRAME_DELTA = "replaystore.frame_delta"
_ROUND_CLAMP = "replaystore.round_clamp"


def fields_from_episode(
    arrays: Mapping[str, Array],
    frame_stack: int | None = None,
    *,
    channels: Channels | None = None,
    roles: Mapping[str, Role] | None = None,
    allow_nonfinite: Collection[str] = (),
) -> tuple[FieldSpec, ...]:
    """Returns the fields of a store for episodes like this one, in the order of `arrays`.

    uint8 arrays of 3 axes (rows, height, width) or 4 axes are images, unless their role is `action`. The channel axis
    is the shorter one of the second and the last. Roles depend on the name. `action` is the action. `reward` and
    `discount` have their own role, and hold one number per row. Whole numbers and flags are stored as float32. Names
    that start with one of `OBSERVATION_PREFIXES` are observations. All other fields are `extra`.

    >>> episode = {"observation": np.zeros((2, 3, 84, 84), np.uint8), "reward": np.zeros((2, 1), np.float32)}
    >>> [(field.name, field.role, field.shape) for field in fields_from_episode(episode, frame_stack=1)]
    [('observation', 'observation', (3, 84, 84)), ('reward', 'reward', (1,))]

    Args:
        arrays: arrays by field name, rows first, from the episode's reset on.
        frame_stack: frames in a row of each 4-axis image. None derives it: the largest number that divides the channels
            and for which every row repeats the frames of the rows before it.
        channels: position of the channels of 4-axis images. None derives it from their shape.
        roles: roles by field name, instead of the derived ones.
        allow_nonfinite: fields that may hold NaN and infinity.

    Raises:
        SpecError: a store cannot hold the name, shape or dtype of an array, its stack or channel axis is not clear, or
            the arrays are not rows of a store (see `store_rows`).
    """
    if not arrays:
        raise SpecError("episode: expected at least one field, found none")
    overrides = dict(roles or {})
    if not is_rows(arrays, overrides):
        raise SpecError(
            f"episode: {list(arrays)} are arrays by step, or have a flag of an end and no discount; pass them through"
            " replaystore.datasets.rows.store_rows first, or give the roles of names that mean something else"
        )
    for option, names in (("roles", overrides), ("allow_nonfinite", allow_nonfinite)):
        unknown = sorted(set(names) - set(arrays))
        if unknown:
            raise SpecError(f"{option}: no fields {unknown} in the episode; it has {list(arrays)}")
    fields = tuple(
        _field(name, array, overrides.get(name) or role_of(name), frame_stack, channels)
        for name, array in arrays.items()
    )
    return tuple(replace(field, allow_nonfinite=True) if field.name in allow_nonfinite else field for field in fields)


def role_of(name: str) -> Role:
    """Returns the role that a field's name suggests; see `fields_from_episode`."""
    if name in ("reward", "discount", "action"):
        return name  # type: ignore[return-value]
    return "observation" if name.startswith(OBSERVATION_PREFIXES) else "extra"


def with_schemes(
    fields: Iterable[FieldSpec], schemes: Mapping[str, Scheme] | None, frame_delta: Scheme | None
) -> tuple[FieldSpec, ...]:
    """Returns the fields with codecs.

    Args:
        fields: fields without schemes.
        schemes: codec configurations by field name. Missing entries for the geometry are filled in: frame shape and
            channels of `frame_delta`, row size and dtype of `round_clamp`.
        frame_delta: options of `FrameDelta` for every image that `schemes` does not name.

    Raises:
        SpecError: `schemes` names an unknown field, or a configuration cannot work.
    """
    fields = tuple(fields)
    chosen = {name: dict(scheme) for name, scheme in (schemes or {}).items()}
    unknown = sorted(set(chosen) - {field.name for field in fields})
    if unknown:
        raise SpecError(f"schemes: no fields {unknown} in the episodes; they have {[field.name for field in fields]}")
    if frame_delta is not None:
        for field in fields:
            if field.is_image:
                chosen.setdefault(field.name, {"id": _FRAME_DELTA, **frame_delta})
    return tuple(
        replace(field, scheme=_complete(field, chosen[field.name])) if field.name in chosen else field
        for field in fields
    )


def _complete(field: FieldSpec, scheme: dict[str, Any]) -> dict[str, Any]:
    """Returns the codec's full configuration, so that equal codecs compare equal."""
    from numcodecs import get_codec

    if scheme.get("id") == _FRAME_DELTA:
        scheme = {"frame_shape": list(field.shape), "channels": field.channels or "first", **scheme}
    elif scheme.get("id") == _ROUND_CLAMP:
        scheme = {"row_size": int(np.prod(field.shape)), "dtype": field.dtype, **scheme}
    try:
        config: dict[str, Any] = get_codec(scheme).get_config()
    except SpecError as err:
        raise SpecError(f"field {field.name!r}: {err}") from err
    except (ValueError, TypeError) as err:
        raise SpecError(f"field {field.name!r}: scheme {scheme.get('id')!r} does not load: {err}") from err
    return config


def _field(name: str, array: Array, role: Role, frame_stack: int | None, channels: Channels | None) -> FieldSpec:
    if array.ndim < 1 or not len(array):
        raise SpecError(
            f"field {name!r}: expected at least one row, rows first, found {array.dtype} {array.shape};"
            " skip the field, or leave the file out"
        )
    is_scalar = role in ("reward", "discount") and array.dtype.kind in "biu"
    # A plain field first, to check name, dtype and shape before looking for stacks.
    try:
        plain = FieldSpec(
            name=name, shape=array.shape[1:], dtype="float32" if is_scalar else array.dtype.name, role=role
        )
    except SpecError as err:
        raise SpecError(
            f"{err}; found {array.dtype} {array.shape}; rename it, skip it, or convert it in the episode files"
        ) from err
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or role not in ("observation", "extra"):
        return plain
    if array.ndim == 3:
        return replace(plain, channels="first")
    return _stacked(plain, array, frame_stack, channels or _channel_axis(name, array.shape))


def _channel_axis(name: str, shape: tuple[int, ...]) -> Channels:
    if shape[1] == shape[3]:
        raise SpecError(
            f"field {name!r}: cannot tell which axis of {shape} has the channels; give channels='first' or 'last'"
        )
    return "first" if shape[1] < shape[3] else "last"


def _stacked(plain: FieldSpec, array: Array, frame_stack: int | None, channels: Channels) -> FieldSpec:
    count = array.shape[1] if channels == "first" else array.shape[3]
    if frame_stack is not None:
        if not 1 <= frame_stack <= _MAX_STACK or count % frame_stack:
            raise SpecError(
                f"field {plain.name!r}: frame_stack={frame_stack} does not divide the {count} channels of"
                f" {array.shape}; it is the number of frames in a row, 1 to {_MAX_STACK}"
            )
        return _with_stack(plain, array.shape, frame_stack, channels)
    stacks = [stack for stack in range(min(count, _MAX_STACK), 0, -1) if count % stack == 0]
    fitting = (_with_stack(plain, array.shape, stack, channels) for stack in stacks)
    best = next(field for field in fitting if field.frame_stack == 1 or _is_consistent(field, array))
    if best.frame_stack > 1 and not (array[1:] != array[:1]).any():
        raise SpecError(
            f"field {plain.name!r}: cannot tell the frame stack of {array.shape}: all {len(array)} rows are equal;"
            f" give frame_stack=1 .. {best.frame_stack} (option --frame-stack)"
        )
    return best


def _with_stack(plain: FieldSpec, shape: tuple[int, ...], frame_stack: int, channels: Channels) -> FieldSpec:
    _, *frame = shape
    frame[0 if channels == "first" else 2] //= frame_stack
    return replace(plain, shape=tuple(frame), frame_stack=frame_stack, channels=channels)


def _is_consistent(field: FieldSpec, array: Array) -> bool:
    try:
        frames_from_stacks(field, array, "episode")
    except EpisodeError:
        return False
    return True
