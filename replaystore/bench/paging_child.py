"""The measured process: `python -m replaystore.bench.paging_child REQUEST` reads a JSON file and writes another one.

It imports torch only for DrQ-v2's loader, because otherwise it measures the store alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.bench.control_group import read_memory
from replaystore.bench.paging_config import DRQV2, PagingConfig
from replaystore.bench.paging_contenders import Contender, make_contender


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


def _baseline_bytes(group: Path | None) -> int:
    """Returns the memory of this process that dropping page cache cannot reclaim."""
    if group is not None:
        use = read_memory(group)
        return use.usage_bytes - use.cache_bytes
    return _kilobytes("/proc/self/smaps_rollup", "Pss_Anon") or 0


def measure(config: PagingConfig, contender: Contender, group: Path | None) -> dict[str, Any]:
    """Opens the data, times batches and returns the fields of a `Measurement` that this process knows.

    Args:
        config: what to measure.
        contender: what to measure it on, not yet open.
        group: directory of the control group. None if there is no limit.
    """
    baseline_bytes = _baseline_bytes(group)
    free_bytes = max(1, config.limit_bytes - baseline_bytes - config.margin_bytes)
    budget_bytes = free_bytes if contender.uses_budget else None
    faults, read = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, _read_bytes()
    seconds: list[float] = []
    begin = time.perf_counter()
    residency = contender.open(budget_bytes)
    open_seconds = time.perf_counter() - begin
    try:
        begin = time.perf_counter()
        while len(seconds) <= config.num_batches and (
            len(seconds) < 2 or time.perf_counter() - begin < config.max_seconds
        ):
            start = time.perf_counter()
            contender.draw()
            seconds.append(time.perf_counter() - start)
            if len(seconds) <= config.checksum_batches:
                contender.remember()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        read_after = _read_bytes()
        pss = _kilobytes("/proc/self/smaps_rollup", "Pss")
        pss_anonymous = _kilobytes("/proc/self/smaps_rollup", "Pss_Anon")
        use = None if group is None else read_memory(group)
        resident_bytes, batch_bytes = contender.resident_bytes(), contender.batch_bytes()
        checksums = contender.checksums()
    finally:
        contender.close()
    timed = seconds[1:]
    p50, p95, p99 = (float(value) for value in np.percentile(timed, [50, 95, 99]))
    return {
        "residency": residency,
        "resident_bytes": resident_bytes,
        "budget_bytes": budget_bytes,
        "baseline_bytes": baseline_bytes,
        "batch_bytes": batch_bytes,
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
    answer = measure(config, make_contender(request["mode"], config, request), group)
    assert request["mode"] == DRQV2 or "torch" not in sys.modules
    Path(request["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
