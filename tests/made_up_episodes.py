"""Small episode files in which every frame and value says which episode and row it is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FRAME_STACK = 3


def made_up_frames(episode: int, rows: int, channels: int = 1, size: int = 8) -> Array:
    """uint8 (rows, channels, size, size): a sprite that moves over a background that tells the episode."""
    frames = np.full((rows, channels, size, size), (episode * 37) % 200, np.uint8)
    for t in range(rows):
        for channel in range(channels):
            frames[t, channel, t % size, (t // size) % size] = (t + 11 * channel) % 256
            frames[t, channel, 0, 0] = t % 256
            frames[t, channel, 0, 1] = (t // 256 + 7 * channel) % 256
            frames[t, channel, 0, 2] = episode % 256
    return frames


def made_up_episode(
    episode: int, rows: int, *, channels: int = 1, zeros: bool = False, size: int = 8
) -> dict[str, Array]:
    frames = made_up_frames(episode, rows, channels, size)
    before = np.zeros_like(frames[:1]) if zeros else frames[:1]
    padded = np.concatenate([before] * (FRAME_STACK - 1) + [frames])
    stacks = np.concatenate([padded[k : k + rows] for k in range(FRAME_STACK)], axis=1)
    t = np.arange(rows)
    return {
        "observation": stacks,
        "action": np.stack([t + 0.25, -t, np.full(rows, episode)], axis=1).astype(np.float64),
        "reward": (1000.0 * episode + t).astype(np.float32)[:, None],
        "discount": np.ones((rows, 1), np.float32),
        "step": (1_000_000 * episode + t).astype(np.int64),
    }


def write_made_up(directory: Path, episode: int, rows: int, **options: Any) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"20260101T{episode:06d}_{episode}_{rows - 1}.npz"
    with path.open("wb") as file:
        np.savez_compressed(file, **made_up_episode(episode, rows, **options))
    return path


def write_directory(directory: Path, lengths: list[int], first: int = 0, **options: Any) -> Path:
    for number, rows in enumerate(lengths):
        write_made_up(directory, first + number, rows, **options)
    return directory
