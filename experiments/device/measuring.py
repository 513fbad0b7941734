"""What the measured process does: batches of stores, direct reads of the device and plain maps, in turns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from experiments.device.reads import MOST_IN_FLIGHT, PAGE, RowFiles, read_bytes
from replaystore import ReplayStore, Sampler
from replaystore.errors import ReplayStoreError
from replaystore.spec import Residency

I64 = NDArray[np.int64]

IN_FLIGHT = (1, 2, 4, 8, MOST_IN_FLIGHT)
DISCOUNT, N_STEP = 0.99, 3


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the measured process does.

    Attributes:
        disk, full: paths of the stores of the two modes.
        full_budget_bytes: the most bytes that the store of mode `full` holds in RAM.
        warm: paths of small stores of the two modes, which compile the kernels.
        field: the image field.
        row_bytes: bytes of its stored row in mode `disk`.
        chunk_rows: rows per chunk.
        batch_size: transitions per batch.
        threads: threads that gather a batch.
        turns: batches to time.
        map_batches: batches through a plain map.
    """

    disk: str
    full: str
    full_budget_bytes: int
    warm: tuple[str, str]
    field: str
    row_bytes: int
    chunk_rows: int
    batch_size: int
    threads: int
    turns: int
    map_batches: int


def timed(call: Callable[[], Any]) -> tuple[float, int]:
    """Returns the seconds that a call takes, and the bytes that the device delivers meanwhile."""
    before, begin = read_bytes(), time.perf_counter()
    call()
    return time.perf_counter() - begin, read_bytes() - before


def observed(rows: I64) -> I64:
    """Returns the stored rows that transitions `rows` need in mode `disk`. Every episode has only one part."""
    return np.concatenate([rows - 1, rows + N_STEP - 1])


def warm_up(request: Request) -> None:
    """Compiles the kernels with a few rows."""
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
    """Measures batches of the store and direct reads of the device, in turns. Leaves out the first turn."""
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
    """Measures batches through plain maps, in the order drawn. Compares the first one with the store's."""
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
    """Measures batches of the store of mode `full`, held in RAM."""
    seconds, sampler = [], Sampler(n_step=N_STEP)
    # A number, because `auto` would count the page cache that the maps left as memory in use.
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


def chunk_files(array: Path) -> list[Path]:
    """Returns the chunk files of a Zarr array along its first axis, in order. Their keys are `c.0.0`, `c.1.0` and on.

    Rows must not have been evicted.
    """
    chunks = sorted((int(path.name.split(".")[1]), path) for path in array.glob("c.*"))
    numbers = [number for number, _ in chunks]
    assert numbers == list(range(len(numbers))), "nothing was evicted"
    return [path for _, path in chunks]


def child(request_path: str, answer_path: str) -> None:
    """Runs in the measured process: reads a request from a file, and writes the result to another one."""
    data = json.loads(Path(request_path).read_text())
    request = Request(**{**data, "warm": tuple(data["warm"])})
    warm_up(request)
    files = RowFiles(
        chunk_files(Path(request.disk, request.field)), request.row_bytes, request.chunk_rows, 2 * request.batch_size
    )
    turns = measure_turns(request, files, np.random.default_rng(0), np.random.default_rng(1))
    mapped = measure_map(request, files, np.random.default_rng(2))
    full = measure_full(request, np.random.default_rng(0))
    Path(answer_path).write_text(json.dumps({"turns": turns, "map": mapped, "full": full}))
