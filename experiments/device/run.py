"""Builds missing stores, and measures them in a process under the memory limit."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.device.figures import summarise
from experiments.device.measuring import Request
from replaystore.bench.conditions import conditions
from replaystore.bench.memory_limit import memory_group
from replaystore.bench.paging_stores import EpisodeSource, StoreFolder, check_space, drop_page_cache
from replaystore.errors import ReplayStoreError
from replaystore.spec import Mode

TIMEOUT_SECONDS = 1800.0


def run_device(
    episodes: Path, work_dir: Path, *, limit_bytes: int, size_bytes: int, batch_size: int, threads: int, turns: int,
    map_batches: int, chunk_rows: int, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Builds missing stores and measures. Returns plain data.

    Args:
        episodes: a directory of episode files.
        work_dir: where the stores go. They are kept.
        limit_bytes: memory limit of the measured process.
        size_bytes: bytes of raw rows in the store of mode `disk`.
        batch_size: transitions per batch.
        threads: threads that gather a batch.
        turns: batches to time.
        map_batches: batches through a plain map.
        chunk_rows: rows per chunk.
        tell: called with a line of progress.

    Raises:
        EpisodeFileError: there are no episodes.
        WriteError: there is no room for the stores.
        ReplayStoreError: the measured process failed. The message has the last line that it printed.
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
        batch_size=batch_size, threads=threads, turns=turns, map_batches=map_batches,
    )  # fmt: skip
    tell("measuring")
    drop_page_cache(folder.directory)
    with tempfile.TemporaryDirectory(prefix="replaystore-") as scratch, memory_group(limit_bytes) as group:
        asked, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        asked.write_text(json.dumps(asdict(request)))
        run = group.run(
            [sys.executable, "-m", "experiments.device", "--child", str(asked), str(answer)],
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
