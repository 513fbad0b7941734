"""Experiment: the published learning curves. The command can be interrupted and started again.

    python -m experiments.drqv2.learning_curves

Trains every task with every seed in every mode, one run after the other. An interrupted run continues from its
snapshot, and a finished run is not touched. The plot shows mean and standard deviation over the seeds at each frame
that all of them have reached.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.drqv2.learning_curves", "bench", "dmc", "drqv2", in_command=__name__ == "__main__"):
    import torch
    from matplotlib.figure import Figure

    from experiments.drqv2 import results
    from experiments.drqv2.commands import run, typed
    from experiments.drqv2.logs import read_evaluations
    from experiments.drqv2.train_config import TrainConfig, check_same_run
    from experiments.drqv2.trainer import train

_TEXT = ("task", "mode", "state")


@dataclass(frozen=True, kw_only=True)
class LearningCurvesConfig:
    """What is trained.

    Attributes:
        training: settings of every run.
        tasks: settings that differ, by the name of the task.
        seeds: seeds of the runs.
        modes: modes of the runs.
        run: whether to train. If not, the existing runs are shown.
        allow_cpu: whether to train without a CUDA device, which takes weeks.
        output_dir: directory for runs and results.
        docs: page to write the results into, or None.
    """

    training: Any
    tasks: dict[str, Any]
    seeds: tuple[int, ...]
    modes: tuple[str, ...]
    run: bool
    allow_cpu: bool
    output_dir: str
    docs: str | None


def run_config(config: LearningCurvesConfig, task: str, mode: str, seed: int) -> TrainConfig:
    """Returns the configuration of one run.

    Raises:
        OmegaConfBaseException: training has no setting of a name.
        SpecError: a value cannot work.
    """
    from omegaconf import OmegaConf

    directory = Path(config.output_dir) / task / mode / f"seed{seed}"
    own = {"task": task, "replay_mode": mode, "seed": seed, "output_dir": str(directory), "resume": True}
    merged = typed(OmegaConf.merge(config.training, config.tasks[task] or {}, own), TrainConfig)
    merged.check()
    if not merged.eval_every_frames:
        raise SpecError("training.eval_every_frames: expected at least 1, as curves are made of evaluations, got 0")
    return merged


def learning_curves(config: LearningCurvesConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Trains the runs that have not ended, if `run` is set. Returns the evaluations of all runs.

    Raises:
        SpecError: a value cannot work, a run exists with other settings, or there is no CUDA device and `allow_cpu` is
            not set.
    """
    if not config.tasks or not config.seeds or not config.modes:
        raise SpecError("tasks, seeds, modes: expected at least one of each")
    runs = [run_config(config, task, mode, seed) for task in config.tasks for mode in config.modes
            for seed in config.seeds]  # fmt: skip
    if config.run and not (config.allow_cpu or torch.cuda.is_available()):
        raise SpecError(
            f"learning curves: expected a CUDA device for {len(runs)} runs, found none; pass allow_cpu=true to train on"
            " the CPU, or run=false to show what is there"
        )
    curves = []
    for each in runs:
        directory = Path(each.output_dir)
        evaluations = read_evaluations(directory)
        if evaluations:
            check_same_run(each, directory)
        if config.run and (not evaluations or evaluations[-1]["frame"] < each.train_frames):
            tell(f"{each.task}, {each.replay_mode}, seed {each.seed}")
            train(each)
            evaluations = read_evaluations(directory)
        curves.append(
            {
                "task": each.task, "mode": each.replay_mode, "seed": each.seed, "train_frames": each.train_frames,
                "evaluations": evaluations, "settings": stated_settings(each),
            }
        )  # fmt: skip
    (root := Path(config.output_dir)).mkdir(parents=True, exist_ok=True)
    stated = {key: value for key, value in asdict(config).items() if key not in ("training", "tasks")}
    return {"config": stated, "conditions": results.stated_conditions(root), "curves": curves}


def stated_settings(config: TrainConfig) -> str:
    """Returns the settings of a run that a reader has to know."""
    agent, scene = config.agent, "gray" if config.grayscale else "RGB"
    floor = ", black floor" if config.black_floor else ""
    shadows = ", no shadows" if config.fast_render else ""
    return (
        f"{scene} images of {config.image_size} x {config.image_size}{floor}{shadows}; batches of {config.batch_size},"
        f" n-step {config.n_step}, an update every {config.update_every_steps} steps; layers of {agent.hidden_dim},"
        f" learning rate {agent.learning_rate:g}, noise from {agent.noise_start:g} to {agent.noise_end:g} in"
        f" {agent.noise_steps:,} steps; {config.eval_episodes} episodes per evaluation"
    )


def mean_curve(curves: list[Mapping[str, Any]]) -> tuple[list[int], list[float], list[float]]:
    """Returns the frames at which all runs were evaluated, and mean and standard deviation of the reward there."""
    by_frame = [{entry["frame"]: entry["reward"] for entry in curve["evaluations"]} for curve in curves]
    frames = sorted(set.intersection(*(set(each) for each in by_frame))) if by_frame else []
    rewards = np.array([[each[frame] for each in by_frame] for frame in frames]).reshape(len(frames), len(by_frame))
    return frames, rewards.mean(axis=1).tolist(), rewards.std(axis=1).tolist()


def _groups(result: Mapping[str, Any]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for curve in result["curves"]:
        groups.setdefault((curve["task"], curve["mode"]), []).append(curve)
    return groups


def to_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the result as Markdown."""
    rows = []
    for (task, mode), curves in _groups(result).items():
        frames, mean, spread = mean_curve(curves)
        wanted = curves[0]["train_frames"]
        state = "not run" if not frames else "ended" if frames[-1] >= wanted else f"up to {frames[-1]:,} frames"
        rows.append(
            {
                "task": task,
                "mode": mode,
                "seeds": str(len(curves)),
                "frames": f"{wanted:,}",
                "state": state,
                "reward": f"{mean[-1]:.1f} +- {spread[-1]:.1f}" if frames else "-",
            }
        )
    settings = dict.fromkeys((curve["task"], curve["settings"]) for curve in result["curves"])
    return [
        *results.table(rows, _TEXT),
        "",
        *(f"- {task}: {text}." for task, text in settings),
        "",
        results.condition_line(result["conditions"]),
    ]


def plot(result: Mapping[str, Any]) -> Figure:
    """Plots reward over frames: the mean over the seeds, with one standard deviation shaded."""
    figure, axes = results.new_axes()
    for number, ((task, mode), curves) in enumerate(_groups(result).items()):
        frames, mean, spread = mean_curve(curves)
        colour = results.COLOURS[number % len(results.COLOURS)]
        low, high = np.subtract(mean, spread), np.add(mean, spread)
        axes.plot(frames, mean, color=colour, label=f"{task}, {mode}: {len(curves)} seeds")
        axes.fill_between(frames, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("frames of the environment")
    axes.set_ylabel("reward of an episode")
    axes.legend()
    return figure


def main(config: LearningCurvesConfig) -> None:
    """Trains, prints and writes."""
    result = learning_curves(config, lambda line: print(line, file=sys.stderr, flush=True))
    lines = to_lines(result)
    results.save_result("learning_curves", Path(config.output_dir), result, lines, plot(result), config.docs)
    print("\n".join(lines))


if __name__ == "__main__":
    run("learning_curves", LearningCurvesConfig, main)
