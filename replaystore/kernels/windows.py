"""Rows of transitions: frame windows and n-step windows over an index of parts, and n-step returns in float32.

The index is given as arrays with one entry a part, sorted by first row. A part holds consecutive rows of one episode:
row `part_first_row[p] + k` is time step `part_t_start[p] + k` for k below `part_num_rows[p]`. `part_prev` and
`part_next` lead to the neighbouring parts of the same episode, -1 where there is none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replaystore.kernels.compiled import kernel

Ints = npt.NDArray[np.int64]


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
