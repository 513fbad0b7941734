"""Predicts how large a store will be in each mode and whether it fits, and recommends a mode.

No formula is involved. A few episodes are stored in a temporary directory and measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.errors import EpisodeFileError, SpecError
from replaystore.sampling.sampler import Sampler
from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore

Episode = Mapping[str, npt.NDArray[Any]]

_BATCH_SIZE = 256
_TIMED_AT_ONCE = 64  # a whole batch from so few rows would share decoded groups more often than a real run does
_N_STEP = 3
_TIMED_BATCHES = 40
_WARM_UP_BATCHES = 3
_MAX_CHUNK_ROWS = 1 << 20
_AS_FAST = 1.15  # batch times this close count as equal, and the smaller store wins

# Candidates in the order in which they are shown: name, mode, options of FrameDelta.
_RAW: tuple[tuple[str, Mode], ...] = (("disk", "disk"), ("half", "half"))
_CONFIGURATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("full", {}),
    ("full, fastest", {"entropy": "spans", "keyframe_interval": 8}),
    ("full, keyframes every 32", {"keyframe_interval": 32}),
    ("full, small", {"entropy": "zstd", "level": 15, "keyframe_interval": 8}),
    ("full, smallest", {"entropy": "zstd", "level": 9, "keyframe_interval": 32}),
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to store the episodes.

    Attributes:
        name: name of the candidate.
        mode: mode of the store.
        frame_delta: options of `FrameDelta` for its images. None if there are none.
        bytes_per_transition: bytes of all fields over the sample, as `ReplayStore.info` counts them.
        observation_bytes_per_transition: bytes of observations alone, counted in the same way.
        least_bytes_per_transition: least of the sampled episodes, all fields.
        most_bytes_per_transition: most of the sampled episodes, all fields.
        deviation_bytes_per_transition: standard deviation over the sampled episodes. None for a single one.
        total_bytes: predicted bytes at the capacity, in RAM as on disk.
        fits_budget: whether all of it fits RAM.
        fits_disk: whether it fits the free space.
        batch_milliseconds: time to gather 256 transitions from RAM: the median of 64 at a time, times 4.
    """

    name: str
    mode: Mode
    frame_delta: Mapping[str, Any] | None
    bytes_per_transition: float
    observation_bytes_per_transition: float
    least_bytes_per_transition: float
    most_bytes_per_transition: float
    deviation_bytes_per_transition: float | None
    total_bytes: int
    fits_budget: bool
    fits_disk: bool
    batch_milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` found.

    Attributes:
        capacity: transitions that the store will hold.
        budget_bytes: RAM for it.
        disk_free_bytes: free space at the store's place.
        episodes: names of the sampled files.
        transitions: transitions in those files.
        candidates: what was measured.
        recommended: name of the best candidate. None if none fits the disk.
        reason: why, in a sentence.
        conditions: conditions of the measured times.
    """

    capacity: int
    budget_bytes: int
    disk_free_bytes: int
    episodes: tuple[str, ...]
    transitions: int
    candidates: tuple[Candidate, ...]
    recommended: str | None
    reason: str
    conditions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def plan(
    episode_dir: str | os.PathLike[str],
    capacity: int,
    budget_bytes: int,
    *,
    sample_episodes: int = 3,
    frame_stack: int | None = None,
    store_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Stores a sample of the episodes in each mode, and predicts size and fit at `capacity`.

    Args:
        episode_dir: directory of episode files. The sample is spread evenly over them.
        capacity: transitions that the store will hold.
        budget_bytes: RAM for it.
        sample_episodes: number of episodes to measure.
        frame_stack: see `fields_from_episode`.
        store_dir: where the store will be, to find the free space. None takes `episode_dir`.
        progress: called with (candidates done, candidates in all).

    Raises:
        SpecError: a number is below 1.
        EpisodeFileError: there are no episode files, or one is damaged.
    """
    for name, value in (("capacity", capacity), ("budget_bytes", budget_bytes), ("sample_episodes", sample_episodes)):
        if value < 1:
            raise SpecError(f"{name}: expected at least 1, got {value}")
    files = [entry.path for entry in list_episode_files(episode_dir) if entry.refusal is None]
    if not files:
        raise EpisodeFileError(f"{episode_dir}: expected episode files (*.npz), found none; check the path")
    count = min(sample_episodes, len(files))
    chosen = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]
    episodes = [read_episode(path) for path in chosen]
    lengths = [len(next(iter(episode.values()))) - 1 for episode in episodes]
    fields = fields_from_episode(episodes[0], frame_stack)
    if sum(lengths) < 1:
        raise EpisodeFileError(f"{episode_dir}: expected episodes of at least 2 rows, found only resets; record longer")
    free = shutil.disk_usage(_existing(Path(store_dir if store_dir is not None else episode_dir))).free
    threads = min(4, os.cpu_count() or 1)
    variants: list[tuple[str, Mode, dict[str, Any] | None]] = [(name, mode, None) for name, mode in _RAW]
    has_images = any(field.is_image for field in fields)
    variants += [(name, "full", options) for name, options in _CONFIGURATIONS] if has_images else []
    with tempfile.TemporaryDirectory(prefix="replaystore-plan-") as scratch:
        paths = [Path(scratch, str(number)) for number in range(len(variants))]
        stored = []
        for number, ((_, mode, options), path) in enumerate(zip(variants, paths, strict=True)):
            if progress is not None:
                progress(number, len(variants))
            stored.append(_store(path, with_schemes(fields, None, options), mode, episodes))
        times = _batch_seconds(paths, threads)
    candidates = []
    for (name, mode, options), (sizes, info), seconds in zip(variants, stored, times, strict=True):
        per_episode = [size / length for size, length in zip(sizes, lengths, strict=True) if length]
        total = round(info["bytes_per_transition"] * capacity)
        candidates.append(
            Candidate(
                name=name,
                mode=mode,
                frame_delta=options,
                bytes_per_transition=info["bytes_per_transition"],
                observation_bytes_per_transition=info["observation_bytes_per_transition"],
                least_bytes_per_transition=min(per_episode),
                most_bytes_per_transition=max(per_episode),
                deviation_bytes_per_transition=statistics.stdev(per_episode) if len(per_episode) > 1 else None,
                total_bytes=total,
                fits_budget=total <= budget_bytes,
                fits_disk=total <= free,
                batch_milliseconds=1000 * seconds,
            )
        )
    if progress is not None:
        progress(len(variants), len(variants))
    recommended, reason = _recommendation(candidates, capacity, budget_bytes, free)
    return Plan(
        capacity=capacity,
        budget_bytes=budget_bytes,
        disk_free_bytes=free,
        episodes=tuple(path.name for path in chosen),
        transitions=sum(lengths),
        candidates=tuple(candidates),
        recommended=recommended,
        reason=reason,
        conditions={
            "batch_size": _BATCH_SIZE,
            "timed_at_once": _TIMED_AT_ONCE,
            "n_step": _N_STEP,
            "threads": threads,
            "seed": 0,
            "residency": "ram",
        },
    )


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _store(
    path: Path, fields: Sequence[FieldSpec], mode: Mode, episodes: Sequence[Episode]
) -> tuple[list[int], dict[str, Any]]:
    """Stores the episodes. Returns the bytes of each, and `ReplayStore.info` of all."""
    rows = max(len(next(iter(episode.values()))) for episode in episodes)
    sizes: list[int] = []
    ReplayStore.create(path, fields, mode=mode, chunk_rows=min(rows, _MAX_CHUNK_ROWS), residency="mapped").close()
    for episode in episodes:
        with ReplayStore.open(path, residency="mapped") as store:
            store.append(episode)  # closing seals it into its own chunks
        with ReplayStore.open(path, read_only=True, residency="mapped") as store:
            info = store.info()
        sizes.append(sum(entry["bytes_on_disk"] for entry in info["fields"].values()) - sum(sizes))
    return sizes, info


def _batch_seconds(paths: Sequence[Path], threads: int) -> list[float]:
    """Returns the median seconds per batch from RAM, by store. Each store makes a batch in turn."""
    seconds: list[list[float]] = [[] for _ in paths]
    with ExitStack() as stack:
        stores = [
            stack.enter_context(ReplayStore.open(path, read_only=True, residency="ram", num_threads=threads))
            for path in paths
        ]
        n_step = min(_N_STEP, max(info.num_rows for info in stores[0].episodes()) - 1)
        sampler = Sampler(n_step=n_step)
        rngs = [np.random.default_rng(0) for _ in stores]
        batches = [store.allocate(_TIMED_AT_ONCE) for store in stores]
        for _ in range(_WARM_UP_BATCHES + _TIMED_BATCHES):
            for store, rng, batch, found in zip(stores, rngs, batches, seconds, strict=True):
                snapshot = store.snapshot()
                ids = sampler.draw(snapshot, rng, _TIMED_AT_ONCE)
                started = time.perf_counter()
                store.gather(ids, n_step=n_step, out=batch, snapshot=snapshot)
                found.append(time.perf_counter() - started)
    return [statistics.median(found[_WARM_UP_BATCHES:]) * _BATCH_SIZE / _TIMED_AT_ONCE for found in seconds]


def _recommendation(
    candidates: Sequence[Candidate], capacity: int, budget_bytes: int, free: int
) -> tuple[str | None, str]:
    on_disk = [candidate for candidate in candidates if candidate.fits_disk]
    smallest = min(candidates, key=lambda candidate: candidate.total_bytes)
    if not on_disk:
        possible = int(free / smallest.bytes_per_transition)
        return None, (
            f"none fits the {free:,} bytes free on disk: {smallest.name!r}, the smallest, needs"
            f" {smallest.total_bytes:,}; free some, or lower the capacity to {possible:,} transitions"
        )
    in_ram = [candidate for candidate in on_disk if candidate.fits_budget]
    if not in_ram:
        possible = int(budget_bytes / smallest.bytes_per_transition)
        return smallest.name, (
            f"none fits the budget of {budget_bytes:,} bytes; {smallest.name!r} is the smallest, so that the largest"
            f" part stays in RAM, and the rest is read from disk; {possible:,} transitions would fit"
        )
    fastest = min(candidate.batch_milliseconds for candidate in in_ram)
    near = [candidate for candidate in in_ram if candidate.batch_milliseconds <= _AS_FAST * fastest]
    best = min(near, key=lambda candidate: candidate.total_bytes)
    others = "the only one that fits" if len(in_ram) == 1 else f"the fastest of {len(in_ram)} that fit"
    return best.name, (
        f"{best.name!r} is {others} the budget at {capacity:,} transitions: {best.total_bytes:,} of"
        f" {budget_bytes:,} bytes, {best.batch_milliseconds:.2g} ms per batch"
    )
