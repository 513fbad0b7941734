"""Rows of transitions: frame windows and n-step windows over an index of parts, and n-step returns in float32.

The index is given as arrays with one entry a part, sorted by first row. A part holds consecutive rows of one episode:
row `part_first_row[p] + k` is time step `part_t_start[p] + k` for k below `part_num_rows[p]`. `part_prev` and
`part_next` lead to the neighbouring parts of the same episode, -1 where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel
from replaystore.kernels.memory import load_f32

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@kernel
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


@kernel
def _fill_window(
    time: int, part: int, part_first_row: Ints, part_t_start: Ints, part_prev: Ints,
    part_zero_padding: npt.NDArray[np.bool_], out: Ints,
) -> bool:  # fmt: skip
    """out[k] = the row of frame `time - len(out) + 1 + k` of an episode; `part` holds `time`. Whether all are there."""
    row = np.int64(0)
    for k in range(out.size - 1, -1, -1):
        if time >= 0:
            if time < part_t_start[part]:
                part = part_prev[part]
                if part < 0:
                    return False
            row = part_first_row[part] + (time - part_t_start[part])
            out[k] = row
            time -= 1
        elif part_zero_padding[part]:
            out[k] = -1
        else:
            out[k] = row  # by now that of time step 0
    return True


@kernel
def window_rows(
    rows: Ints, part_first_row: Ints, part_num_rows: Ints, part_t_start: Ints, part_prev: Ints,
    part_zero_padding: npt.NDArray[np.bool_], out: Ints,
) -> int:  # fmt: skip
    """Rows of the frames of the stack at each of `rows`, oldest first.

    With t the time step of `rows[b]`, `out[b, k]` becomes the row of frame t - depth + 1 + k. Frames before the
    episode's first are that first row, or -1 (a frame of zeros) where the part says so.

    Args:
        rows: (batch,) int64.
        part_first_row: (parts,) int64, and so on: the index, see the module.
        part_zero_padding: (parts,) bool.
        out: (batch, depth) int64, filled.

    Returns:
        -1, or the position in `rows` of the first one that is not live: then `out` is filled up to there.

    Raises:
        ValueError: `out` is too small.
    """
    if out.shape[0] < rows.shape[0]:
        raise ValueError("window_rows: out has fewer rows than asked for")
    for b in range(rows.shape[0]):
        part = part_of(rows[b], part_first_row, part_num_rows)
        if part < 0:
            return b
        time = part_t_start[part] + (rows[b] - part_first_row[part])
        if not _fill_window(time, part, part_first_row, part_t_start, part_prev, part_zero_padding, out[b]):
            return b
    return -1


@kernel
def transition_rows(
    rows: Ints, part_first_row: Ints, part_num_rows: Ints, part_t_start: Ints, part_prev: Ints, part_next: Ints,
    part_zero_padding: npt.NDArray[np.bool_], steps: Ints, windows: Ints,
) -> int:  # fmt: skip
    """Everything that transitions are made of: their n steps, and the stacks before the first and after the last.

    Args:
        rows: (batch,) int64, the row of i.
        part_first_row: (parts,) int64, and so on: the index, see the module.
        part_zero_padding: (parts,) bool.
        steps: (batch, n_step) int64, filled: the rows of time steps i .. i + n_step - 1.
        windows: (2 * batch, depth) int64, filled: as of `window_rows`, that of i - 1 for each transition, then that of
            i + n_step - 1 for each.

    Returns:
        -1, or the position in `rows` of the first one that is not live or whose transition leaves its episode.

    Raises:
        ValueError: `steps` or `windows` is too small.
    """
    n = rows.shape[0]
    n_step = steps.shape[1]
    if steps.shape[0] < n or windows.shape[0] < 2 * n or n_step < 1:
        raise ValueError("transition_rows: steps or windows is smaller than the batch")
    for b in range(n):
        row = rows[b]
        part = part_of(row, part_first_row, part_num_rows)
        if part < 0:
            return b
        time = part_t_start[part] + (row - part_first_row[part]) - 1
        before = part if time >= part_t_start[part] else part_prev[part]
        if before < 0 or not _fill_window(
            time, before, part_first_row, part_t_start, part_prev, part_zero_padding, windows[b]
        ):
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
            steps[b, k] = row
            row += 1
        time += n_step
        if not _fill_window(time, part, part_first_row, part_t_start, part_prev, part_zero_padding, windows[n + b]):
            return b
    return -1


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


@kernel
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


@kernel
def held_returns(
    reward_base: int, rewards: npt.NDArray[np.uint8], discount_base: int, discounts: npt.NDArray[np.uint8], steps: Ints,
    gamma: Any, out_reward: Floats, out_discount: Floats,
) -> bool:  # fmt: skip
    """`n_step_returns` of rewards and discounts where they are held.

    Args:
        rewards, discounts: (rows, 4) uint8, float32 values as they lie in memory, from row `reward_base` and
            `discount_base` on.
        steps: (batch, n_step) int64, rows.

    Returns:
        Whether all are there; else the outputs are as they were.

    Raises:
        ValueError: the outputs are too small, or rows are not of four bytes.
    """
    batch, n_step = steps.shape
    if out_reward.shape[0] < batch or out_discount.shape[0] < batch:
        raise ValueError("held_returns: the outputs are smaller than the batch")
    if rewards.shape[1] != 4 or discounts.shape[1] != 4:
        raise ValueError("held_returns: rewards or discounts are not float32")
    for b in range(batch):
        for k in range(n_step):
            r, d = steps[b, k] - reward_base, steps[b, k] - discount_base
            if r < 0 or d < 0 or r >= rewards.shape[0] or d >= discounts.shape[0]:
                return False
    reward, discount = np.int64(rewards.ctypes.data), np.int64(discounts.ctypes.data)
    step = np.float32(gamma)
    for b in range(batch):
        total = np.float32(0.0)
        product = np.float32(1.0)
        for k in range(n_step):
            total = np.float32(total + np.float32(product * load_f32(reward + 4 * (steps[b, k] - reward_base))))
            factor = np.float32(load_f32(discount + 4 * (steps[b, k] - discount_base)) * step)
            product = np.float32(product * factor)
        out_reward[b] = total
        out_discount[b] = product
    return True
