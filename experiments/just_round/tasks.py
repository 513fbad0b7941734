"""Environments and algorithms of Just Round, with the buffer to measure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore import RoundClamp
from replaystore.runtime.extras import needs

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is rendered, so no display is needed

with needs("experiments.just_round", "sb3", "humanoid"):
    import gymnasium
    import mujoco  # noqa: F401
    from stable_baselines3 import PPO, SAC

    from replaystore.adapters.sb3 import RoundClampRolloutBuffer, StoreReplayBuffer

Algorithm = Literal["ppo", "sac"]
ALGORITHMS: tuple[Algorithm, ...] = ("ppo", "sac")
TASKS = ("Walker2d", "HalfCheetah", "Ant", "Humanoid")
DECIMALS = {"ppo": 1, "sac": 2}
"""Decimals that Just Round keeps. Its bounds are +-127."""

BOUND = 127.0
PPO_STEPS = 2048


def make_environment(task: str) -> Any:
    """Returns the newest version of a task in gymnasium."""
    return gymnasium.make(f"{task}-v5")


def published_codec(algorithm: Algorithm) -> RoundClamp:
    """Returns the rounding of Just Round."""
    return RoundClamp(decimals=DECIMALS[algorithm], low=-BOUND, high=BOUND)


def make_model(
    algorithm: Algorithm, env: Any, *, seed: int = 0, round_clamp: Any = None, path: Path | None = None,
    buffer_size: int = 1_000_000, width: int = 64, **options: Any,
) -> Any:  # fmt: skip
    """Returns an algorithm with the hyperparameters of stable-baselines3.

    Args:
        algorithm: `"ppo"` or `"sac"`.
        env: its environment.
        seed: of everything.
        round_clamp: rounding of the observations in the buffer. None: the buffer of stable-baselines3.
        path: of the store of SAC, if observations are rounded.
        buffer_size: transitions of SAC's buffer.
        width: units of both layers of each network.
        options: further arguments of the algorithm.
    """
    common: dict[str, Any] = {"seed": seed, "device": "cpu", "policy_kwargs": {"net_arch": [width, width]}, **options}
    rounding = {"round_clamp": round_clamp, "decimals": DECIMALS[algorithm]}
    if algorithm == "ppo":
        if round_clamp is not None:
            common |= {"rollout_buffer_class": RoundClampRolloutBuffer, "rollout_buffer_kwargs": rounding}
        return PPO("MlpPolicy", env, n_steps=PPO_STEPS, **common)
    if round_clamp is not None:
        common |= {"replay_buffer_class": StoreReplayBuffer, "replay_buffer_kwargs": {"path": path, **rounding}}
    return SAC("MlpPolicy", env, buffer_size=buffer_size, **common)


def random_rows(task: str, num_rows: int) -> dict[str, NDArray[Any]]:
    """Returns observations before and after each step, actions, rewards and ends, with uniformly random actions.

    Args:
        task: name of the task.
        num_rows: steps, in whole or cut episodes.
    """
    env = make_environment(task)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    rows: list[tuple[Any, ...]] = []
    while len(rows) < num_rows:
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        ends = terminated or truncated
        rows.append((observation, following, action, reward, ends))
        observation = env.reset()[0] if ends else following
    env.close()
    names = ("observations", "next_observations", "actions", "rewards", "ends")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
