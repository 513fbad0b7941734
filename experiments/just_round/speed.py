"""Table I of Just Round: milliseconds per step, with the buffer of stable-baselines3 and with ours, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.drqv2 import results
from experiments.just_round.tasks import (
    PPO_STEPS,
    TASKS,
    Algorithm,
    make_environment,
    make_model,
    published_codec,
)
from experiments.kept_files import kept
from experiments.paired_blocks import PairedBlocks, time_in_turns

_SAC_STEPS = 1000
_SAC_BUFFER = 100_000
_WIDTHS = {("sac", "Walker2d"): (64, 256)}
"""Units of the layers, where they are not 64 alone. 256 is the default of SAC."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Blocks of one algorithm, task and width of the networks."""

    algorithm: Algorithm
    task: str
    width: int
    blocks: PairedBlocks

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        low, high = self.blocks.interval
        named = {"algorithm": self.algorithm, "task": self.task, "width": self.width}
        return {**named, "ratio": self.blocks.ratio, "low": low, "high": high, **self.blocks.to_json()}


def measure(algorithm: Algorithm, task: str, width: int, num_blocks: int) -> PairedBlocks:
    """Trains two models in turns: 2,048 steps per block (PPO) or 1,000 (SAC), after one block that does not count."""
    steps = PPO_STEPS if algorithm == "ppo" else _SAC_STEPS
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory(prefix="just-round-")), "store")
        models = []
        for codec in (None, published_codec(algorithm)):
            env = make_environment(task)
            stack.callback(env.close)
            models.append(
                make_model(algorithm, env, round_clamp=codec, path=path, buffer_size=_SAC_BUFFER, width=width)
            )
        if algorithm == "sac":
            stack.callback(models[1].replay_buffer.close)
        for model in models:
            model.learn(steps, reset_num_timesteps=False)
        original, ours = models
        return time_in_turns(
            lambda: original.learn(steps, reset_num_timesteps=False),
            lambda: ours.learn(steps, reset_num_timesteps=False),
            num_blocks=num_blocks,
            steps=steps,
        )


def run(directory: Path, algorithms: Sequence[Algorithm], num_blocks: int, tell: Callable[[str], None]) -> list[Speed]:
    """Makes the missing measurements, and returns all.

    Args:
        directory: directory of the measurements, which are kept.
        algorithms: some of `ALGORITHMS`.
        num_blocks: blocks of each model.
        tell: called with a line of text for each measurement.
    """
    found = []
    for algorithm in algorithms:
        for task in TASKS:
            for width in _WIDTHS.get((algorithm, task), (64,)):
                path = directory / f"speed_{algorithm}_{task}_{width}_{num_blocks}.json"
                asked = (algorithm, task, width, num_blocks)
                data = kept(path, lambda asked=asked: measure(*asked).to_json())
                blocks = PairedBlocks.from_json(data)
                found.append(Speed(algorithm=algorithm, task=task, width=width, blocks=blocks))
                tell(f"{task}, {algorithm}, {width}: {blocks.ratio:.3f} of the time")
    return found


def lines_of(speeds: Sequence[Speed]) -> list[str]:
    """Returns the generated part of the page."""
    rows = [
        {
            "algorithm": entry.algorithm.upper(),
            "task": f"{entry.task}-v5",
            "networks": f"2 x {entry.width}",
            "pairs of blocks": str(len(entry.blocks.our_seconds)),
            "original, ms per step": _milliseconds(entry.blocks.original_seconds, entry.blocks.steps),
            "ours, ms per step": _milliseconds(entry.blocks.our_seconds, entry.blocks.steps),
            "time, ours / original": f"{entry.blocks.ratio:.3f}",
            "95% interval": "{:.3f} to {:.3f}".format(*entry.blocks.interval),
        }
        for entry in speeds
    ]
    return results.table(rows, ("algorithm", "task"))


def _milliseconds(seconds: Sequence[float], steps: int) -> str:
    return f"{1000 * float(np.median(seconds)) / steps:.2f}"
