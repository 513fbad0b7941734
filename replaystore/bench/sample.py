"""`bench sample`: time to draw and gather a batch from stores, beside a plain parallel copy of the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.bench.conditions import conditions
from replaystore.bench.spread import Spread
from replaystore.errors import SpecError
from replaystore.sampler import Sampler
from replaystore.spec import Residency
from replaystore.store import ReplayStore

Array = npt.NDArray[Any]

_WARM_UP_BATCHES = 3
_COPY_SOURCE_BYTES = 256 << 20
_READ_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class SampleTimes:
    """Batch times of one store in one residency, or of the copy.

    Attributes:
        store: path; None: a copy of the same bytes from an array in memory, row by row.
        mode, residency: of the store; None for the copy.
        milliseconds: a batch, drawing included.
        megabytes_per_second: 10^6 bytes of batch, at the median.
    """

    store: str | None
    mode: str | None
    residency: str | None
    transitions: int | None
    bytes_per_transition: float | None
    milliseconds: Spread
    megabytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """What `run_sample` measured. `batch_bytes`: of one batch, all fields."""

    batch_bytes: int
    times: tuple[SampleTimes, ...]
    conditions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def run_sample(
    store_paths: Sequence[str | os.PathLike[str]],
    *,
    residencies: Sequence[Residency] = ("ram", "mapped"),
    batch_size: int = 256,
    n_step: int = 3,
    num_batches: int = 50,
    threads: int = 2,
    seed: int = 0,
    budget_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Times batches from each store in each residency, and a copy of the first store's batch, in turn.

    Every file is read once before, so the page cache is as warm as memory allows.

    Raises:
        SpecError: nothing to measure, or numbers that cannot work. BudgetError: a store does not fit RAM.
    """
    if not store_paths or not residencies or min(batch_size, n_step, num_batches, threads) < 1:
        raise SpecError("sample: expected a store, a residency, and batch_size, n_step, num_batches, threads from 1 on")
    times: list[list[float]] = []
    turns: list[Callable[[], None]] = []
    labels: list[dict[str, Any]] = []
    batch_bytes: list[int] = []
    with ExitStack() as stack:
        for path in store_paths:
            _read_all(Path(path))
            for residency in residencies:
                store = stack.enter_context(
                    ReplayStore.open(
                        path, read_only=True, residency=residency, budget_bytes=budget_bytes, num_threads=threads
                    )
                )
                info = store.info()
                batch = store.allocate(batch_size)
                batch_bytes.append(sum(array.nbytes for array in batch.values()))
                turns.append(_draws(store, batch, batch_size, n_step, seed))
                labels.append(
                    {
                        "store": str(path),
                        "mode": store.spec.mode,
                        "residency": residency,
                        "transitions": info["transitions"],
                        "bytes_per_transition": info["bytes_per_transition"],
                    }
                )
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        turns.append(_copies(batch_bytes[0] // batch_size, batch_size, threads, pool, seed))
        batch_bytes.append(batch_bytes[0] // batch_size * batch_size)
        nothing = ("store", "mode", "residency", "transitions", "bytes_per_transition")
        labels.append(dict.fromkeys(nothing))
        times = [[] for _ in turns]
        for number in range(_WARM_UP_BATCHES + num_batches):
            if progress is not None:
                progress(number, _WARM_UP_BATCHES + num_batches)
            for turn, seconds in zip(turns, times, strict=True):
                started = time.perf_counter()
                turn()
                seconds.append(time.perf_counter() - started)
    measured = []
    for label, size, seconds in zip(labels, batch_bytes, times, strict=True):
        spread = Spread.of(1000 * second for second in seconds[_WARM_UP_BATCHES:])
        measured.append(
            SampleTimes(**label, milliseconds=spread, megabytes_per_second=size / (1000 * spread.median)),
        )
    stated = {
        "batch_size": batch_size,
        "n_step": n_step,
        "num_batches": num_batches,
        "warm_up_batches": _WARM_UP_BATCHES,
        "threads": threads,
        "seed": seed,
        "distribution": "uniform",
        "cache_state": "warm: every file was read once before",
        "order": "interleaved, a batch of each in turn",
    }
    return SampleResult(
        batch_bytes=batch_bytes[0],
        times=tuple(measured),
        conditions={**stated, **conditions(Path(store_paths[0]))},
    )


def _draws(store: ReplayStore, batch: dict[str, Array], batch_size: int, n_step: int, seed: int) -> Callable[[], None]:
    sampler, rng = Sampler(n_step=n_step), np.random.default_rng(seed)

    def turn() -> None:
        store.gather(store.draw(sampler, rng, batch_size), n_step=n_step, out=batch)

    return turn


def _copies(row_bytes: int, batch_size: int, threads: int, pool: ThreadPoolExecutor, seed: int) -> Callable[[], None]:
    """Copies random rows of an array larger than the caches into another one, as many bytes as a batch has."""
    rng = np.random.default_rng(seed)
    source = np.ones((max(batch_size, _COPY_SOURCE_BYTES // row_bytes), row_bytes), np.uint8)
    out = np.empty((batch_size, row_bytes), np.uint8)
    bounds = np.linspace(0, batch_size, threads + 1).astype(int)
    parts = [slice(int(start), int(stop)) for start, stop in pairwise(bounds)]

    def turn() -> None:
        rows = rng.integers(0, len(source), batch_size)
        # mode="clip": with "raise" NumPy copies through a buffer of its own
        list(pool.map(lambda part: np.take(source, rows[part], axis=0, out=out[part], mode="clip"), parts))

    return turn


def _read_all(path: Path) -> None:
    """Reads every file of a store once, so that what fits the page cache is in it."""
    buffer = bytearray(_READ_BYTES)
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with open(file, "rb", buffering=0) as raw:
                while raw.readinto(buffer):
                    pass
