"""Finds the rows of transitions: windows of frames and of n steps, over an index of parts.

A part holds consecutive rows of one episode. Row `part_first_row[p] + k` is time step `part_t_start[p] + k`, for k
below `part_num_rows[p]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel

Ints = npt.NDArray[np.int64]


class PartIndex(NamedTuple):
    """The live parts and the parts of each episode, as arrays.

    Attributes:
        part_first_row: (parts,) int64, ascending.
        part_num_rows: (parts,) int64.
        part_t_start: (parts,) int64, time step of the part's first row.
        part_prev: (parts,) int64, position of the episode's part before this one, or -1.
        part_next: (parts,) int64, position of the episode's part after this one, or -1.
        part_zero_padding: (parts,) bool, whether the episode's first stacks hold zeros before its first frame.
        episode_part_start: (episodes + 1,) int64. Episode e has the parts
            `episode_parts[episode_part_start[e] : episode_part_start[e + 1]]`, in order of time.
        episode_parts: (parts,) int64.
    """

    part_first_row: Ints
    part_num_rows: Ints
    part_t_start: Ints
    part_prev: Ints
    part_next: Ints
    part_zero_padding: npt.NDArray[np.bool_]
    episode_part_start: Ints
    episode_parts: Ints


@kernel
def part_of(row: int, index: PartIndex) -> int:
    """Returns the position of the part that holds a row.

    Args:
        row: int64.
        index: the live parts.

    Returns:
        The position, or -1 if no live part holds the row.
    """
    part_first_row = index.part_first_row
    part = 0
    count = part_first_row.shape[0]
    if count == 0 or row < part_first_row[0]:
        return -1
    while count > 1:  # without branches: rows come in any order
        half = count >> 1
        part += half * (part_first_row[part + half] <= row)
        count -= half
    if row - part_first_row[part] >= index.part_num_rows[part]:
        part = -1
    return part


@kernel
def _fill_window(time: int, part: int, index: PartIndex, out: Ints) -> bool:
    """Writes the rows of the frames up to a time step of an episode.

    Args:
        time: time step of the newest frame.
        part: the part that holds `time`.
        index: the live parts.
        out: (depth,) int64, filled. `out[k]` becomes the row of frame `time - depth + 1 + k`.

    Returns:
        Whether all frames exist.
    """
    row = np.int64(0)
    for k in range(out.size - 1, -1, -1):
        if time >= 0:
            if time < index.part_t_start[part]:
                part = index.part_prev[part]
                if part < 0:
                    return False
            row = index.part_first_row[part] + (time - index.part_t_start[part])
            out[k] = row
            time -= 1
        elif index.part_zero_padding[part]:
            out[k] = -1
        else:
            out[k] = row  # by now that of time step 0
    return True


@kernel
def window_rows(rows: Ints, index: PartIndex, out: Ints) -> int:
    """Finds the rows of the frames of the stack at each of `rows`, oldest first.

    With t the time step of `rows[b]`, `out[b, k]` becomes the row of frame t - depth + 1 + k. Frames before the
    episode's first one become that first row, or -1 (a frame of zeros) if the part has zero padding.

    Args:
        rows: (batch,) int64.
        index: the live parts.
        out: (batch, depth) int64, filled.

    Returns:
        -1, or the position in `rows` of the first one that is not live. Then `out` is filled up to there.

    Raises:
        ValueError: `out` is too small.
    """
    if out.shape[0] < rows.shape[0]:
        raise ValueError("window_rows: out has fewer rows than asked for")
    for b in range(rows.shape[0]):
        part = part_of(rows[b], index)
        if part < 0:
            return b
        time = index.part_t_start[part] + (rows[b] - index.part_first_row[part])
        if not _fill_window(time, part, index, out[b]):
            return b
    return -1


@kernel
def transition_rows(rows: Ints, index: PartIndex, steps: Ints, windows: Ints) -> int:
    """Finds all rows of transitions: their n steps, and the stacks before the first and after the last step.

    Args:
        rows: (batch,) int64, the row of time step i of each transition.
        index: the live parts.
        steps: (batch, n_step) int64, filled with the rows of time steps i .. i + n_step - 1.
        windows: (2 * batch, depth) int64, filled as by `window_rows`: the stack of i - 1 for each transition, then that
            of i + n_step - 1 for each.

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
        part = part_of(row, index)
        if part < 0:
            return b
        time = index.part_t_start[part] + (row - index.part_first_row[part]) - 1
        before = part if time >= index.part_t_start[part] else index.part_prev[part]
        if before < 0 or not _fill_window(time, before, index, windows[b]):
            return b
        end = index.part_first_row[part] + index.part_num_rows[part]
        for k in range(n_step):
            if row == end:
                following = index.part_next[part]
                if (
                    following < 0
                    or index.part_t_start[following] != index.part_t_start[part] + index.part_num_rows[part]
                ):
                    return b
                part = following
                row = index.part_first_row[part]
                end = row + index.part_num_rows[part]
            steps[b, k] = row
            row += 1
        time += n_step
        if not _fill_window(time, part, index, windows[n + b]):
            return b
    return -1
