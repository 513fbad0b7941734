"""Bytes of Atari observations in stores of mode `full`, for several configurations of the image codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.published.formulas import average_factor
from replaystore import ReplayStore
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.errors import DamageError, EpisodeFileError

OBSERVATION = "observation"

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "spans, 16": {"entropy": "spans", "keyframe_interval": 16},
    "spans, 64": {"entropy": "spans", "keyframe_interval": 64},
    "zstd 1, 16": {"entropy": "zstd", "level": 1, "keyframe_interval": 16},
    "zstd 1, 32": {"entropy": "zstd", "level": 1, "keyframe_interval": 32},
    "zstd 9, 16": {"entropy": "zstd", "level": 9, "keyframe_interval": 16},
    "zstd 9, 32": {"entropy": "zstd", "level": 9, "keyframe_interval": 32},
    "points, 4": {"entropy": "points", "reference": "keyframe", "keyframe_interval": 4},
}
"""Options of `FrameDelta`, by the name in the table. `points, 4` is the published scheme, one keyframe per stack."""


@dataclass(frozen=True, kw_only=True)
class Game:
    """Sizes of one game.

    Attributes:
        game: name of its directory.
        transitions: transitions in each of its stores.
        raw_bytes: bytes of an observation as a raw stack.
        observation_bytes_per_transition: bytes of files on disk, by configuration.
    """

    game: str
    transitions: int
    raw_bytes: int
    observation_bytes_per_transition: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AtariSizes:
    """The result of `measure_sizes`. `average_factors` are mean raw over mean stored bytes, by configuration."""

    games: tuple[Game, ...]
    average_factors: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def measure_sizes(
    directory: Path,
    configurations: Sequence[str] = tuple(CONFIGURATIONS),
    *,
    work_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AtariSizes:
    """Fills a store with each game in each configuration, compares every row with its file, and measures the sizes.

    Args:
        directory: recordings of `atari`, one directory of episodes per game.
        work_dir: directory for the stores. They are deleted afterwards.
        progress: called with (games done, games in all).

    Raises:
        EpisodeFileError: there are no games.
        DamageError: a store returned other observations.
    """
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and list_episode_files(path))
    if not folders:
        raise EpisodeFileError(f"{directory}: expected a directory of episodes per game, found none; record `atari`")
    games = []
    for number, folder in enumerate(folders):
        if progress is not None:
            progress(number, len(folders))
        games.append(_measure_game(folder, configurations, work_dir))
    if progress is not None:
        progress(len(folders), len(folders))
    raw = [game.raw_bytes for game in games]
    factors = {
        name: average_factor(raw, [game.observation_bytes_per_transition[name] for game in games])
        for name in configurations
    }
    return AtariSizes(games=tuple(games), average_factors=factors)


def _measure_game(folder: Path, configurations: Sequence[str], work_dir: Path | None) -> Game:
    paths = [entry.path for entry in list_episode_files(folder) if entry.refusal is None]
    episodes = [read_episode(path) for path in paths]
    sizes = {}
    for name in configurations:
        fields = with_schemes(fields_from_episode(episodes[0]), None, CONFIGURATIONS[name])
        with TemporaryDirectory(prefix="atari-", dir=work_dir) as scratch:
            store_path = Path(scratch, "store")
            with ReplayStore.create(store_path, fields, mode="full") as store:
                ids = [store.append(episode) for episode in episodes]
            with ReplayStore.open(store_path, read_only=True, residency="mapped") as store:
                for path, episode, number in zip(paths, episodes, ids, strict=True):
                    if not np.array_equal(store.read_episode(number)[OBSERVATION], episode[OBSERVATION]):
                        raise DamageError(f"{path}: expected the same observations from a store ({name}), got others")
                info = store.info()
        sizes[name] = info["observation_bytes_per_transition"]
    raw_bytes = episodes[0][OBSERVATION][0].nbytes
    return Game(
        game=folder.name,
        transitions=info["transitions"],
        raw_bytes=raw_bytes,
        observation_bytes_per_transition=sizes,
    )
