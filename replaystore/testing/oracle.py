"""Computes transitions with loops over one episode. It shares no code with the package."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.testing.episodes import Episode, stack_frames


def transition(episode: Episode, i: int, n_step: int, gamma: float, frame_stack: int) -> dict[str, Any]:
    """Returns transition i of an episode.

    Args:
        episode: the episode.
        i: time step of the action.
        n_step: steps of the return.
        gamma: discount per step.
        frame_stack: frames per observation.

    Returns:
        `obs` and `next_obs` (frame_stack, *frame shape), `action`, and `reward` and `discount` in float32.
    """
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
