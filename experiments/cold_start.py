"""How long the first batch takes before any kernel is compiled, compared with later processes.

    python -m experiments.cold_start [--modes half,full] [--episodes DIR] [--repeats 1] [--json]

For each mode and repeat, one child process starts with an empty cache of compiled kernels. A second one starts with the
cache that the first one filled. Each appends the recorded episodes three times, in chunks of 128 rows, and takes 20
batches. The table shows wall clock time and processor time. Other programs disturb processor time less.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from experiments import RECORDED

BATCH, N_STEP, BATCHES = 256, 3, 20
CHUNK_ROWS, ROUNDS = 128, 3
STEPS = ("import", "append", "first_batch", "batches")


def child(mode: str, episode_dir: str) -> dict[str, Any]:
    """Runs in a fresh process. Returns the wall and processor seconds of each step, and what was compiled."""
    marks = [(time.perf_counter(), time.process_time())]

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    import numpy as np

    import replaystore as rs
    from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
    from replaystore.datasets.fields import fields_from_episode
    from replaystore.runtime.compilation import compiled

    store_class = rs.ReplayStore
    mark()
    episodes = [dict(read_episode(entry.path)) for entry in list_episode_files(Path(episode_dir))]
    fields = fields_from_episode(episodes[0], 3)
    marks[0] = (marks[0][0] + time.perf_counter() - marks[1][0], marks[0][1] + time.process_time() - marks[1][1])
    marks[1] = (time.perf_counter(), time.process_time())
    with tempfile.TemporaryDirectory() as directory:
        store = store_class.create(Path(directory) / "store", fields, mode=mode, chunk_rows=CHUNK_ROWS)  # type: ignore[arg-type]
        with store:
            for episode in episodes * ROUNDS:
                store.append(episode)
            store.flush()
            mark()
            rng, sampler = np.random.default_rng(0), rs.Sampler(n_step=N_STEP)
            for number in range(BATCHES):
                store.gather(store.draw(sampler, rng, BATCH), n_step=N_STEP)
                if number == 0:
                    mark()
            mark()
    result: dict[str, Any] = {"compiled": len(compiled())}
    for name, before, after in zip(STEPS, marks, marks[1:], strict=False):
        result[f"{name}_seconds"], result[f"{name}_cpu_seconds"] = after[0] - before[0], after[1] - before[1]
    return result


def in_child(mode: str, episode_dir: Path, cache: str) -> dict[str, Any]:
    """Runs `child` in a new process that keeps compiled kernels in `cache`, and returns its result."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cold_start", "--child", mode, str(episode_dir)],
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache},
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def measure(mode: str, episode_dir: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Returns the figures of a cold and a warm start, each the smallest of all repeats, and their difference.

    The difference covers an append and `BATCHES` batches, without imports.
    """
    runs: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="cold-start-") as cache:
            for found in runs.values():
                found.append(in_child(mode, episode_dir, cache))
    best = {name: {key: min(run[key] for run in found) for key in found[0]} for name, found in runs.items()}
    beyond = {
        kind: sum(best["cold"][f"{step}_{kind}"] - best["warm"][f"{step}_{kind}"] for step in STEPS[1:])
        for kind in ("seconds", "cpu_seconds")
    }
    return {**best, "beyond_warm": beyond}


def show(console: Console, results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Prints a table with one row per start, in wall seconds / processor seconds."""
    table = Table("mode", "cache", *(step.replace("_", " ") for step in STEPS), "compiled", "beyond warm")
    for mode, found in results.items():
        for name in ("cold", "warm"):
            run, beyond = found[name], found["beyond_warm"]
            cells = [f"{run[f'{step}_seconds']:.2f} / {run[f'{step}_cpu_seconds']:.2f}" for step in STEPS]
            more = f"{beyond['seconds']:.1f} / {beyond['cpu_seconds']:.1f}" if name == "cold" else "-"
            table.add_row(mode, name, *cells, str(run["compiled"]), more)
    console.print(table)


@click.command()
@click.option("--modes", default="half,full", show_default=True, help="Modes, separated by commas.")
@click.option("--episodes", type=click.Path(exists=True, file_okay=False, path_type=Path), default=RECORDED)
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="The smallest figures are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(modes: str, episodes: Path, repeats: int, as_json: bool) -> None:
    """Measures cold and warm starts."""
    console = Console(stderr=as_json)
    with console.status("") as status:
        results = {}
        for mode in modes.split(","):
            status.update(f"mode {mode}")
            results[mode] = measure(mode, episodes, repeats)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        show(console, results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
    else:
        main()
