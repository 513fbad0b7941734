"""Figure 4 of Just Round: learning with and without rounded observations in the buffer, the same seeds in both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.drqv2 import results
from experiments.just_round.tasks import Algorithm, make_environment, make_model, published_codec
from experiments.kept_files import kept
from replaystore.runtime.extras import needs

with needs("experiments.just_round", "sb3", "humanoid", "bench"):
    from matplotlib.figure import Figure
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor

ARMS = ("original", "published", "auto")
"""The buffer of stable-baselines3, ours with the rounding of Just Round, and ours with bounds from the data."""

_LAST = 10  # episodes whose mean return is the result


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        algorithm: `"ppo"` or `"sac"`.
        task: name of the task.
        arm: one of `ARMS`.
        seed: of everything.
        steps: steps of the environment at the end of each episode.
        returns: return of each episode.
        processor_seconds: processor time of the run.
        clamped_share: share of the stored values that were clamped, in the last rollout or in the store.
    """

    algorithm: Algorithm
    task: str
    arm: str
    seed: int
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    processor_seconds: float
    clamped_share: float

    @property
    def final(self) -> float:
        """Mean return of the last episodes."""
        return float(np.mean(self.returns[-_LAST:]))


class _Episodes(BaseCallback):
    """Notes the return of each episode."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True


def train(algorithm: Algorithm, task: str, arm: str, seed: int, num_steps: int) -> Run:
    """Trains for `num_steps`, with the given buffer."""
    begin = time.process_time()
    codec = {"original": None, "published": published_codec(algorithm), "auto": "auto"}[arm]
    with TemporaryDirectory(prefix="just-round-") as scratch:
        env = Monitor(make_environment(task))
        model = make_model(
            algorithm, env, seed=seed, round_clamp=codec, path=Path(scratch, "store"), buffer_size=num_steps
        )
        episodes = _Episodes()
        model.learn(num_steps, callback=episodes)
        buffer = model.rollout_buffer if algorithm == "ppo" else model.replay_buffer
        clamped = 0.0
        if codec is not None:
            clamped = buffer.values_clamped / (buffer.size() * int(np.prod(env.observation_space.shape)))
        if algorithm == "sac" and codec is not None:
            buffer.close()
        env.close()
    return Run(
        algorithm=algorithm,
        task=task,
        arm=arm,
        seed=seed,
        steps=tuple(episodes.steps),
        returns=tuple(episodes.returns),
        processor_seconds=time.process_time() - begin,
        clamped_share=clamped,
    )


def run(
    algorithm: Algorithm, tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int], num_steps: int,
    directory: Path, tell: Callable[[str], None],
) -> list[Run]:  # fmt: skip
    """Makes the missing runs, each seed with all `arms`, and returns all.

    Args:
        algorithm: `"ppo"` or `"sac"`.
        tasks: names of tasks.
        arms: some of `ARMS`, with the first one.
        seeds: seeds.
        num_steps: steps per run.
        directory: directory of the runs, which are kept.
        tell: called with a line of text for each run.
    """
    found = []
    for task in tasks:
        for seed in seeds:
            for arm in arms:
                path = directory / f"learning_{algorithm}_{task}_{arm}_{seed}_{num_steps}.json"
                asked = (algorithm, task, arm, seed, num_steps)
                data = kept(path, lambda asked=asked: asdict(train(*asked)))
                found.append(Run(**{**data, "steps": tuple(data["steps"]), "returns": tuple(data["returns"])}))
                tell(f"{task}, {algorithm}, {arm}, seed {seed}: {found[-1].final:,.0f}")
    return found


def lines_of(runs: Sequence[Run], num_steps: int) -> list[str]:
    """Returns the generated part of the page."""
    rows = []
    arms = list(dict.fromkeys(entry.arm for entry in runs))
    for algorithm, task in dict.fromkeys((entry.algorithm, entry.task) for entry in runs):
        finals = {
            arm: np.array([e.final for e in runs if (e.algorithm, e.task, e.arm) == (algorithm, task, arm)])
            for arm in arms
        }
        plain = finals["original"]
        row = {
            "algorithm": algorithm.upper(),
            "task": f"{task}-v5",
            "seeds": str(len(plain)),
            "original": _spread(plain),
        }
        for arm in arms[1:]:
            difference = finals[arm] - plain
            row[f"{arm}, difference by seed"] = f"{_spread(finals[arm])}, {_spread(difference)}"
            within = abs(finals[arm].mean() - plain.mean()) <= plain.std(ddof=1) if len(plain) > 1 else None
            row[f"{arm}, within one deviation"] = "-" if within is None else "yes" if within else "no"
        clamped = [e.clamped_share for e in runs if (e.algorithm, e.task, e.arm) == (algorithm, task, "published")]
        row["clamped, published"] = f"{np.mean(clamped):.2%}"
        rows.append(row)
    hours = sum(entry.processor_seconds for entry in runs) / 3600
    return [
        *results.table(rows, ("algorithm", "task")),
        "",
        f"{num_steps:,} steps per run. A result is the mean return of the last {_LAST} episodes. The table has its mean"
        f" over the seeds and its deviation. All runs together took {hours:.2f} hours of a core.",
    ]


def _spread(values: Any) -> str:
    deviation = f" +- {values.std(ddof=1):,.0f}" if len(values) > 1 else ""
    return f"{values.mean():,.0f}{deviation}"


def plot(runs: Sequence[Run], num_steps: int) -> Any:
    """Returns the mean return over steps, one panel per task."""
    tasks = list(dict.fromkeys((entry.algorithm, entry.task) for entry in runs))
    figure = Figure(figsize=(3.2 * len(tasks), 3.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)
    grid = np.linspace(0, num_steps, 60)
    for axes, (algorithm, task) in zip(panels[0], tasks, strict=True):
        for arm, colour in zip(dict.fromkeys(entry.arm for entry in runs), results.COLOURS, strict=False):
            curves = [
                np.interp(grid, e.steps, _smooth(e.returns))
                for e in runs
                if (e.algorithm, e.task, e.arm) == (algorithm, task, arm)
            ]
            mean, deviation = np.mean(curves, axis=0), np.std(curves, axis=0)
            axes.plot(grid, mean, color=colour, label=arm)
            axes.fill_between(grid, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(f"{algorithm.upper()}, {task}-v5", fontsize=9)
        axes.set_xlabel("steps")
        axes.grid(visible=True, color="#d9dde3", linewidth=0.7)
    panels[0][0].set_ylabel("return")
    panels[0][0].legend(fontsize=7)
    return figure


def _smooth(returns: Sequence[float]) -> Any:
    """Returns the mean over each episode and up to nine before it."""
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(0, last - _LAST)
    return (sums[last] - sums[first]) / (last - first)
