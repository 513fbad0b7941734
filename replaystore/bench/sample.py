"""`bench sample`: times drawing and gathering a batch from stores, and a plain copy of the same bytes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.bench.conditions import conditions
from replaystore.bench.sample_result import SampleResult
from replaystore.bench.sample_turns import Candidate, Draws, Timed, open_stores, plain_copy
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs
from replaystore.spec import FieldSpec, Residency
from replaystore.store import ReplayStore

with needs("`bench sample`", "bench"):
    import psutil

Progress = Callable[[int, int], None]

_WARM_UP_BATCHES = 3
_BLOCKS = 5
DISCOUNT = 0.99  # of every batch's returns
_PAUSE_SECONDS = 0.012  # between turns, because threads of OpenMP spin for up to 6 ms after their work


def run_sample(
    store_paths: Sequence[str | os.PathLike[str]],
    *,
    residencies: Sequence[Residency] = ("ram", "mapped"),
    candidates: Sequence[Candidate] = (),
    new_arrays: bool = False,
    batch_size: int = 256,
    n_step: int = 3,
    num_batches: int = 50,
    threads: int = 2,
    seed: int = 0,
    budget_bytes: int | None = None,
    progress: Progress | None = None,
) -> SampleResult:
    """Times batches from each store in each residency, from other candidates, and a copy of a batch, in turn.

    Every file is read once first, so the page cache is as warm as memory allows. Candidates that work in the background
    are timed in blocks, while nothing else runs. Each block ends when they have finished their work.

    Args:
        store_paths: the stores, at least one.
        residencies: residencies to open each store in, at least one.
        candidates: other buffers to time. They are prepared first, because some of them fork processes, which is safe
            only while there are no other threads.
        new_arrays: whether to time each store also with new arrays for each batch.
        batch_size: transitions per batch.
        n_step: steps of the return. If a candidate has another n-step, each store is timed with that one too.
        num_batches: batches to time.
        threads: threads that gather a batch.
        seed: seed of the draws.
        budget_bytes: RAM for each store. None takes what is available.
        progress: called with (steps done, steps in all).

    Raises:
        SpecError: there is nothing to measure, or a number is below 1.
        BudgetError: a store does not fit RAM.
    """
    if not store_paths or not residencies or min(batch_size, n_step, num_batches, threads) < 1:
        raise SpecError(
            "sample: expected a store, a residency, and batch_size, n_step, num_batches and threads from 1 on"
        )
    draws = Draws(batch_size=batch_size, n_step=n_step, discount=DISCOUNT, threads=threads, seed=seed)
    step = _counter(progress, len(candidates) + _WARM_UP_BATCHES + num_batches)
    with ExitStack() as stack:
        prepared = []
        for candidate in candidates:
            prepared.append(candidate.prepare(stack))
            step()
        timed = [found for found in prepared if isinstance(found, Timed)]
        raw_bytes, batch_bytes = _bytes_of(store_paths[0], batch_size)
        entries = list(
            open_stores(
                store_paths,
                residencies,
                draws,
                stack,
                new_arrays=new_arrays,
                other_n_steps=sorted({found.label.n_step or n_step for found in timed} - {n_step}),
                budget_bytes=budget_bytes,
            )
        )
        entries.append(plain_copy(batch_bytes // batch_size, draws, stack))
        before = _processor_seconds()
        _run([*entries, *timed], num_batches, seed, step)
        own, everything = (now - then for now, then in zip(_processor_seconds(), before, strict=True))
    stated: dict[str, Any] = {
        "batch_size": batch_size,
        "n_step": n_step,
        "discount": DISCOUNT,
        "num_batches": num_batches,
        "warm_up_batches": _WARM_UP_BATCHES,
        "threads": threads,
        "seed": seed,
        "distribution": "uniform",
        "memory_of_batches": "stores fill arrays that the caller owns",
        "cache_state": "warm: every file was read once before",
        "order": "interleaved: a batch of each in turn, in a new random order each time, 12 ms apart",
        "last_level_cache": _last_level_cache(),
        "used_by_other_processes": round(max(0.0, everything - own) / max(everything, 1e-9), 3),
    }
    if any(found.background is not None for found in timed):
        stated["background"] = (
            f"buffers with worker processes are timed in {_BLOCKS} blocks of {_block(num_batches)} or more batches,"
            " drawn one after another while nothing else runs; batches that were ready before a block are drawn first"
            " and not counted"
        )
    results = [entry.result(batch_bytes) for entry in entries]
    results += [found.result(batch_bytes) if isinstance(found, Timed) else found for found in prepared]
    return SampleResult(
        batch_bytes=batch_bytes,
        raw_observation_bytes=raw_bytes,
        times=tuple(results),
        conditions={**stated, **conditions(Path(store_paths[0]))},
    )


def _bytes_of(path: str | os.PathLike[str], batch_size: int) -> tuple[int, int]:
    """Returns the bytes of a transition's raw observation and the bytes of a batch of a store."""
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        raw = sum(_row_bytes(entry) for entry in store.spec.fields if entry.role == "observation")
        return raw, sum(array.nbytes for array in store.allocate(batch_size).values())


def _row_bytes(entry: FieldSpec) -> int:
    return math.prod(entry.stacked_shape) * np.dtype(entry.dtype).itemsize


def _block(num_batches: int) -> int:
    return math.ceil(num_batches / _BLOCKS)


def _run(entries: Sequence[Timed], num_batches: int, seed: int, step: Callable[[], None]) -> None:
    """Times all entries in turn. Those that work in the background are timed in blocks in between."""
    background = [entry for entry in entries if entry.background is not None]
    in_turn = [entry for entry in entries if entry.background is None]
    rng = np.random.default_rng(seed)
    rounds = _WARM_UP_BATCHES + num_batches
    blocks_after = {math.ceil(rounds * (block + 1) / _BLOCKS) - 1 for block in range(_BLOCKS)}
    for entry in background:
        assert entry.background is not None
        entry.background.settle()
    for number in range(rounds):
        # The entry that ran before leaves its data in the caches, so the order changes each time.
        for position in rng.permutation(len(in_turn)):
            _pause()
            milliseconds = _milliseconds(in_turn[position].turn, 1)
            if number >= _WARM_UP_BATCHES:
                in_turn[position].milliseconds.append(milliseconds)
        if number in blocks_after:
            for entry in background:
                _time_block(entry, _block(num_batches))
        step()


def _time_block(entry: Timed, batches: int) -> None:
    peer = entry.background
    assert peer is not None
    for _ in range(peer.ready_batches):
        entry.turn()
    count = peer.cycle * math.ceil(batches / peer.cycle)
    entry.milliseconds.append(_milliseconds(entry.turn, count) / count)
    peer.settle()


def _pause() -> None:
    """Waits in a loop. A sleeping core takes time to wake, which a running program would not see."""
    end = time.perf_counter() + _PAUSE_SECONDS
    while time.perf_counter() < end:
        pass


def _milliseconds(turn: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        turn()
    return 1000 * (time.perf_counter() - started)


def _processor_seconds() -> tuple[float, float]:
    """Returns the processor time so far of this process with its children, and of the whole machine.

    The machine's time includes what its host took.
    """
    me = psutil.Process()
    own = sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return own, sum(machine[:8]) - idle  # the first eight already include the times of guests that follow


def _last_level_cache() -> str | None:
    """Returns the size of the last cache level in the kernel's notation. None if the kernel does not report it."""
    for index in (3, 2):
        try:
            return Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text().strip()
        except OSError:
            continue
    return None


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step
