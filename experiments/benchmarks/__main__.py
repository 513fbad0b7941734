"""Compares stores in several configurations with other replay buffers, and writes docs/benchmarks.md.

    python -m experiments.benchmarks WORK_DIR --walker-rgb DIR --walker-gray DIR --quadruped-rgb DIR --atari DIR \\
        --humanoid DIR --drqv2 PATH --drqv2-compress PATH

Each DIR holds episode files. The DIR of `--atari` holds one directory of episode files per game. Data sets whose option
is left out are not measured. The stores, and a JSON file and a plot per data set, go into WORK_DIR. A second run
measures only what is missing. `pip install -e '.[peers]'` installs the other buffers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import numpy as np

from replaystore import ReplayStore
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.runtime.durable_files import replace_file
from replaystore.runtime.extras import needs

with needs("experiments.benchmarks", "peers", in_command=__name__ == "__main__"):
    from rich.console import Console

    from experiments.benchmarks.beside_peers import run_beside_peers
    from experiments.benchmarks.markdown import markdown_table, summary_rows, to_markdown
    from experiments.benchmarks.peers.registry import PEERS, candidates
    from replaystore.bench.sample_plot import plot_png
    from replaystore.bench.sample_result import SampleResult, first_of_each_store

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by experiments.benchmarks -->", "<!-- end of results -->"

# By the name of the store's directory: mode, options of `FrameDelta`, schemes of fields.
OF_IMAGES: dict[str, dict[str, Any]] = {
    "half": {"mode": "half"},
    "full": {"mode": "full"},
    "full-fastest": {
        "mode": "full",
        "frame_delta": {"entropy": "spans", "keyframe_interval": 16},
    },
    "full-small": {"mode": "full", "frame_delta": {"entropy": "zstd", "level": 15, "keyframe_interval": 8}},
    "full-smallest": {"mode": "full", "frame_delta": {"entropy": "zstd", "level": 9, "keyframe_interval": 32}},
}


@dataclass(frozen=True)
class Workload:
    """Episodes to measure with. `heading` is their heading on the page."""

    name: str
    heading: str
    episodes: Path
    n_step: int
    peers: tuple[str, ...] = PEERS


def workloads(directories: Mapping[str, Path | None]) -> Iterator[Workload]:
    """Returns the workloads of the directories that were given."""
    headings = {
        "walker_rgb": "walker_walk, RGB, unmodified scene, stack 3, n-step 3",
        "walker_gray": "walker_walk, gray, black floor, stack 3, n-step 3",
        "quadruped_rgb": "quadruped_walk, RGB, unmodified scene, stack 3, n-step 3",
    }
    for name, heading in headings.items():
        directory = directories[name]
        if directory is not None:
            yield Workload(name, heading, directory, 3)
    atari, humanoid = directories["atari"], directories["humanoid"]
    if atari is not None:
        for game in sorted(path for path in atari.iterdir() if path.is_dir()):
            heading = f"Atari {game.name}, gray, stack 4, n-step 1"
            yield Workload(f"atari_{game.name.lower()}", heading, game, 1, ("stable-baselines3", "cpprb"))
    if humanoid is not None:
        yield Workload("humanoid", "Humanoid, proprioception, n-step 1", humanoid, 1)


def configurations(episodes: Path) -> dict[str, dict[str, Any]]:
    """Returns how to fill each store, by its name. Data without images get the configurations for vectors.

    Vectors are rounded to one and to two decimals, which is lossy. Each dimension has the bounds of its data.
    """
    entries = [entry for entry in list_episode_files(episodes) if entry.refusal is None]
    observed = [field for field in fields_from_episode(read_episode(entries[0].path)) if field.role == "observation"]
    if any(field.is_image for field in observed):
        return OF_IMAGES
    schemes: dict[int, dict[str, Any]] = {1: {}, 2: {}}
    for field in observed:
        arrays = [read_episode(entry.path)[field.name] for entry in entries]
        flat = [array.reshape(len(array), -1) for array in arrays]
        low = np.floor(np.min([array.min(axis=0) for array in flat], axis=0))
        high = np.ceil(np.max([array.max(axis=0) for array in flat], axis=0))
        high = np.maximum(high, low + 1)  # a dimension that stands still
        for decimals, chosen in schemes.items():
            chosen[field.name] = {
                "id": "replaystore.round_clamp", "decimals": decimals, "low": low.tolist(), "high": high.tolist(),
            }  # fmt: skip
    rounded = {f"rounded-{decimals}": {"mode": "full", "schemes": chosen} for decimals, chosen in schemes.items()}
    return {"raw": {"mode": "full"}, **rounded}


def fill(path: Path, workload: Workload, how: Mapping[str, Any], least: int) -> int:
    """Appends the episodes again and again to a new store until it holds `least` transitions. Returns their number.

    In a store that is hardly larger than a batch, rows would share decoded groups. In a real run they rarely do.
    """
    files = [entry.path for entry in list_episode_files(workload.episodes) if entry.refusal is None]
    episodes = [read_episode(file) for file in files]
    fields = with_schemes(fields_from_episode(episodes[0]), how.get("schemes"), how.get("frame_delta"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ReplayStore.create(path, fields, mode=how["mode"], residency="mapped") as store:
        while store.num_transitions < least:
            for episode in episodes:
                store.append(episode)
        return store.num_transitions


def measure(
    workload: Workload, work_dir: Path, console: Console, least: int, checkouts: Mapping[str, Any],
    options: Mapping[str, Any],
) -> SampleResult:  # fmt: skip
    """Returns the result of a workload. It is read from WORK_DIR, or measured and written there with its plot."""
    target = work_dir / f"{workload.name}.json"
    if target.exists():
        console.print(f"{workload.name}: {target} is there")
        return SampleResult.from_json(json.loads(target.read_text()))
    stores = []
    for name, how in configurations(workload.episodes).items():
        stores.append(work_dir / "stores" / workload.name / name)
        shutil.rmtree(stores[-1], ignore_errors=True)  # of a run that was interrupted
        console.print(f"{workload.name}: {name}, {fill(stores[-1], workload, how, least)} transitions")
    peers = candidates(workload.peers, **checkouts)
    with console.status(f"{workload.name}: sampling"):
        result = run_beside_peers(stores, peers, n_step=workload.n_step, work_dir=work_dir, **options)
    shutil.rmtree(work_dir / "stores" / workload.name)
    replace_file(target, json.dumps(result.to_json(), indent=1) + "\n", sync=False)
    return result


def document(results: Mapping[str, SampleResult], pictures: Mapping[str, str]) -> str:
    """Returns the generated part of docs/benchmarks.md: a summary per data set, and then all measurements."""
    lines = ["## Summary", "", "Bytes per transition, everything included, and time of a batch.", ""]

    def stores_of(item: tuple[str, SampleResult]) -> list[str]:
        return [entry.name for entry in first_of_each_store(item[1].stores)]

    for _, group in groupby(results.items(), key=stores_of):
        lines += [*markdown_table(summary_rows(dict(group)), ("data",)), ""]
    return "\n".join([*lines, "## Measurements", "", to_markdown(results, pictures)])


def write_between_markers(path: Path, text: str) -> None:
    """Replaces the text between the two markers of a file.

    Raises:
        SystemExit: the file has no markers.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: expected the lines {BEGIN!r} and {END!r}; put them where results go")
    path.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("work_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--walker-rgb", type=DIRECTORY)
@click.option("--walker-gray", type=DIRECTORY)
@click.option("--quadruped-rgb", type=DIRECTORY)
@click.option("--atari", type=DIRECTORY)
@click.option("--humanoid", type=DIRECTORY)
@click.option("--drqv2", "drqv2_path", type=DIRECTORY)
@click.option("--drqv2-compress", "drqv2_compress_path", type=DIRECTORY)
@click.option("--num-batches", default=50, show_default=True, help="Batches to time.")
@click.option(
    "--transitions", default=12_000, show_default=True, help="Least transitions of a store, and most of another buffer."
)
@click.option("--threads", default=2, show_default=True, help="Threads that work on a batch.")
@click.option(
    "--docs", default=DOCS, type=click.Path(dir_okay=False, path_type=Path), help="Page to write the results into."
)
def main(
    work_dir: Path, drqv2_path: Path | None, drqv2_compress_path: Path | None, num_batches: int,
    transitions: int, threads: int, docs: Path, **directories: Path | None,
) -> None:  # fmt: skip
    """Measures what is missing, and writes the document."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)
    work_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "num_batches": num_batches,
        "transitions": transitions,
        "threads": threads,
    }
    checkouts = {"drqv2_path": drqv2_path, "drqv2_compress_path": drqv2_compress_path}
    results, pictures = {}, {}
    for workload in workloads(directories):
        result = results[workload.heading] = measure(
            workload, work_dir, console, transitions, checkouts, options
        )  # fmt: skip
        plot = work_dir / f"{workload.name}.png"
        plot.write_bytes(plot_png(result, workload.heading))
        picture = docs.parent / "images" / f"sampling_{workload.name}.png"
        picture.parent.mkdir(exist_ok=True)
        shutil.copyfile(plot, picture)
        pictures[workload.heading] = f"images/{picture.name}"
    if not results:
        raise SystemExit("nothing to measure: give a directory of episodes, such as --walker-rgb DIR")
    write_between_markers(docs, document(results, pictures))
    console.print(f"written: {docs}")


if __name__ == "__main__":
    main()
