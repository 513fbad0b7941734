"""The store of a buffer: opened, or made, and compared with the spaces of its environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from replaystore.errors import SpecError, StoreNotFound
from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore

_stores: WeakValueDictionary[Path, ReplayStore] = WeakValueDictionary()  # by path, those of buffers in this process


def share_store(store: ReplayStore) -> None:
    """Lets every buffer of this process that has the store's path use this object.

    stable-baselines3 pickles a buffer and makes another one of it while the first one is in use. A pickle holds the
    path alone, and only one object can write.
    """
    _stores[store.path.resolve()] = store


def open_store(
    path: Path, fields: Sequence[FieldSpec], *, mode: Mode, capacity: int, must_exist: bool, **reading: Any
) -> ReplayStore:
    """The store at `path`, open for writing; made where there is none.

    If another buffer of this process has it open, that object is used (see `share_store`).

    Args:
        path: of the store.
        fields: that it has to have.
        mode: of a new store.
        capacity: of a new store.
        must_exist: whether a store that is not there is an error.
        reading: `residency` and `budget_bytes`, as in `ReplayStore.open`.

    Raises:
        SpecError: the store has other fields.
        StoreNotFound: there is none, and it must exist.
        StoreLocked: another process has it open for writing.
    """
    shared = _stores.get(path.resolve())
    if shared is not None and not shared.closed and not shared.read_only:
        store = shared
    elif path.exists() and any(path.iterdir()):
        store = ReplayStore.open(path, **reading)
    elif must_exist:
        raise StoreNotFound(f"{path}: expected the store of a pickled buffer, found none; put it there")
    else:
        store = ReplayStore.create(path, fields, mode=mode, capacity=capacity, **reading)
    try:
        check_fields(store, fields)
    except SpecError:
        if store is not shared:
            store.close()
        raise
    share_store(store)
    return store


def check_fields(store: ReplayStore, fields: Sequence[FieldSpec]) -> None:
    """Compares the fields of a store with those that spaces ask for; codecs may differ.

    Raises:
        SpecError: they are others.
    """
    stored = [replace(field, scheme=None) for field in store.spec.fields]
    if stored != list(fields):
        raise SpecError(
            f"{store.path}: expected the fields of these spaces and this frame_stack, {list(fields)}, found {stored}"
            " in the store; use the environment it was written with, or another path"
        )
