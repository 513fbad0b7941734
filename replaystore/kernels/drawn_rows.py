"""Rows of drawn transitions: from numbers, or from episodes and time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel
from replaystore.kernels.windows import Ints


@kernel
def drawn_rows(
    shares: npt.NDArray[np.float64], cumulative: Ints, start: int, episode_part_start: Ints, episode_parts: Ints,
    part_first_row: Ints, part_num_rows: Ints, part_t_start: Ints, out: Ints,
) -> int:  # fmt: skip
    """Rows of transitions by number, in the order of their episodes.

    Args:
        drawn: (batch,) int64, from 0 on and below the last of `cumulative`.
        cumulative: (k,) int64, transitions up to and with the episode at position `start`, the next one, and so on.
        episode_part_start: (episodes + 1,) int64, and so on: see `episode_rows`.
        out: (batch,) int64, filled: transition 0 of an episode is its row at time step 1.

    Returns:
        -1, or the first position in `shares` that is no transition.

    Raises:
        ValueError: `out` is too small.
    """
    if out.shape[0] < shares.shape[0]:
        raise ValueError("drawn_rows: out is smaller than shares")
    total = cumulative[-1]
    for b in range(shares.shape[0]):
        if not 0.0 <= shares[b] < 1.0:
            return b
        number = min(np.int64(shares[b] * total), total - 1)  # the product may have been rounded up to the total
        inside = np.int64(0)
        count = np.int64(cumulative.size)
        while count > 0:  # the first episode that ends behind it
            half = count >> 1
            is_behind = cumulative[inside + half] <= number
            inside += (half + 1) * is_behind
            count = count - half - 1 if is_behind else half
        time = number + 1
        if inside > 0:
            time -= cumulative[inside - 1]
        row = _row_at(
            inside + start, time, episode_part_start, episode_parts, part_first_row, part_num_rows, part_t_start
        )
        if row < 0:
            return b
        out[b] = row
    return -1


@kernel
def _row_at(
    episode: Any, time: Any, episode_part_start: Ints, episode_parts: Ints, part_first_row: Ints, part_num_rows: Ints,
    part_t_start: Ints,
) -> Any:  # fmt: skip
    """The row of a time step of the episode at a position; -1 where there is none."""
    if episode < 0 or episode >= episode_part_start.shape[0] - 1 or time < 0:
        return -1
    low = episode_part_start[episode]
    high = episode_part_start[episode + 1]
    while high - low > 1:
        middle = (low + high) >> 1
        if part_t_start[episode_parts[middle]] <= time:
            low = middle
        else:
            high = middle
    part = episode_parts[low]
    offset = time - part_t_start[part]
    if offset < 0 or offset >= part_num_rows[part]:
        return -1
    return part_first_row[part] + offset


@kernel
def episode_rows(
    episodes: Ints,
    times: Ints,
    episode_part_start: Ints,
    episode_parts: Ints,
    part_first_row: Ints,
    part_num_rows: Ints,
    part_t_start: Ints,
    out: Ints,
) -> int:
    """Rows of time steps `times` of the episodes at positions `episodes`.

    Args:
        episodes: (batch,) int64, positions in the episode arrays.
        times: (batch,) int64.
        episode_part_start: (episodes + 1,) int64; the parts of episode e, in order of time, are
            `episode_parts[episode_part_start[e] : episode_part_start[e + 1]]`.
        episode_parts: (parts,) int64.
        part_first_row: (parts,) int64, and so on: the index, see the module.
        out: (batch,) int64, filled.

    Returns:
        -1, or the first position in `episodes` that has no such episode or time step.

    Raises:
        ValueError: `times` or `out` is too small.
    """
    if times.shape[0] < episodes.shape[0] or out.shape[0] < episodes.shape[0]:
        raise ValueError("episode_rows: times or out is smaller than episodes")
    for b in range(episodes.shape[0]):
        row = _row_at(
            episodes[b], times[b], episode_part_start, episode_parts, part_first_row, part_num_rows, part_t_start
        )
        if row < 0:
            return b
        out[b] = row
    return -1
