"""The commands of the package."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.workloads.atari import GAMES, AtariConfig, record_game
from experiments.workloads.atari_sizes import CONFIGURATIONS, measure_sizes
from experiments.workloads.humanoid import HumanoidConfig, record_humanoid
from experiments.workloads.quantised import measure
from replaystore.cli.options import AT_LEAST_1, DIRECTORY, EXISTING_DIRECTORY, as_json
from replaystore.cli.output import note, number_text, print_json, print_table, progress_bar
from replaystore.errors import ReplayStoreError


class _KindErrors(click.Group):
    """Prints errors of the package as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ReplayStoreError as err:
            note(f"error: {err}")
            ctx.exit(1)


@click.group(cls=_KindErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Records workloads, and measures stores with them."""


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--games", multiple=True, default=GAMES, show_default=True, help="A game of ALE. Can be repeated.")
@click.option("--steps", type=AT_LEAST_1, default=4000, show_default=True, help="Transitions per game.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of actions and games.")
@click.option("--episode-limit", type=AT_LEAST_1, default=27_000, show_default=True, help="Transitions.")
def atari(directory: Path, games: tuple[str, ...], steps: int, seed: int, episode_limit: int) -> None:
    """Record Atari games with random actions, each into its own directory in DIRECTORY.

    Records whole episodes until there are at least --steps transitions. Skips a game that has them already.
    """
    for game in games:
        config = AtariConfig(game=game, seed=seed, episode_limit=episode_limit)
        with progress_bar(game) as progress:
            done = record_game(config, directory / game, steps, progress)
        click.echo(f"{done.directory}: {done.transitions:,} transitions, {done.new_episodes} new episodes")


@main.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--steps", type=AT_LEAST_1, default=20_000, show_default=True, help="Transitions.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of actions and environment.")
def humanoid(directory: Path, steps: int, seed: int) -> None:
    """Record the proprioception of Humanoid-v5 with random actions into DIRECTORY.

    Records whole episodes until there are at least --steps transitions. Keeps existing episodes.
    """
    with progress_bar("Humanoid-v5") as progress:
        done = record_humanoid(HumanoidConfig(seed=seed), directory, steps, progress)
    click.echo(f"{done.directory}: {done.transitions:,} transitions, {done.new_episodes} new episodes")


@main.command("atari-sizes")
@click.argument("directory", type=EXISTING_DIRECTORY)
@click.option("--configuration", "names", multiple=True, default=tuple(CONFIGURATIONS), help="Default: all.",
              type=click.Choice(tuple(CONFIGURATIONS)))  # fmt: skip
@as_json
def atari_sizes(directory: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Measure how much smaller than raw stacks the games recorded in DIRECTORY are in mode full."""
    with progress_bar("games") as progress:
        result = measure_sizes(directory, names, progress=progress)
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        [game.game, number_text(game.transitions), number_text(game.observation_bytes_per_transition[names[0]], 1),
         *(f"{game.raw_bytes / game.observation_bytes_per_transition[name]:.1f}" for name in names)]
        for game in result.games
    ]  # fmt: skip
    mean = sum(game.observation_bytes_per_transition[names[0]] for game in result.games) / len(result.games)
    factors = (f"{result.average_factors[name]:.1f}" for name in names)
    rows.append(["ratio of mean bytes", "", number_text(mean, 1), *factors])
    columns = ("game", "transitions", f"bytes per transition, observations ({names[0]})", *names)
    print_table("Raw stacks against stored observations, factor", columns, rows)


@main.command()
@click.argument("directory", type=EXISTING_DIRECTORY)
@click.option("--batch-size", type=AT_LEAST_1, default=256, show_default=True, help="Transitions.")
@click.option("--repeats", type=AT_LEAST_1, default=300, show_default=True, help="Batches per way of storing.")
@click.option("--threads", type=AT_LEAST_1, default=1, show_default=True, help="Threads that work on one batch.")
@as_json
def quantised(directory: Path, batch_size: int, repeats: int, threads: int, as_json: bool) -> None:
    """Measure size and batch time of the observations recorded in DIRECTORY, plain, and rounded and clamped.

    Also measures stable-baselines3 if it is installed.
    """
    with progress_bar("batches") as progress:
        result = measure(directory, batch_size=batch_size, repeats=repeats, threads=threads, progress=progress)
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        [way.name, number_text(way.bits, 2), number_text(way.row_bytes, 1), number_text(way.share, 4),
         "-" if way.share is None or way.ideal is None else f"{way.share / way.ideal:.4f}",
         "-" if way.clamped is None else f"{way.clamped:.3%}", number_text(way.largest_error, 6),
         *([] if way.milliseconds is None else
           (f"{value:.3f}" for value in (way.milliseconds.median, way.milliseconds.p5, way.milliseconds.p95)))]
        for way in result.ways
    ]  # fmt: skip
    columns = (
        "observations", "bits per value", "bytes per row", "of float64", "of bits / 64", "clamped", "largest error",
        "ms per batch, p50", "p5", "p95",
    )  # fmt: skip
    caption = ", ".join(f"{key} {value}" for key, value in result.conditions.items() if value is not None)
    print_table(f"{result.rows:,} rows, {result.transitions:,} transitions", columns, rows, caption)


if __name__ == "__main__":
    main()
