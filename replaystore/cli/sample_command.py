"""`bench sample`: batch times of stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replaystore.cli.options import (
    AT_LEAST_1,
    EXISTING_DIRECTORY,
    FILE,
    RESIDENCIES,
    as_json,
    batch_size_option,
    list_of,
    n_step_option,
    seed_option,
    size,
    threads_option,
)
from replaystore.cli.output import bytes_text, print_json, print_table, progress_bar
from replaystore.runtime.extras import require

if TYPE_CHECKING:
    from replaystore.bench.sample_result import SampleResult

_several_residencies = list_of(click.Choice(RESIDENCIES), "residency")


def check_packages() -> None:
    """Checks that the packages that show results are installed. Commands call it before long measurements.

    Raises:
        MissingDependency: a package is not installed.
    """
    require("replaystore bench", "bench", "matplotlib", "jinja2", "psutil", "rich")


def sample_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument STORE... and the options of `run_sample` and `show_sample`."""
    options = (
        click.argument("stores", type=EXISTING_DIRECTORY, nargs=-1, required=True, metavar="STORE..."),
        click.option(
            "--residencies",
            type=_several_residencies,
            default="ram,mapped",
            show_default=True,
            help="Where bytes live.",
        ),
        batch_size_option,
        n_step_option,
        click.option("--num-batches", type=AT_LEAST_1, default=50, show_default=True, help="Batches to time."),
        threads_option,
        seed_option,
        click.option("--budget", "budget_bytes", type=size, help="RAM for each store. Default: what is available."),
        click.option("--new-arrays", is_flag=True, help="Also time stores that make new arrays for each batch."),
        click.option("--json-file", type=FILE, help="Write the figures here, as JSON."),
        click.option("--plot", "plot_file", type=FILE, help="Write a plot of bytes against time here, as PNG."),
        as_json,
    )
    for option in reversed(options):
        command = option(command)
    return command


def show_sample(result: SampleResult, *, as_json: bool, json_file: Path | None, plot_file: Path | None) -> None:
    """Prints a result, and writes the requested files.

    Args:
        result: the result of `run_sample`.
        as_json: whether to print JSON instead of a table.
        json_file: file for JSON. None writes none.
        plot_file: file for a plot. None writes none.
    """
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    if plot_file is not None:
        from replaystore.bench.sample_plot import plot_png

        plot_file.write_bytes(plot_png(result))
    if as_json:
        print_json(result.to_json())
        return
    from replaystore.bench.sample_text import conditions_text, notes, table_rows

    rows = table_rows(result)
    print_table(
        f"batches of {bytes_text(result.batch_bytes)}",
        list(rows[0]),
        [list(row.values()) for row in rows],
        caption="\n".join([*notes(result), conditions_text(result.conditions)]),
    )


@click.command()
@sample_options
def sample(
    stores: tuple[Path, ...], as_json: bool, json_file: Path | None, plot_file: Path | None, **options: Any
) -> None:
    """Time batches from each STORE, and a plain parallel copy of the same bytes.

    Everything is measured in turn, in one process.
    """
    check_packages()
    from replaystore.bench.sample import run_sample

    with progress_bar("sampling") as progress:
        result = run_sample(stores, progress=progress, **options)
    show_sample(result, as_json=as_json, json_file=json_file, plot_file=plot_file)
