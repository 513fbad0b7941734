"""`bench`: measurements with your own data on your own machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replaystore.cli.options import (
    AT_LEAST_1,
    CONTENDERS,
    DIRECTORY,
    DURABILITIES,
    EXISTING_DIRECTORY,
    FILE,
    MODES,
    as_json,
    batch_size_option,
    chosen_frame_delta,
    frame_delta_options,
    frame_stack_option,
    list_of,
    n_step_option,
    seed_option,
    size,
    threads_option,
)
from replaystore.cli.output import bytes_text, note, number_text, print_json, print_rich, print_table, progress_bar
from replaystore.cli.sample_command import check_packages, sample

if TYPE_CHECKING:
    from replaystore.bench.spread import Spread

_several_modes = list_of(click.Choice(MODES), "mode")
_several_contenders = list_of(click.Choice(CONTENDERS), "mode")
_multiples = list_of(float, "float")
_modes = click.option(
    "--modes", type=_several_modes, default=",".join(MODES), show_default=True, help="Modes to compare."
)


@click.group()
def bench() -> None:
    """Measure on your own data and machine. Needs `pip install 'replaystore[bench]'`."""


bench.add_command(sample)


@bench.command()
@click.argument("episode_dir", type=EXISTING_DIRECTORY)
@click.option("--limit", "limit_bytes", type=size, default="1GiB", show_default=True, help="Memory limit.")
@click.option(
    "--sizes",
    type=_multiples,
    default="0.5,1,2,4,8",
    show_default=True,
    help="Data, in multiples of the limit.",
)
@click.option(
    "--modes", type=_several_contenders, default=",".join(MODES), show_default=True,
    help="Modes to compare, with or without a residency, NumPy's memmap, and DrQ-v2's loader.",
)  # fmt: skip
@click.option("--drqv2", type=EXISTING_DIRECTORY, help="Checkout of DrQ-v2, for the mode of that name.")
@click.option("--work-dir", type=DIRECTORY, required=True, help="For the stores. They are kept and reused.")
@click.option("--out-dir", type=DIRECTORY, help="For the report (JSON, Markdown, PNG, HTML). Default: no report.")
@batch_size_option
@n_step_option
@click.option("--num-batches", type=AT_LEAST_1, default=100, show_default=True, help="Batches to time.")
@click.option("--max-seconds", type=float, default=120.0, show_default=True, help="Stop timing after this time.")
@threads_option
@seed_option
@frame_stack_option
@frame_delta_options
@as_json
def paging(
    episode_dir: Path, work_dir: Path, out_dir: Path | None, drqv2: Path | None, as_json: bool,
    keyframe_interval: int | None, reference: str | None, entropy: str | None, level: int | None, **options: Any,
) -> None:  # fmt: skip
    """Show what happens to batch times as the data outgrows memory, in each mode.

    The recorded episodes in EPISODE_DIR are stored again and again until there is enough data. If interrupted, the same
    command goes on.
    """
    check_packages()
    from replaystore.bench.paging import run_paging
    from replaystore.bench.paging_config import PagingConfig

    frame_delta = chosen_frame_delta(
        keyframe_interval=keyframe_interval, reference=reference, entropy=entropy, level=level
    )
    checkout = None if drqv2 is None else str(drqv2)
    config = PagingConfig(
        episode_dir=str(episode_dir), work_dir=str(work_dir), drqv2=checkout, frame_delta=frame_delta, **options
    )
    result = run_paging(config, progress=note)
    if out_dir is not None:
        from replaystore.bench.report import write_report

        files = write_report(result, out_dir)
        note(f"replaystore: report in {files.html}")
    if as_json:
        print_json(result.to_json())
    else:
        from replaystore.bench.report import to_table

        print_rich(to_table(result))


@bench.command()
@click.argument("episode_dir", type=EXISTING_DIRECTORY)
@_modes
@click.option("--episodes", type=AT_LEAST_1, default=8, show_default=True, help="Episodes to append in each repeat.")
@click.option("--repeats", type=AT_LEAST_1, default=5, show_default=True, help="Repeats.")
@click.option("--threads", type=AT_LEAST_1, default=2, show_default=True, help="Threads of the plain write.")
@click.option("--durability", type=click.Choice(DURABILITIES), default="process", show_default=True)
@frame_stack_option
@frame_delta_options
@click.option("--work-dir", type=EXISTING_DIRECTORY, help="Where to write. Default: the temporary directory.")
@as_json
def write(
    episode_dir: Path, as_json: bool,
    keyframe_interval: int | None, reference: str | None, entropy: str | None, level: int | None, **options: Any,
) -> None:  # fmt: skip
    """Time appending the episodes of EPISODE_DIR in each mode, and a plain parallel write of the same bytes."""
    check_packages()
    from replaystore.bench.sample_text import conditions_text
    from replaystore.bench.write import run_write

    frame_delta = chosen_frame_delta(
        keyframe_interval=keyframe_interval, reference=reference, entropy=entropy, level=level
    )
    with progress_bar("writing") as progress:
        result = run_write(episode_dir, frame_delta=frame_delta, progress=progress, **options)
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        [
            entry.mode or "plain files",
            *_spread_texts(entry.rows_per_second, 0),
            number_text(None if entry.append_milliseconds is None else entry.append_milliseconds.median, 2),
            number_text(entry.megabytes_per_second),
        ]
        for entry in result.times
    ]
    print_table(
        f"{result.rows:,} rows, {bytes_text(result.num_bytes)} as raw stacks",
        ("mode", "rows/s", "p5 - p95", "ms per append", "MB/s"),
        rows,
        caption=conditions_text(result.conditions),
    )


def _spread_texts(spread: Spread, digits: int) -> tuple[str, str]:
    return number_text(spread.median, digits), f"{spread.p5:,.{digits}f} - {spread.p95:,.{digits}f}"


@bench.command()
@click.argument("stores", type=EXISTING_DIRECTORY, nargs=-1, required=True, metavar="STORE...")
@batch_size_option
@n_step_option
@click.option("--num-batches", type=AT_LEAST_1, default=50, show_default=True, help="Batches to time.")
@seed_option
@click.option("--plot", "plot_file", type=FILE, help="Write a plot here, as PNG.")
@as_json
def stages(stores: tuple[Path, ...], as_json: bool, plot_file: Path | None, **options: Any) -> None:
    """Show where the time of a batch from each STORE goes, stage by stage, on one thread, with chunks in RAM."""
    check_packages()
    from replaystore.bench.sample_text import conditions_text
    from replaystore.bench.stages import run_stages

    with progress_bar("stages") as progress:
        result = run_stages(stores, progress=progress, **options)
    if plot_file is not None:
        from replaystore.bench.stages_plot import plot_png

        plot_file.write_bytes(plot_png(result))
    if as_json:
        print_json(result.to_json())
        return
    titles = [
        "store", "mode", "ms per batch", "draw", "lookup", "blocks", "differences", "write", "groups", "MB decoded",
    ]  # fmt: skip
    rows = [
        [
            Path(entry.store).name, entry.mode, f"{entry.total:.2f}", f"{entry.draw:.2f}", f"{entry.lookup:.2f}",
            f"{entry.blocks:.2f}", f"{entry.differences:.2f}", f"{entry.write:.2f}", f"{entry.groups:.0f}",
            f"{entry.compressed_bytes / 1e6:.1f}",
        ]
        for entry in result.stores
    ]  # fmt: skip
    print_table("where the time of a batch goes", titles, rows, caption=conditions_text(result.conditions))
