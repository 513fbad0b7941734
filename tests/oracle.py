"""The data model of docs/design.md, as loops, and a model of which rows are live. Shares no code with the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st


def frame_of(episode: int, t: int, shape: tuple[int, ...]) -> np.ndarray:
    """A frame that tells which one it is: two differ in nearly every pixel. (*shape) uint8."""
    position = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mixed = (position + np.uint64(1_000_003 * episode + 7_919 * t + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(56)).astype(np.uint8).reshape(shape)


@dataclass
class Episode:
    """frames: (rows, *frame_shape); action: (rows, 2) float32; reward, discount: (rows,) float32."""

    number: int
    frames: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    zero_padding: bool = False

    @property
    def num_rows(self) -> int:
        return len(self.frames)


def make_episode(
    number: int, num_rows: int, frame_shape: tuple[int, ...] = (3, 4, 5), zero_padding: bool = False
) -> Episode:
    rng = np.random.default_rng([number, 17])
    return Episode(
        number,
        np.stack([frame_of(number, t, frame_shape) for t in range(num_rows)]),
        np.array([[number, t] for t in range(num_rows)], np.float32),
        rng.normal(size=num_rows).astype(np.float32),
        rng.choice(np.array([0.0, 0.9, 1.0], np.float32), num_rows),
        zero_padding,
    )


def valid_steps(num_rows: int, n_step: int) -> list[int]:
    """Every i of an episode that names a transition."""
    length = num_rows - 1
    return [i for i in range(1, num_rows) if i <= length - n_step + 1]


def stack_frames(episode: Episode, t: int, frame_stack: int) -> list[np.ndarray]:
    """The frames of stack(t), oldest first."""
    frames = []
    for s in range(t - frame_stack + 1, t + 1):
        if s >= 0:
            frames.append(episode.frames[s])
        elif episode.zero_padding:
            frames.append(np.zeros_like(episode.frames[0]))
        else:
            frames.append(episode.frames[0])
    return frames


def join(frames: list[np.ndarray], channels: str) -> np.ndarray:
    """One observation from its frames."""
    if len(frames) == 1:
        return frames[0]
    if frames[0].ndim == 2:
        return np.stack(frames, axis=0 if channels == "first" else 2)
    return np.concatenate(frames, axis=0 if channels == "first" else 2)


def stacks(episode: Episode, frame_stack: int, channels: str) -> np.ndarray:
    """(rows, *stacked_shape)."""
    return np.stack([join(stack_frames(episode, t, frame_stack), channels) for t in range(episode.num_rows)])


def transition(episode: Episode, i: int, n_step: int, gamma: float, frame_stack: int) -> dict[str, Any]:
    """obs, next_obs: (frame_stack, *frame_shape)."""
    step = np.float32(gamma)
    reward, acc = np.float32(0), np.float32(1)
    for k in range(n_step):
        reward = np.float32(reward + np.float32(acc * episode.reward[i + k]))
        acc = np.float32(acc * np.float32(episode.discount[i + k] * step))
    return {
        "obs": np.stack(stack_frames(episode, i - 1, frame_stack)),
        "action": episode.action[i],
        "reward": reward,
        "discount": acc,
        "next_obs": np.stack(stack_frames(episode, i + n_step - 1, frame_stack)),
    }


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
