"""The published table of Atari, with what was measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.atari.sizes import Sizes, measure_sizes
from experiments.atari.speed import measure_speed
from experiments.atari.training import ALGORITHMS, TrainingConfig
from experiments.drqv2 import results
from experiments.kept_files import kept
from experiments.paired_blocks import PairedBlocks
from experiments.published.formulas import ATARI_FACTORS, average_factor

_TITLES = {"ppo": "PPO", "qrdqn": "QR-DQN"}
_TEXT = ("game", "algorithm")
_MB = 1e6
BUFFER_ROWS = {"ppo": 1024, "qrdqn": 100_000}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of one game and algorithm, ours beside the original."""

    game: str
    algorithm: str
    blocks: PairedBlocks

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        low, high = self.blocks.interval
        figures = {"time_ratio": self.blocks.ratio, "low": low, "high": high}
        return {"game": self.game, "algorithm": self.algorithm, **figures, **self.blocks.to_json()}


def run(
    config: TrainingConfig, games: Sequence[str], speed_games: Sequence[str], directory: Path, *, rollouts: int,
    rows: int, blocks: int, block_steps: int, tell: Callable[[str], None],
) -> tuple[list[Sizes], list[Speed]]:  # fmt: skip
    """Makes the missing measurements, and returns all. Each game and algorithm is a file, so a run can be interrupted.

    Args:
        config: what is trained, with another game and algorithm each time.
        games: games whose sizes are measured.
        speed_games: games whose speed is measured.
        directory: directory of the measurements.
        rollouts: rollouts of PPO.
        rows: rows of QR-DQN.
        blocks: blocks of each speed.
        block_steps: steps per block of QR-DQN.
        tell: called with a line of text for each measurement.
    """
    sizes, speeds = [], []
    for algorithm in ALGORITHMS:
        for game in games:
            chosen = replace(config, game=game, algorithm=algorithm)
            amount = rollouts if algorithm == "ppo" else rows
            path = directory / f"sizes_{chosen.name}_{amount}.json"
            found = Sizes(**kept(path, lambda chosen=chosen, amount=amount: measure_sizes(chosen, amount).to_json()))
            tell(f"{game}, {algorithm}: {found.raw_bytes / found.our_bytes:.1f} times smaller")
            sizes.append(found)
    for algorithm in ALGORITHMS:
        for game in speed_games:
            chosen = replace(config, game=game, algorithm=algorithm)
            path = directory / f"speed_{chosen.name}_{blocks}_{block_steps}.json"
            data = kept(path, lambda chosen=chosen: measure_speed(chosen, blocks, block_steps).to_json())
            speeds.append(Speed(game=game, algorithm=algorithm, blocks=PairedBlocks.from_json(data)))
            tell(f"{game}, {algorithm}: {speeds[-1].blocks.ratio:.3f} of the time")
    return sizes, speeds


def _size_rows(sizes: Sequence[Sizes], algorithm: str) -> list[dict[str, str]]:
    rows = BUFFER_ROWS[algorithm]
    found = [entry for entry in sizes if entry.algorithm == algorithm]
    lines = []
    for entry in found:
        scale = 1.0 if algorithm == "ppo" else rows
        scaled = (scale * value for value in (entry.raw_bytes, entry.published_bytes, entry.our_bytes))
        lines.append((entry.game, *scaled, entry.episodes, entry.mean_return))
    means = tuple(float(np.mean([line[k] for line in lines])) for k in (1, 2, 3))
    lines.append(("mean, ratio of means", *means, sum(line[4] for line in lines), None))
    return [
        {
            "game": game,
            "raw stacks, MB": f"{raw / _MB:,.1f}",
            "published scheme, MB": f"{published / _MB:,.2f}",
            "factor": f"{raw / published:.1f}",
            "ours, MB": f"{ours / _MB:,.2f}",
            "our factor": f"{raw / ours:.1f}",
            "episodes": f"{episodes:,}",
            "mean return": "-" if mean_return is None else f"{mean_return:.1f}",
        }
        for game, raw, published, ours, episodes, mean_return in lines
    ]


def factors(sizes: Sequence[Sizes], algorithm: str) -> tuple[float, float]:
    """Returns the factors of the published scheme and of ours, ratios of mean bytes over the games."""
    found = [entry for entry in sizes if entry.algorithm == algorithm]
    raw = [entry.raw_bytes for entry in found]
    return (
        average_factor(raw, [entry.published_bytes for entry in found]),
        average_factor(raw, [entry.our_bytes for entry in found]),
    )


def lines_of(sizes: Sequence[Sizes], speeds: Sequence[Speed], settings: dict[str, Any]) -> list[str]:
    """Returns the generated part of the page."""
    lines = []
    for algorithm in ALGORITHMS:
        of_scheme, of_ours = factors(sizes, algorithm)
        size = "a rollout of 8 x 128 rows" if algorithm == "ppo" else "10^5 transitions"
        lines += [
            f"### {_TITLES[algorithm]}, {size}", "",
            f"Observations take {of_ours:.1f} times fewer bytes than raw stacks, with the published scheme"
            f" {of_scheme:.1f} times. Published: {ATARI_FACTORS[algorithm]} times.", "",
            *results.table(_size_rows(sizes, algorithm), _TEXT), "",
        ]  # fmt: skip
    rows = [
        {
            "algorithm": _TITLES[entry.algorithm],
            "game": entry.game,
            "steps per block": f"{entry.blocks.steps:,}",
            "pairs": str(len(entry.blocks.our_seconds)),
            "stable-baselines3, steps/s": f"{entry.blocks.steps / np.median(entry.blocks.original_seconds):,.1f}",
            "ours, steps/s": f"{entry.blocks.steps / np.median(entry.blocks.our_seconds):,.1f}",
            "time, ours / original": f"{entry.blocks.ratio:.3f}",
            "95% interval": "{:.3f} to {:.3f}".format(*entry.blocks.interval),
        }
        for entry in speeds
    ]
    stated = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return [*lines, "### Speed", "", *results.table(rows, _TEXT), "", f"Settings: {stated}."]


def plot(sizes: Sequence[Sizes]) -> Any:
    """Returns a picture of the factors by game."""
    figure, axes = results.new_axes(9.0, 4.6)
    games = list(dict.fromkeys(entry.game for entry in sizes))
    width = 0.2
    bars = [(algorithm, name) for algorithm in ALGORITHMS for name in ("published_bytes", "our_bytes")]
    for number, (algorithm, name) in enumerate(bars):
        values = [
            next((e.raw_bytes / getattr(e, name) for e in sizes if (e.game, e.algorithm) == (game, algorithm)), 0.0)
            for game in games
        ]
        places = np.arange(len(games)) + (number - 1.5) * width
        label = f"{_TITLES[algorithm]}, {'published scheme' if name == 'published_bytes' else 'ours'}"
        axes.bar(places, values, width, label=label, color=results.COLOURS[number])
    axes.set_xticks(np.arange(len(games)), games, rotation=30, ha="right")
    axes.set_yscale("log")
    axes.set_ylabel("times smaller than raw stacks")
    axes.legend(fontsize=8)
    return figure
