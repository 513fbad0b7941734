"""The configuration of a training run. config/train.yaml has the defaults."""

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
# Settings that may change when a run is resumed. None of them concerns the algorithm or the environment.
_MAY_CHANGE = {
    "replay_residency", "replay_budget", "replay_threads", "train_frames", "device", "deterministic", "resume",
    "snapshot_every_frames", "eval_every_frames", "save_video", "tensorboard", "output_dir",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does. Frames are frames of the simulator, and each row takes `action_repeat` of them.

    Attributes:
        task: `domain_task` of the DeepMind Control Suite.
        grayscale, black_floor, fast_render, frame_stack, action_repeat, image_size: as in `CollectConfig`. None of them
            depends on the mode.
        max_episode_steps: most rows of an episode after the reset. None means until the task ends.
        replay_mode: how the store keeps observations: `disk`, `half` or `full`. The batches are the same.
        replay_residency: the residency of `ReplayStore.open`.
        replay_budget: the budget of `ReplayStore.open`, in bytes.
        replay_capacity: most transitions in the store.
        replay_threads: threads that fill batches.
        batch_size: transitions per batch.
        n_step: steps of a transition.
        discount: discount per step.
        update_every_steps: rows per update.
        seed_frames: frames before the first update.
        train_frames: frames in all.
        seed: seed of all randomness.
        device: `cpu`, `cuda`, or `auto` for CUDA if torch finds a GPU.
        deterministic: whether to use only operations of torch that give the same bits in every run.
        resume: whether to continue from the last snapshot in `output_dir`.
        snapshot_every_frames: frames between snapshots. A snapshot is made at the next end of an episode.
        eval_every_frames: frames between evaluations, or 0 for none.
        eval_episodes: episodes per evaluation.
        save_video: whether to write a video of the first episode of an evaluation.
        tensorboard: whether to write event files.
        output_dir: directory of this run. No other run uses it.
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
        """Returns the configuration of the environment.

        Raises:
            SpecError: a value cannot work.
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
        """Raises `SpecError`, with the remedy, for a value that cannot work."""
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
    """Writes the settings of a new run to `directory`."""
    write_json(directory / CONFIG, _settings(config))


def check_same_run(config: TrainConfig, directory: Path) -> None:
    """Raises `SpecError` if the run in `directory` was started with settings that would make it another run."""
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
