"""The store of a buffer: opened, or made, and compared with the spaces of its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from replaystore.codecs.round_clamp import RoundClamp
from replaystore.errors import SpecError, StoreExists, StoreNotFound
from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore


def open_store(
    path: Path,
    fields: Sequence[FieldSpec],
    *,
    mode: Mode,
    capacity: int,
    must_exist: bool,
    resume: bool,
    codecs: Mapping[str, RoundClamp],
    **reading: Any,
) -> ReplayStore:
    """Returns the store at `path`, open for writing. Makes it if there is none.

    If this process has it open already, it returns that object: a buffer that stable-baselines3 unpickles knows the
    path alone, and may be used beside the buffer that was pickled.

    Args:
        path: of the store.
        fields: that it has to have.
        mode: of a new store.
        capacity: of a new store.
        must_exist: whether a store that is not there is an error.
        resume: whether a store that is there is gone on with.
        codecs: of fields of a new store, by name.
        reading: `residency` and `budget_bytes`, as in `ReplayStore.open`.

    Raises:
        SpecError: the store has other fields.
        StoreNotFound: there is none, and it must exist.
        StoreExists: there is one with episodes, and `resume` is False.
        StoreLocked: another process has it open for writing.
    """
    shared = ReplayStore.opened(path)
    if shared is not None:
        store = shared
    elif has_store(path):
        store = ReplayStore.open(path, **reading)
    elif must_exist:
        raise StoreNotFound(
            f"{path}: expected the store of a pickled buffer, found none; put it there, or set the buffer's path to"
            " where it is"
        )
    else:
        schemes = {name: codec.get_config() for name, codec in codecs.items()}
        fields = [replace(field, scheme=schemes.get(field.name)) for field in fields]
        store = ReplayStore.create(path, fields, mode=mode, capacity=capacity, **reading)
    try:
        if store.num_episodes and not resume:
            raise StoreExists(
                f"{path}: expected no experience, found {store.num_episodes} episodes with {store.num_transitions}"
                " transitions; load the saved buffer, pass resume=True to go on with it, or pass another path"
            )
        check_fields(store, fields)
    except (SpecError, StoreExists):
        if store is not shared:
            store.close()
        raise
    return store


def has_store(path: Path) -> bool:
    """Whether there is a store, or anything else, at a path."""
    return path.exists() and any(path.iterdir())


def check_fields(store: ReplayStore, fields: Sequence[FieldSpec]) -> None:
    """Compares the fields of a store with those that spaces ask for; codecs may differ.

    Raises:
        SpecError: they are others.
    """
    stored = [replace(field, scheme=None) for field in store.spec.fields]
    if stored != [replace(field, scheme=None) for field in fields]:
        raise SpecError(
            f"{store.path}: expected the fields of these spaces and this frame_stack, {list(fields)}, found {stored}"
            " in the store; use the environment it was written with, or another path"
        )
