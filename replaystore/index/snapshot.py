"""A frozen view of the live rows, as arrays that compiled kernels read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from replaystore.kernels.drawn_rows import drawn_rows, episode_rows
from replaystore.kernels.windows import PartIndex

Ints = npt.NDArray[np.int64]


class PartColumn(IntEnum):
    """Rows of a part table, int64 (columns, parts).

    The parts are sorted by first row. `PREV`, `NEXT` and `FIRST_PART` are positions of other parts in the table, -1 for
    none.
    """

    FIRST_ROW = 0
    NUM_ROWS = 1
    T_START = 2
    PREV = 3
    NEXT = 4
    FIRST_PART = 5
    EPISODE = 6
    ZERO_PADDING = 7
    LIVE = 8


def live_parts(table: Ints) -> Ints:
    """Returns the live parts of a part table, with their links renumbered.

    The parts of an episode are removed together, so no link leads to a part that is gone.
    """
    live = table[PartColumn.LIVE] != 0
    if live.all():
        return table.copy()
    result = np.ascontiguousarray(table[:, live])
    position = np.append(np.cumsum(live) - 1, -1)  # link -1 indexes the appended -1
    for link in (PartColumn.PREV, PartColumn.NEXT, PartColumn.FIRST_PART):
        result[link] = position[result[link]]
    return result


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class IndexSnapshot:
    """The live parts and episodes at one moment. All arrays are read-only, so any number of threads may use it.

    Attributes:
        index: the live parts and the parts of each episode, for kernels.
        part_episode: (parts,) int64, position in the episode arrays.
        episode_ids: (episodes,) int64, in order of commit of their first parts.
        episode_num_rows: (episodes,) int64, rows committed so far.
    """

    index: PartIndex
    part_episode: Ints
    episode_ids: Ints
    episode_num_rows: Ints
    _counts: dict[tuple[int, int | None], tuple[int, Ints]] = field(default_factory=dict, repr=False)
    _drawable: dict[tuple[int, int | None], tuple[Ints, Ints]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_table(cls, table: Ints) -> IndexSnapshot:
        """Returns the snapshot of a part table; see `PartColumn`. The table is copied."""
        parts = live_parts(table)
        is_first = parts[PartColumn.PREV] < 0
        ordinal = np.cumsum(is_first) - 1
        part_episode = ordinal[parts[PartColumn.FIRST_PART]]
        num_episodes = int(np.count_nonzero(is_first))
        part_start = np.zeros(num_episodes + 1, np.int64)
        np.cumsum(np.bincount(part_episode, minlength=num_episodes), out=part_start[1:])
        episode_parts = np.argsort(part_episode, kind="stable").astype(np.int64, copy=False)
        rows_before = np.zeros(len(episode_parts) + 1, np.int64)
        np.cumsum(parts[PartColumn.NUM_ROWS][episode_parts], out=rows_before[1:])
        index = PartIndex(
            part_first_row=parts[PartColumn.FIRST_ROW],
            part_num_rows=parts[PartColumn.NUM_ROWS],
            part_t_start=parts[PartColumn.T_START],
            part_prev=parts[PartColumn.PREV],
            part_next=parts[PartColumn.NEXT],
            part_zero_padding=parts[PartColumn.ZERO_PADDING] != 0,
            episode_part_start=part_start,
            episode_parts=episode_parts,
        )
        result = cls(index, part_episode, parts[PartColumn.EPISODE][is_first], np.diff(rows_before[part_start]))
        for array in (*index, result.part_episode, result.episode_ids, result.episode_num_rows):
            array.setflags(write=False)
        return result

    @property
    def num_rows(self) -> int:
        """Live rows."""
        return int(self.index.part_num_rows.sum())

    @property
    def num_episodes(self) -> int:
        """Live episodes, including open ones with committed rows."""
        return len(self.episode_ids)

    def counts(self, n_step: int, window: int | None = None) -> tuple[int, Ints]:
        """Counts the valid transitions of the episodes.

        An episode of L + 1 rows has max(0, L - n_step + 1). The result is computed once per pair of arguments.

        Args:
            n_step: at least 1.
            window: None counts all episodes. A number counts the newest whole episodes whose transitions (L each) total
                at most `window`, and at least the newest episode with a valid transition.

        Returns:
            (start, cumulative). `start` is the position of the first counted episode. `cumulative`, (episodes - start,)
            int64, is the running total from there on.
        """
        key = (n_step, window)
        found = self._counts.get(key)
        if found is not None:
            return found
        lengths = self.episode_num_rows - 1
        valid = np.maximum(lengths - n_step + 1, 0)
        start = 0
        if window is not None and len(lengths):
            newest_first = np.cumsum(lengths[::-1])
            kept = int(np.searchsorted(newest_first, window, side="right"))
            start = len(lengths) - max(kept, 1)
            usable = np.flatnonzero(valid)
            if len(usable):
                start = min(start, int(usable[-1]))
        cumulative = np.cumsum(valid[start:], dtype=np.int64)
        cumulative.setflags(write=False)
        self._counts[key] = (start, cumulative)
        return start, cumulative

    def drawable(self, n_step: int, window: int | None = None) -> tuple[Ints, Ints]:
        """Returns the counted episodes that have a valid transition.

        Args:
            n_step: see `counts`.
            window: see `counts`.

        Returns:
            (positions, valid). `positions` is (k,) int64, positions in the episode arrays. `valid` is (k,) int64, valid
            transitions per episode.
        """
        key = (n_step, window)
        found = self._drawable.get(key)
        if found is not None:
            return found
        start, cumulative = self.counts(n_step, window)
        valid = np.diff(cumulative, prepend=0)
        inside = np.flatnonzero(valid)
        positions, valid = inside + start, valid[inside]
        positions.setflags(write=False)
        valid.setflags(write=False)
        self._drawable[key] = (positions, valid)
        return positions, valid

    def rows_of(self, episodes: Ints, times: Ints) -> Ints:
        """Returns the rows of time steps of episodes.

        Args:
            episodes: (batch,) int64 positions in the episode arrays.
            times: (batch,) int64 time steps.

        Returns:
            (batch,) int64.

        Raises:
            IndexError: there is no such episode or time step.
        """
        out = np.empty(len(episodes), np.int64)
        bad = episode_rows(episodes, times, self.index, out)
        if bad >= 0:
            raise IndexError(
                f"entry {bad}: no time step {times[bad]} in the episode at position {episodes[bad]} (of"
                f" {self.num_episodes})"
            )
        return out

    def locate(self, rows: Ints) -> tuple[Ints, Ints]:
        """Returns the episodes and time steps of rows. It is the inverse of `rows_of`.

        Args:
            rows: (batch,) int64.

        Returns:
            (episodes, times). `episodes` is (batch,) int64, positions in the episode arrays. `times` is (batch,) int64,
            time steps. Both are -1 for a row that is not live.
        """
        if not len(self.index.part_first_row):
            return np.full(len(rows), -1), np.full(len(rows), -1)
        part = np.maximum(np.searchsorted(self.index.part_first_row, rows, side="right") - 1, 0)
        offset = rows - self.index.part_first_row[part]
        is_live = (offset >= 0) & (offset < self.index.part_num_rows[part])
        times = self.index.part_t_start[part] + offset
        return np.where(is_live, self.part_episode[part], -1), np.where(is_live, times, -1)

    def transitions(self, shares: npt.NDArray[np.float64], start: int, cumulative: Ints) -> Ints:
        """Returns transition ids by their place among all counted transitions.

        The transitions are ordered by episode, from position `start` on, and within an episode by time.

        Args:
            shares: (batch,) float64 in [0, 1). A share picks number floor(share * n) of n transitions.
                `numpy.random.Generator.random` draws multiples of 2^-53, so each transition has the same probability to
                within n / 2^53 of it.
            start: see `counts`.
            cumulative: see `counts`. At least one transition must be counted.

        Returns:
            (batch,) int64, the row of i.

        Raises:
            IndexError: a share is outside [0, 1).
        """
        out = np.empty(len(shares), np.int64)
        bad = drawn_rows(shares, cumulative, start, self.index, out)
        if bad >= 0:
            raise IndexError(f"entry {bad}: expected a share from 0 up to but not including 1, got {shares[bad]}")
        return out
