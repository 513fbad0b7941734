"""Compares size and batch time of rounded and clamped proprioception with plain float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore import FieldSpec, ReplayStore, Sampler
from replaystore.bench.conditions import conditions
from replaystore.bench.spread import Spread
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.codecs.round_clamp.bounds import tight_bounds
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.errors import EpisodeFileError

Arrays = dict[str, NDArray[Any]]

OBSERVATION = "observation"
BOUND = 127.0
CLAMPED_SHARE = 0.001  # of each value, for bounds taken from the data
PEER = "stable-baselines3 ReplayBuffer, float64"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to hold the observations.

    Attributes:
        name: name in the table.
        bits: mean bits per value, or None for another library's buffer.
        row_bytes: bytes of files on disk per row of the observation, or None for another library's buffer.
        share: `row_bytes` divided by that of float64.
        ideal: `bits` divided by 64.
        clamped: share of the values that were clamped.
        largest_error: largest error inside the bounds, over all rows.
        milliseconds: time to draw and gather a batch, or None if not measured.
    """

    name: str
    bits: float | None = None
    row_bytes: float | None = None
    share: float | None = None
    ideal: float | None = None
    clamped: float | None = None
    largest_error: float | None = None
    milliseconds: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class QuantisedResult:
    """The result of `measure`. `rows` and `transitions` count those in every store and buffer."""

    rows: int
    transitions: int
    ways: tuple[Row, ...]
    conditions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def measure(
    episode_dir: Path, *, batch_size: int = 256, repeats: int = 300, threads: int = 1, seed: int = 0,
    work_dir: Path | None = None, progress: Callable[[int, int], None] | None = None,
) -> QuantisedResult:  # fmt: skip
    """Fills stores with recorded float64 observations, plain and quantised, and times batches of each in turn.

    Args:
        episode_dir: recordings of `humanoid`.
        repeats: batches of each.
        threads: threads that work on a batch, in our stores and in the other buffer.
        work_dir: directory for the stores. They are deleted afterwards.
        progress: called with (batches done, batches in all).

    Raises:
        EpisodeFileError: there are no episodes, or their observations are not flat floats.
    """
    episodes = _read(episode_dir)
    observations = np.concatenate([episode[OBSERVATION] for episode in episodes])
    codecs = _codecs(observations)
    rng = np.random.default_rng(seed)
    sampler = Sampler(n_step=1)
    with TemporaryDirectory(prefix="quantised-", dir=work_dir) as scratch, ExitStack() as stack:
        stated = conditions(Path(scratch))
        rows: list[Row] = []
        ways: dict[str, Callable[[], object]] = {}
        for number, (name, codec) in enumerate(codecs.items()):
            store = stack.enter_context(_fill(Path(scratch, str(number)), episodes, codec, threads))
            rows.append(_sizes(name, codec, store, observations))
            ways[name] = _batches(store, sampler, rng, batch_size)
        transitions = store.num_transitions
        peer = _peer(episodes, transitions, batch_size, threads)
        if peer is not None:
            ways[PEER] = peer
            rows.append(Row(name=PEER))
        times = _interleaved(ways, repeats, progress)
    stated |= {
        "batch_size": batch_size,
        "n_step": 1,
        "repeats": repeats,
        "threads": threads,
        "seed": seed,
        "residency": "ram",
        "order": "interleaved, one batch of each in turn; new arrays for every batch",
        "peer": "measured" if peer is not None else "not measured: stable-baselines3 is not installed",
    }
    measured = tuple(Row(**{**vars(row), "milliseconds": Spread.of(times[row.name])}) for row in rows)
    return QuantisedResult(rows=len(observations), transitions=transitions, ways=measured, conditions=stated)


def _read(episode_dir: Path) -> list[Arrays]:
    episodes = [read_episode(entry.path) for entry in list_episode_files(episode_dir) if entry.refusal is None]
    if not episodes:
        raise EpisodeFileError(f"{episode_dir}: expected episode files (*.npz), found none; check the path")
    observation = episodes[0].get(OBSERVATION)
    if observation is None or observation.ndim != 2 or observation.dtype != np.float64:
        raise EpisodeFileError(f"{episode_dir}: expected float64 (rows, values) in {OBSERVATION!r}; record `humanoid`")
    return episodes


def _codecs(observations: NDArray[np.float64]) -> dict[str, RoundClamp | None]:
    """Returns codecs by name. None stands for plain float64."""
    shape: dict[str, Any] = {"dtype": "float64", "row_size": observations.shape[1]}
    low, high = tight_bounds(observations, CLAMPED_SHARE)
    codecs: dict[str, RoundClamp | None] = {"float64, not packed": None}
    for decimals in (2, 1):
        codecs[f"m = {decimals}, +-127"] = RoundClamp(decimals=decimals, low=-BOUND, high=BOUND, **shape)
    for decimals in (2, 1):
        codecs[f"m = {decimals}, own bounds"] = RoundClamp(
            decimals=decimals, low=low.tolist(), high=high.tolist(), **shape
        )
    return codecs


def _fill(path: Path, episodes: Sequence[Arrays], codec: RoundClamp | None, threads: int) -> ReplayStore:
    schemes = None if codec is None else {OBSERVATION: codec.get_config()}
    fields: Sequence[FieldSpec] = with_schemes(fields_from_episode(episodes[0]), schemes, None)
    with ReplayStore.create(path, fields, mode="disk") as store:
        for episode in episodes:
            store.append(episode)
    return ReplayStore.open(path, read_only=True, residency="ram", num_threads=threads)


def _sizes(name: str, codec: RoundClamp | None, store: ReplayStore, observations: NDArray[np.float64]) -> Row:
    info = store.info()
    field = info["fields"][OBSERVATION]
    row_bytes = field["bytes_on_disk"] / info["rows"]
    found = np.concatenate([store.read_episode(info.episode)[OBSERVATION] for info in store.episodes()])
    inside = observations if codec is None else np.clip(observations, codec.low, codec.high)
    bits = 64.0 if codec is None else float(np.mean(codec.bits))
    return Row(
        name=name,
        bits=bits,
        row_bytes=row_bytes,
        share=row_bytes / observations[0].nbytes,
        ideal=bits / 64,
        clamped=field["values_clamped"] / observations.size,
        largest_error=float(np.abs(found - inside).max()),
    )


def _batches(
    store: ReplayStore, sampler: Sampler, rng: np.random.Generator, batch_size: int
) -> Callable[[], dict[str, NDArray[Any]]]:
    return lambda: store.gather(store.draw(sampler, rng, batch_size), n_step=1)


def _peer(episodes: Sequence[Arrays], transitions: int, batch_size: int, threads: int) -> Callable[[], object] | None:
    """Returns a function that draws from stable-baselines3's buffer with the same transitions, or None without it."""
    try:
        import torch
        from gymnasium.spaces import Box
        from stable_baselines3.common.buffers import ReplayBuffer
    except ImportError:
        return None
    torch.set_num_threads(threads)
    observation, action = episodes[0][OBSERVATION][0], episodes[0]["action"][0]
    buffer = ReplayBuffer(
        transitions,
        Box(-np.inf, np.inf, observation.shape, observation.dtype.type),
        Box(-1.0, 1.0, action.shape, action.dtype.type),
        device="cpu",
        handle_timeout_termination=False,
    )
    for episode in episodes:
        seen, discounts = episode[OBSERVATION], episode["discount"]
        for row in range(1, len(seen)):
            buffer.add(
                seen[row - 1], seen[row], episode["action"][row], episode["reward"][row], discounts[row] == 0.0, [{}]
            )
    assert buffer.full
    return lambda: buffer.sample(batch_size)


def _interleaved(
    ways: dict[str, Callable[[], object]], repeats: int, progress: Callable[[int, int], None] | None
) -> dict[str, list[float]]:
    """Returns the milliseconds of each call, without the first calls, which compile kernels."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-5, repeats):
        for name, batch in ways.items():
            started = time.perf_counter()
            batch()
            if repeat >= 0:
                times[name].append(1000 * (time.perf_counter() - started))
        if progress is not None:
            progress(max(0, repeat + 1), repeats)
    return times
