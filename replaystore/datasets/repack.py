"""Writes the episodes of a store into a new store, with other codecs or in another mode."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.datasets.fields import with_schemes
from replaystore.datasets.new_store import is_unused
from replaystore.datasets.sources import copy_sources
from replaystore.errors import BudgetError, DamageError, StoreExists, StoreLocked, WriteError
from replaystore.runtime.locks import ExclusiveLock, LockHeld
from replaystore.spec import Durability, Mode
from replaystore.store import ReplayStore

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class RepackReport:
    """What a repacking did.

    Attributes:
        store: the new store.
        mode: mode of the new store.
        episodes: episodes in it.
        transitions: transitions in it.
        bytes_before: bytes of the old store on disk, as `ReplayStore.info` counts them.
        bytes_after: the same of the new store.
        seconds: duration, with the comparison of both stores.
    """

    store: str
    mode: Mode
    episodes: int
    transitions: int
    bytes_before: int
    bytes_after: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def repack(
    store_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    mode: Mode | None = None,
    frame_delta: Mapping[str, Any] | None = None,
    chunk_rows: int | None = None,
    durability: Durability | None = None,
    progress: Progress | None = None,
) -> RepackReport:
    """Writes the live episodes of a store into a new store, and compares them bit for bit.

    The new store is made under a temporary name and renamed when it is whole. An interrupted call leaves nothing at
    `out_path`, and the same call begins anew. The old store is not changed. Episodes are numbered from 0, in the same
    order. If that leaves their numbers as they were, a later conversion continues in the new store.

    Args:
        store_path: the store. It may have a writer at the same time, whose later episodes are left out.
        out_path: path of the new store, absent or an empty directory.
        mode: mode of the new store. None takes that of the store.
        frame_delta: options of `FrameDelta` for all images, in mode `full`. None takes its defaults. Other fields keep
            their codecs.
        chunk_rows: rows per chunk. None takes those of the store.
        durability: `"process"` or `"power"`. None takes that of the store.
        progress: called with (episodes done, episodes in all), each episode once written and once compared.

    Raises:
        StoreNotFound: the path holds no store.
        StoreExists: `out_path` is in use.
        StoreLocked: another process makes the same store.
        SpecError: the options cannot work.
        BudgetError: the new store is larger than its limit on bytes.
        DamageError: the store is damaged, or the new one does not hold the same.
        WriteError: the new store cannot be written.
    """
    started = time.monotonic()
    target = Path(out_path).absolute()
    if not is_unused(target):
        raise StoreExists(f"{out_path}: expected nothing or an empty directory; choose another path")
    room = target.with_name(f".{target.name}.replaystore-repack")
    made = room / "store"
    with ReplayStore.open(store_path, read_only=True, residency="mapped") as store:
        spec = store.spec
        plain = (replace(field, scheme=None) if field.is_image else field for field in spec.fields)
        fields = with_schemes(plain, None, frame_delta)
        chosen = mode or spec.mode
        info = store.info()
        lock = _claim(room)
        try:
            with ReplayStore.create(
                made, fields, mode=chosen, capacity=info["capacity"], disk_budget_bytes=info["disk_budget_bytes"],
                chunk_rows=chunk_rows or spec.chunk_rows, durability=durability or spec.durability,
                residency="mapped",
            ) as packed:  # fmt: skip
                copied = _copy(store, packed, progress)
            with ReplayStore.open(made, read_only=True, residency="mapped") as packed:
                after = packed.info()
                _compare(store, packed, copied, progress)
            if copied == list(range(len(copied))):
                copy_sources(store.path, made)
            try:
                made.rename(target)  # over an empty directory, if there is one
            except OSError as err:
                raise StoreExists(f"{out_path}: something else was made there meanwhile; choose another path") from err
        finally:
            shutil.rmtree(room, ignore_errors=True)
            lock.release()
    return RepackReport(
        store=str(out_path), mode=chosen, episodes=after["episodes"], transitions=after["transitions"],
        bytes_before=info["bytes_on_disk"], bytes_after=after["bytes_on_disk"], seconds=time.monotonic() - started,
    )  # fmt: skip


def _claim(room: Path) -> ExclusiveLock:
    """Makes the directory in which the new store is made, and locks it. Removes what a killed process left there."""
    try:
        room.parent.mkdir(parents=True, exist_ok=True)
        parent = ExclusiveLock(room.parent, wait=True)
        try:
            if room.exists():
                ExclusiveLock(room).release()
                shutil.rmtree(room)
            room.mkdir()
            return ExclusiveLock(room)
        finally:
            parent.release()
    except LockHeld as err:
        raise StoreLocked(f"{room}: another process makes the same store; wait for it") from err
    except OSError as err:
        raise WriteError(f"{room}: expected a place for a store: {err}; choose another path") from err


def _copy(store: ReplayStore, packed: ReplayStore, progress: Progress | None) -> list[int]:
    """Appends the live episodes to the new store. Returns their ids in the old one."""
    episodes = [info.episode for info in store.episodes()]
    for number, episode in enumerate(episodes):
        if progress is not None:
            progress(number, 2 * len(episodes))
        packed.append(store.read_episode(episode))
    return episodes


def _compare(store: ReplayStore, packed: ReplayStore, episodes: list[int], progress: Progress | None) -> None:
    """Checks that the new store holds the episodes of the old one, bit for bit."""
    if packed.num_episodes != len(episodes):
        raise BudgetError(
            f"{packed.path}: the limit of {packed.info()['disk_budget_bytes']:,} bytes holds {packed.num_episodes} of"
            f" {len(episodes)} episodes; choose smaller codecs"
        )
    for number, (episode, info) in enumerate(zip(episodes, packed.episodes(), strict=True)):
        if progress is not None:
            progress(len(episodes) + number, 2 * len(episodes))
        expected, found = store.read_episode(episode), packed.read_episode(info.episode)
        for name, array in expected.items():
            if not np.array_equal(array.view(np.uint8), found[name].view(np.uint8)):
                raise DamageError(f"{packed.path}: field {name!r}, episode {episode}: not as it was; report it")
    if progress is not None:
        progress(2 * len(episodes), 2 * len(episodes))
