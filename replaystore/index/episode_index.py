"""Keeps track of live rows: the episodes, their parts, and the chunks that still hold a live row."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from replaystore.index.parts import EpisodeInfo, Part
from replaystore.index.snapshot import IndexSnapshot, PartColumn, live_parts

__all__ = ["EpisodeIndex", "EpisodeInfo", "IndexSnapshot", "Part"]

_COMPACT_FROM_PARTS = 1024


@dataclass(slots=True)
class _Episode:
    zero_padding: bool
    parts: list[Part] = field(default_factory=list)
    num_rows: int = 0
    complete: bool = False

    def info(self) -> EpisodeInfo:
        first = self.parts[0]
        return EpisodeInfo(first.episode, self.num_rows, self.complete, self.zero_padding, tuple(self.parts))


class EpisodeIndex:
    """Episodes and their parts, in order of commit.

    The index is not thread-safe. Its snapshots are.

    >>> index = EpisodeIndex(chunk_rows=1024)
    >>> index.add_part(Part(episode=0, t_start=0, first_row=0, num_rows=4, last=True, zero_padding=False))
    >>> index.num_rows, index.num_transitions, index.oldest_complete()
    (4, 3, 0)
    >>> index.remove_episodes([0])
    [0]

    Args:
        chunk_rows: rows per chunk.
    """

    def __init__(self, chunk_rows: int) -> None:
        self._chunk_rows = chunk_rows
        self._episodes: dict[int, _Episode] = {}  # in order of commit of the first part
        self._complete: list[tuple[int, int]] = []  # heap of (first row, episode), with removed episodes
        self._table = np.zeros((len(PartColumn), 64), np.int64)
        self._num_parts = 0  # used columns of the table, including dead ones
        self._num_dead_parts = 0
        self._chunk_live_rows: dict[int, int] = {}
        self._num_rows = 0
        self._num_transitions = 0
        self._end_row = 0
        self._next_episode_id = 0
        self._snapshot: IndexSnapshot | None = None

    @property
    def num_episodes(self) -> int:
        """Live episodes, including open ones with committed rows."""
        return len(self._episodes)

    @property
    def num_rows(self) -> int:
        """Live rows."""
        return self._num_rows

    @property
    def num_transitions(self) -> int:
        """Transitions of the live episodes. An episode of L + 1 rows has L."""
        return self._num_transitions

    @property
    def end_row(self) -> int:
        """One past the last row ever added. 0 before the first."""
        return self._end_row

    @property
    def next_episode_id(self) -> int:
        """One past the largest episode id ever added. 0 before the first."""
        return self._next_episode_id

    @property
    def held_bytes(self) -> int:
        """Bytes of the table of parts, with the room for more."""
        return self._table.nbytes

    def add_part(self, part: Part) -> None:
        """Adds rows at the end of the store and of the part's episode.

        Raises:
            ValueError: the part does not continue its episode, or its rows do not follow all earlier ones. The index is
                unchanged then.
        """
        where = f"part of episode {part.episode} at row {part.first_row}"
        episode = self._episodes.get(part.episode)
        if episode is not None and episode.complete:
            raise ValueError(f"{where}: expected a new episode, got one that has ended; give it an id of its own")
        expected = 0 if episode is None else episode.num_rows
        if part.t_start != expected or part.episode < 0:
            raise ValueError(
                f"{where}: expected an episode id from 0 on and t_start {expected}, got t_start {part.t_start};"
                " commit the parts of an episode in order"
            )
        if part.first_row < self._end_row or (part.num_rows < 1 and not (part.last and episode and part.num_rows == 0)):
            raise ValueError(
                f"{where}: expected at least one row, from row {self._end_row} on, got {part.num_rows} rows;"
                " rows are numbered in order of commit"
            )
        if episode is None:
            episode = self._episodes[part.episode] = _Episode(part.zero_padding)
        elif episode.zero_padding != part.zero_padding:
            raise ValueError(
                f"{where}: expected zero_padding {episode.zero_padding} as in the episode's first part,"
                f" got {part.zero_padding}; it is the same in all parts"
            )
        self._snapshot = None
        if part.num_rows:
            self._add_rows(part, episode)
        if part.last:
            episode.complete = True
            heapq.heappush(self._complete, (episode.parts[0].first_row, part.episode))

    def _add_rows(self, part: Part, episode: _Episode) -> None:
        position = self._num_parts
        if position == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        previous = self._position(episode.parts[-1]) if episode.parts else -1
        first = self._position(episode.parts[0]) if episode.parts else position
        # In the order of PartColumn.
        column = (part.first_row, part.num_rows, part.t_start, previous, -1, first, part.episode, part.zero_padding, 1)
        self._table[:, position] = column
        if previous >= 0:
            self._table[PartColumn.NEXT, previous] = position
        self._num_parts += 1
        for chunk, rows in self._rows_by_chunk(part):
            self._chunk_live_rows[chunk] = self._chunk_live_rows.get(chunk, 0) + rows
        self._num_transitions += part.num_rows - (0 if episode.parts else 1)
        self._num_rows += part.num_rows
        episode.num_rows += part.num_rows
        episode.parts.append(part)
        self._end_row = part.first_row + part.num_rows
        self._next_episode_id = max(self._next_episode_id, part.episode + 1)

    def remove_episodes(self, ids: Iterable[int]) -> list[int]:
        """Removes episodes, open or complete.

        Args:
            ids: ids of live episodes.

        Returns:
            The chunks that lost their last live row, ascending. The chunk being filled may be among them.

        Raises:
            ValueError: one of the episodes is not live. The index is unchanged then.
        """
        chosen = list(dict.fromkeys(ids))
        for episode_id in chosen:
            self._require(episode_id)
        emptied: list[int] = []
        for episode_id in chosen:
            episode = self._episodes.pop(episode_id)
            for part in episode.parts:
                self._table[PartColumn.LIVE, self._position(part)] = 0
                for chunk, rows in self._rows_by_chunk(part):
                    self._chunk_live_rows[chunk] -= rows
                    if self._chunk_live_rows[chunk] == 0:
                        del self._chunk_live_rows[chunk]
                        emptied.append(chunk)
            self._num_dead_parts += len(episode.parts)
            self._num_rows -= episode.num_rows
            self._num_transitions -= episode.num_rows - 1
            self._snapshot = None
        if self._num_parts >= _COMPACT_FROM_PARTS and 2 * self._num_dead_parts > self._num_parts:
            self._table = live_parts(self._table[:, : self._num_parts])
            self._num_parts = self._table.shape[1]
            self._num_dead_parts = 0
            spare = np.zeros((len(PartColumn), max(self._num_parts, 64)), np.int64)
            self._table = np.concatenate([self._table, spare], axis=1)
        return sorted(emptied)

    def oldest_complete(self) -> int | None:
        """Id of the complete episode whose first part was committed first. None if no episode is complete."""
        while self._complete:
            first_row, episode_id = self._complete[0]
            episode = self._episodes.get(episode_id)
            if episode is not None and episode.parts[0].first_row == first_row:
                return episode_id
            heapq.heappop(self._complete)
        return None

    def episodes(self) -> list[EpisodeInfo]:
        """Returns the live episodes, in order of commit of their first parts."""
        return [episode.info() for episode in self._episodes.values()]

    def complete_episodes(self) -> Iterator[tuple[int, int]]:
        """Yields (id, rows) of each complete episode, in the order of `episodes`. Do not change the index meanwhile."""
        return ((number, found.num_rows) for number, found in self._episodes.items() if found.complete)

    def episode(self, episode_id: int) -> EpisodeInfo:
        """Returns a live episode.

        Raises:
            ValueError: no live episode has that id.
        """
        return self._require(episode_id).info()

    def chunk_is_live(self, chunk: int) -> bool:
        """Whether the chunk holds a live row."""
        return chunk in self._chunk_live_rows

    def live_rows_in(self, chunk: int) -> int:
        """Number of live rows in the chunk."""
        return self._chunk_live_rows.get(chunk, 0)

    def live_chunks(self) -> set[int]:
        """The chunks that hold a live row."""
        return set(self._chunk_live_rows)

    def snapshot(self) -> IndexSnapshot:
        """Returns the index as it is now, as read-only arrays. It is the same object until the next change."""
        if self._snapshot is None:
            self._snapshot = IndexSnapshot.of_table(self._table[:, : self._num_parts])
        return self._snapshot

    def _require(self, episode_id: int) -> _Episode:
        episode = self._episodes.get(episode_id)
        if episode is None:
            raise ValueError(f"episode {episode_id}: not live; {len(self._episodes)} episodes are, see episodes()")
        return episode

    def _position(self, part: Part) -> int:
        first_rows = self._table[PartColumn.FIRST_ROW, : self._num_parts]
        return int(np.searchsorted(first_rows, part.first_row))

    def _rows_by_chunk(self, part: Part) -> Iterator[tuple[int, int]]:
        """Yields (chunk, rows of the part in that chunk)."""
        end = part.first_row + part.num_rows
        for chunk in range(part.first_row // self._chunk_rows, -(-end // self._chunk_rows)):
            start = max(part.first_row, chunk * self._chunk_rows)
            yield chunk, min(end, (chunk + 1) * self._chunk_rows) - start
