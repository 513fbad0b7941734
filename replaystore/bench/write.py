"""`bench write`: measures rows appended per second in each mode, and a plain parallel write of the same bytes.

It also measures the time of one `add`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.bench.conditions import conditions
from replaystore.bench.spread import Spread
from replaystore.bench.write_result import AddTimes, WriteResult, WriteTimes
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.errors import EpisodeFileError, SpecError
from replaystore.spec import DEFAULT_CHUNK_ROWS, MODES, Durability, FieldSpec, Mode
from replaystore.store import ReplayStore

Episode = dict[str, npt.NDArray[Any]]

_SOURCE_BYTES = 1 << 30  # most bytes of episodes in memory
_ADDED_EPISODES = 4  # added row by row in each repeat


def run_write(
    episode_dir: str | os.PathLike[str],
    *,
    modes: Sequence[Mode] = MODES,
    episodes: int = 8,
    repeats: int = 5,
    threads: int = 2,
    durability: Durability = "process",
    frame_stack: int | None = None,
    frame_delta: Mapping[str, Any] | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WriteResult:
    """Appends recorded episodes to a new store in each mode, and writes them to plain files, in turn.

    Args:
        episode_dir: directory of episode files. They are read before the measurement, and repeated if `episodes` is
            larger.
        modes: modes to compare.
        episodes: episodes to append in each repeat, cut off at the last whole chunk.
        repeats: repeats of everything.
        threads: threads of the plain write. The store encodes on other threads.
        durability: durability of the stores. With `"power"` the plain files are synced too.
        frame_stack: see `fields_from_episode`.
        frame_delta: options of `FrameDelta` in mode `"full"`.
        work_dir: directory for the files, which are deleted afterwards. None takes the system's temporary directory.
        progress: called with (repeats done, repeats in all).

    Raises:
        SpecError: there is no mode, a number is below 1, or the options do not fit the episodes.
        EpisodeFileError: there are no episode files, or one is damaged.
    """
    if not modes or min(episodes, repeats, threads) < 1:
        raise SpecError("write: expected a mode, and episodes, repeats and threads from 1 on")
    source = _source(episode_dir, episodes)
    fields = fields_from_episode(source[0], frame_stack)
    chosen, chunk_rows = _whole_chunks([source[number % len(source)] for number in range(episodes)])
    rows = sum(len(next(iter(episode.values()))) for episode in chosen)
    num_bytes = sum(array.nbytes for episode in chosen for array in episode.values())
    rates: dict[Mode | None, list[float]] = {mode: [] for mode in (*modes, None)}
    appends: dict[Mode, list[float]] = {mode: [] for mode in modes}
    adds: dict[Mode, list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory(prefix="replaystore-write-", dir=work_dir) as scratch:
        folder = Path(scratch)
        stated = conditions(folder)
        _append(
            folder, "full", with_schemes(fields, None, frame_delta), durability, chunk_rows, chosen[:1]
        )  # compiles kernels
        for repeat in range(repeats):
            if progress is not None:
                progress(repeat, repeats)
            for mode in modes:
                schemed = with_schemes(fields, None, frame_delta) if mode == "full" else fields
                seconds, of_appends = _append(folder, mode, schemed, durability, chunk_rows, chosen)
                rates[mode].append(rows / seconds)
                appends[mode] += [1000 * second for second in of_appends]
                adds[mode] += _add(folder, mode, schemed, durability, chunk_rows, chosen[:_ADDED_EPISODES])
            rates[None].append(rows / _write_plain(folder, chosen, threads, sync=durability == "power"))
    times = [
        WriteTimes(
            mode=mode,
            rows_per_second=(spread := Spread.of(found)),
            append_milliseconds=None if mode is None else Spread.of(appends[mode]),
            add_microseconds=None if mode is None else _add_times(adds[mode]),
            megabytes_per_second=spread.median * num_bytes / rows / 1e6,
        )
        for mode, found in rates.items()
    ]
    stated |= {
        "episodes": episodes,
        "repeats": repeats,
        "threads": threads,
        "chunk_rows": chunk_rows,
        "durability": durability,
        "cache_state": "written to the page cache, not synced" if durability == "process" else "synced",
        "order": "interleaved, one repeat of each in turn",
    }
    return WriteResult(rows=rows, num_bytes=num_bytes, times=tuple(times), conditions=stated)


def _source(episode_dir: str | os.PathLike[str], most: int) -> list[Episode]:
    episodes: list[Episode] = []
    num_bytes = 0
    for entry in list_episode_files(episode_dir):
        if entry.refusal is None and len(episodes) < most and num_bytes < _SOURCE_BYTES:
            episodes.append(read_episode(entry.path))
            num_bytes += sum(array.nbytes for array in episodes[-1].values())
    if not episodes:
        raise EpisodeFileError(f"{episode_dir}: expected episode files (*.npz), found none; check the path")
    return episodes


def _whole_chunks(episodes: Sequence[Episode]) -> tuple[list[Episode], int]:
    """Returns the episodes, cut off at the end of their last whole chunk, and the rows per chunk.

    Whole chunks make sure that everything is encoded.
    """
    total = sum(len(next(iter(episode.values()))) for episode in episodes)
    chunk_rows = min(total, DEFAULT_CHUNK_ROWS)
    left = total // chunk_rows * chunk_rows
    kept = []
    for episode in episodes:
        rows = min(left, len(next(iter(episode.values()))))
        left -= rows
        if rows:
            kept.append({name: array[:rows] for name, array in episode.items()})
    return kept, chunk_rows


def _append(
    folder: Path, mode: Mode, fields: Sequence[FieldSpec], durability: Durability, chunk_rows: int,
    episodes: Sequence[Episode],
) -> tuple[float, list[float]]:  # fmt: skip
    """Returns the seconds until everything is in its files, and the seconds of each append."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        appends = []
        path = Path(scratch, "store")
        started = time.perf_counter()
        with ReplayStore.create(
            path, fields, mode=mode, chunk_rows=chunk_rows, durability=durability, residency="mapped"
        ) as store:
            for episode in episodes:
                before = time.perf_counter()
                store.append(episode)
                appends.append(time.perf_counter() - before)
            store.flush()
            return time.perf_counter() - started, appends


def _add(
    folder: Path, mode: Mode, fields: Sequence[FieldSpec], durability: Durability, chunk_rows: int,
    episodes: Sequence[Episode],
) -> list[float]:  # fmt: skip
    """Returns the seconds of each `add` that commits nothing."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        seconds = []
        with ReplayStore.create(
            Path(scratch, "store"), fields, mode=mode, chunk_rows=chunk_rows, durability=durability, residency="mapped"
        ) as store:
            for episode in episodes:
                rows = len(next(iter(episode.values())))
                for row in range(rows):
                    time_step = {name: array[row] for name, array in episode.items()}
                    started = time.perf_counter()
                    store.add(time_step, last=row == rows - 1)
                    if row < rows - 1:
                        seconds.append(time.perf_counter() - started)
        return seconds


def _add_times(seconds: Sequence[float]) -> AddTimes | None:
    if not seconds:  # episodes of one row
        return None
    p50, p99 = (1e6 * float(np.percentile(seconds, percent)) for percent in (50, 99))
    return AddTimes(p50=p50, p99=p99, count=len(seconds))


def _write_plain(folder: Path, episodes: Sequence[Episode], threads: int, *, sync: bool) -> float:
    """Returns the seconds to write the arrays into new files, one per thread."""

    def write(number: int) -> None:
        with open(Path(scratch, str(number)), "wb", buffering=0) as file:
            for episode in episodes[number::threads]:
                for array in episode.values():
                    _write_fully(file.fileno(), array)
            if sync:
                os.fsync(file.fileno())

    with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(write, range(threads)))
        return time.perf_counter() - started


def _write_fully(descriptor: int, array: npt.NDArray[Any]) -> None:
    data = np.ascontiguousarray(array).data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]
