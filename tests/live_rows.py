"""A model of which rows are live, and what happens to them. Shares no code with the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st


@dataclass
class World:
    """Which rows are live, by the book: `parts` lists what was committed, in order."""

    chunk_rows: int
    end_row: int = 0
    next_episode: int = 0
    open: dict[int, int] = field(default_factory=dict)  # env -> episode
    order: list[int] = field(default_factory=list)  # live episodes by their first commit
    rows: dict[int, list[int]] = field(default_factory=dict)  # episode -> row of each t
    complete: set[int] = field(default_factory=set)

    def commit(self, env: int, num_rows: int, last: bool) -> dict[str, Any]:
        """The part that an environment commits, as keywords of `Part`."""
        episode = self.open.get(env)
        if episode is None:
            episode = self.open[env] = self.next_episode
            self.next_episode += 1
            self.order.append(episode)
            self.rows[episode] = []
        part = {
            "episode": episode,
            "t_start": len(self.rows[episode]),
            "first_row": self.end_row,
            "num_rows": num_rows,
            "last": last,
            "zero_padding": episode % 3 == 1,
        }
        self.rows[episode] += range(self.end_row, self.end_row + num_rows)
        self.end_row += num_rows
        if last:
            del self.open[env]
            self.complete.add(episode)
        return part

    def skip_to_chunk(self) -> None:
        self.end_row = -(-self.end_row // self.chunk_rows) * self.chunk_rows

    def oldest_complete(self) -> int | None:
        return next((episode for episode in self.order if episode in self.complete), None)

    def evict(self, episode: int) -> None:
        self.order.remove(episode)
        self.complete.remove(episode)
        del self.rows[episode]

    def owners(self) -> dict[int, tuple[int, int]]:
        """Live row -> (episode, t)."""
        return {row: (episode, t) for episode in self.order for t, row in enumerate(self.rows[episode])}

    def live_chunks(self) -> set[int]:
        return {row // self.chunk_rows for row in self.owners()}


def actions(max_size: int = 25) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """What happens to a store: parts of several open episodes, evictions, chunks closed before they are full."""
    part = st.tuples(st.just("part"), st.integers(0, 2), st.integers(1, 7), st.booleans())
    return st.lists(st.one_of(part, part, part, st.just(("evict",)), st.just(("skip",))), max_size=max_size)
