"""The proprioception of gymnasium's `Humanoid-v5`, with uniformly random actions."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.workloads.recording import Arrays, EpisodeRows, Progress, Recorded, record
from replaystore.errors import MissingDependency, SpecError
from replaystore.runtime.extras import install_command, needs


@dataclass(frozen=True, kw_only=True)
class HumanoidConfig:
    """What is recorded.

    Attributes:
        environment: name of a gymnasium environment with flat float observations and bounded float actions.
        seed: seed of actions and environment, together with the episode number.
    """

    environment: str = "Humanoid-v5"
    seed: int = 0


def record_humanoid(
    config: HumanoidConfig, directory: Path, num_steps: int, progress: Progress | None = None
) -> Recorded:
    """Records whole episodes until `directory` has at least `num_steps` transitions; see `record`.

    Each file has `observation` float64 (rows, 348), `action` float32 (rows, 17), `reward` and `discount` float32
    (rows, 1).

    Raises:
        MissingDependency: gymnasium or mujoco is missing.
        SpecError: there is no such environment.
    """
    with closing(make_environment(config)) as env:
        return record(directory, asdict(config), num_steps, lambda index: play(env, config, index), progress)


def make_environment(config: HumanoidConfig) -> Any:
    """Returns the environment of a configuration.

    Raises:
        MissingDependency: gymnasium or mujoco is missing.
        SpecError: there is no such environment.
    """
    os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is rendered, so no display is needed
    with needs("recording Humanoid", "humanoid"):
        import gymnasium
    try:
        return gymnasium.make(config.environment)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as err:
        raise MissingDependency(
            f"recording Humanoid: expected mujoco and imageio with gymnasium, found {err};"
            f" {install_command('humanoid')}"
        ) from err
    except gymnasium.error.Error as err:
        raise SpecError(f"environment: expected one of gymnasium, got {config.environment!r}: {err}") from err


def play(env: Any, config: HumanoidConfig, index: int) -> Arrays:
    """Returns the arrays of episode `index`. They depend only on the configuration and `index`."""
    of_env, of_actions = np.random.SeedSequence([config.seed, index]).spawn(2)
    actions = np.random.default_rng(of_actions)
    space = env.action_space
    observation, _ = env.reset(seed=int(of_env.generate_state(1)[0] >> 1))
    rows = EpisodeRows(observation, np.zeros(space.shape, space.dtype))
    terminated = truncated = False
    while not (terminated or truncated):
        action = actions.uniform(space.low, space.high).astype(space.dtype)
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.add(observation, action, float(reward), terminated)
    return rows.arrays()
