"""Finds the rows of drawn transitions, from numbers, or from episodes and time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel
from replaystore.kernels.windows import Ints, PartIndex


@kernel
def drawn_rows(
    shares: npt.NDArray[np.float64], cumulative: Ints, first_episode: int, index: PartIndex, out: Ints
) -> int:
    """Finds the rows of transitions by number, in the order of their episodes.

    Args:
        shares: (batch,) float64 in [0, 1). Share s is transition floor(s * n) of n.
        cumulative: (k,) int64, at least one. Entry j is the number of transitions up to and including the episode at
            position `first_episode + j`.
        first_episode: position of the first episode that counts.
        index: the parts of the episodes.
        out: (batch,) int64, filled. Transition 0 of an episode is its row at time step 1.

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
        row = _row_at(inside + first_episode, time, index)
        if row < 0:
            return b
        out[b] = row
    return -1


@kernel
def _row_at(episode: Any, time: Any, index: PartIndex) -> Any:
    """Returns the row of a time step of the episode at a position, or -1 if there is none."""
    if episode < 0 or episode >= index.episode_part_start.shape[0] - 1 or time < 0:
        return -1
    low = index.episode_part_start[episode]
    high = index.episode_part_start[episode + 1]
    while high - low > 1:
        middle = (low + high) >> 1
        if index.part_t_start[index.episode_parts[middle]] <= time:
            low = middle
        else:
            high = middle
    part = index.episode_parts[low]
    offset = time - index.part_t_start[part]
    if offset < 0 or offset >= index.part_num_rows[part]:
        return -1
    return index.part_first_row[part] + offset


@kernel
def episode_rows(episodes: Ints, times: Ints, index: PartIndex, out: Ints) -> int:
    """Finds the rows of time steps of episodes.

    Args:
        episodes: (batch,) int64, positions in the episode arrays.
        times: (batch,) int64, time steps.
        index: the parts of the episodes.
        out: (batch,) int64, filled.

    Returns:
        -1, or the first position in `episodes` that has no such episode or time step.

    Raises:
        ValueError: `times` or `out` is too small.
    """
    if times.shape[0] < episodes.shape[0] or out.shape[0] < episodes.shape[0]:
        raise ValueError("episode_rows: times or out is smaller than episodes")
    for b in range(episodes.shape[0]):
        row = _row_at(episodes[b], times[b], index)
        if row < 0:
            return b
        out[b] = row
    return -1
