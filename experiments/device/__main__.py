"""Batches from disk beside the device itself, under a memory limit, in one run.

    python -m experiments.device EPISODE_DIR WORK_DIR [--limit 512MiB] [--size 2GiB] [--turns 20] [--json] [--plot PNG]

Appends the episodes again and again until a store of mode `disk` holds `--size` of raw rows (a store that is there is
gone on with), then, in one process under the limit, takes turns:

- a batch from the store, residency `mapped`: how long, what the device delivered meanwhile, and which pages it needed
  that were not cached (`mincore`, before the batch);
- as many reads of a row's size at random places of the same files, past the page cache, 1 to 16 in flight, each into
  memory of its own, as the rows of a batch have (and, because it is faster where the host copies out of its own cache,
  into the same few places again and again).

Then a few batches through a plain memory map with the read-ahead that the device is set to, for contrast, and the same
transitions in mode `full`, residency `ram`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
from numpy.typing import NDArray

from replaystore.cli.options import AT_LEAST_1, DIRECTORY, EXISTING_DIRECTORY, as_json, size
from replaystore.errors import ReplayStoreError
from replaystore.runtime.extras import needs, require
from replaystore.spec import DEFAULT_CHUNK_ROWS, Mode, Residency
from replaystore.storage.format.layout import Paths
from replaystore.store import DEFAULT_THREADS

with needs("experiments.device.__main__", "bench", in_command=__name__ == "__main__"):
    from rich.console import Console
    from rich.table import Table

    from experiments.device.reads import MOST_IN_FLIGHT, PAGE, RowFiles, read_bytes
    from replaystore import ReplayStore, Sampler
    from replaystore.bench.conditions import conditions
    from replaystore.bench.memory_limit import memory_group
    from replaystore.bench.paging_stores import EpisodeSource, StoreFolder, check_space, drop_page_cache
    from replaystore.bench.spread import Spread

I64 = NDArray[np.int64]

IN_FLIGHT = (1, 2, 4, 8, MOST_IN_FLIGHT)
DISCOUNT, N_STEP = 0.99, 3
MIN_FRACTION = 0.7  # of the device's throughput
MIN_FULL_GAIN = 20.0
TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the measured process does.

    Attributes:
        field: the image field. `row_bytes`, `ndim`: of its stored row in mode `disk`, of its array.
        full_budget_bytes: what the store of mode `full` may hold in RAM.
    """

    disk: str
    full: str
    full_budget_bytes: int
    warm: tuple[str, str]
    field: str
    row_bytes: int
    chunk_rows: int
    ndim: int
    batch_size: int
    threads: int
    turns: int
    map_batches: int


def timed(call: Callable[[], Any]) -> tuple[float, int]:
    """(seconds, bytes from the device) of a call."""
    before, begin = read_bytes(), time.perf_counter()
    call()
    return time.perf_counter() - begin, read_bytes() - before


def observed(rows: I64) -> I64:
    """The stored rows that transitions `rows` need in mode `disk`, where no episode is in several parts."""
    return np.concatenate([rows - 1, rows + N_STEP - 1])


def warm_up(request: Request) -> None:
    """Compiles the kernels on a few rows, as they are used later."""
    for path, residency in zip(request.warm, ("mapped", "ram"), strict=True):
        opened = ReplayStore.open(
            path, read_only=True, residency=cast(Residency, residency), num_threads=request.threads
        )
        with opened as store:
            rows = store.draw(Sampler(n_step=N_STEP), np.random.default_rng(0), request.batch_size)
            store.gather(rows, n_step=N_STEP, discount=DISCOUNT)


def measure_turns(
    request: Request, files: RowFiles, rng: np.random.Generator, reads_rng: np.random.Generator
) -> list[dict[str, Any]]:
    """A batch of the store and the device's own reads, in turns. Leaves out the first turn."""
    sampler, found = Sampler(n_step=N_STEP), []
    with (
        ThreadPoolExecutor(MOST_IN_FLIGHT) as pool,
        ReplayStore.open(request.disk, read_only=True, residency="mapped", num_threads=request.threads) as store,
    ):
        out = store.allocate(request.batch_size)
        for turn in range(request.turns + 1):
            rows = store.draw(sampler, rng, request.batch_size)
            before, wanted = files.cached(), files.pages_of(observed(rows))
            missing = wanted & ~before
            missing_rows = files.num_rows_in(observed(rows), missing)
            seconds, delivered = timed(partial(store.gather, rows, n_step=N_STEP, discount=DISCOUNT, out=out))
            unused = files.cached() & ~before & ~wanted
            shift = turn % len(IN_FLIGHT)
            count = max(missing_rows, MOST_IN_FLIGHT)
            device = {
                in_flight: files.read_direct(reads_rng, count, in_flight, pool)
                for in_flight in IN_FLIGHT[shift:] + IN_FLIGHT[:shift]
            }
            one_place = files.read_direct(reads_rng, count, MOST_IN_FLIGHT, pool, reuse=True)
            if turn:
                found.append(
                    {
                        "seconds": seconds,
                        "read_bytes": delivered,
                        "missing_rows": missing_rows,
                        "missing_page_bytes": int(missing.sum()) * PAGE,
                        "wanted_page_bytes": int(wanted.sum()) * PAGE,
                        "unused_page_bytes": int(unused.sum()) * PAGE,
                        "device_one_place": one_place,
                        "device": {str(in_flight): device[in_flight] for in_flight in IN_FLIGHT},
                    }
                )
    return found


def measure_map(request: Request, files: RowFiles, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Batches through plain maps, in the order drawn; the first one is compared with the store's."""
    found: list[dict[str, Any]] = []
    out = np.empty((2 * request.batch_size, request.row_bytes), np.uint8)
    with ReplayStore.open(request.disk, read_only=True, residency="mapped", num_threads=request.threads) as store:
        for number in range(request.map_batches):
            rows = store.draw(Sampler(n_step=N_STEP), rng, request.batch_size)
            wanted = observed(rows)
            missing = files.pages_of(wanted) & ~files.cached()
            seconds, delivered = timed(partial(files.read_map, wanted, out))
            found.append({"seconds": seconds, "read_bytes": delivered, "missing_page_bytes": int(missing.sum()) * PAGE})
            if number == 0:
                batch = store.gather(rows, n_step=N_STEP, discount=DISCOUNT)
                both = np.concatenate([batch[request.field], batch[f"next_{request.field}"]])
                if not np.array_equal(both.reshape(out.shape), out):
                    raise ReplayStoreError(f"{request.disk}: the store and a plain map of its files differ; report it")
    return found


def measure_full(request: Request, rng: np.random.Generator) -> dict[str, Any]:
    """Batches of the store of mode `full`, held in RAM."""
    seconds, sampler = [], Sampler(n_step=N_STEP)
    # Given as a number: page cache left by the maps would else count as memory in use.
    with ReplayStore.open(
        request.full, read_only=True, residency="ram", budget_bytes=request.full_budget_bytes,
        num_threads=request.threads,
    ) as store:  # fmt: skip
        out = store.allocate(request.batch_size)
        for _ in range(max(request.turns, 10) + 1):
            begin = time.perf_counter()
            rows = store.draw(sampler, rng, request.batch_size)
            store.gather(rows, n_step=N_STEP, discount=DISCOUNT, out=out)
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds[1:], "held_bytes": store.held_bytes}


def child(request_path: str, answer_path: str) -> None:
    """The measured process: does what a file says and writes another one."""
    data = json.loads(Path(request_path).read_text())
    request = Request(**{**data, "warm": tuple(data["warm"])})
    warm_up(request)
    paths = Paths(Path(request.disk))
    names = (path.name for path in paths.array(request.field).iterdir())
    numbers = sorted(number for name in names if (number := paths.chunk_number(name)) is not None)
    assert numbers == list(range(len(numbers))), "nothing was evicted"
    chunks = [paths.chunk(request.field, number, request.ndim) for number in numbers]
    files = RowFiles(chunks, request.row_bytes, request.chunk_rows, 2 * request.batch_size)
    turns = measure_turns(request, files, np.random.default_rng(0), np.random.default_rng(1))
    mapped = measure_map(request, files, np.random.default_rng(2))
    full = measure_full(request, np.random.default_rng(0))
    Path(answer_path).write_text(json.dumps({"turns": turns, "map": mapped, "full": full}))


def summarise(found: dict[str, Any], row_bytes: int) -> dict[str, Any]:
    """The figures of a run; throughputs in bytes a second, times in milliseconds."""
    turns, mapped = found["turns"], found["map"]
    device = {name: Spread.of(turn["device"][name] for turn in turns) for name in turns[0]["device"]}
    best = max(device, key=lambda name: device[name].median)
    ours = Spread.of(turn["read_bytes"] / turn["seconds"] for turn in turns)
    disk_ms = Spread.of(1000 * turn["seconds"] for turn in turns)
    full_ms = Spread.of(1000 * seconds for seconds in found["full"]["seconds"])
    fraction = statistics.median(turn["read_bytes"] / turn["seconds"] / turn["device"][best] for turn in turns)
    needed, missing_rows, delivered = (
        sum(turn[name] for turn in turns) for name in ("missing_page_bytes", "missing_rows", "read_bytes")
    )
    figures: dict[str, Any] = {
        "row_bytes": row_bytes,
        "disk_ms": asdict(disk_ms),
        "disk_bytes_per_second": asdict(ours),
        "device_bytes_per_second": {name: asdict(spread) for name, spread in device.items()},
        "device_best_in_flight": int(best),
        "fraction_of_device": fraction,
        "device_one_place_bytes_per_second": asdict(Spread.of(turn["device_one_place"] for turn in turns)),
        "fraction_of_device_one_place": statistics.median(
            turn["read_bytes"] / turn["seconds"] / turn["device_one_place"] for turn in turns
        ),
        "rows_not_cached_per_batch": missing_rows / len(turns),
        "read_over_needed_pages": delivered / needed if needed else None,
        "unused_page_bytes_per_batch": sum(turn["unused_page_bytes"] for turn in turns) / len(turns),
        "read_over_row_bytes": delivered / (missing_rows * row_bytes) if missing_rows else None,
        "full_ms": asdict(full_ms),
        "full_held_bytes": found["full"]["held_bytes"],
        "disk_over_full": disk_ms.median / full_ms.median,
        # What `disk` would take if the device did all it can and nothing else cost time.
        "device_ms": 1000 * statistics.median(turn["read_bytes"] / turn["device"][best] for turn in turns),
    }
    figures["device_over_full"] = figures["device_ms"] / full_ms.median
    if mapped:
        missing = sum(entry["missing_page_bytes"] for entry in mapped)
        figures["map_ms"] = asdict(Spread.of(1000 * entry["seconds"] for entry in mapped))
        read = sum(entry["read_bytes"] for entry in mapped)
        figures["map_over_full"] = figures["map_ms"]["median"] / full_ms.median
        figures["map_read_over_needed_pages"] = read / missing if missing else None
    figures["reached"] = {
        "fraction_of_device": fraction >= MIN_FRACTION,
        # Pages cached when a batch begins may have to make room for its others: then they are read, but once at most.
        "no_read_ahead": all(
            turn["unused_page_bytes"] == 0 and turn["read_bytes"] <= turn["wanted_page_bytes"] for turn in turns
        ),
        "full_gain": figures["disk_over_full"] >= MIN_FULL_GAIN,
    }
    return figures


def run_device(
    episodes: Path, work_dir: Path, *, limit_bytes: int, size_bytes: int, batch_size: int, threads: int, turns: int,
    map_batches: int, chunk_rows: int, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Builds what is missing and measures; returns plain data.

    Raises:
        EpisodeFileError, WriteError: no episodes, or no room for the stores. ReplayStoreError: the measured process
        failed; its last words are in the message.
    """
    source = EpisodeSource(episodes)
    folder = StoreFolder(work_dir / "stores", source, chunk_rows)
    num_episodes, rows = source.amount(size_bytes)
    check_space(folder, ("disk", "full"), rows)
    image = next((spec for spec in source.fields if spec.is_image), None)
    if image is None:
        raise ReplayStoreError(f"{episodes}: expected episodes with an image field, found none")
    modes: tuple[Mode, ...] = ("disk", "full")
    summaries = {mode: folder.grow(mode, num_episodes, tell) for mode in modes}
    request = Request(
        disk=str(folder.path("disk").absolute()), full=str(folder.path("full").absolute()),
        full_budget_bytes=limit_bytes // 2,
        warm=(str(folder.warm_path("disk").absolute()), str(folder.warm_path("full").absolute())),
        field=image.name, row_bytes=int(np.prod(image.stacked_shape)), chunk_rows=chunk_rows,
        ndim=1 + len(image.stacked_shape), batch_size=batch_size, threads=threads, turns=turns, map_batches=map_batches,
    )  # fmt: skip
    tell("measuring")
    drop_page_cache(folder.directory)
    with tempfile.TemporaryDirectory(prefix="replaystore-") as scratch, memory_group(limit_bytes) as group:
        asked, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        asked.write_text(json.dumps(asdict(request)))
        run = group.run(
            [sys.executable, "-m", "experiments.device.__main__", "--child", str(asked), str(answer)],
            timeout_seconds=TIMEOUT_SECONDS,
        )
        if run.returncode != 0:
            why = "killed at the limit" if run.killed else "too slow" if run.timed_out else run.stderr_tail.strip()
            raise ReplayStoreError(f"{request.disk}: the measured process ended with status {run.returncode}: {why}")
        found = json.loads(answer.read_text())
    return {
        "limit_bytes": limit_bytes if group.limited else None,
        "limit_reason": group.reason,
        "transitions": summaries["disk"].transitions,
        "store_bytes": {mode: summary.bytes_on_disk for mode, summary in summaries.items()},
        "request": asdict(request),
        "figures": summarise(found, request.row_bytes),
        "raw": found,
        "conditions": conditions(work_dir),
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """A table of the figures, and which of them were reached."""
    figures, mb = result["figures"], 1e6
    table = Table("figure", "median", "p5 to p95", "wanted")

    def row(name: str, spread: dict[str, Any], unit: float = 1.0) -> None:
        low, high = spread["p5"] / unit, spread["p95"] / unit
        table.add_row(name, f"{spread['median'] / unit:,.1f}", f"{low:,.1f} to {high:,.1f}", "")

    row("disk, mapped: ms a batch", figures["disk_ms"])
    row("disk, mapped: MB/s from the device", figures["disk_bytes_per_second"], mb)
    for name, spread in figures["device_bytes_per_second"].items():
        row(f"device, {name} in flight: MB/s", spread, mb)
    best = figures["device_best_in_flight"]
    table.add_row(f"of the device, {best} in flight", f"{figures['fraction_of_device']:.2f}", "", f"{MIN_FRACTION}")
    row(f"device, {MOST_IN_FLIGHT} in flight, into one place: MB/s", figures["device_one_place_bytes_per_second"], mb)
    table.add_row("of that", f"{figures['fraction_of_device_one_place']:.2f}", "", "")
    table.add_row("rows a batch not cached", f"{figures['rows_not_cached_per_batch']:.0f}", "", "")
    unused = figures["unused_page_bytes_per_batch"]
    table.add_row("pages read and not used, bytes a batch", f"{unused:,.0f}", "", "0")
    for key, wanted in (("read_over_needed_pages", "1"), ("read_over_row_bytes", "")):
        value = figures[key]
        table.add_row(key.replace("_", " "), "-" if value is None else f"{value:.4f}", "", wanted)
    if "map_ms" in figures:
        row("plain map: ms a batch", figures["map_ms"])
        value = figures["map_read_over_needed_pages"]
        table.add_row("plain map: read over needed pages", "-" if value is None else f"{value:.1f}", "", "")
    row("full, ram: ms a batch", figures["full_ms"])
    table.add_row("disk over full", f"{figures['disk_over_full']:.1f}", "", f"{MIN_FULL_GAIN:.0f}")
    if "map_over_full" in figures:
        table.add_row("plain map over full", f"{figures['map_over_full']:.0f}", "", "")
    table.add_row("the device alone over full", f"{figures['device_over_full']:.1f}", "", "")
    console.print(table)
    if result["limit_bytes"] is None:
        console.print(f"[yellow]No memory limit was in force:[/] {result['limit_reason']}")
    for name, reached in figures["reached"].items():
        console.print(f"{name.replace('_', ' ')}: {'reached' if reached else '[red]missed[/]'}")


def plot(figures: dict[str, Any], path: Path) -> None:
    """The device's throughput over the reads in flight, and that of batches beside it, as a PNG."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 3.6), layout="constrained")
    axes = picture.subplots()
    spreads = figures["device_bytes_per_second"]
    in_flight = [int(name) for name in spreads]
    low, middle, high = ([spread[key] / 1e6 for spread in spreads.values()] for key in ("p5", "median", "p95"))
    axes.fill_between(in_flight, low, high, color="#0072B2", alpha=0.18, linewidth=0)
    axes.plot(in_flight, middle, "o-", color="#0072B2", label="the device, O_DIRECT reads of a row")
    ours = figures["disk_bytes_per_second"]
    axes.axhspan(ours["p5"] / 1e6, ours["p95"] / 1e6, color="#D55E00", alpha=0.18, linewidth=0)
    axes.axhline(ours["median"] / 1e6, color="#D55E00", linestyle="--", label="batches, mode disk, mapped")
    axes.set_xscale("log", base=2)
    axes.set_xticks(in_flight, [str(count) for count in in_flight])
    axes.set(xlabel="reads in flight", ylabel="MB/s from the device")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    picture.savefig(path, dpi=160)


@click.command()
@click.argument("episodes", metavar="EPISODE_DIR", type=EXISTING_DIRECTORY)
@click.argument("work_dir", type=DIRECTORY)
@click.option("--limit", "limit_bytes", type=size, default="512MiB", show_default=True, help="Memory of the process.")
@click.option("--size", "size_bytes", type=size, default="2GiB", show_default=True, help="Raw rows to store.")
@click.option("--batch-size", type=AT_LEAST_1, default=256, show_default=True, help="Transitions a batch.")
@click.option(
    "--threads", type=AT_LEAST_1, default=DEFAULT_THREADS, show_default=True, help="Threads that gather a batch."
)
@click.option("--turns", type=AT_LEAST_1, default=20, show_default=True, help="Batches to time.")
@click.option("--map-batches", type=click.IntRange(min=0), default=3, show_default=True, help="Through a plain map.")
@click.option("--chunk-rows", type=AT_LEAST_1, default=DEFAULT_CHUNK_ROWS, show_default=True, help="Rows a chunk.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG.")
@as_json
def main(episodes: Path, work_dir: Path, as_json: bool, plot_path: Path | None, **options: Any) -> None:
    """Measures batches of mode `disk` from files in WORK_DIR beside the device's own random reads."""
    console = Console(stderr=as_json)
    try:
        if plot_path is not None:
            require("experiments.device.__main__ --plot", "bench", "matplotlib")
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
