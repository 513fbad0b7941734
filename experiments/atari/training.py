"""Environments and algorithms as in the published comparison, with the buffer to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from experiments.workloads.atari import GAMES
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.atari", "sb3", "atari"):
    import ale_py
    import gymnasium
    import sb3_contrib
    import stable_baselines3
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)

Algorithm = Literal["ppo", "qrdqn"]
ALGORITHMS: tuple[Algorithm, ...] = ("ppo", "qrdqn")
FRAME_STACK = 4
_NO_FRAME_SKIP = "NoFrameskip-v4"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What is trained.

    Attributes:
        game: name of the game in ALE.
        algorithm: `"ppo"` or `"qrdqn"`.
        version: `"v4"`, as published, or `"v5"`, whose games repeat the last action with probability 0.25.
        seed: of the algorithm and the games.
        num_envs: environments of PPO.
        rollout_steps: steps of a rollout of PPO in each environment.
        learning_starts: rows after which QR-DQN learns.
        buffer_size: transitions of QR-DQN's buffer.
    """

    game: str
    algorithm: Algorithm
    version: Literal["v4", "v5"] = "v4"
    seed: int = 0
    num_envs: int = 8
    rollout_steps: int = 128
    learning_starts: int = 1000
    buffer_size: int = 100_000

    @property
    def name(self) -> str:
        """Name of the configuration in files."""
        return f"{self.algorithm}_{self.game}_{self.version}"

    @property
    def rollout_rows(self) -> int:
        """Rows of a rollout of PPO."""
        return self.num_envs * self.rollout_steps


def make_environment(config: TrainingConfig) -> Any:
    """Returns the vector environment: the usual wrappers of stable-baselines3, and stacks of four frames.

    Raises:
        SpecError: there is no such game.
    """
    if config.version == "v4":
        name, options = f"{config.game}{_NO_FRAME_SKIP}", {}
    else:
        name, options = f"ALE/{config.game}-v5", {"frameskip": 1, "repeat_action_probability": 0.25}
    envs = config.num_envs if config.algorithm == "ppo" else 1
    try:
        made = make_atari_env(name, n_envs=envs, seed=config.seed, env_kwargs=options)
    except gymnasium.error.Error as err:
        raise SpecError(f"game: expected one of ALE such as {', '.join(GAMES)}, got {config.game!r}: {err}") from err
    return VecFrameStack(made, FRAME_STACK)


def make_model(config: TrainingConfig, env: Any, buffer_class: Any = None, **buffer_options: Any) -> Any:
    """Returns the algorithm with the hyperparameters that stable-baselines3's zoo has for Atari.

    Args:
        config: what is trained.
        env: its environment.
        buffer_class: its buffer. None: that of stable-baselines3.
        buffer_options: further arguments of the buffer.
    """
    common: dict[str, Any] = {"seed": config.seed, "device": "cpu"}
    if config.algorithm == "ppo":
        if buffer_class is not None:
            common |= {"rollout_buffer_class": buffer_class, "rollout_buffer_kwargs": buffer_options}
        return stable_baselines3.PPO(
            "CnnPolicy", env, n_steps=config.rollout_steps, n_epochs=4, learning_rate=2.5e-4,
            batch_size=min(256, config.rollout_rows), clip_range=0.1, vf_coef=0.5, ent_coef=0.01, **common,
        )  # fmt: skip
    if buffer_class is not None:
        common |= {"replay_buffer_class": buffer_class, "replay_buffer_kwargs": buffer_options}
    return sb3_contrib.QRDQN(
        "CnnPolicy", env, buffer_size=config.buffer_size, learning_starts=config.learning_starts,
        exploration_fraction=0.025, optimize_memory_usage=False, **common,
    )  # fmt: skip
