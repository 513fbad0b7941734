"""How long different consumers wait for the next batch of a `ReplayLoader`.

    python -m experiments.prefetch EPISODE_DIR WORK_DIR [--mode half] [--json] [--plot PNG]

Appends the episodes again and again until a store in WORK_DIR holds `--transitions`. A store that is there already is
continued. Then it opens the store with residency `ram` and takes batches. There are three consumers. `idle` sleeps, as
the CPU does while a GPU learns. `busy` multiplies matrices in torch on one thread for the same time. `none` asks for
the next batch at once. They take turns, one round each. The first batches of a round do not count, because nothing had
time to prepare them. The wait is the time in `next(loader)`. The time to release the batch before, whose memory returns
to the loader, is reported separately.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from replaystore.cli.options import AT_LEAST_1, DIRECTORY, EXISTING_DIRECTORY, as_json
from replaystore.errors import ReplayStoreError
from replaystore.runtime.extras import needs, require
from replaystore.spec import DEFAULT_CHUNK_ROWS, MODES, Mode

with needs("experiments.prefetch", "bench", "torch", in_command=__name__ == "__main__"):
    import torch
    from rich.console import Console
    from rich.table import Table

    from replaystore import ReplayLoader, ReplayStore
    from replaystore.bench.conditions import conditions
    from replaystore.bench.paging_stores import EpisodeSource, StoreFolder
    from replaystore.bench.spread import Spread

DISCOUNT, N_STEP = 0.99, 3
MOST_WAIT_MS = 0.5  # median of `idle`
WARM_UP = 20  # batches, at the begin of a round
PERCENTILES = (50, 95, 99)
MATRIX = 128

Consumer = Callable[[float], None]


def idle(seconds: float) -> None:
    """Leaves the CPU to others."""
    time.sleep(seconds)


def busy(seconds: float) -> None:
    """Keeps one core busy in torch, which holds the interpreter only between its calls."""
    end = time.perf_counter() + seconds
    matrix = torch.ones(MATRIX, MATRIX)
    while time.perf_counter() < end:
        torch.mm(matrix, matrix)


def none(seconds: float) -> None:
    """Takes the next batch at once."""


CONSUMERS: dict[str, Consumer] = {"idle": idle, "busy": busy, "none": none}


def take(
    loader: ReplayLoader, consumer: Consumer, step_seconds: float, batches: int
) -> tuple[list[float], list[float], float]:
    """Returns seconds per `next`, seconds to release the batch before, and batches per second, without the warm-up.

    Releasing tensors gives up the interpreter for a moment. It may have to wait for a thread or a core.
    """
    waits: list[float] = []
    releases: list[float] = []
    begin = time.perf_counter()
    batch: Mapping[str, torch.Tensor] = {}
    for number in range(WARM_UP + batches):
        asked = time.perf_counter()
        if number == WARM_UP:
            begin = asked
        following = next(loader)
        came = time.perf_counter()
        batch = following
        waits.append(came - asked)
        releases.append(time.perf_counter() - came)
        del following
        consumer(step_seconds)
    assert batch
    return waits[WARM_UP:], releases[WARM_UP:], batches / (time.perf_counter() - begin)


def fill_ms(store: ReplayStore, batch_size: int, batches: int) -> Spread:
    """Returns the milliseconds that one thread takes to fill each batch, the loader's work in the background."""
    rng, seconds = np.random.default_rng(1), []
    with ReplayLoader(store, batch_size=batch_size, n_step=N_STEP) as loader:
        sampler = loader.sampler
    out = store.allocate(batch_size)
    for _ in range(batches + 1):
        rows = store.draw(sampler, rng, batch_size)
        begin = time.perf_counter()
        store.gather(rows, n_step=N_STEP, discount=DISCOUNT, out=out, num_threads=1)
        seconds.append(1000 * (time.perf_counter() - begin))
    return Spread.of(seconds[1:])


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    """Returns p50, p95 and p99 in milliseconds."""
    return {f"p{p}": 1000 * float(np.percentile(seconds, p)) for p in PERCENTILES}


def run_prefetch(
    episodes: Path, work_dir: Path, *, mode: Mode, transitions: int, batch_size: int, threads: int,
    prefetch: int | None, step_ms: float, batches: int, rounds: int, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Builds the store if it is missing, and measures. Returns plain data. `prefetch=None` is the loader's default.

    Raises:
        EpisodeFileError: there are no episodes.
        BudgetError: the store does not fit into memory.
    """
    source = EpisodeSource(episodes)
    folder = StoreFolder(work_dir / "stores", source, DEFAULT_CHUNK_ROWS)
    num_episodes = 0
    rows = 0
    while rows - num_episodes < transitions:
        rows += len(next(iter(source.episode(num_episodes).values())))
        num_episodes += 1
    summary = folder.grow(mode, num_episodes, tell)
    waits: dict[str, list[float]] = {name: [] for name in CONSUMERS}
    releases: dict[str, list[float]] = {name: [] for name in CONSUMERS}
    rates: dict[str, list[float]] = {name: [] for name in CONSUMERS}
    options: dict[str, Any] = {} if prefetch is None else {"prefetch": prefetch}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ReplayStore.open(folder.path(mode), read_only=True, residency="ram") as store:
            fill = fill_ms(store, batch_size, batches)
            for number in range(rounds):
                for name, consumer in CONSUMERS.items():
                    tell(f"{name}: round {number + 1} of {rounds}")
                    with ReplayLoader(
                        store, batch_size=batch_size, n_step=N_STEP, discount=DISCOUNT, seed=number,
                        num_threads=threads, **options,
                    ) as loader:  # fmt: skip
                        waited, released, rate = take(loader, consumer, step_ms / 1000, batches)
                    waits[name] += waited
                    releases[name] += released
                    rates[name].append(rate)
    finally:
        torch.set_num_threads(threads_before)
    consumers = {
        name: {
            "wait_ms": percentiles_ms(waits[name]),
            "release_ms": percentiles_ms(releases[name]),
            "batches_per_second": float(np.median(rates[name])),
            "batches": len(waits[name]),
        }
        for name in CONSUMERS
    }
    return {
        "mode": mode,
        "transitions": summary.transitions,
        "batch_size": batch_size,
        "threads": threads,
        "step_ms": step_ms,
        "fill_ms": asdict(fill),
        "consumers": consumers,
        "waits_ms": {name: [1000 * seconds for seconds in found] for name, found in waits.items()},
        "reached": consumers["idle"]["wait_ms"]["p50"] < MOST_WAIT_MS,  # type: ignore[index]
        "conditions": conditions(work_dir),
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Prints a table with one row per consumer."""
    fill = result["fill_ms"]
    title = (
        f"mode {result['mode']}, {result['transitions']:,} transitions, batch {result['batch_size']},"
        f" {result['threads']} threads; filling a batch on one takes {fill['median']:.1f} ms"
    )
    table = Table("consumer", *(f"p{p} ms" for p in PERCENTILES), "release p50 ms", "batches/s", title=title)
    for name, entry in result["consumers"].items():
        step = "" if name == "none" else f", {result['step_ms']:g} ms"
        cells = [f"{entry['wait_ms'][f'p{p}']:.3f}" for p in PERCENTILES]
        table.add_row(name + step, *cells, f"{entry['release_ms']['p50']:.3f}", f"{entry['batches_per_second']:.0f}")
    console.print(table)
    console.print(f"idle, median below {MOST_WAIT_MS} ms: {'reached' if result['reached'] else '[red]missed[/]'}")


def plot(result: dict[str, Any], path: Path) -> None:
    """Plots for each consumer the cumulative share of batches over the time waited, as a PNG."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 3.6), layout="constrained")
    axes = picture.subplots()
    colours = {"idle": "#009E73", "busy": "#D55E00", "none": "#0072B2"}
    dashes = {"idle": "-", "busy": "--", "none": ":"}
    for name, waits in result["waits_ms"].items():
        part = np.arange(1, len(waits) + 1) / len(waits)
        axes.plot(np.sort(waits), part, dashes[name], color=colours[name], label=name)
    axes.axvline(MOST_WAIT_MS, color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    axes.set(xlabel="milliseconds waited for a batch", ylabel="part of the batches", ylim=(0, 1))
    axes.legend(frameon=False, title="consumer")
    picture.savefig(path, dpi=160)


@click.command()
@click.argument("episodes", metavar="EPISODE_DIR", type=EXISTING_DIRECTORY)
@click.argument("work_dir", type=DIRECTORY)
@click.option("--mode", type=click.Choice(MODES), default="half", show_default=True, help="How images are stored.")
@click.option("--transitions", type=AT_LEAST_1, default=6000, show_default=True, help="Transitions to store, at least.")
@click.option("--batch-size", type=AT_LEAST_1, default=256, show_default=True, help="Transitions per batch.")
@click.option("--threads", type=AT_LEAST_1, default=2, show_default=True, help="Threads that fill batches.")
@click.option("--prefetch", type=click.IntRange(min=0), help="Batches drawn ahead. Default: the loader's.")
@click.option(
    "--step-ms",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="What the consumer takes per batch.",
)
@click.option("--batches", type=AT_LEAST_1, default=200, show_default=True, help="Batches per round.")
@click.option("--rounds", type=AT_LEAST_1, default=3, show_default=True, help="Rounds of each consumer.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG.")
@as_json
def main(episodes: Path, work_dir: Path, mode: str, plot_path: Path | None, as_json: bool, **options: Any) -> None:
    """Measures how long consumers wait for batches of a store in WORK_DIR."""
    console = Console(stderr=as_json)
    try:
        if plot_path is not None:
            require("experiments.prefetch --plot", "bench", "matplotlib")
        with console.status("") as status:
            result = run_prefetch(episodes, work_dir, mode=cast(Mode, mode), tell=status.update, **options)
    except (ReplayStoreError, OSError) as err:
        raise click.ClickException(str(err)) from err
    if plot_path is not None:
        plot(result, plot_path)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        show(console, result)


if __name__ == "__main__":
    main()
