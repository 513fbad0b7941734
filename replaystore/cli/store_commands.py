"""`convert`, `export`, `repack`, `info` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from replaystore.cli.options import (
    AT_LEAST_1,
    DIRECTORY,
    DURABILITIES,
    EXISTING_DIRECTORY,
    MODES,
    ROLES,
    as_json,
    chosen_frame_delta,
    frame_delta_options,
    frame_stack_option,
    pair,
    size,
)
from replaystore.cli.output import bytes_text, note, number_text, print_json, print_table, progress_bar


@click.command()
@click.argument("episode_dir", type=EXISTING_DIRECTORY)
@click.argument("store", type=DIRECTORY)
@click.option("--mode", type=click.Choice(MODES), default="full", show_default=True, help="How images are stored.")
@frame_stack_option
@click.option("--channels", type=click.Choice(("first", "last")), help="Where images have their channels.")
@click.option(
    "--role", "roles", type=pair("FIELD", "ROLE", ROLES), multiple=True, help="What a field is for. May be repeated."
)
@click.option("--skip", metavar="ARRAY", multiple=True, help="Leave an array out. May be repeated.")
@click.option(
    "--rename", type=pair("ARRAY", "FIELD"), multiple=True, help="Another name for an array. May be repeated."
)
@click.option("--allow-nonfinite", metavar="FIELD", multiple=True, help="A field with NaN or infinity.")
@click.option("--follow-links", is_flag=True, help="Convert symbolic links to files, too.")
@click.option("--capacity", type=AT_LEAST_1, help="Most transitions. The oldest episodes are evicted first.")
@click.option("--chunk-rows", type=AT_LEAST_1, help="Rows per chunk. [default: 1024, fewer for large fields]")
@frame_delta_options
@click.option("--durability", type=click.Choice(DURABILITIES), help="What commits survive. [default: process]")
@click.option("--skip-damaged", is_flag=True, help="Skip damaged files and list them, instead of stopping.")
@click.option("--max-episode-size", type=size, default="4GiB", show_default=True, help="Refuse larger episodes.")
@as_json
def convert(
    episode_dir: Path, store: Path, as_json: bool, max_episode_size: int,
    keyframe_interval: int | None, reference: str | None, entropy: str | None, level: int | None,
    roles: tuple[tuple[str, Any], ...], rename: tuple[tuple[str, str], ...], **options: Any,
) -> None:  # fmt: skip
    """Make STORE from the episode files (*.npz) in EPISODE_DIR, or add new files to it.

    The files have one array per field, in rows as DrQ-v2 writes them, or in steps as in Gym, D4RL and Minari.

    If interrupted, the same command goes on where it stopped.
    """
    from replaystore.datasets.convert import convert as convert_episodes

    frame_delta = chosen_frame_delta(
        keyframe_interval=keyframe_interval, reference=reference, entropy=entropy, level=level
    )
    with progress_bar("converting") as progress:
        report = convert_episodes(
            episode_dir, store, frame_delta=frame_delta, max_bytes=max_episode_size, roles=dict(roles) or None,
            rename=dict(rename), progress=progress, **options,
        )  # fmt: skip
    for text in report.notes:
        note(f"replaystore: note: {text}")
    for skipped in report.skipped:
        note(f"replaystore: skipped {skipped.file}: {skipped.reason}")
    if as_json:
        print_json(report.to_json())
    else:
        skipped_text = f", {len(report.skipped)} skipped" if report.skipped else ""
        click.echo(
            f"{store}: {report.converted:,} episodes ({report.transitions:,} transitions) added in"
            f" {report.seconds:.1f} s, {report.already_present:,} were there{skipped_text}"
        )


@click.command()
@click.argument("store", type=EXISTING_DIRECTORY)
@click.argument("episode_dir", type=DIRECTORY)
@as_json
def export(store: Path, episode_dir: Path, as_json: bool) -> None:
    """Write the episodes of STORE as DrQ-v2 episode files into EPISODE_DIR."""
    from replaystore.datasets.export import export as export_episodes

    with progress_bar("exporting") as progress:
        report = export_episodes(store, episode_dir, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(
            f"{episode_dir}: {report.written:,} episodes written in {report.seconds:.1f} s,"
            f" {report.already_present:,} were there; {report.transitions:,} transitions"
        )


@click.command()
@click.argument("store", type=EXISTING_DIRECTORY)
@click.argument("out", type=DIRECTORY)
@click.option("--mode", type=click.Choice(MODES), help="How images are stored. [default: as in STORE]")
@click.option("--chunk-rows", type=AT_LEAST_1, help="Rows per chunk. [default: as in STORE]")
@frame_delta_options
@click.option("--durability", type=click.Choice(DURABILITIES), help="What commits survive. [default: as in STORE]")
@as_json
def repack(
    store: Path, out: Path, as_json: bool,
    keyframe_interval: int | None, reference: str | None, entropy: str | None, level: int | None, **options: Any,
) -> None:  # fmt: skip
    """Write the episodes of STORE into a new store OUT, with another image codec or mode, and compare them.

    Without options, images get the codec that new stores have. STORE is not changed.
    """
    from replaystore.datasets.repack import repack as repack_store

    frame_delta = chosen_frame_delta(
        keyframe_interval=keyframe_interval, reference=reference, entropy=entropy, level=level
    )
    with progress_bar("repacking") as progress:
        report = repack_store(store, out, frame_delta=frame_delta, progress=progress, **options)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(
            f"{out}: {report.episodes:,} episodes ({report.transitions:,} transitions) in {report.seconds:.1f} s, all"
            f" equal; {bytes_text(report.bytes_before)} before, {bytes_text(report.bytes_after)} now"
        )


@click.command()
@click.argument("store", type=EXISTING_DIRECTORY)
@as_json
def info(store: Path, as_json: bool) -> None:
    """Show what STORE holds and how large it is."""
    from replaystore.datasets.sources import read_sources
    from replaystore.store import ReplayStore

    with ReplayStore.open(store, read_only=True, residency="mapped") as opened:
        statistics = opened.info()
    sources = read_sources(store)
    statistics["conversion"] = None if sources is None else "complete" if sources.complete else "incomplete"
    if as_json:
        print_json(statistics)
        return
    rows = [
        [name, entry["role"], entry["dtype"], "x".join(map(str, entry["shape"])) or "-", _scheme_text(entry["scheme"]),
         bytes_text(entry["bytes_on_disk"]), number_text(entry["values_clamped"])]
        for name, entry in statistics["fields"].items()
    ]  # fmt: skip
    summary = [
        ("mode", statistics["mode"]),
        ("transitions", number_text(statistics["transitions"])),
        ("episodes", number_text(statistics["episodes"])),
        ("capacity", number_text(statistics["capacity"])),
        ("bytes on disk", f"{statistics['bytes_on_disk']:,} ({bytes_text(statistics['bytes_on_disk'])})"),
        ("bytes per transition, observations", number_text(statistics["observation_bytes_per_transition"], 1)),
        ("bytes per transition, all fields", number_text(statistics["bytes_per_transition"], 1)),
        ("compression factor", number_text(statistics["compression_factor"], 2)),
        ("rows per chunk", number_text(statistics["chunk_rows"])),
        ("chunks", number_text(statistics["chunks"])),
        ("rows not in a chunk yet", number_text(statistics["rows_in_tail"])),
        ("durability", statistics["durability"]),
        ("conversion", statistics["conversion"] or "-"),
    ]
    print_table(str(store), ("", ""), summary)
    print_table("fields", ("field", "role", "dtype", "shape", "scheme", "on disk", "clamped"), rows)


def _scheme_text(scheme: dict[str, Any] | None) -> str:
    if scheme is None:
        return "raw"
    name = str(scheme["id"]).removeprefix("replaystore.")
    if name == "frame_delta":
        return f"{name} {scheme['entropy']} {scheme['level']}, {scheme['reference']}, {scheme['keyframe_interval']}"
    return f"{name} {scheme['decimals']}" if name == "round_clamp" else name


@click.command()
@click.argument("store", type=EXISTING_DIRECTORY)
@as_json
@click.pass_context
def verify(context: click.Context, store: Path, as_json: bool) -> None:
    """Compare every byte of STORE with its log. If something is wrong, list it and exit with code 1."""
    from replaystore.errors import DamageError
    from replaystore.store import ReplayStore

    try:
        with (
            ReplayStore.open(store, read_only=True, residency="mapped") as opened,
            progress_bar("verifying") as progress,
        ):
            report = opened.verify(progress=progress)
    except DamageError as err:  # too damaged to open
        problems, num_files, num_bytes = [str(err)], 0, 0
    else:
        problems, num_files, num_bytes = report.problems, report.num_files, report.num_bytes
    if as_json:
        print_json({"ok": not problems, "problems": problems, "num_files": num_files, "num_bytes": num_bytes})
    elif not problems:
        click.echo(f"{store}: {num_files:,} files, {num_bytes:,} bytes: all as written")
    for problem in problems:
        note(f"replaystore: problem: {problem}")
    if problems:
        context.exit(1)
