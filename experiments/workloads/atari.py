"""Atari games through gymnasium's usual wrappers, with uniformly random actions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.workloads.recording import Arrays, EpisodeRows, Progress, Recorded, record
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

GAMES = (
    "Asteroids", "BeamRider", "Breakout", "Enduro", "MsPacman", "Pong", "Qbert", "RoadRunner", "Seaquest",
    "SpaceInvaders",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AtariConfig:
    """How a game is recorded. The defaults are the usual evaluation protocol with a random policy.

    Attributes:
        game: name of the game in ALE, such as `"Pong"` or `"SpaceInvaders"`.
        seed: seed of actions and environment, together with game and episode number.
        frame_stack: frames in an observation, oldest first. The first frame is repeated at the reset.
        frame_skip: frames of the game per row. The last two of them are joined by their maximum.
        frame_size: height and width in pixels, after gray scale and scaling.
        noop_max: most steps without an action after a reset.
        repeat_action: probability per frame that the game repeats the last action.
        episode_limit: most transitions of an episode. Longer episodes are cut. Losing a life does not end one.
    """

    game: str
    seed: int = 0
    frame_stack: int = 4
    frame_skip: int = 4
    frame_size: int = 84
    noop_max: int = 30
    repeat_action: float = 0.25
    episode_limit: int = 27_000


def record_game(config: AtariConfig, directory: Path, num_steps: int, progress: Progress | None = None) -> Recorded:
    """Records whole episodes of a game until `directory` has at least `num_steps` transitions; see `record`.

    Each file has `observation` uint8 (rows, frame_stack, frame_size, frame_size), `action` int64 (rows, 1), `reward`
    and `discount` float32 (rows, 1). Rewards are not clipped.

    Raises:
        MissingDependency: gymnasium or ale-py is missing.
        SpecError: there is no such game.
    """
    with closing(make_environment(config)) as env:
        settings = {"environment": "atari", **asdict(config)}
        return record(directory, settings, num_steps, lambda index: play(env, config, index), progress)


def make_environment(config: AtariConfig) -> Any:
    """Returns the wrapped environment of a configuration.

    Raises:
        MissingDependency: gymnasium or ale-py is missing.
        SpecError: there is no such game.
    """
    with needs("recording Atari", "atari"):
        import ale_py
        import cv2  # noqa: F401  (gymnasium's wrapper scales with it)
        import gymnasium
        from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    try:
        env = gymnasium.make(
            f"ALE/{config.game}-v5",
            frameskip=1,
            repeat_action_probability=config.repeat_action,
            max_num_frames_per_episode=config.frame_skip * config.episode_limit + 10 * config.noop_max,
        )
    except gymnasium.error.Error as err:
        raise SpecError(f"game: expected one of ALE such as {', '.join(GAMES)}, got {config.game!r}: {err}") from err
    env = AtariPreprocessing(
        env,
        noop_max=config.noop_max,
        frame_skip=config.frame_skip,
        screen_size=config.frame_size,
        terminal_on_life_loss=False,
        grayscale_obs=True,
    )
    return TimeLimit(FrameStackObservation(env, config.frame_stack, padding_type="reset"), config.episode_limit)


def play(env: Any, config: AtariConfig, index: int) -> Arrays:
    """Returns the arrays of episode `index`. They depend only on the configuration and `index`."""
    of_env, of_actions = np.random.SeedSequence([config.seed, *config.game.encode(), index]).spawn(2)
    actions = np.random.default_rng(of_actions)
    observation, _ = env.reset(seed=int(of_env.generate_state(1)[0] >> 1))
    rows = EpisodeRows(observation, np.zeros(1, np.int64))
    terminated = truncated = False
    while not (terminated or truncated):
        action = int(actions.integers(env.action_space.n))
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.add(observation, np.array([action]), float(reward), terminated)
    return rows.arrays()
