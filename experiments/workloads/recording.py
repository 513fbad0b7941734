"""Records whole episodes into files, and continues where an earlier run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.datasets.drqv2_npz import list_episode_files, write_episode
from replaystore.errors import EpisodeFileError, WriteError
from replaystore.runtime.durable_files import replace_file

Arrays = dict[str, NDArray[Any]]
Play = Callable[[int], Arrays]
Progress = Callable[[int, int], None]

CONFIG_NAME = "recording.json"
_CONFIG_LIMIT_BYTES = 1 << 16


@dataclass(frozen=True)
class Recorded:
    """The contents of a directory. `new_episodes` counts the episodes that this run recorded."""

    directory: Path
    episodes: int
    transitions: int
    new_episodes: int


class EpisodeRows:
    """Collects the rows of one episode in DrQ-v2's convention: row 0 is the reset, and a row's action led to it."""

    def __init__(self, observation: NDArray[Any], no_action: NDArray[Any]) -> None:
        self._observations = [observation]
        self._actions = [no_action]
        self._rewards = [0.0]
        self._discounts = [1.0]

    def __len__(self) -> int:
        return len(self._rewards)

    def add(self, observation: NDArray[Any], action: NDArray[Any], reward: float, terminated: bool) -> None:
        """Adds a step. Its discount is 0 if `terminated`. A truncated episode keeps 1."""
        self._observations.append(observation)
        self._actions.append(action)
        self._rewards.append(reward)
        self._discounts.append(0.0 if terminated else 1.0)

    def arrays(self) -> Arrays:
        """Returns `observation` and `action` (rows, ...) unchanged, `reward` and `discount` as float32 (rows, 1)."""
        return {
            "observation": np.stack(self._observations),
            "action": np.stack(self._actions),
            "reward": np.array(self._rewards, np.float32)[:, None],
            "discount": np.array(self._discounts, np.float32)[:, None],
        }


def record(
    directory: Path, config: Mapping[str, Any], num_steps: int, play: Play, progress: Progress | None = None
) -> Recorded:
    """Records whole episodes until `directory` has at least `num_steps` transitions.

    Episodes are numbered from 0, and existing ones are kept. So an interrupted run continues, a finished run does
    nothing, and a run with more steps adds episodes. The files are the same as those of one uninterrupted run.

    Args:
        directory: directory to record into. It is created if missing. Its `recording.json` holds `config`.
        config: plain data. An episode depends only on it and on the number of the episode.
        play: returns the arrays of the episode with a number.
        progress: called with (transitions so far, num_steps).

    Raises:
        EpisodeFileError: the directory has episodes of another configuration, or an episode between others is missing.
        WriteError: a file could not be written.
    """
    _claim(directory, config)
    lengths = _present(directory)
    total, kept = sum(lengths), len(lengths)
    count = kept
    while total < num_steps:
        if progress is not None:
            progress(total, num_steps)
        arrays = play(count)
        write_episode(directory, arrays, index=count)
        total += len(arrays["reward"]) - 1
        count += 1
    if progress is not None:
        progress(num_steps, num_steps)
    return Recorded(directory, count, total, count - kept)


def _claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Marks the directory with this configuration, or checks that it has it."""
    path = directory / CONFIG_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes()[:_CONFIG_LIMIT_BYTES] if path.exists() else None
        if text is None and not list_episode_files(directory):
            replace_file(path, json.dumps(config, indent=2) + "\n", sync=False, shared=True)
            return
    except OSError as err:
        raise WriteError(f"{directory}: expected a directory to record into: {err}; choose another one") from err
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as err:
        raise EpisodeFileError(f"{path}: expected JSON, found {err!r}; choose another directory") from err
    if found != config:
        raise EpisodeFileError(
            f"{path}: expected {json.dumps(config)} beside the episodes, found {json.dumps(found)};"
            " choose another directory"
        )


def _present(directory: Path) -> list[int]:
    """Returns the transitions of the existing episodes, by number."""
    lengths: dict[int, int] = {}
    for entry in list_episode_files(directory):
        if entry.index is not None and entry.num_transitions is not None and entry.refusal is None:
            lengths.setdefault(entry.index, entry.num_transitions)
    missing = sorted(set(range(len(lengths))) - set(lengths))
    if missing:
        raise EpisodeFileError(
            f"{directory}: expected episodes 0 to {max(lengths)}, found none with number {missing[0]};"
            " choose another directory, or delete those after it"
        )
    return [lengths[number] for number in range(len(lengths))]
