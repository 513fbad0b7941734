"""An episode and its parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one episode that were committed together.

    Attributes:
        episode: id of the episode.
        t_start: time step of the first row.
        first_row: number of the first row in the store.
        num_rows: rows. 0 only in a part that does nothing but end its episode.
        last: whether the episode ends with this part.
        zero_padding: whether the episode's first stacks hold zeros before its first frame, instead of that frame
            repeated. It is the same in all parts of an episode.
    """

    episode: int
    t_start: int
    first_row: int
    num_rows: int
    last: bool
    zero_padding: bool


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """A live episode.

    Attributes:
        episode: its id.
        num_rows: rows committed so far.
        complete: whether it has ended.
        zero_padding: whether its first stacks hold zeros before its first frame.
        parts: its parts in order of time.
    """

    episode: int
    num_rows: int
    complete: bool
    zero_padding: bool
    parts: tuple[Part, ...]
