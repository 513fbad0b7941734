"""Takes the newest episodes out of a store, for runs that resume exactly.

A store deletes only its oldest episodes. So the older ones are copied into a new store, which then takes its place.
Its episodes have new ids. `episode_numbers.json` next to the store maps them to the numbers that snapshots know.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drqv2_patch.errors import RunError
from replaystore import ReplayStore
from replaystore.errors import StoreNotFound
from replaystore.runtime.durable_files import replace_file
from replaystore.runtime.locks import ExclusiveLock, LockHeld

_NUMBERS = "episode_numbers.json"  # {store id: number of its episode 0}
_COPY = ".rewinding"
_REPLACED = ".rewound"


@dataclass(frozen=True)
class Mark:
    """The episodes of a store at some time.

        >>> mark_of(None).to_json()
        {'next_episode': 0, 'num_episodes': 0}

    Attributes:
        next_episode: number of the next new episode.
        num_episodes: episodes that were live.
    """

    next_episode: int
    num_episodes: int

    def to_json(self) -> dict[str, int]:
        """Returns the attributes as plain data."""
        return asdict(self)


def mark_of(store: ReplayStore | None) -> Mark:
    """Returns the mark of a store now. None stands for a store that does not exist yet."""
    if store is None:
        return Mark(0, 0)
    return Mark(_first_number(store) + store.next_episode_id, store.num_episodes)


def rewind(path: Path, mark: Mark) -> int:
    """Drops the episodes of the store at `path` that are newer than `mark`.

    If there are any, the others are copied, which takes the time and space of a copy. The store must not be open.

    Returns:
        The number of dropped episodes.

    Raises:
        RunError: an episode that was live at `mark` is gone, or another process drops episodes. Nothing was changed.
        StoreLocked: another process writes the store.
    """
    with exclusive(path):
        return _rewind(path, mark)


def _rewind(path: Path, mark: Mark) -> int:
    try:
        store = ReplayStore.open(path, residency="mapped")
    except StoreNotFound:
        if mark.num_episodes:
            raise _lost(path, mark, 0) from None
        return 0
    with store:
        limit = mark.next_episode - _first_number(store)
        episodes = store.episodes()
        kept = [info.episode for info in episodes if info.episode < limit]
        if len(kept) != mark.num_episodes or store.next_episode_id < limit:
            raise _lost(path, mark, len(kept))
        if len(kept) == len(episodes):
            return 0
        _copy(store, kept, limit)
    path.rename(_beside(path, _REPLACED))
    _finish(path)
    return len(episodes) - len(kept)


def finish_rewind(path: Path) -> None:
    """Finishes or undoes an interrupted `rewind` of the store at `path`.

    Raises:
        RunError: it was not interrupted, because another process still runs it.
    """
    if any(_beside(path, suffix).exists() for suffix in (_COPY, _REPLACED)):
        with exclusive(path):
            _finish(path)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Locks the directory of the store. The lock leaves no file behind.

    Args:
        path: of the store.

    Raises:
        RunError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = ExclusiveLock(path.parent)
    except LockHeld as err:
        raise RunError(
            f"{path}: expected no other start of this run, found one that drops episodes for resume=exact; wait for it"
            " to end"
        ) from err
    with lock:
        yield


def _finish(path: Path) -> None:
    copy, replaced = _beside(path, _COPY), _beside(path, _REPLACED)
    if replaced.exists() and not path.exists():
        (copy if copy.exists() else replaced).rename(path)
    for leftover in (copy, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)


def _copy(store: ReplayStore, kept: list[int], limit: int) -> None:
    path = _beside(store.path, _COPY)
    if path.exists():
        shutil.rmtree(path)
    spec = store.spec
    with ReplayStore.create(
        path,
        spec.fields,
        mode=spec.mode,
        capacity=store.capacity,
        chunk_rows=spec.chunk_rows,
        durability=spec.durability,
        residency="mapped",
    ) as copy:
        for episode in kept:
            copy.append(store.read_episode(episode))
        first = limit + _first_number(store) - copy.next_episode_id
        write_numbers(store.path.parent, {store.spec.store_id: _first_number(store), copy.spec.store_id: first})


def _first_number(store: ReplayStore) -> int:
    return int(_read_numbers(store.path.parent).get(store.spec.store_id, 0))


def _read_numbers(directory: Path) -> dict[str, Any]:
    path = directory / _NUMBERS
    try:
        numbers = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as err:
        raise RunError(f"{path}: expected JSON, found something else ({err}); remove it, and use resume=true") from err
    return dict(numbers)


def write_numbers(directory: Path, numbers: dict[str, int]) -> None:
    """Writes the number of the first episode of each store beside the stores, in one step.

    Args:
        directory: directory of the stores.
        numbers: the number by store id.
    """
    replace_file(directory / _NUMBERS, json.dumps(numbers), sync=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _lost(path: Path, mark: Mark, found: int) -> RunError:
    return RunError(
        f"{path}: expected the {mark.num_episodes} episodes that the snapshot knows, found {found} of them; the others"
        " were deleted since to make room, or lost: use resume=true"
    )
