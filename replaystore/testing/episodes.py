"""Episodes that identify themselves: every frame and every action shows its episode and time step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore

Array = NDArray[Any]

FRAME_SHAPE = (3, 4, 5)
FRAME_STACK = 3
HISTORY_LENGTHS = (9, 2, 31, 5, 17, 14, 14, 12, 1, 22)  # rows of the episodes of `make_history`


def frame_of(episode: int, t: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Returns a uint8 frame (*shape). Nearly every pixel differs from that of any other episode and time step."""
    position = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mixed = (position + np.uint64(1_000_003 * episode + 7_919 * t + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(56)).astype(np.uint8).reshape(shape)


@dataclass
class Episode:
    """An episode with each frame once.

    Attributes:
        number: number of the episode.
        frames: (rows, *frame shape) uint8.
        action: (rows, 2) float32, the number of the episode and the time step.
        reward: (rows,) float32.
        discount: (rows,) float32.
        zero_padding: whether the first stacks hold zeros before the first frame. If not, they repeat that frame.
    """

    number: int
    frames: Array
    action: Array
    reward: Array
    discount: Array
    zero_padding: bool = False

    @property
    def num_rows(self) -> int:
        """Time steps, including the reset."""
        return len(self.frames)


def make_episode(
    number: int, num_rows: int, frame_shape: tuple[int, ...] = FRAME_SHAPE, zero_padding: bool = False
) -> Episode:
    """Returns the episode of a number. Its length changes rewards and discounts, but not frames and actions.

    Args:
        number: number of the episode. The same number and length give the same episode.
        num_rows: time steps, including the reset.
        frame_shape: shape of one frame.
        zero_padding: see `Episode`.
    """
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
    """Returns the time steps i of an episode that start a transition."""
    length = num_rows - 1
    return [i for i in range(1, num_rows) if i <= length - n_step + 1]


def stack_frames(episode: Episode, t: int, frame_stack: int) -> list[Array]:
    """Returns the frames of the stack at time step t, oldest first."""
    frames = []
    for s in range(t - frame_stack + 1, t + 1):
        if s >= 0:
            frames.append(episode.frames[s])
        elif episode.zero_padding:
            frames.append(np.zeros_like(episode.frames[0]))
        else:
            frames.append(episode.frames[0])
    return frames


def join(frames: list[Array], channels: str) -> Array:
    """Returns the observation that consists of these frames."""
    if len(frames) == 1:
        return frames[0]
    if frames[0].ndim == 2:
        return np.stack(frames, axis=0 if channels == "first" else 2)
    return np.concatenate(frames, axis=0 if channels == "first" else 2)


def stacks(episode: Episode, frame_stack: int, channels: str) -> Array:
    """Returns all observations of an episode, (rows, *stacked shape)."""
    return np.stack([join(stack_frames(episode, t, frame_stack), channels) for t in range(episode.num_rows)])


def fields() -> tuple[FieldSpec, ...]:
    """Returns the fields of `arrays_of`: a camera with three frames per observation, action, reward and discount."""
    return (
        FieldSpec.image("observation", FRAME_SHAPE, frame_stack=FRAME_STACK),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    )


def arrays_of(number: int, num_rows: int, zero_padding: bool = False) -> dict[str, Array]:
    """Returns an episode for `ReplayStore.append`. `make_episode` describes the arguments."""
    episode = make_episode(number, num_rows, zero_padding=zero_padding)
    return {
        "observation": stacks(episode, FRAME_STACK, "first"),
        "action": episode.action,
        "reward": episode.reward[:, None],
        "discount": episode.discount[:, None],
    }


def make_store(
    path: str | os.PathLike[str], lengths: Sequence[int] = (9, 9, 9, 9), *, mode: Mode = "full",
    capacity: int | None = None,
) -> ReplayStore:  # fmt: skip
    """Makes a store with small chunks, and returns it open for writing.

    Args:
        path: directory of the store. It must not exist yet.
        lengths: rows of the episodes 0, 1, and so on.
        mode: as in `ReplayStore.create`.
        capacity: as in `ReplayStore.create`.
    """
    store = ReplayStore.create(path, fields(), mode=mode, chunk_rows=16, capacity=capacity)
    for number, num_rows in enumerate(lengths):
        store.append(arrays_of(number, num_rows))
    return store


def history_episode(number: int) -> Episode:
    """Returns an episode of `make_history`. Every third one has zeros before its first frame."""
    return make_episode(number, HISTORY_LENGTHS[number], zero_padding=number % 3 == 1)


def history_arrays(number: int) -> dict[str, Array]:
    """Returns an episode of `make_history` for `ReplayStore.append`."""
    return arrays_of(number, HISTORY_LENGTHS[number], number % 3 == 1)


def make_history(path: str | os.PathLike[str], mode: Mode = "full") -> ReplayStore:
    """Makes a store with a long history, and returns it open for writing.

    The first three episodes are evicted. Episodes 5 and 6 were recorded at the same time and have several parts.
    Episode 6 is open and lacks its last rows. Episode 8 has a single row. All chunks but the last are sealed. The ids
    of the episodes are their numbers.
    """
    store = ReplayStore.create(path, fields(), mode=mode, chunk_rows=16)
    for number in range(5):
        store.append(history_arrays(number))
    one, other = history_arrays(5), history_arrays(6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "episode .* is not zero, and no transition")  # row 0 identifies itself, too
        for t in range(HISTORY_LENGTHS[5]):
            store.add({name: array[t] for name, array in one.items()}, env=5, last=False)
            store.add({name: array[t] for name, array in other.items()}, env=6, last=False)
            if t % 5 == 4:
                store.commit_part(5)
                store.commit_part(6)
        store.end_episode(5)
    for number in range(7, len(HISTORY_LENGTHS)):
        store.append(history_arrays(number))
    store.flush()
    store.set_capacity(80)
    return store
