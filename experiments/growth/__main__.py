"""Compares a store of many transitions with a small one: opening, drawing, batches, memory.

    python -m experiments.growth WORK_DIR [--transitions 10000,1000000] [--episodes DIR] [--json]

Appends gray 84x84 frames in mode `full` until the stores hold these numbers of transitions. An interrupted command
continues. Then it opens each store in fresh processes and measures. The frames come from recorded episodes, played
forwards and backwards from a random step, in episodes of 501 rows.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from experiments import RECORDED
from replaystore.runtime.extras import needs

with needs("experiments.growth", "bench", "torch", in_command=__name__ == "__main__"):
    import psutil
    from rich.console import Console
    from rich.table import Table

    import replaystore as rs  # its names import lazily, and that is part of what is measured


EPISODE_ROWS, FRAME_STACK = 501, 3
BATCH, N_STEP, DISCOUNT = 256, 3, 0.99
BATCHES = 200
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
RESIDENCIES = ("mapped", "auto", "ram")
MIB = 1 << 20


def recorded_frames(directory: Path) -> list[np.ndarray]:
    """Returns the newest frames of each episode in gray, uint8 (rows, 1, height, width)."""
    from replaystore.datasets.drqv2_npz import list_episode_files, read_episode

    result = []
    for entry in list_episode_files(directory):
        stacks = read_episode(entry.path)["observation"]
        newest = stacks[:, -(stacks.shape[1] // FRAME_STACK) :]
        if newest.shape[1] == 3:
            newest = np.rint(np.tensordot(newest, LUMA, axes=(1, 0)))[:, None].astype(np.uint8)
        result.append(newest)
    return result


def made_episodes(recorded: list[np.ndarray], first: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the episodes with the numbers `first`, `first + 1` and so on. A number always gives the same episode."""
    number = first
    while True:
        rng = np.random.default_rng(number)
        frames = recorded[number % len(recorded)]
        period = 2 * (len(frames) - 1)
        at = (rng.integers(period) + np.arange(EPISODE_ROWS)) % period
        yield {
            "observation": frames[np.minimum(at, period - at)],
            "action": rng.uniform(-1, 1, (EPISODE_ROWS, 6)).astype(np.float32),
            "reward": rng.random((EPISODE_ROWS, 1), np.float32),
            "discount": np.ones((EPISODE_ROWS, 1), np.float32),
        }
        number += 1


def build(path: Path, recorded: list[np.ndarray], transitions: int, console: Console) -> None:
    """Appends until the store at `path` holds `transitions`."""
    fields = [
        rs.FieldSpec.image("observation", recorded[0].shape[1:], frame_stack=FRAME_STACK),
        rs.FieldSpec(name="action", shape=(6,), dtype="float32", role="action"),
        rs.FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        rs.FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    ]
    if path.exists():
        with rs.ReplayStore.open(path, read_only=True, residency="mapped") as store:
            if store.num_transitions >= transitions:
                return
        store = rs.ReplayStore.open(path, residency="mapped")
    else:
        store = rs.ReplayStore.create(path, fields, mode="full", residency="mapped")
    started, rows = time.perf_counter(), store.num_rows
    with store, console.status("") as status:
        for episode in made_episodes(recorded, store.next_episode_id):
            if store.num_transitions >= transitions:
                break
            store.append(episode)
            status.update(f"{path.name}: {store.num_transitions:,} of {transitions:,} transitions")
        store.flush()
        rows = store.num_rows - rows
    console.print(f"{path.name}: appended {rows:,} rows, {rows / (time.perf_counter() - started):,.0f} per second")


def median_ms(call: Callable[[], Any], count: int) -> float:
    """Returns the median milliseconds of a call."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def measure_opening(path: Path, residency: str) -> dict[str, float]:
    """Measures the seconds to open and to the first batch, and memory, in a fresh process that has imported torch."""
    import numba  # noqa: F401
    import torch  # noqa: F401
    import zarr  # noqa: F401

    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    loader_class = rs.ReplayLoader
    imported = time.perf_counter()
    store = rs.ReplayStore.open(path, read_only=True, residency=residency)  # type: ignore[arg-type]
    opened = time.perf_counter()
    loader = loader_class(store, batch_size=BATCH, n_step=N_STEP, discount=DISCOUNT, seed=0, prefetch=0)
    next(loader)
    first = time.perf_counter()
    store.wait_until_filled()
    filled = time.perf_counter()
    batch_ms = median_ms(lambda: next(loader), BATCHES)
    rng, sampler, snapshot = np.random.default_rng(0), rs.Sampler(n_step=N_STEP), store.snapshot()
    result = {
        "import_seconds": imported - started,
        "open_seconds": opened - imported,
        "open_to_first_batch_seconds": first - imported,
        "open_to_filled_seconds": filled - imported,
        "batch_ms": batch_ms,
        "draw_ms": median_ms(lambda: sampler.draw(snapshot, rng, BATCH), BATCHES),
        "rss_mib": process.memory_info().rss / MIB,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "held_mib": store.held_bytes / MIB,
        "rss_beyond_imports_mib": (process.memory_info().rss - before) / MIB,
        "transitions": store.num_transitions,
    }
    loader.close()
    store.close()
    return result


def measure_index_memory(path: Path) -> dict[str, float]:
    """Measures, in a fresh process, the bytes that the index and the catalog hold after the first batch."""
    rs.ReplayStore.open  # noqa: B018 - imports what opening a store needs

    tracemalloc.start()
    with rs.ReplayStore.open(path, read_only=True, residency="mapped") as store:
        snapshot = store.snapshot()
        store.draw(rs.Sampler(n_step=N_STEP), np.random.default_rng(0), BATCH, snapshot=snapshot)
        store.draw(rs.Sampler(n_step=N_STEP, distribution="per_episode"), np.random.default_rng(0), BATCH)
        by_file = tracemalloc.take_snapshot().statistics("filename")
        index = catalog = 0
        for entry in by_file:
            room = Path(entry.traceback[0].filename).parent
            index += entry.size if room.parts[-2:] == ("replaystore", "index") else 0
            catalog += entry.size if room.parts[-2:] in (("storage", "catalog"), ("storage", "format")) else 0
        count = store.num_transitions
    return {"index_bytes_per_transition": index / count, "catalog_bytes_per_transition": catalog / count}


def in_child(what: str, path: Path, *more: str) -> dict[str, float]:
    """Runs one of the functions above in a new process, and returns its result."""
    command = [sys.executable, "-m", "experiments.growth", "--child", what, str(path), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Measures each residency twice, as the first run fills the page cache and the cache of compiled kernels."""
    result: dict[str, dict[str, float]] = {}
    for residency in RESIDENCIES:
        in_child("opening", path, residency)
        found = result[residency] = in_child("opening", path, residency)
        # `mapped` holds only the small fields, as every residency does.
        chunks = found["held_mib"] - result["mapped"]["held_mib"]
        found["rss_beyond_imports_and_chunks_mib"] = found["rss_beyond_imports_mib"] - chunks
    result["index"] = in_child("index", path)
    return result


def show(console: Console, results: dict[int, dict[str, dict[str, float]]]) -> None:
    """Prints a table with one row per figure and one column per size."""
    table = Table("residency", "figure", *(f"{count:,}" for count in results))
    first = next(iter(results.values()))
    for residency, figures in first.items():
        for name in figures:
            table.add_row(residency, name, *(f"{found[residency][name]:,.4g}" for found in results.values()))
    console.print(table)


def child(what: str, path: str, *more: str) -> None:
    """Prints one measurement as JSON."""
    found = measure_opening(Path(path), *more) if what == "opening" else measure_index_memory(Path(path))
    print(json.dumps(found))


@click.command()
@click.argument("work_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--transitions", default="10000,1000000", show_default=True, help="Sizes, separated by commas.")
@click.option("--episodes", type=click.Path(exists=True, file_okay=False, path_type=Path), default=RECORDED)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(work_dir: Path, transitions: str, episodes: Path, as_json: bool) -> None:
    """Builds the stores in WORK_DIR and measures them."""
    console = Console(stderr=as_json)
    sizes = [int(size) for size in transitions.split(",")]
    work_dir.mkdir(parents=True, exist_ok=True)
    recorded = recorded_frames(episodes)
    for size in sizes:
        build(work_dir / f"store-{size}", recorded, size, console)
    results = {size: measure(work_dir / f"store-{size}") for size in sizes}
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        show(console, results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
