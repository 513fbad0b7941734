"""The commands of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from experiments.workloads.atari import GAMES
from replaystore.cli.options import AT_LEAST_1, DIRECTORY
from replaystore.cli.output import note
from replaystore.runtime.extras import needs

with needs("experiments.atari", "sb3", "atari", "bench", in_command=True):
    import torch

    from experiments.atari import table as atari_table
    from experiments.atari.training import TrainingConfig
    from experiments.drqv2 import results


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Atari with stable-baselines3."""


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--games", multiple=True, default=GAMES, show_default=True, help="A game of ALE. Can be repeated.")
@click.option("--speed-games", multiple=True, default=("Pong", "Breakout"), show_default=True, help="Can be repeated.")
@click.option("--version", type=click.Choice(["v4", "v5"]), default="v4", show_default=True, help="v5: sticky actions.")
@click.option("--rollouts", type=AT_LEAST_1, default=5, show_default=True, help="Rollouts of PPO per game.")
@click.option("--rows", type=AT_LEAST_1, default=6000, show_default=True, help="Rows of QR-DQN per game.")
@click.option("--blocks", type=click.IntRange(min=2), default=6, show_default=True, help="Pairs of blocks per speed.")
@click.option("--block-steps", type=AT_LEAST_1, default=500, show_default=True, help="Steps of QR-DQN per block.")
@click.option("--docs", type=click.Path(path_type=Path), help="Page to write the results into.")
def table(
    directory: Path, games: tuple[str, ...], speed_games: tuple[str, ...], docs: Path | None, **options: Any
) -> None:
    """Measure memory and speed of PPO and QR-DQN in DIRECTORY. An interrupted run goes on.

    The published table has 10^7 steps per game: --rollouts 9766 --rows 10000000.
    """
    torch.set_num_threads(1)
    version = options.pop("version")
    config = TrainingConfig(game=games[0], algorithm="ppo", version=version)
    sizes, speeds = atari_table.run(config, games, speed_games, directory, tell=note, **options)
    stated = results.stated_conditions(directory)
    settings = {"version": version, **options, "seed": config.seed, "torch_threads": 1}
    lines = [*atari_table.lines_of(sizes, speeds, settings), "", results.condition_line(stated)]
    data = {
        "settings": settings,
        "sizes": [entry.to_json() for entry in sizes],
        "speeds": [entry.to_json() for entry in speeds],
        "conditions": stated,
    }
    results.save_result("atari", directory, data, lines, atari_table.plot(sizes), None if docs is None else str(docs))


if __name__ == "__main__":
    main()
