"""The measured process: `python -m replaystore.bench.paging_child REQUEST` reads a JSON file and writes another one.

It never imports torch, because it measures the store alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from replaystore.bench.control_group import read_memory
from replaystore.bench.paging_config import CONTENDERS, MEMMAP, PagingConfig
from replaystore.errors import BudgetError
from replaystore.sampling.sampler import Sampler
from replaystore.spec import RESIDENCIES, Residency
from replaystore.store import ReplayStore

_CRC_BYTES = 1 << 20  # copied at a time, because a copy of the whole batch would count against the limit

Batch = dict[str, npt.NDArray[Any]]


def _kilobytes(path: str, key: str) -> int | None:
    """Returns the bytes of a `key: 12 kB` line of a file below /proc. None if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:")), None)


def _read_bytes() -> int | None:
    """Returns the bytes that the device read for this process. None if the kernel does not report them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


def _warm_up(path: str, config: PagingConfig) -> Batch:
    """Compiles all kernels on a few rows in each residency. Returns the batch's arrays for reuse."""
    batch: Batch | None = None
    sampler = Sampler(n_step=config.n_step)
    for residency in RESIDENCIES:
        with ReplayStore.open(path, read_only=True, residency=residency, num_threads=config.threads) as store:
            rows = store.draw(sampler, np.random.default_rng(0), config.batch_size)
            batch = store.gather(rows, n_step=config.n_step, discount=config.discount, out=batch)
    assert batch is not None
    return batch


def _baseline_bytes(group: Path | None) -> int:
    """Returns the memory of this process that dropping page cache cannot reclaim."""
    if group is not None:
        use = read_memory(group)
        return use.usage_bytes - use.cache_bytes
    return _kilobytes("/proc/self/smaps_rollup", "Pss_Anon") or 0


class MemmapFrames:
    """The images of a store in mode `disk`, read as a user of NumPy would: a `memmap` per chunk file, without a cache.

    Args:
        store: the store. All its rows are in chunks.
    """

    def __init__(self, store: ReplayStore) -> None:
        self._chunk_rows = store.spec.chunk_rows
        self._maps: dict[str, dict[int, npt.NDArray[Any]]] = {}
        for field in store.spec.fields:
            if field.is_image and field.role == "observation":
                files = (store.path / field.name).glob("c.*")
                self._maps[field.name] = {
                    int(file.name.split(".")[1]): np.memmap(file, np.uint8, "r").reshape(-1, *field.stacked_shape)
                    for file in files
                }

    def images(self, batch: Batch) -> Batch:
        """Returns the arrays of a batch that `gather` fills."""
        return {name: batch[name] for field in self._maps for name in (field, f"next_{field}")}

    def gather(self, rows: npt.NDArray[np.int64], n_step: int, batch: Batch) -> None:
        """Reads the observations of transitions.

        Args:
            rows: int64 (n,), rows of the transitions.
            n_step: steps of the return.
            batch: arrays by name, of which those of images are filled.
        """
        for field, maps in self._maps.items():
            for name, wanted in ((field, rows - 1), (f"next_{field}", rows + n_step - 1)):
                chunks = wanted // self._chunk_rows
                for chunk in np.unique(chunks).tolist():
                    chosen = chunks == chunk
                    batch[name][chosen] = maps[chunk][wanted[chosen] - chunk * self._chunk_rows]


def _checksum(batch: Batch) -> str:
    crc = 0
    for name in sorted(batch):
        flat = np.ascontiguousarray(batch[name]).view(np.uint8).reshape(-1)
        for start in range(0, len(flat), _CRC_BYTES):
            crc = google_crc32c.extend(crc, flat[start : start + _CRC_BYTES].tobytes())
    return f"{crc:08x}"


def _open(path: str, mode: str, budget_bytes: int | None, config: PagingConfig) -> tuple[ReplayStore, str, float]:
    """Opens the store as its mode is measured.

    Where RAM may be used, it is opened with `ram`. If that is refused, it is opened with `auto`, which keeps what fits.
    Opening with `auto` at once would not tell whether everything is in RAM.

    Returns:
        (store, where its bytes are, seconds that opening took).
    """
    chosen = CONTENDERS[mode][1]
    names: dict[Residency, str] = {"ram": "ram", "auto": "ram + mapped"} if chosen is None else {chosen: chosen}
    for residency, name in names.items():
        begin = time.perf_counter()
        try:
            store = ReplayStore.open(
                path, read_only=True, residency=residency, budget_bytes=budget_bytes, num_threads=config.threads
            )
        except BudgetError:
            if residency == "auto":
                raise
        else:
            store.wait_until_filled()
            return store, name, time.perf_counter() - begin
    raise AssertionError("auto refuses nothing")


def measure(config: PagingConfig, mode: str, store_path: str, warm_path: str, group: Path | None) -> dict[str, Any]:
    """Opens a store, times batches and returns the fields of a `Measurement` that this process knows.

    Args:
        config: what to measure.
        mode: name of the contender.
        store_path: the store.
        warm_path: a small store of that mode, to compile kernels with.
        group: directory of the control group. None if there is no limit.
    """
    batch = _warm_up(warm_path, config)
    baseline_bytes = _baseline_bytes(group)
    budget_bytes = None if CONTENDERS[mode][1] else max(1, config.limit_bytes - baseline_bytes - config.margin_bytes)
    sampler, rng = Sampler(n_step=config.n_step), np.random.default_rng(config.seed)
    faults, read = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, _read_bytes()
    seconds: list[float] = []
    checksums: list[str] = []
    store, residency, open_seconds = _open(store_path, mode, budget_bytes, config)
    maps = None
    if mode == MEMMAP:
        maps, residency = MemmapFrames(store), MEMMAP
    kept: list[tuple[npt.NDArray[np.int64], str]] = []  # rows of the first batches, and what the maps gave
    with store:
        begin = time.perf_counter()
        while len(seconds) <= config.num_batches and (
            len(seconds) < 2 or time.perf_counter() - begin < config.max_seconds
        ):
            start = time.perf_counter()
            rows = store.draw(sampler, rng, config.batch_size)
            if maps is None:
                store.gather(rows, n_step=config.n_step, discount=config.discount, out=batch)
            else:
                maps.gather(rows, config.n_step, batch)
            seconds.append(time.perf_counter() - start)
            if len(seconds) > config.checksum_batches:
                continue
            if maps is None:
                checksums.append(_checksum(batch))
            else:
                kept.append((rows, _checksum(maps.images(batch))))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        read_after = _read_bytes()
        pss = _kilobytes("/proc/self/smaps_rollup", "Pss")
        pss_anonymous = _kilobytes("/proc/self/smaps_rollup", "Pss_Anon")
        use = None if group is None else read_memory(group)
        info = store.info()
        for rows, checksum in kept:  # after the measurement: the whole batches, whose images are those of the maps
            store.gather(rows, n_step=config.n_step, discount=config.discount, out=batch)
            assert maps is not None
            assert _checksum(maps.images(batch)) == checksum, "the maps hold other images"
            checksums.append(_checksum(batch))
    assert "torch" not in sys.modules
    timed = seconds[1:]
    p50, p95, p99 = (float(value) for value in np.percentile(timed, [50, 95, 99]))
    return {
        "residency": residency,
        "resident_bytes": int(info["held_bytes"]),
        "budget_bytes": budget_bytes,
        "baseline_bytes": baseline_bytes,
        "stopped_by": "num_batches" if len(timed) == config.num_batches else "max_seconds",
        "open_seconds": open_seconds,
        "first_batch_seconds": seconds[0],
        "batch_seconds": timed,
        "p50_seconds": p50,
        "p95_seconds": p95,
        "p99_seconds": p99,
        "mean_seconds": float(np.mean(timed)),
        "major_faults": faults,
        "read_bytes": None if read is None or read_after is None else read_after - read,
        "pss_bytes": pss,
        "pss_anonymous_bytes": pss_anonymous,
        "group_usage_bytes": use and use.usage_bytes,
        "group_cache_bytes": use and use.cache_bytes,
        "group_peak_bytes": use and use.peak_bytes,
        "limit_hits": use and use.limit_hits,
        "checksums": checksums,
    }


def main(request_path: Path) -> None:
    """Reads the request, measures, and writes the answer."""
    request = json.loads(request_path.read_text())
    group = None if request["group"] is None else Path(request["group"])
    config = PagingConfig.from_json(request["config"])
    answer = measure(config, request["mode"], request["store"], request["warm_store"], group)
    Path(request["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
