"""Parses, orders and makes the names of episode files."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replaystore.errors import EpisodeError, EpisodeFileError

_EPISODE_NAME = re.compile(r"([0-9]{8}T[0-9]{6})_([0-9]{1,18})_([0-9]{1,18})\.npz")


@dataclass(frozen=True, kw_only=True)
class EpisodePath:
    """A name found by `list_episode_files`. The file itself has not been read.

    Attributes:
        path: the file.
        index: number of the episode. None if the name is not `TIMESTAMP_INDEX_LENGTH.npz`.
        num_transitions: transitions according to the name, rows - 1. None for other names.
        timestamp: `YYYYMMDDTHHMMSS` as in the name. None for other names.
        refusal: why `read_episode` refuses it, such as `"a symbolic link"`. None for a regular file.
    """

    path: Path
    index: int | None = None
    num_transitions: int | None = None
    timestamp: str | None = None
    refusal: str | None = None


def list_episode_files(directory: str | os.PathLike[str], *, follow_links: bool = False) -> list[EpisodePath]:
    """Returns the `.npz` names in `directory`. Hidden ones, such as those that macOS leaves, are no episodes.

    Episodes come first, ordered by number and not by text or time. Other names follow in natural order. Symbolic links,
    FIFOs, directories and devices named `.npz` are listed with a `refusal`, so that a caller can count what it leaves
    out. They are never opened or followed, and `read_episode` refuses them.

    Args:
        directory: the directory. Its subdirectories are not searched.
        follow_links: whether a symbolic link to a regular file is an episode file.

    Raises:
        EpisodeFileError: `directory` cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            found = [
                _parse_name(Path(directory, entry.name), _refusal(entry, follow_links))
                for entry in entries
                if entry.name.endswith(".npz") and not entry.name.startswith(".")
            ]
    except OSError as err:
        raise EpisodeFileError(f"{directory}: expected a directory of episode files: {err}; check the path") from err
    return sorted(found, key=_order)


def _refusal(entry: os.DirEntry[str], follow_links: bool) -> str | None:
    if follow_links and entry.is_symlink():
        try:
            return refusal_of(entry.stat())
        except OSError as err:
            return f"a symbolic link that leads nowhere ({err.strerror})"
    return refusal_of(entry.stat(follow_symlinks=False))


def refusal_of(info: os.stat_result) -> str | None:
    """Returns the kind of a file that is not regular. None for a regular file."""
    if stat.S_ISREG(info.st_mode):
        return None
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a directory"}
    return kinds.get(stat.S_IFMT(info.st_mode), "a device or socket")


def episode_file_name(index: int, num_transitions: int, timestamp: str | None = None) -> str:
    """Returns DrQ-v2's name for an episode.

    >>> episode_file_name(7, 500, "20250131T235959")
    '20250131T235959_7_500.npz'

    Args:
        index: number of the episode, from 0. It orders the files.
        num_transitions: rows - 1.
        timestamp: `YYYYMMDDTHHMMSS`. None takes the present, in UTC. Nothing depends on it.

    Raises:
        EpisodeError: the parts do not make such a name.
    """
    stamp = timestamp if timestamp is not None else time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name = f"{stamp}_{index}_{num_transitions}.npz"
    if not _EPISODE_NAME.fullmatch(name):
        raise EpisodeError(
            f"episode file name: expected YYYYMMDDTHHMMSS and two whole numbers from 0, found {name!r}; correct it"
        )
    return name


def _parse_name(path: Path, refusal: str | None) -> EpisodePath:
    match = _EPISODE_NAME.fullmatch(path.name)
    if match is None:
        return EpisodePath(path=path, refusal=refusal)
    return EpisodePath(
        path=path, index=int(match[2]), num_transitions=int(match[3]), timestamp=match[1], refusal=refusal
    )


def _order(entry: EpisodePath) -> tuple[Any, ...]:
    name = entry.path.name
    if entry.index is not None:
        return (0, entry.index, name)
    parts = re.split(r"([0-9]+)", name)  # text at even places, digits at odd ones
    return (1, [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)], name)
