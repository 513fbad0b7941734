"""Bytes of observations from training: raw stacks, the published scheme, and ours, of the same frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.atari.training import FRAME_STACK, TrainingConfig, make_environment, make_model
from replaystore import FrameDelta, ReplayStore
from replaystore.adapters.sb3 import DeltaRolloutBuffer, StoreReplayBuffer
from replaystore.runtime.extras import needs

with needs("experiments.atari", "sb3", "atari"):
    from stable_baselines3.common.callbacks import BaseCallback


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of the observations of one rollout (PPO) or of a row (QR-DQN).

    Attributes:
        game: name of the game.
        algorithm: `"ppo"` or `"qrdqn"`.
        rows: rows measured.
        raw_bytes: as stacks, one copy.
        published_bytes: with the published scheme.
        our_bytes: in `DeltaRolloutBuffer`, or in a store of mode `full`.
        episodes: episodes that ended.
        mean_return: their mean return, as the game counts it. None if none ended.
    """

    game: str
    algorithm: str
    rows: int
    raw_bytes: float
    published_bytes: float
    our_bytes: float
    episodes: int
    mean_return: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def _published_bytes(frames: NDArray[np.uint8]) -> int:
    """Returns the bytes of frames (rows, 84, 84) in the order of time."""
    codec = FrameDelta.published(frame_shape=frames.shape[1:], frame_stack=FRAME_STACK)
    return len(codec.encode_frames(np.ascontiguousarray(frames)))


class _Rollouts(BaseCallback):
    """Measures the rollout buffer at the end of each rollout."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self._config = config
        self.ours: list[int] = []
        self.published: list[int] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.ours.append(buffer.observation_bytes)
        stacks = buffer.observations[np.arange(self._config.rollout_rows)]
        newest = stacks[:, -1].reshape(self._config.num_envs, -1, *stacks.shape[2:])
        self.published.append(sum(_published_bytes(frames) for frames in newest))
        buffer.observations.forget_decoded()


def _returns(model: Any) -> tuple[int, float | None]:
    found = [entry["r"] for entry in model.ep_info_buffer or ()]
    return len(found), float(np.mean(found)) if found else None


def measure_sizes(config: TrainingConfig, num_rows: int, work_dir: Path | None = None) -> Sizes:
    """Trains, and measures what the observations take.

    Args:
        config: what is trained.
        num_rows: rows of QR-DQN, or rollouts of PPO.
        work_dir: directory for the store. It is deleted afterwards.
    """
    env = make_environment(config)
    stack_bytes = int(np.prod(env.observation_space.shape))
    if config.algorithm == "ppo":
        rollouts = _Rollouts(config)
        model = make_model(config, env, DeltaRolloutBuffer, frame_stack=FRAME_STACK)
        model.learn(num_rows * config.rollout_rows, callback=rollouts)
        rows = config.rollout_rows
        raw, published, ours = rows * stack_bytes, np.mean(rollouts.published), np.mean(rollouts.ours)
    else:
        with TemporaryDirectory(prefix="atari-", dir=work_dir) as scratch:
            path = Path(scratch, "store")
            model = make_model(config, env, StoreReplayBuffer, path=path, mode="full", frame_stack=FRAME_STACK)
            model.learn(num_rows)
            model.replay_buffer.commit()
            rows = model.replay_buffer.size()
            model.replay_buffer.close()
            with ReplayStore.open(path, read_only=True, residency="mapped") as store:
                ours = store.info()["fields"]["observation"]["bytes_on_disk"] / rows
                total = 0
                for episode in store.episodes():
                    stacks = store.read_episode(episode.episode)["observation"]
                    total += _published_bytes(stacks[:, -1])
                raw, published = stack_bytes, total / rows
    env.close()
    episodes, mean_return = _returns(model)
    return Sizes(
        game=config.game,
        algorithm=config.algorithm,
        rows=rows,
        raw_bytes=float(raw),
        published_bytes=float(published),
        our_bytes=float(ours),
        episodes=episodes,
        mean_return=mean_return,
    )
