"""The store of a buffer: opened, or made, and compared with the spaces of its environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from replaystore.errors import SpecError, StoreNotFound
from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore


def open_store(
    path: Path, fields: Sequence[FieldSpec], *, mode: Mode, capacity: int, must_exist: bool, **reading: Any
) -> ReplayStore:
    """The store at `path`, open for writing; made where there is none.

    A buffer that was pickled in this process goes on with the store of the one that it was made from.

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
    shared = ReplayStore.opened(path)
    if shared is not None:
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
        if shared is None:
            store.close()
        raise
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
