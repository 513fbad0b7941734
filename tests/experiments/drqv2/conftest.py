"""Made-up episodes and a configuration of a run that needs no rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.drqv2.agent import AgentConfig
from experiments.drqv2.train_config import TrainConfig
from replaystore.datasets.drqv2_npz import write_episode

SIDE = 20


def frame(episode: int, row: int, channels: int = 1, side: int = SIDE) -> np.ndarray:
    """A frame that says where it is from, mostly the same as its neighbours: uint8 (channel, side, side)."""
    picture = np.full((channels, side, side), 40, np.uint8)
    picture[:, row % side, :] = (7 * episode + row) % 256
    picture[:, :, 0] = episode % 256
    return picture


def episode_arrays(number: int, length: int, channels: int = 1, side: int = SIDE, stack: int = 3) -> dict[str, Any]:
    """An episode file's arrays."""
    frames = [frame(number, row, channels, side) for row in range(length + 1)]
    stacks = [np.concatenate([frames[max(0, row - k)] for k in reversed(range(stack))]) for row in range(length + 1)]
    rng = np.random.default_rng(number)
    return {
        "observation": np.stack(stacks),
        "action": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
        "reward": rng.uniform(0, 1, (length + 1, 1)).astype(np.float32),
        "discount": np.ones((length + 1, 1), np.float32),
    }


def write_episodes(directory: Path, lengths: list[int], **options: int) -> Path:
    """Episode files of these lengths."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(lengths):
        write_episode(directory, episode_arrays(number, length, **options), index=number)
    return directory


@pytest.fixture
def small_agent() -> AgentConfig:
    return AgentConfig(
        feature_dim=5,
        hidden_dim=8,
        learning_rate=1e-3,
        target_rate=0.01,
        shift_pad=4,
        noise_start=1.0,
        noise_end=0.1,
        noise_steps=100,
        noise_clip=0.3,
        uniform_steps=10,
    )


@pytest.fixture
def train_config(tmp_path: Path, small_agent: AgentConfig) -> TrainConfig:
    return TrainConfig(
        task="walker_walk",
        grayscale=True,
        black_floor=False,
        fast_render=False,
        frame_stack=3,
        action_repeat=2,
        image_size=SIDE,
        max_episode_steps=None,
        replay_mode="full",
        replay_residency="auto",
        replay_budget=None,
        replay_capacity=1000,
        replay_threads=2,
        batch_size=4,
        n_step=3,
        discount=0.99,
        update_every_steps=2,
        seed_frames=20,
        train_frames=100,
        seed=3,
        device="cpu",
        deterministic=False,
        resume=False,
        snapshot_every_frames=40,
        eval_every_frames=0,
        eval_episodes=1,
        save_video=False,
        tensorboard=False,
        output_dir=str(tmp_path / "run"),
        agent=small_agent,
    )
