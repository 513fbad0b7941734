"""Which observations are rounded, and with which codecs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from replaystore.adapters.sb3.fields import OBSERVATION
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.codecs.round_clamp.bounds import tight_bounds
from replaystore.errors import EpisodeError, SpecError

RoundClampChoice = RoundClamp | Mapping[str, RoundClamp] | Literal["auto"]


def codecs_of_spaces(choice: RoundClampChoice, space: spaces.Space[Any]) -> dict[str, RoundClamp | None]:
    """Returns the codec of each observation to round, by name. None: its bounds come from the data.

    Args:
        choice: see `RoundClampRolloutBuffer`.
        space: of one environment.

    Raises:
        SpecError: a space cannot be rounded, there is no such space, or bounds do not fit it.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    if isinstance(choice, str):
        if choice != "auto":
            raise SpecError(f"round_clamp: expected RoundClamp, a mapping of them, or 'auto', got {choice!r}")
        floats = {name: None for name, part in parts.items() if isinstance(part, spaces.Box) and part.dtype.kind == "f"}
        if not floats:
            raise SpecError(
                f"round_clamp: expected a Box of floats among the observations, got {space}; use the original buffer,"
                " or DeltaRolloutBuffer for images"
            )
        return dict(floats)
    if isinstance(choice, RoundClamp):
        chosen: Mapping[str, RoundClamp] = dict.fromkeys(parts, choice)
    else:
        chosen = choice
    unknown = sorted(set(chosen) - set(parts))
    if unknown:
        raise SpecError(f"round_clamp: there are no observations {unknown}; the space has {sorted(parts)}")
    return {name: fitted(name, codec, parts[name]) for name, codec in chosen.items()}


def check_space(name: str, space: spaces.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Returns the shape and dtype of a space of floats.

    Args:
        name: names the space in the error.
        space: the space.

    Raises:
        SpecError: its values cannot be rounded.
    """
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        raise SpecError(
            f"{name}: expected a Box of floats to round, got {space}; leave it out of round_clamp, or use"
            " DeltaRolloutBuffer for images"
        )
    return space.shape, np.dtype(space.dtype)


def fitted(name: str, codec: RoundClamp, space: spaces.Space[Any]) -> RoundClamp:
    """Returns the codec for all values of a space, in its dtype.

    Args:
        name: names the space in the error.
        codec: bounds are one number for all values, or one for each.
        space: the space.

    Raises:
        SpecError: the space has no floats, or another number of values than the codec has bounds.
    """
    shape, dtype = check_space(name, space)
    values = math.prod(shape)
    num_bounds = {len(bound) for bound in (codec.low, codec.high) if isinstance(bound, tuple)}
    if num_bounds - {values}:
        raise SpecError(
            f"{name}: expected bounds for {values} values of {space}, got bounds for {max(num_bounds)}; give one number"
            " for all, or one for each"
        )
    return replace(codec, row_size=values, dtype=dtype.name)


def codec_of_values(name: str, values: NDArray[Any], decimals: int, margin: float) -> RoundClamp:
    """Returns a codec whose bounds are those of some rows, and a margin beyond.

    Args:
        name: names the values in errors.
        values: floats (rows, D), at least one row.
        decimals: see `RoundClamp`.
        margin: share of the distance between the bounds to add on either side.

    Raises:
        EpisodeError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise EpisodeError(
            f"{name}: expected finite numbers to take bounds from, got NaN or infinity; remove them, or pass a"
            " RoundClamp with bounds and numbers to store for them"
        )
    low, high = (bound.astype(np.float64) for bound in tight_bounds(values))
    beyond = margin * (high - low)
    low, high = (np.clip(bound, *_range(values.dtype)) for bound in (low - beyond, high + beyond))
    return RoundClamp(
        decimals=decimals, low=low.tolist(), high=high.tolist(), dtype=values.dtype.name, row_size=values.shape[1]
    )


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
