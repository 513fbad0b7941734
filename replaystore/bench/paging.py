"""`bench paging`: measures batch times as the data outgrows memory, in each storage mode.

The same transitions are stored in every mode. For each size and mode, a separate process draws batches under a memory
limit, starting with a cold page cache. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.bench.conditions import conditions
from replaystore.bench.frame_example import frame_example
from replaystore.bench.memory_limit import memory_group
from replaystore.bench.paging_config import DRQV2, PagingConfig, mode_of
from replaystore.bench.paging_result import (
    FrameExample,
    Measurement,
    PagingResult,
    Speeds,
    Status,
    StoreSummary,
)
from replaystore.bench.paging_stores import EpisodeSource, StoreFolder, check_space, drop_page_cache
from replaystore.bench.physical_limits import copied_bytes_per_second, read_directly
from replaystore.bench.sample_turns import Draws
from replaystore.errors import DamageError, ReplayStoreError
from replaystore.runtime.durable_files import replace_file
from replaystore.spec import Mode

Progress = Callable[[str], None]

_READS_IN_FLIGHT = 16
_READS = 512
GRACE_SECONDS = 600.0  # for opening a store and compiling kernels, besides twice `max_seconds`


class MeasurementFailed(ReplayStoreError):
    """A measured process ended with an error that is not about memory."""


def run_paging(config: PagingConfig, *, progress: Progress | None = None) -> PagingResult:
    """Builds the missing stores, makes the missing measurements, and returns all results.

    Stores and measurements stay in `config.work_dir`. A later run with the same configuration and version reuses them.
    Without a writable control group the measurements run without a limit, and the result says so.

    Args:
        config: what to measure.
        progress: called with one line of text for each step.

    Raises:
        EpisodeFileError: the episode directory holds no usable episodes.
        WriteError: the stores would not fit the disk.
        MeasurementFailed: a measured process failed, other than by being killed at the limit.
        DamageError: two modes gave different bytes for the same batch.
    """
    tell = progress or (lambda line: None)
    work_dir = Path(config.work_dir)
    source = EpisodeSource(config.episode_dir, config.frame_stack)
    folder = StoreFolder(work_dir / "stores", source, config.chunk_rows, config.frame_delta)
    stored = tuple(dict.fromkeys(mode_of(name) for name in config.modes))
    check_space(folder, stored, source.amount(config.sizes[-1] * config.limit_bytes)[1])
    stated = conditions(work_dir)
    measurements: list[Measurement] = []
    summaries: dict[Mode, StoreSummary] = {}
    limit_reason: str | None = None
    for turn, size in enumerate(config.sizes):
        shift = turn % len(config.modes)
        found: dict[str, tuple[Measurement, StoreSummary, str | None]] = {}
        keys = {mode: _key(config, folder, mode, size, stated) for mode in config.modes}
        for mode in config.modes:
            kept = _load(_kept_path(work_dir, mode, size), keys[mode])
            if kept is not None:
                found[mode] = kept
        num_episodes, rows = source.amount(size * config.limit_bytes)
        missing = [mode for mode in config.modes if mode not in found]
        grown = {mode: folder.grow(mode, num_episodes, tell) for mode in stored if mode in map(mode_of, missing)}
        for mode in config.modes[shift:] + config.modes[:shift]:
            if mode in missing:
                tell(f"{mode}: measuring {size:g} times the limit")
                summary = grown[mode_of(mode)]
                entry, reason = _measure(config, folder, mode, summary, size, rows * source.row_bytes)
                found[mode] = entry, summary, reason
                _keep(_kept_path(work_dir, mode, size), keys[mode], *found[mode])
            tell(_one_line(found[mode][0], kept=mode not in missing))
        for mode in config.modes:
            entry, summaries[mode_of(mode)], reason = found[mode]
            measurements.append(entry)
            limit_reason = limit_reason or reason
        _compare(measurements[-len(config.modes) :], folder.directory)
    return PagingResult(
        config=config,
        limited=all(entry.limited for entry in measurements),
        limit_reason=limit_reason,
        row_bytes=source.row_bytes,
        source_episodes=len(source.files),
        measurements=tuple(measurements),
        stores=tuple(summaries[mode] for mode in stored),
        example=_example(source),
        **_machine(config, folder, stated),
    )


def _measure(
    config: PagingConfig, folder: StoreFolder, name: str, summary: StoreSummary, size: float, data_bytes: int
) -> tuple[Measurement, str | None]:
    """Returns one measurement, made in a separate process, and why it had no limit. None if it had one."""
    mode = summary.mode
    drop_page_cache(folder.path(mode))
    with tempfile.TemporaryDirectory(prefix="replaystore-") as scratch, memory_group(config.limit_bytes) as group:
        request, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        content = {
            "config": config.to_json(),
            "mode": name,
            "store": str(folder.path(mode).absolute()),
            "warm_store": str(folder.warm_path(mode).absolute()),
            "episodes": str(folder.source.link(folder.directory.parent / "episodes", summary.episodes))
            if name == DRQV2
            else None,
            "group": None if group.path is None else str(group.path),
            "answer": str(answer),
        }
        request.write_text(json.dumps(content))
        run = group.run(
            [sys.executable, "-m", "replaystore.bench.paging_child", str(request)],
            timeout_seconds=2 * config.max_seconds + GRACE_SECONDS,
        )
        found: dict[str, Any] = {}
        status: Status = "killed" if run.killed else "timed_out" if run.timed_out else "ok"
        if status == "ok":
            if run.returncode != 0:
                raise MeasurementFailed(
                    f"mode {name!r}, size {size:g}: the measured process ended with status {run.returncode}:\n"
                    f"{run.stderr_tail.strip()}"
                )
            found = json.loads(answer.read_text())
        elif run.memory is not None:
            found = {"group_peak_bytes": run.memory.peak_bytes, "limit_hits": run.memory.limit_hits}
    base = {
        "size": size,
        "mode": name,
        "data_bytes": data_bytes,
        "transitions": summary.transitions,
        "store_bytes": summary.bytes_on_disk,
        "status": status,
        "limited": group.limited,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Measurement.from_json({**base, **found}), group.reason


def _compare(entries: list[Measurement], directory: Path) -> None:
    """Checks that modes gave the same bytes for each batch that several of them drew.

    Raises:
        DamageError: they did not.
    """
    for batch in range(max(len(entry.checksums) for entry in entries)):
        sums = {entry.mode: entry.checksums[batch] for entry in entries if batch < len(entry.checksums)}
        if len(set(sums.values())) > 1:
            raise DamageError(
                f"{directory}, size {entries[0].size:g}, batch {batch}: expected the same bytes in all modes, got the"
                f" checksums {sums}; delete the directory and run again, and report it if it stays"
            )


def _machine(config: PagingConfig, folder: StoreFolder, stated: dict[str, Any]) -> dict[str, Any]:
    """Returns the speeds and the conditions of a result. The machine is measured now."""
    drop_page_cache(folder.directory)
    rng = np.random.default_rng(0)
    one = read_directly(folder.directory, rng)
    many = read_directly(folder.directory, rng, num_reads=_READS, in_flight=_READS_IN_FLIGHT)
    draws = Draws(
        batch_size=config.batch_size, n_step=config.n_step, discount=config.discount, threads=config.threads, seed=0
    )
    speeds = Speeds(
        copied_bytes_per_second=copied_bytes_per_second(2 * folder.source.row_bytes, draws),
        read_bytes_per_second=None if many is None else many.bytes_per_second,
        reads_in_flight=_READS_IN_FLIGHT,
    )
    return {
        "speeds": speeds,
        "conditions": {**stated, "random_read_64_kib_ms": None if one is None else round(one.median_milliseconds, 3)},
    }


def _example(source: EpisodeSource) -> FrameExample | None:
    spec = next((spec for spec in source.fields if spec.is_image), None)
    episode = source.episode(0)
    if spec is None or len(episode[spec.name]) < 2:
        return None
    return frame_example(spec, episode[spec.name], source.files[0].name)


def _key(config: PagingConfig, folder: StoreFolder, mode: str, size: float, stated: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that a measurement depends on. A kept measurement is reused if this is equal."""
    varying = ("episode_dir", "work_dir", "sizes", "modes", "frame_delta")  # the last one is in the recipe
    asked = {name: value for name, value in config.to_json().items() if name not in varying}
    same = {name: value for name, value in stated.items() if name not in ("date", "load_average_at_start")}
    return {"size": size, "config": asked, "recipe": folder.recipe(mode_of(mode)), "conditions": same}


def _kept_path(work_dir: Path, mode: str, size: float) -> Path:
    return work_dir / "measurements" / f"{mode}-{size:g}.json"


def _load(path: Path, key: dict[str, Any]) -> tuple[Measurement, StoreSummary, str | None] | None:
    """Returns what `_keep` wrote to `path`. None if there is nothing, or its key differs."""
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if data["key"] != json.loads(json.dumps(key)):
        return None
    return Measurement.from_json(data["measurement"]), StoreSummary(**data["store"]), data["limit_reason"]


def _keep(path: Path, key: dict[str, Any], entry: Measurement, summary: StoreSummary, reason: str | None) -> None:
    data = {"key": key, "measurement": asdict(entry), "store": asdict(summary), "limit_reason": reason}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(data, indent=1) + "\n", sync=False)


def _one_line(entry: Measurement, *, kept: bool) -> str:
    text = f"{entry.mode}: {entry.size:g} times the limit: {entry.status.replace('_', ' ')}"
    if entry.p50_seconds is not None:
        text += f", p50 {1000 * entry.p50_seconds:,.3g} ms over {len(entry.batch_seconds)} batches, {entry.residency}"
    return text + (" (measured earlier)" if kept else "")
