"""Experiment: the published table of replay memory and training speed, measured on filled stores.

    python -m experiments.drqv2.published_table drqv2=PATH_TO_CHECKOUT

Records episodes with random actions and fills every buffer with them. An interrupted recording continues, and episodes
of `replaystore collect` can be used too. It measures the memory of each buffer in a separate process, and times a
training loop over it. Measurements are kept in `output_dir`, and a later run with the same settings uses them again.

There are three variants of the environment: `rgb` is the unmodified scene, `gray` has the same frames in gray, and
`gray_black` is gray with a black floor. Without CUDA the learner is a pause of a set time, and the page says so.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.published.formulas import published_observation_bytes
from replaystore.collect import CollectConfig, collect
from replaystore.collect.environment import luma
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode, write_episode
from replaystore.errors import EpisodeFileError, SpecError
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.published_table", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    import torch

    import replaystore
    from experiments.drqv2 import published_rows, results
    from experiments.drqv2.agent import AgentConfig
    from experiments.drqv2.buffers import BUFFERS, ORIGINAL, BufferConfig, check_checkout, episode_length
    from experiments.drqv2.commands import run
    from experiments.drqv2.measuring import copy_for_writing, kept, prepare
    from experiments.drqv2.recordings import Recording
    from experiments.drqv2.theoretical_factor import count_changed, newest_frames
    from replaystore.bench.conditions import git_commit

VARIANTS = ("rgb", "gray", "gray_black")
_EPISODE_TRANSITIONS = 500  # with two frames per row
_LEARNERS = ("auto", "agent", "set")


@dataclass(frozen=True, kw_only=True)
class PublishedTableConfig:
    """What is measured.

    Attributes:
        tasks: tasks of the DeepMind Control Suite.
        data_dir: directory of the episodes, which are in TASK/rgb and TASK/gray_black.
        transitions: least transitions per task and variant.
        record: whether to record missing episodes. If not, the existing ones are measured.
        fast_render: whether to record and step without shadows.
        drqv2: a checkout of DrQ-v2, for the buffer `original`, or None to leave that one out.
        buffers: the buffers to compare.
        speed_variants: the variants whose loops are timed.
        environments: environments of the loops. `real` renders, and `recorded` rows take no time.
        learner: `agent`, `set` for a pause of a set time, or `auto` for the agent if there is CUDA.
        learner_milliseconds: length of that pause.
        rows: rows of a timed loop.
        warm_rows: rows of the loop before timing starts.
        repeats: how often each loop is timed.
        workers: threads of a store, or worker processes of the original.
        batch_size, n_step, discount, update_every_steps, seed, agent: as in training.
        output_dir: directory for stores, measurements and results.
        docs: page to write the results into, or None.
    """

    tasks: tuple[str, ...]
    data_dir: str
    transitions: int
    record: bool
    fast_render: bool
    drqv2: str | None
    buffers: tuple[str, ...]
    speed_variants: tuple[str, ...]
    environments: tuple[str, ...]
    learner: str
    learner_milliseconds: tuple[float, ...]
    rows: int
    warm_rows: int
    repeats: int
    workers: int
    batch_size: int
    n_step: int
    discount: float
    update_every_steps: int
    seed: int
    output_dir: str
    docs: str | None
    agent: AgentConfig

    def check(self) -> None:
        """Raises `SpecError`, with the remedy, for a value that cannot work."""
        for name, allowed in (
            ("buffers", BUFFERS), ("speed_variants", VARIANTS), ("environments", ("real", "recorded")),
        ):  # fmt: skip
            unknown = sorted(set(getattr(self, name)) - set(allowed))
            if unknown:
                raise SpecError(f"{name}: expected some of {', '.join(allowed)}, got {unknown}")
        if self.learner not in _LEARNERS:
            raise SpecError(f"learner: expected one of {', '.join(_LEARNERS)}, got {self.learner!r}")
        for name in ("transitions", "rows", "repeats", "batch_size", "n_step", "update_every_steps", "workers"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.tasks or "half" not in self.buffers or "disk" not in self.buffers:
            raise SpecError("expected at least one task, and the buffers disk and half, which others are compared with")
        check_checkout(self.drqv2)


def environment_of(config: PublishedTableConfig, task: str, variant: str) -> CollectConfig:
    """Returns the environment that a variant of a task is recorded in."""
    return CollectConfig(
        task=task,
        episodes=-(-config.transitions // _EPISODE_TRANSITIONS),
        grayscale=variant != "rgb",
        black_floor=variant == "gray_black",
        fast_render=config.fast_render,
    )


def find_episodes(config: PublishedTableConfig, task: str, variant: str, tell: Callable[[str], None]) -> list[Path]:
    """Returns the episode files of a variant of a task. Records or derives missing ones."""
    directory = Path(config.data_dir) / task / variant
    if variant == "gray":
        return _derive_gray(find_episodes(config, task, "rgb", tell), Path(config.output_dir) / "gray" / task)
    if config.record:
        wanted = environment_of(config, task, variant)

        def on_episode(number: int, path: Path, now: bool) -> None:
            if now:
                tell(f"{task}, {variant}: recorded episode {number + 1} of {wanted.episodes}")

        return collect(wanted, directory, on_episode=on_episode)
    files = [entry.path for entry in list_episode_files(directory) if entry.refusal is None]
    if not files:
        raise EpisodeFileError(f"{directory}: expected episode files, found none; record them, or pass record=true")
    return files


def _derive_gray(files: list[Path], directory: Path) -> list[Path]:
    """Writes the same episodes in gray. Each pixel is what the environment makes of these frames."""
    directory.mkdir(parents=True, exist_ok=True)
    present = {entry.index: entry.path for entry in list_episode_files(directory) if entry.refusal is None}
    derived = []
    for number, path in enumerate(files):
        if number not in present:
            arrays = read_episode(path)
            stacks = arrays["observation"]
            rows, channels, height, width = stacks.shape
            planes = stacks.reshape(rows, channels // 3, 3, height, width).transpose(0, 1, 3, 4, 2)
            gray = np.stack([np.concatenate([luma(frame) for frame in stack]) for stack in planes])
            present[number] = write_episode(directory, {**arrays, "observation": gray}, index=number)
        derived.append(present[number])
    return derived


def formula_bytes(recording: Recording, files: list[Path], kind: str) -> float | None:
    """Returns the bytes per observation that the published formulas give, or None if no formula fits.

    The formulas are for raw stacks, for each frame stored once (the first frame of an episode is an extra row), and
    equation 3 with the changed pixels of these episodes, each colour plane counted as a frame.
    """
    channels, height, width = recording.image_shape
    stack, planes = recording.frame_stack, channels // recording.frame_stack
    if kind in (ORIGINAL, "disk"):
        return float(channels * height * width)
    if kind == "half":
        rows = [episode_length(path) + 1 for path in files]
        return planes * height * width * sum(rows) / (sum(rows) - len(rows))
    if kind == "full":
        return None
    counts = np.zeros(3, np.int64)
    rows_in_all = 0
    for path in files:
        frames = newest_frames(read_episode(path)["observation"], stack)
        counts += count_changed(frames, stack)
        rows_in_all += len(frames)
    num_bytes = published_observation_bytes(
        num_rows=rows_in_all * planes,
        frame_stack=stack,
        stored_pixels=int(counts[2]),
        frame_side=math.isqrt(height * width),
        num_keyframes=int(counts[0]),
    )
    return num_bytes / (rows_in_all - len(files))


def measure(config: PublishedTableConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Records, fills and measures what is missing. Returns all results.

    Raises:
        SpecError: a value cannot work.
        MeasurementFailed: a measured process failed.
    """
    config.check()
    root = Path(config.output_dir)
    with_agent = config.learner == "agent" or (config.learner == "auto" and torch.cuda.is_available())
    version = {"replaystore": replaystore.__version__, "commit": git_commit(), "cuda": torch.cuda.is_available()}
    kinds = [kind for kind in config.buffers if kind != ORIGINAL or config.drqv2 is not None]
    sizes, speeds = [], []
    for task in config.tasks:
        for variant in VARIANTS:
            files = find_episodes(config, task, variant, tell)
            recording = Recording.find(files[0].parent)
            folder = root / "stores" / task / variant
            transitions = sum(episode_length(path) for path in files)
            requests = {}
            for kind in kinds:
                tell(f"{task}, {variant}: filling {kind}")
                stored = prepare(recording, files, kind, folder)
                prepare(recording, files[:1], kind, folder / "small")
                requests[kind] = _buffer(config, recording, kind, folder)
                small = _buffer(config, recording, kind, folder / "small")
                weighed = kept(
                    root / "measured",
                    {
                        "job": "memory",
                        "buffer": {**asdict(requests[kind]), "batch_size": 1, "workers": 0, "residency": "ram"},
                        "warm": {**asdict(small), "batch_size": 1, "workers": 0, "residency": "ram"},
                    },
                    {**version, "transitions": transitions},
                )
                extra = transitions - episode_length(files[0])
                grown = weighed["private_bytes"] / extra if extra else None
                sizes.append(
                    {
                        "task": task, "variant": variant, "buffer": kind, "transitions": transitions,
                        "memory_bytes": stored.get("bytes_per_transition", grown),
                        "grown_bytes": grown, "held_bytes": weighed["held_bytes"], **stored,
                        "formula_bytes": formula_bytes(recording, files, kind),
                    }
                )  # fmt: skip
            if variant in config.speed_variants:
                speeds += _speeds(config, task, variant, folder, requests, with_agent, version, tell)
    return {
        "config": asdict(config),
        "conditions": results.stated_conditions(root),
        "learner": "agent" if with_agent else "set",
        "sizes": sizes,
        "speeds": speeds,
    }


def _speeds(
    config: PublishedTableConfig, task: str, variant: str, folder: Path, requests: dict[str, BufferConfig],
    with_agent: bool, version: Any, tell: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Times the loops of a variant of a task. The buffers take turns."""
    speeds = []
    collecting = environment_of(config, task, variant)
    scratch = Path(config.output_dir) / "scratch"
    learners: tuple[float | None, ...] = (None,) if with_agent else config.learner_milliseconds
    for environment in config.environments:
        for milliseconds in learners:
            for repeat in range(config.repeats):
                for kind, buffer in requests.items():
                    tell(f"{task}, {variant}: {environment} environment, learner {milliseconds} ms, {kind}, {repeat}")
                    request = {
                        "job": "speed", "buffer": {**asdict(buffer), "directory": str(scratch)},
                        "episodes": str(folder / "episodes"), "environment": environment,
                        "collect": collecting.to_json(), "learner_milliseconds": milliseconds,
                        "agent": asdict(config.agent), "rows": config.rows, "warm_rows": config.warm_rows,
                        "update_every_steps": config.update_every_steps, "repeat": repeat,
                    }  # fmt: skip
                    try:
                        answer = kept(
                            Path(config.output_dir) / "measured", request, version,
                            partial(copy_for_writing, folder, kind, scratch),
                        )  # fmt: skip
                    finally:
                        shutil.rmtree(scratch, ignore_errors=True)
                    frames = answer["rows_per_second"] * collecting.action_repeat
                    speeds.append(
                        {
                            "task": task, "variant": variant, "environment": environment, "buffer": kind,
                            "learner_milliseconds": milliseconds, "repeat": repeat,
                            "frames_per_second": frames, **answer,
                        }
                    )  # fmt: skip
    return speeds


def _buffer(config: PublishedTableConfig, recording: Recording, kind: str, folder: Path) -> BufferConfig:
    return BufferConfig(
        kind=kind,
        directory=str(folder / ("episodes" if kind == ORIGINAL else kind)),
        checkout=config.drqv2,
        image_shape=recording.image_shape,
        frame_stack=recording.frame_stack,
        num_actions=recording.num_actions,
        capacity=1_000_000,
        batch_size=config.batch_size,
        n_step=config.n_step,
        discount=config.discount,
        seed=config.seed,
        workers=config.workers,
        residency="auto",
        budget_bytes=None,
    )


def main(config: PublishedTableConfig) -> None:
    """Measures, prints and writes."""
    result = measure(config, lambda line: print(line, file=sys.stderr, flush=True))
    lines = published_rows.to_lines(result)
    figure = published_rows.plot(result)
    results.save_result("published_table", Path(config.output_dir), result, lines, figure, config.docs)
    print("\n".join(lines))


if __name__ == "__main__":
    run("published_table", PublishedTableConfig, main)
