"""`plan`: predicts the size of a store and recommends a mode."""

from __future__ import annotations

from pathlib import Path

import click

from replaystore.cli.options import AT_LEAST_1, DIRECTORY, EXISTING_DIRECTORY, as_json, frame_stack_option, size
from replaystore.cli.output import bytes_text, number_text, print_json, print_table, progress_bar


@click.command()
@click.argument("episode_dir", type=EXISTING_DIRECTORY)
@click.option("--capacity", type=AT_LEAST_1, required=True, help="Transitions that the store will hold.")
@click.option("--budget", type=size, required=True, help="RAM for it, such as 16GiB.")
@click.option("--sample-episodes", type=AT_LEAST_1, default=3, show_default=True, help="Episodes to measure.")
@frame_stack_option
@click.option("--store-dir", type=DIRECTORY, help="Where the store will be. Default: next to the episodes.")
@as_json
def plan(
    episode_dir: Path, capacity: int, budget: int, sample_episodes: int, frame_stack: int | None,
    store_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Store a few episodes of EPISODE_DIR in every mode, show what will fit, and recommend a mode."""
    from replaystore.bench.plan import plan as make_plan

    with progress_bar("measuring") as progress:
        found = make_plan(
            episode_dir, capacity, budget, sample_episodes=sample_episodes, frame_stack=frame_stack,
            store_dir=store_dir, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
        return
    rows = [
        [
            candidate.name + (" <-" if candidate.name == found.recommended else ""),
            number_text(candidate.bytes_per_transition, 1),
            f"{candidate.least_bytes_per_transition:,.1f} - {candidate.most_bytes_per_transition:,.1f}",
            bytes_text(candidate.total_bytes),
            "yes" if candidate.fits_budget else "no",
            "yes" if candidate.fits_disk else "no",
            number_text(candidate.batch_milliseconds, 2),
        ]
        for candidate in found.candidates
    ]
    columns = (
        "store",
        "bytes per transition, all fields",
        "over episodes",
        "at capacity",
        "fits RAM",
        "fits disk",
        "ms per batch",
    )
    conditions = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.conditions.items())
    print_table(
        f"{found.capacity:,} transitions, {bytes_text(found.budget_bytes)} of RAM,"
        f" {bytes_text(found.disk_free_bytes)} free on disk",
        columns,
        rows,
        caption=f"measured on {len(found.episodes)} episodes, {found.transitions:,} transitions; {conditions}",
    )
    click.echo(found.reason)
