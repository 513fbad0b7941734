"""Compares batches read from disk with direct reads of the device, under a memory limit, in one run.

    python -m experiments.device EPISODE_DIR WORK_DIR [--limit 512MiB] [--size 2GiB] [--turns 20] [--json] [--plot PNG]

Appends the episodes again and again until a store of mode `disk` holds `--size` of raw rows. A store that is there
already is continued. Then one process under the limit takes turns between two things:

- It takes a batch from the store with residency `mapped`. It measures the time, the bytes that the device delivers
  meanwhile, and the needed pages that are not cached (`mincore`, before the batch).
- It makes as many reads of a row's size at random places of the same files, past the page cache, with 1 to 16 in
  flight. Each read has its own memory, as the rows of a batch do. It also reads into the same few places again and
  again, because that is faster if the host copies out of its own cache.

For contrast it then takes a few batches through a plain memory map with the read-ahead that the device is set to, and
the same transitions in mode `full` with residency `ram`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from replaystore.cli.options import AT_LEAST_1, DIRECTORY, EXISTING_DIRECTORY, as_json, size
from replaystore.errors import ReplayStoreError
from replaystore.runtime.extras import needs, require
from replaystore.spec import DEFAULT_CHUNK_ROWS

with needs("experiments.device", "bench", in_command=__name__ == "__main__"):
    from rich.console import Console

    from experiments.device.measuring import child
    from experiments.device.run import run_device
    from experiments.device.show import plot, show

THREADS = min(4, os.cpu_count() or 1)


@click.command()
@click.argument("episodes", metavar="EPISODE_DIR", type=EXISTING_DIRECTORY)
@click.argument("work_dir", type=DIRECTORY)
@click.option("--limit", "limit_bytes", type=size, default="512MiB", show_default=True, help="Memory of the process.")
@click.option("--size", "size_bytes", type=size, default="2GiB", show_default=True, help="Raw rows to store.")
@click.option("--batch-size", type=AT_LEAST_1, default=256, show_default=True, help="Transitions per batch.")
@click.option("--threads", type=AT_LEAST_1, default=THREADS, show_default=True, help="Threads that gather a batch.")
@click.option("--turns", type=AT_LEAST_1, default=20, show_default=True, help="Batches to time.")
@click.option("--map-batches", type=click.IntRange(min=0), default=3, show_default=True, help="Through a plain map.")
@click.option("--chunk-rows", type=AT_LEAST_1, default=DEFAULT_CHUNK_ROWS, show_default=True, help="Rows per chunk.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG.")
@as_json
def main(episodes: Path, work_dir: Path, as_json: bool, plot_path: Path | None, **options: Any) -> None:
    """Compares batches of mode `disk` from files in WORK_DIR with direct random reads of the device."""
    console = Console(stderr=as_json)
    try:
        if plot_path is not None:
            require("experiments.device --plot", "bench", "matplotlib")
        with console.status("") as status:
            result = run_device(episodes, work_dir, tell=status.update, **options)
    except (ReplayStoreError, OSError) as err:
        raise click.ClickException(str(err)) from err
    if plot_path is not None:
        plot(result["figures"], plot_path)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        show(console, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
