"""The training loop: an environment, an agent, and a store behind the interface of DrQ-v2's replay buffer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from drqv2_patch import ReplayBufferStorage, TupleLoader, make_replay_loader
from drqv2_patch.device import choose_device, describe_device
from drqv2_patch.progress import buffer_line
from drqv2_patch.snapshot import load_random_state, random_state, read_snapshot, write_snapshot
from experiments.drqv2.agent import Agent
from experiments.drqv2.environment import Environment, TimeStep, data_specs
from experiments.drqv2.evaluation import check_video, evaluate
from experiments.drqv2.logs import RunLog
from experiments.drqv2.train_config import TrainConfig, check_same_run, note_config
from replaystore.errors import NotEnoughData, SpecError

SNAPSHOT, REPLAY = "snapshot.pt", "buffer"
FORM = "replaystore experiments.drqv2 2"
_COUNTERS = ("step", "frame", "episode", "updates", "seconds")


def read_run(directory: Path) -> dict[str, Any]:
    """Returns the snapshot of a run, with its tensors on the CPU.

    Raises:
        RunError: the snapshot is damaged, or another release wrote it.
    """
    return read_snapshot(directory / SNAPSHOT, FORM, "delete it to start from the replay data")


def train(config: TrainConfig) -> dict[str, float]:
    """Trains until `train_frames`, from the start or with `resume` from the last snapshot. Returns where it ended.

    A kill loses the learning since the last snapshot, but no committed episode. With `resume` the agent, the sampler
    and the counters continue from the snapshot, and batches are drawn from all episodes in the replay directory.

    Raises:
        SpecError: a value cannot work, `output_dir` has a run already, the run to resume has other settings, or the
            replay directory has another mode or frame size.
        RunError: the snapshot is damaged.
        MissingDependency: a package is not installed.
        RenderingUnavailable: nothing can be rendered.
    """
    config.check()
    directory = Path(config.output_dir)
    has_run = any((directory / name).exists() for name in (SNAPSHOT, REPLAY))
    if has_run and not config.resume:
        raise SpecError(f"output_dir: {directory} has a run already; pass resume=true to go on, or another output_dir")
    if has_run:
        check_same_run(config, directory)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to run without it
    device = choose_device(config.device)
    if config.save_video:
        check_video()
    print(f"device: {describe_device(config.device, device)}; logs and snapshots: {directory}", file=sys.stderr)
    directory.mkdir(parents=True, exist_ok=True)
    if not has_run:
        note_config(config, directory)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    with ExitStack() as stack:
        return Run(config, directory, device, stack).to_the_end()


class Run:
    """One run, from its start or from its snapshot."""

    def __init__(self, config: TrainConfig, directory: Path, device: torch.device, stack: ExitStack) -> None:
        self.config = config
        self.directory = directory
        self.pixels = config.environment()
        self.step = self.frame = self.episode = self.updates = 0
        self.seconds = 0.0
        state: Mapping[str, Any] | None = None
        if config.resume and (directory / SNAPSHOT).exists():
            state = read_run(directory)
            for name in _COUNTERS:
                setattr(self, name, state[name])
        self.environment = Environment(self.pixels, config.seed, self.episode)
        stack.callback(self.environment.close)
        specs = data_specs(self.pixels.observation_shape, self.environment.num_actions)
        reading: dict[str, Any] = {"residency": config.replay_residency, "budget_bytes": config.replay_budget}
        mode = cast(Any, config.replay_mode)
        replay = directory / REPLAY
        self.storage = stack.enter_context(
            ReplayBufferStorage(specs, replay, mode=mode, frame_stack=config.frame_stack, **reading)
        )
        if self.storage.store is not None:  # it may hold episodes that are newer than the snapshot
            self.environment.skip_to(self.storage.store.next_episode_id)
        self.loader: TupleLoader = stack.enter_context(
            make_replay_loader(
                replay, config.replay_capacity, config.batch_size, config.replay_threads, True, config.n_step,
                config.discount, mode, config.seed, pin_memory=device.type == "cuda", **reading,
            )
        )  # fmt: skip
        self.agent = Agent(config.agent, self.pixels.observation_shape, self.environment.num_actions, device)
        if state is not None:
            self._restore(state)
        self.saved_frame = self.frame
        self.log = stack.enter_context(
            RunLog(directory, tensorboard=config.tensorboard, total_frames=config.train_frames, frame=self.frame)
        )
        self.log.tell(buffer_line(self.storage, config.replay_capacity))
        if config.resume:
            self.log.tell(
                f"going on at frame {self.frame:,}, episode {self.episode:,}, with {len(self.storage):,} transitions"
            )

    def to_the_end(self) -> dict[str, float]:
        """Trains until the last frame, and returns the figures of the run."""
        config, started, earlier = self.config, time.perf_counter(), self.seconds
        metrics: dict[str, torch.Tensor] = {}
        time_step = self._reset()
        first_frame, reward, length = self.frame, 0.0, 0
        while self.frame < config.train_frames:
            if config.eval_every_frames and self.frame % config.eval_every_frames < config.action_repeat:
                self._evaluate()
            action = self.agent.act(time_step.observation, self.step, explore=True)
            if self.frame >= config.seed_frames and self.step % config.update_every_steps == 0:
                metrics = self._update() or metrics
            time_step = self.environment.step(action)
            self.storage.add(time_step)
            self.step += 1
            self.frame += config.action_repeat
            reward, length = reward + time_step.reward, length + 1
            self.log.advance(self.frame, self._learning())
            if time_step.last():
                self.episode += 1
                self.seconds = earlier + time.perf_counter() - started
                rate = (self.frame - first_frame) / (self.seconds - earlier)
                numbers = {name: float(value) for name, value in metrics.items()}
                state = {"reward": reward, "length": length, "frames_per_second": rate, "replay": len(self.storage)}
                self.log.episode(self.frame, {**state, **numbers})
                if self.frame - self.saved_frame >= config.snapshot_every_frames:
                    self._save()
                if self.frame < config.train_frames:
                    time_step, reward, length = self._reset(), 0.0, 0
        if config.eval_every_frames:
            self._evaluate()
        self.seconds = earlier + time.perf_counter() - started
        self._save()
        if len(self.storage) and not self.updates and self.frame > config.seed_frames:
            raise SpecError(
                f"n_step: expected an episode of at least {config.n_step} rows after the reset, found none in"
                f" {len(self.storage)} transitions, so nothing was learned; lower n_step, or raise max_episode_steps"
            )
        ended = {"frame": self.frame, "episode": self.episode, "updates": self.updates, "seconds": self.seconds}
        self.log.tell("ended: " + "  ".join(f"{name} {value:,.6g}" for name, value in ended.items()))
        return ended

    def _learning(self) -> str:
        if self.updates or self.frame >= self.config.seed_frames:
            return f"{self.updates:,} updates"
        return f"the first update comes at frame {self.config.seed_frames:,}"

    def _reset(self) -> TimeStep:
        time_step = self.environment.reset()
        self.storage.add(time_step)
        return time_step

    def _update(self) -> dict[str, torch.Tensor] | None:
        try:
            batch = next(self.loader)
        except NotEnoughData:  # the first episode has not ended
            return None
        self.updates += 1
        return self.agent.update(batch, self.step)

    def _evaluate(self) -> None:
        config = self.config
        video = self.directory / "videos" / f"{self.frame}.mp4" if config.save_video else None
        reward = evaluate(
            self.agent, self.pixels, episodes=config.eval_episodes, seed=config.seed, video=video,
            on_step=lambda number, rows: self.log.evaluating(self.frame, number, config.eval_episodes, rows),
        )  # fmt: skip
        self.log.evaluation({"frame": self.frame, "episode": self.episode, "reward": reward})

    def _save(self) -> None:
        state: dict[str, Any] = {name: getattr(self, name) for name in _COUNTERS}
        state |= {"agent": self.agent.state_dict(), "loader": self.loader.state_dict(), "random": random_state({})}
        write_snapshot(self.directory / SNAPSHOT, state, FORM)
        self.saved_frame = self.frame

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.agent.load_state_dict(state["agent"])
        except (RuntimeError, KeyError, ValueError) as err:
            reason = " ".join(str(err).split())[:200]
            raise SpecError(
                f"{self.directory / SNAPSHOT}: expected the networks of this configuration, found others ({reason});"
                " resume with the agent and image_size of the run"
            ) from err
        self.loader.load_state_dict(state["loader"])
        load_random_state(state["random"], {})  # last, because making the networks draws from the generators
