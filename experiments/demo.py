"""`make demo`: real episodes from rendering to a report on paging, in a few minutes.

    python -m experiments.demo OUTPUT_DIR [--episodes 4] [--limit-mib 512]

Records episodes of `walker_walk` and converts them to all three modes. Without OpenGL it takes the recorded episodes
that come with the project. Then it measures batches under a memory limit at two sizes. The smaller one fits into memory
in every mode, the larger one does not fit in mode `disk`. The next run uses what is in OUTPUT_DIR again.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from experiments import RECORDED
from replaystore.collect import CollectConfig, RenderingUnavailable, collect
from replaystore.datasets.convert import convert
from replaystore.runtime.extras import needs
from replaystore.spec import MODES

with needs("experiments.demo", "bench", "dmc", in_command=__name__ == "__main__"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from replaystore import ReplayStore
    from replaystore.bench.paging import run_paging
    from replaystore.bench.paging_config import PagingConfig
    from replaystore.bench.report import to_table, write_report

SIZES = (0.5, 4.0)  # raw stacked data as multiples of the limit
STEPS = 500  # per episode: 1,000 frames of the simulator, two per step


def record(console: Console, directory: Path, episodes: int) -> Path:
    """Returns a directory of episode files. It is `directory` if recording works, or else that of the project."""
    config = CollectConfig(task="walker_walk", episodes=episodes, seed=0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("recording walker_walk", total=episodes * (STEPS + 1))
        try:
            collect(
                config,
                directory,
                on_step=lambda episode, rows: progress.update(bar, completed=episode * (STEPS + 1) + rows),
                on_episode=lambda episode, path, now: progress.update(bar, completed=(episode + 1) * (STEPS + 1)),
            )
        except RenderingUnavailable as err:
            progress.stop()
            console.print(f"[yellow]No rendering here:[/] {err}")
            console.print(f"Using the recorded episodes in {RECORDED}.")
            return RECORDED
    return directory


def convert_all(console: Console, episodes: Path, output: Path) -> None:
    """Converts the episodes to every mode and prints what each takes."""
    table = Table(title="The same episodes in three modes")
    for heading in ("mode", "transitions", "bytes per transition, observations", "factor", "converted in"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for mode in MODES:
        path = output / "stores" / mode
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        convert(episodes, path, mode=mode)
        seconds = time.perf_counter() - started
        with ReplayStore.open(path, read_only=True, residency="mapped") as store:
            info = store.info()
            problems = store.verify().problems
        if problems:
            raise SystemExit("\n".join(problems))
        table.add_row(
            mode,
            f"{info['transitions']:,}",
            f"{info['observation_bytes_per_transition']:,.0f}",
            f"{info['compression_factor']:.1f}x",
            f"{seconds:.1f} s",
        )
    console.print(table)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--episodes", default=4, show_default=True, help="Episodes to record.")
@click.option("--limit-mib", default=512, show_default=True, help="Memory limit of the benchmark, in MiB.")
@click.option("--batches", default=100, show_default=True, help="Batches to time.")
def main(output: Path, episodes: int, limit_mib: int, batches: int) -> None:
    """Runs the demo."""
    console = Console(stderr=False, width=None if sys.stdout.isatty() else 140)
    directory = record(console, output / "episodes", episodes)
    convert_all(console, directory, output)
    config = PagingConfig(
        episode_dir=str(directory),
        work_dir=str(output / "paging"),
        limit_bytes=limit_mib << 20,
        sizes=SIZES,
        num_batches=batches,
        max_seconds=40.0,
    )
    result = run_paging(config, progress=lambda line: console.print(f"  {line}", highlight=False))
    files = write_report(result, output)
    console.print(to_table(result))
    console.print(
        f"table   {files.markdown}", f"plot    {files.png}", f"figures {files.json}", sep="\n", soft_wrap=True
    )
    console.print(f"report  {files.html}", soft_wrap=True)


if __name__ == "__main__":
    main()
