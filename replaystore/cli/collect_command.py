"""`collect`: records episodes with dm_control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from replaystore.cli.options import AT_LEAST_1, DIRECTORY, as_json
from replaystore.cli.output import print_json, progress_bar


@click.command()
@click.argument("task")
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--episodes", type=click.IntRange(min=0), default=1, show_default=True, help="Number of episodes, from number 0."
)
@click.option("--grayscale", is_flag=True, help="One luma channel instead of RGB.")
@click.option("--black-floor", is_flag=True, help="Paint the ground black, as in the published comparison.")
@click.option("--frame-stack", type=AT_LEAST_1, default=3, show_default=True, help="Frames in an observation.")
@click.option("--action-repeat", type=AT_LEAST_1, default=2, show_default=True, help="Environment steps per row.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of actions and environment."
)
@click.option("--fast-render", is_flag=True, help="No shadows, no multisampling. Faster, but the images differ.")
@click.option("--image-size", type=AT_LEAST_1, default=84, show_default=True, help="Height and width in pixels.")
@click.option(
    "--max-steps", type=AT_LEAST_1, help="Most rows per episode after the reset. Default: until the task ends."
)
@as_json
def collect(task: str, directory: Path, as_json: bool, **options: Any) -> None:
    """Record episodes of a DeepMind Control Suite TASK, such as walker_walk, into DIRECTORY.

    Actions are random and smooth. Existing episodes are kept. Needs `pip install 'replaystore[dmc]'`.
    """
    from replaystore.collect import CollectConfig
    from replaystore.collect import collect as collect_episodes

    config = CollectConfig(task=task, **options)
    recorded: list[Path] = []
    with progress_bar("recording") as progress:

        def on_episode(index: int, path: Path, is_new: bool) -> None:
            if is_new:
                recorded.append(path)
            progress(index + 1, config.episodes)

        progress(0, config.episodes)
        paths = collect_episodes(config, directory, on_episode=on_episode)
    if as_json:
        data = {"config": config.to_json(), "files": [path.name for path in paths], "recorded": len(recorded)}
        print_json(data)
    else:
        click.echo(f"{directory}: {len(recorded):,} episodes recorded, {len(paths) - len(recorded):,} were there")
