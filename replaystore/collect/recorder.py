"""Records episodes into files, and continues an earlier run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replaystore.collect.config import CollectConfig
from replaystore.collect.environment import PixelEnvironment, Row, smooth_actions
from replaystore.collect.rendering import require_dm_control
from replaystore.datasets.drqv2_npz import EpisodePath, list_episode_files, peek_episode, write_episode
from replaystore.errors import EpisodeFileError, WriteError
from replaystore.runtime.durable_files import replace_file

OnStep = Callable[[int, int], None]
OnEpisode = Callable[[int, Path, bool], None]

_CONFIG_NAME = "collect.json"
_CONFIG_LIMIT_BYTES = 1 << 16


def collect(
    config: CollectConfig,
    directory: str | os.PathLike[str],
    *,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
) -> list[Path]:
    """Records `config.episodes` episodes into `directory` and returns their files, by episode number.

    Each file holds L + 1 rows. `observation` is (rows, channel, height, width) uint8, `action` is (rows, action) in
    [-1, 1], `reward` and `discount` are (rows, 1) float32. Existing episodes are kept. `collect.json` in the directory
    holds the configuration that they were recorded with.

    Args:
        config: what to record.
        directory: directory for the files, made if missing.
        on_step: called after each row with the episode's number and the rows so far, without the reset.
        on_episode: called for each episode with its number, its file, and whether it was recorded now.

    Raises:
        MissingDependency: dm_control is missing.
        RenderingUnavailable: OpenGL is missing.
        SpecError: the suite has no such task.
        EpisodeFileError: the directory holds episodes of another configuration, or damaged ones.
        WriteError: a file cannot be written.
    """
    folder = Path(directory)
    if not folder.exists():
        require_dm_control()
    _claim(folder, config)
    present = _present(folder, config)
    paths = []
    for index in range(config.episodes):
        path = present.get(index)
        recorded = path is None
        if path is None:
            path = write_episode(folder, record_episode(config, index, on_step=on_step), index=index)
        paths.append(path)
        if on_episode is not None:
            on_episode(index, path, recorded)
    return paths


def record_episode(config: CollectConfig, index: int, *, on_step: OnStep | None = None) -> dict[str, npt.NDArray[Any]]:
    """Plays episode `index` with smooth random actions and returns its arrays, as `collect` writes them.

    The arrays depend on `config` and `index` alone.

    Args:
        config: what to record.
        index: number of the episode.
        on_step: see `collect`.

    Raises:
        MissingDependency: dm_control is missing.
        RenderingUnavailable: OpenGL is missing.
        SpecError: the suite has no such task.
    """
    of_task, of_actions = np.random.SeedSequence([config.seed, index]).spawn(2)
    with closing(PixelEnvironment(config, int(of_task.generate_state(1)[0]))) as env:
        actions = smooth_actions(
            np.random.default_rng(of_actions),
            env.num_actions,
            spread=config.action_spread,
            smoothness=config.action_smoothness,
        )
        rows = [env.reset()]
        while not rows[-1].last and (config.max_steps is None or len(rows) <= config.max_steps):
            rows.append(env.step(next(actions).astype(config.action_dtype)))
            if on_step is not None:
                on_step(index, len(rows) - 1)
    return _arrays(rows)


def _arrays(rows: list[Row]) -> dict[str, npt.NDArray[Any]]:
    return {
        "observation": np.stack([row.observation for row in rows]),
        "action": np.stack([row.action for row in rows]),
        "reward": np.array([[row.reward] for row in rows], np.float32),
        "discount": np.array([[row.discount] for row in rows], np.float32),
    }


def _claim(folder: Path, config: CollectConfig) -> None:
    """Writes the configuration into a new directory, or checks that an existing directory has this one."""
    wanted = {key: value for key, value in config.to_json().items() if key != "episodes"}
    path = folder / _CONFIG_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes()[:_CONFIG_LIMIT_BYTES] if path.exists() else None
        if text is None and all(entry.index is None for entry in list_episode_files(folder)):
            replace_file(path, json.dumps(wanted, indent=2) + "\n", sync=False, shared=True)
            return
    except OSError as err:
        raise WriteError(f"{folder}: expected a directory to record into: {err}; choose another one") from err
    if text is None:
        raise EpisodeFileError(f"{path}: expected it beside the episodes, found none; choose another directory")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise EpisodeFileError(f"{path}: expected JSON, found {err!r}; choose another directory") from err
    if found != wanted:
        keys = sorted(key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key])
        raise EpisodeFileError(
            f"{path}: expected the configuration asked for, found another one ({', '.join(keys) or 'more keys'});"
            " choose another directory"
        )


def _present(folder: Path, config: CollectConfig) -> dict[int, Path]:
    """Returns the complete episodes of the directory by number.

    If several files have a number, the oldest name counts.
    """
    present: dict[int, Path] = {}
    for entry in list_episode_files(folder):
        if entry.index is not None and entry.index < config.episodes and entry.index not in present:
            _check_present(entry, config)
            present[entry.index] = entry.path
    return present


def _check_present(entry: EpisodePath, config: CollectConfig) -> None:
    described = peek_episode(entry.path)
    rows = (entry.num_transitions or 0) + 1
    expected = {
        "observation": ((rows, *config.observation_shape), "uint8"),
        "reward": ((rows, 1), "float32"),
        "discount": ((rows, 1), "float32"),
    }
    found = {name: (shape, dtype.name) for name, (shape, dtype) in described.items()}
    action = found.pop("action", ((), ""))
    if found != expected or action[0][:1] != (rows,) or action[1] != config.action_dtype:
        raise EpisodeFileError(
            f"{entry.path}: expected an episode of {expected} and actions, found {found} and actions {action};"
            " delete the file to record it again"
        )
