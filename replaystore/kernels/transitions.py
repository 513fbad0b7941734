"""Rows of transitions: frame windows and n-step windows over an index of parts, and n-step returns in float32.

The index is given as arrays with one entry a part, sorted by first row. A part holds consecutive rows of one episode:
row `part_first_row[p] + k` is time step `part_t_start[p] + k` for k below `part_num_rows[p]`. `part_prev` and
`part_next` lead to the neighbouring parts of the same episode, -1 where there is none.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def part_of(row: int, part_first_row: Ints, part_num_rows: Ints) -> int:
    """Position of the part that holds `row`, or -1 where no live part does.

    Args:
        row: int64 row.
        part_first_row: (parts,) int64, ascending.
        part_num_rows: (parts,) int64.
    """
    part = 0
    count = part_first_row.shape[0]
    if count == 0 or row < part_first_row[0]:
        return -1
    while count > 1:  # without branches: rows come in any order
        half = count >> 1
        part += half * (part_first_row[part + half] <= row)
        count -= half
    if row - part_first_row[part] >= part_num_rows[part]:
        part = -1
    return part


@numba.njit(cache=True, nogil=True)
def _part_at(time: int, part: int, part_num_rows: Ints, part_t_start: Ints, part_prev: Ints, part_next: Ints) -> int:
    """The part of the same episode that holds time step `time`, or -1; `part` is any part of the episode."""
    while part >= 0 and time < part_t_start[part]:
        part = part_prev[part]
    while part >= 0 and time >= part_t_start[part] + part_num_rows[part]:
        part = part_next[part]
    return part


@numba.njit(cache=True, nogil=True)
def window_rows(
    rows: Ints,
    shift: int,
    frame_stack: int,
    part_first_row: Ints,
    part_num_rows: Ints,
    part_t_start: Ints,
    part_prev: Ints,
    part_next: Ints,
    part_zero_padding: npt.NDArray[np.bool_],
    out: Ints,
) -> int:
    """Rows of the frames of one stack a transition, oldest first.

    With t the time step of `rows[b]`, `out[b, k]` becomes the row of frame t + shift - frame_stack + 1 + k. Frames
    before the episode's first are that first row, or -1 (a frame of zeros) where the part says so.

    Args:
        rows: (batch,) int64.
        shift: -1 for the observation, n_step - 1 for the next one.
        frame_stack: frames a stack, at least 1.
        part_first_row: (parts,) int64, and so on: the index, see the module.
        part_zero_padding: (parts,) bool.
        out: (batch, frame_stack) int64, filled.

    Returns:
        -1, or the position in `rows` of the first one that is not live or whose window leaves its episode: then
        `out` is filled up to there.

    Raises:
        ValueError: `out` is too small.
    """
    if out.shape[0] < rows.shape[0] or out.shape[1] < frame_stack:
        raise ValueError("window_rows: out is smaller than (rows, frame_stack)")
    for b in range(rows.shape[0]):
        row = rows[b]
        part = part_of(row, part_first_row, part_num_rows)
        if part < 0:
            return b
        time = part_t_start[part] + (row - part_first_row[part]) + shift
        part = _part_at(time, part, part_num_rows, part_t_start, part_prev, part_next)
        if part < 0:
            return b
        padding = np.int64(0)
        for back in range(frame_stack):
            k = frame_stack - 1 - back
            if time >= 0:
                if time < part_t_start[part]:
                    part = part_prev[part]
                    if part < 0:
                        return b
                padding = part_first_row[part] + (time - part_t_start[part])
                out[b, k] = padding
                time -= 1
            elif part_zero_padding[part]:
                out[b, k] = -1
            else:
                out[b, k] = padding  # by now the row of time step 0
    return -1


@numba.njit(cache=True, nogil=True)
def step_rows(
    rows: Ints,
    n_step: int,
    part_first_row: Ints,
    part_num_rows: Ints,
    part_t_start: Ints,
    part_next: Ints,
    out: Ints,
) -> int:
    """Rows of the time steps i .. i + n_step - 1 of each transition.

    Args:
        rows: (batch,) int64, the row of i.
        n_step: at least 1.
        part_first_row: (parts,) int64, and so on: the index, see the module.
        out: (batch, n_step) int64, filled.

    Returns:
        -1, or the position in `rows` of the first one that is not live or whose steps leave its episode.

    Raises:
        ValueError: `out` is too small.
    """
    if out.shape[0] < rows.shape[0] or out.shape[1] < n_step:
        raise ValueError("step_rows: out is smaller than (rows, n_step)")
    for b in range(rows.shape[0]):
        row = rows[b]
        part = part_of(row, part_first_row, part_num_rows)
        if part < 0:
            return b
        end = part_first_row[part] + part_num_rows[part]
        for k in range(n_step):
            if row == end:
                following = part_next[part]
                if following < 0 or part_t_start[following] != part_t_start[part] + part_num_rows[part]:
                    return b
                part = following
                row = part_first_row[part]
                end = row + part_num_rows[part]
            out[b, k] = row
            row += 1
    return -1


@numba.njit(cache=True, nogil=True)
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
        episode = episodes[b]
        time = times[b]
        if episode < 0 or episode >= episode_part_start.shape[0] - 1 or time < 0:
            return b
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
            return b
        out[b] = part_first_row[part] + offset
    return -1


@numba.njit(cache=True, nogil=True)
def n_step_returns(reward: Floats, discount: Floats, gamma: Any, out_reward: Floats, out_discount: Floats) -> None:
    """Discounted sum of rewards and product of discounts over each row of steps, in float32 and in loop order.

    `R = 0, acc = 1; for k: R += acc * r[k]; acc *= d[k] * gamma`, every operation rounded to float32: no fused
    multiply-add and no float64, so that results equal a NumPy loop bit for bit.

    Args:
        reward: (batch, n_step) float32.
        discount: (batch, n_step) float32.
        gamma: float32; a wider float is rounded to float32 first.
        out_reward: (batch,) float32, filled with R.
        out_discount: (batch,) float32, filled with acc.

    Raises:
        ValueError: shapes do not fit.
    """
    batch, n_step = reward.shape
    if discount.shape != reward.shape or out_reward.shape[0] < batch or out_discount.shape[0] < batch:
        raise ValueError("n_step_returns: shapes of reward, discount and the outputs do not fit")
    step = np.float32(gamma)
    for b in range(batch):
        total = np.float32(0.0)
        product = np.float32(1.0)
        for k in range(n_step):
            total = np.float32(total + np.float32(product * reward[b, k]))
            product = np.float32(product * np.float32(discount[b, k] * step))
        out_reward[b] = total
        out_discount[b] = product
