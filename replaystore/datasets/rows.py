"""Turns the arrays of other layouts into rows of a store, where row t + 1 has the action and the reward of step t."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from replaystore.episodes.values import is_set
from replaystore.errors import EpisodeError

Array = npt.NDArray[Any]

_SINGULAR = {
    "observations": "observation",
    "actions": "action",
    "rewards": "reward",
    "discounts": "discount",
}
_OF_STEPS = ("action", "reward", "discount")
_TERMINAL = ("terminal", "is_terminal", "terminals", "terminated", "terminateds", "terminations")
_DONE = ("done", "dones")  # terminal, or cut by a time limit
_CUT = ("truncated", "truncateds", "truncations", "timeout", "timeouts")
_FIRST = ("is_first",)
_LAST = ("is_last",)
_NEXT = "next_"


class StoreRows(NamedTuple):
    """An episode as rows of a store.

    Attributes:
        arrays: arrays by field name, one row per time step, from the reset on.
        notes: what was changed or looks wrong, for the user.
    """

    arrays: dict[str, Array]
    notes: tuple[str, ...]


def store_rows(arrays: Mapping[str, Array], where: str = "episode", plain: Collection[str] = ()) -> StoreRows:
    """Returns an episode as rows of a store.

    Arrays of one length with the names of DrQ-v2 are rows already. Arrays by step, as Gym, D4RL and Minari keep them,
    have an action, a reward and an end for each step, and one more observation than steps, or `next_observations`. They
    are moved down by one row. Row 0 gets zeros, and a discount of 1.

    If there is a reward and no discount, flags of an end make the discount. It is 0 where the episode has terminated.

    >>> steps = {"observations": np.arange(3.0), "actions": np.array([7.0, 8.0]), "rewards": np.array([0.5, 1.0])}
    >>> rows, notes = store_rows({**steps, "terminals": np.array([False, True])})
    >>> rows["action"].tolist(), rows["reward"].tolist(), rows["discount"].tolist()
    ([0.0, 7.0, 8.0], [0.0, 0.5, 1.0], [1.0, 1.0, 0.0])

    Args:
        arrays: arrays by name, rows or steps first.
        where: the file, for errors.
        plain: names without a meaning here. They are taken as rows.

    Raises:
        EpisodeError: the rows cannot be told, or the arrays hold several episodes.
    """
    rows, notes = dict(arrays), []
    if _are_by_step(rows, plain):
        rows = _from_steps(rows, where, plain)
        notes.append(
            "arrays are by step, as in Gym, D4RL and Minari: the action, reward and end of step t are in row t + 1"
        )
    _check_one_episode(rows, where, plain)
    ends = _flags_for_discount(rows, plain)
    if ends:
        rows["discount"], note = _discount(rows, ends, where, plain)
        notes.append(note)
    for name in ("action", "reward"):
        if name in rows and name not in plain and rows[name].ndim and is_set(rows[name][:1]):
            notes.append(
                f"row 0: the {name} is not zero, and no transition reads it; row 0 is the reset, and row t + 1 has the"
                f" {name} of step t; if row t has it, move it down by one row"
            )
            break
    return StoreRows(rows, tuple(notes))


def is_rows(arrays: Mapping[str, Array], plain: Collection[str] = ()) -> bool:
    """Whether `store_rows` would take the arrays as they are."""
    return not _are_by_step(arrays, plain) and not _flags_for_discount(arrays, plain)


def _are_by_step(arrays: Mapping[str, Array], plain: Collection[str]) -> bool:
    if any(name in arrays and name not in plain for name in ("actions", "rewards")):
        return True
    if "action" not in arrays or not arrays["action"].ndim:
        return False
    steps = len(arrays["action"])  # names of DrQ-v2, and one more observation than actions
    observed = [len(array) for name, array in arrays.items() if array.ndim and name not in (*_OF_STEPS, *plain)]
    return steps > 0 and max(observed, default=0) == steps + 1 and len(arrays.get("reward", arrays["action"])) == steps


def _from_steps(arrays: Mapping[str, Array], where: str, plain: Collection[str]) -> dict[str, Array]:
    named: dict[str, Array] = {}
    for name, array in arrays.items():
        field = name if name in plain else _SINGULAR.get(name, name)
        if field in named:
            raise EpisodeError(f"{where}: {name!r} and {field!r} both name the {field}; skip or rename one of them")
        named[field] = array
    steps = len(named["action"] if "action" in named else named["reward"])
    following = {name: _observation_of(name, named) for name in named}
    rows = {
        name: _moved_down(name, array, steps, where) if _is_of_step(name, plain) else array
        for name, array in named.items()
        if following[name] is None
    }
    for name, observation in following.items():
        if observation is not None:
            rows[observation] = _with_last(named[observation], named[name], steps, f"{where}, {observation}")
    for name, array in rows.items():
        if array.ndim < 1 or len(array) != steps + 1:
            raise EpisodeError(
                f"{where}: expected {steps + 1} rows of {name!r} for {steps} actions, found {array.shape}; add the"
                f" observation after the last step (next_{name}, or one more row), skip the field, or rename the"
                " arrays to observation, action, reward and discount if row t + 1 has the action of step t"
            )
    return rows


def _is_of_step(name: str, plain: Collection[str]) -> bool:
    return name not in plain and name in (*_OF_STEPS, *_TERMINAL, *_DONE, *_CUT)


def _observation_of(name: str, named: Mapping[str, Array]) -> str | None:
    """Returns the field whose next values `name` holds. None if it is no such field."""
    field = name.removeprefix(_NEXT)
    field = _SINGULAR.get(field, field)
    return field if name.startswith(_NEXT) and field in named else None


def _moved_down(name: str, array: Array, steps: int, where: str) -> Array:
    if array.ndim < 1 or len(array) != steps:
        raise EpisodeError(
            f"{where}: expected {steps} steps of {name!r}, one per action, found {array.shape}; cut the arrays to one"
            " episode, or skip the field"
        )
    first = np.full((1, *array.shape[1:]), 1 if name == "discount" else 0, array.dtype)
    return np.concatenate([first, array])


def _with_last(observations: Array, following: Array, steps: int, where: str) -> Array:
    """Returns the observations, and behind them the one after the last step."""
    if following.shape[1:] != observations.shape[1:] or {len(observations), len(following)} - {steps, steps + 1}:
        raise EpisodeError(
            f"{where}: expected {steps} observations and {steps} next ones, found {observations.shape} and"
            f" {following.shape}; skip the next ones"
        )
    rows = observations if len(observations) > steps else np.concatenate([observations, following[steps - 1 : steps]])
    ours, theirs = rows[1:].reshape(steps, -1), following[:steps].reshape(steps, -1)
    differ = np.flatnonzero(((ours != theirs) & ((ours == ours) | (theirs == theirs))).any(axis=1))
    if len(differ):
        raise EpisodeError(
            f"{where}: expected the next observation of step {differ[0]} in row {differ[0] + 1}, found another; the"
            " file holds several episodes: write one file for each"
        )
    return rows


def _check_one_episode(rows: Mapping[str, Array], where: str, plain: Collection[str]) -> None:
    for name, array in rows.items():
        flags = None if name in plain else _flags(array)
        if flags is None:
            continue
        if name in _FIRST:
            wrong = np.flatnonzero(flags[1:]) + 1
        elif name in (*_TERMINAL, *_DONE, *_CUT, *_LAST):
            wrong = np.flatnonzero(flags[:-1])
        else:
            continue
        if len(wrong):
            raise EpisodeError(
                f"{where}: {name!r} is set in row {wrong[0]} of {len(flags)}, so the file holds several episodes;"
                f" write one file for each, or give the role of {name!r} if it means something else"
            )


def _flags(array: Array) -> Array | None:
    """Returns one flag per row, (rows,). None if the array holds something else."""
    if array.ndim < 1 or array.size != len(array) or array.dtype.kind not in "biuf":
        return None
    return np.not_equal(array.reshape(-1), 0)


def _flags_for_discount(arrays: Mapping[str, Array], plain: Collection[str]) -> tuple[str, ...]:
    """Returns the names of the flags that make the discount, or nothing if there is one or no reward.

    They say that the episode has terminated, or if there are none, that it has ended.
    """
    if "reward" not in arrays or "discount" in arrays:
        return ()
    found = [name for name in arrays if name not in plain]
    return tuple(name for name in found if name in _TERMINAL) or tuple(name for name in found if name in _DONE)


def _discount(
    rows: Mapping[str, Array], names: tuple[str, ...], where: str, plain: Collection[str]
) -> tuple[Array, str]:
    """Returns the discount, float32 (rows,), and a note that says what it was made from."""
    note = f"there is no discount: it is made from {' and '.join(map(repr, names))}, 0 where the episode has terminated"
    cuts: tuple[str, ...] = ()
    if names[0] in _DONE:
        cuts = tuple(name for name in rows if name in _CUT and name not in plain)
        note += (
            f", and 1 where {' or '.join(map(repr, cuts))} cut it"
            if cuts
            else "; an episode that a time limit cut counts as terminated, as nothing tells them apart"
        )
    is_set: dict[str, Array] = {}
    for name in (*names, *cuts):
        flags = _flags(rows[name])
        if flags is None or len(flags) != len(rows["reward"]):
            raise EpisodeError(
                f"{where}: expected one flag per row in {name!r}, found {rows[name].dtype} {rows[name].shape}; add a"
                f" discount, or give the role of {name!r} if it means something else"
            )
        is_set[name] = flags
    terminated = np.any([is_set[name] for name in names], axis=0)
    for name in cuts:
        terminated &= ~is_set[name]
    terminated[:1] = False  # the reset
    return (~terminated).astype(np.float32), note
