"""Writes the episodes of a store into episode files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.datasets.drqv2_npz import episode_file_name, read_episode, write_episode
from replaystore.datasets.sources import read_sources
from replaystore.errors import EpisodeFileError, WriteError
from replaystore.store import ReplayStore

Array = npt.NDArray[Any]

_FIRST_TIMESTAMP = datetime(2000, 1, 1)  # a store keeps no times; these make names that sort like the episodes
_MAX_BYTES = 1 << 62  # no limit: `max_bytes` already limits the file to an episode's size


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        directory: directory of the episode files.
        written: files written now.
        already_present: files that existed and held the same arrays.
        transitions: transitions in all those files.
        seconds: duration of the export.
    """

    directory: str
    written: int
    already_present: int
    transitions: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def export(
    store_path: str | os.PathLike[str],
    episode_dir: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Writes each live episode of a store as a DrQ-v2 episode file, with the arrays that were appended.

    Fields stored with `round_clamp` are exported rounded. An episode that was converted from a file gets the name of
    that file. Other names have the episode's id and a made-up timestamp. An interrupted export can be repeated:
    existing files with the same arrays are kept.

    Args:
        store_path: the store. It may have a writer at the same time.
        episode_dir: directory for the files, made if absent.
        progress: called with (episodes done, episodes in all).

    Raises:
        StoreNotFound: the path holds no store.
        EpisodeFileError: a file of that name holds other data. It is left unchanged.
        WriteError: a file cannot be written.
        DamageError: the store is damaged.
    """
    started = time.monotonic()
    folder = Path(episode_dir)
    written = present = transitions = 0
    with ReplayStore.open(store_path, read_only=True, residency="mapped") as store:
        infos = store.episodes()
        sources = read_sources(Path(store_path))
        known = {} if sources is None else sources.by_episode()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise WriteError(f"{folder}: expected a directory to write into: {err}; choose another path") from err
        for number, info in enumerate(infos):
            if progress is not None:
                progress(number, len(infos))
            source = known.get(info.episode)
            name = source.file if source is not None else _made_up_name(info.episode, info.num_rows - 1)
            arrays = store.read_episode(info.episode)
            target = folder / name
            if os.path.lexists(target):
                _check_equal(target, arrays, info.episode)
                present += 1
            else:
                write_episode(target, arrays)
                written += 1
            transitions += info.num_rows - 1
    if progress is not None:
        progress(len(infos), len(infos))
    return ExportReport(
        directory=str(folder),
        written=written,
        already_present=present,
        transitions=transitions,
        seconds=time.monotonic() - started,
    )


def _made_up_name(episode: int, num_transitions: int) -> str:
    stamp = _FIRST_TIMESTAMP + timedelta(seconds=episode)
    return episode_file_name(episode, num_transitions, stamp.strftime("%Y%m%dT%H%M%S"))


def _check_equal(target: Path, arrays: Mapping[str, Array], episode: int) -> None:
    limit = sum(array.nbytes for array in arrays.values())
    found = read_episode(target, max_bytes=limit + (1 << 20), max_ratio=_MAX_BYTES)
    if set(found) != set(arrays) or not all(
        found[name].dtype == array.dtype and np.array_equal(found[name].view(np.uint8), array.view(np.uint8))
        for name, array in arrays.items()
    ):
        raise EpisodeFileError(
            f"{target}: expected nothing, or the arrays of episode {episode}, found others;"
            " export into another directory"
        )
