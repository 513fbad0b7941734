"""The configuration of a training run; the defaults stand in config/train.yaml."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.drqv2.agent import AgentConfig
from experiments.drqv2.results import write_json
from replaystore.collect import CollectConfig
from replaystore.errors import SpecError
from replaystore.spec import MODES, RESIDENCIES

CONFIG = "config.json"
_DEVICES = ("auto", "cpu", "cuda")
# What a run may be resumed with otherwise: none is a setting of the algorithm or of the environment.
_MAY_CHANGE = {
    "replay_residency", "replay_budget", "replay_threads", "train_frames", "device", "deterministic", "resume",
    "snapshot_every_frames", "eval_every_frames", "save_video", "tensorboard", "output_dir",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does. A frame is one of the simulator: a row takes `action_repeat` of them.

    Attributes:
        task: `domain_task` of the DeepMind Control Suite.
        grayscale, black_floor, fast_render, frame_stack, action_repeat, image_size: see `CollectConfig`; none of them
            depends on the mode.
        max_episode_steps: rows after the reset at most; None: until the task ends.
        replay_mode: how the store keeps observations: `disk`, `half` or `full`; the batches are the same.
        replay_residency, replay_budget: as in `ReplayStore.open`; the budget in bytes.
        replay_capacity: transitions. replay_threads: that fill batches.
        batch_size, n_step, discount, update_every_steps: of learning; one update every so many rows.
        seed_frames: before the first update. train_frames: in all.
        seed: of everything. device: `auto` (CUDA where torch finds a GPU, else the CPU), `cpu` or `cuda`.
        deterministic: only operations of torch that give the same bits in every run.
        resume: go on from the last snapshot in `output_dir`.
        snapshot_every_frames: at the first end of an episode after so many. eval_every_frames: 0 for never.
        eval_episodes, save_video: of an evaluation; the video shows its first episode.
        tensorboard: write event files.
        output_dir: of this run alone.
        agent: networks, optimisers and exploration.
    """

    task: str
    grayscale: bool
    black_floor: bool
    fast_render: bool
    frame_stack: int
    action_repeat: int
    image_size: int
    max_episode_steps: int | None
    replay_mode: str
    replay_residency: str
    replay_budget: int | None
    replay_capacity: int
    replay_threads: int
    batch_size: int
    n_step: int
    discount: float
    update_every_steps: int
    seed_frames: int
    train_frames: int
    seed: int
    device: str
    deterministic: bool
    resume: bool
    snapshot_every_frames: int
    eval_every_frames: int
    eval_episodes: int
    save_video: bool
    tensorboard: bool
    output_dir: str
    agent: AgentConfig

    def environment(self) -> CollectConfig:
        """What the environment is made from.

        Raises:
            SpecError: a value that cannot work.
        """
        return CollectConfig(
            task=self.task,
            frame_stack=self.frame_stack,
            action_repeat=self.action_repeat,
            image_size=self.image_size,
            max_steps=self.max_episode_steps,
            grayscale=self.grayscale,
            black_floor=self.black_floor,
            fast_render=self.fast_render,
        )

    def check(self) -> None:
        """Raises `SpecError`, with the remedy, for what cannot work."""
        self.environment()
        choices = {
            "replay_mode": (self.replay_mode, MODES),
            "replay_residency": (self.replay_residency, RESIDENCIES),
            "device": (self.device, _DEVICES),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise SpecError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        positive = (
            "replay_capacity", "replay_threads", "batch_size", "n_step", "update_every_steps", "snapshot_every_frames",
            "eval_episodes",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("seed", "seed_frames", "train_frames", "eval_every_frames"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.image_size < 15:
            raise SpecError(f"image_size: expected at least 15 for four convolutions, got {self.image_size}")
        if not 0.0 < self.discount <= 1.0:
            raise SpecError(f"discount: expected more than 0 and at most 1, got {self.discount}")


def _settings(config: TrainConfig) -> dict[str, object]:
    agent = {f"agent.{name}": value for name, value in asdict(config.agent).items()}
    own = {name: value for name, value in asdict(config).items() if name not in _MAY_CHANGE | {"agent"}}
    return {**own, **agent}


def note_config(config: TrainConfig, directory: Path) -> None:
    """Writes down what a run in `directory` is started with."""
    write_json(directory / CONFIG, _settings(config))


def check_same_run(config: TrainConfig, directory: Path) -> None:
    """Raises `SpecError` where the run in `directory` was started with settings that make another run of it."""
    path = directory / CONFIG
    if not path.exists():
        raise SpecError(f"{path}: expected the settings that the run began with, found none; use another output_dir")
    started = json.loads(path.read_text())
    for name, value in _settings(config).items():
        if started.get(name) != value:
            raise SpecError(
                f"{name}: expected {started.get(name)}, with which the run in {directory} was started, got {value};"
                f" resume with {name}={started.get(name)}, or use another output_dir"
            )
