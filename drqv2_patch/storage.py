"""The writing half: DrQ-v2's `ReplayBufferStorage` over a store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from drqv2_patch.conversion import convert_files, has_episode_files
from drqv2_patch.fields import ROLES, check_fields, field_of, row_bytes
from replaystore import FieldSpec, ReplayStore
from replaystore.errors import EpisodeError, SpecError, StoreNotFound

Mode = Literal["disk", "half", "full"]
Residency = Literal["mapped", "ram", "auto"]
Row = dict[str, NDArray[Any]]

STORE_NAME = "store"  # inside replay_dir

_AT_RESET = {"reward": 0.0, "discount": 1.0}  # where dm_env gives None


class ReplayBufferStorage:
    """Takes time steps and commits each episode at its end to the store `replay_dir/store`.

    If the store exists, new episodes are appended to it. Otherwise a store is made from the `*.npz` episodes that
    DrQ-v2 left in `replay_dir`, or an empty one. The files stay where they are.

    Args:
        data_specs: `dm_env.specs` arrays (`name`, `shape`, `dtype`), among them `observation`, `action`, `reward` and
            `discount`. A uint8 observation (frame_stack * channels, height, width) is an image, others are plain.
        replay_dir: made if missing.
        mode: how images are stored: `"disk"`, `"half"` or `"full"`.
        frame_stack: frames in an image observation.
        residency: as in `ReplayStore.open`. It applies to the loader in this process too.
        budget_bytes: as in `ReplayStore.open`. It applies to the loader in this process too.

    Raises:
        SpecError: a store cannot hold the specs, or the store in `replay_dir` has another mode or other fields.
        StoreLocked: another process writes the store.
        EpisodeFileError: a `*.npz` file is damaged.
        EpisodeError: a `*.npz` file does not fit the others.
    """

    def __init__(
        self, data_specs: Iterable[Any], replay_dir: str | os.PathLike[str], mode: Mode = "full", frame_stack: int = 3,
        *, residency: Residency = "auto", budget_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self._fields = {spec.name: field_of(spec, frame_stack) for spec in data_specs}
        missing = [name for name in ROLES if name not in self._fields]
        if missing:
            raise SpecError(f"data_specs: expected {list(ROLES)}, got {list(self._fields)}: missing {missing}")
        self._path = Path(replay_dir).absolute() / STORE_NAME
        self._mode: Mode = mode
        self._frame_stack = frame_stack
        self._options: dict[str, Any] = {"residency": residency, "budget_bytes": budget_bytes}
        self._reset_row: Row | None = None  # while the store waits for the action's dtype
        self._open_rows = 0
        self._closed = False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._store = self._existing()
        if self._store is None and self._fields["action"].dtype != "float64":
            self._store = self._created(self._fields)

    @property
    def store(self) -> ReplayStore | None:
        """The store, None until the first action if the action spec is float64, which decides the dtype."""
        return self._store

    @property
    def mode(self) -> Mode:
        """How images are stored."""
        return self._mode

    def row_bytes(self) -> int:
        """Returns the bytes of a row without compression."""
        return row_bytes(self._fields.values(), self._mode)

    @property
    def between_episodes(self) -> bool:
        """Whether no episode is open, because the last time step ended one or there was none."""
        return self._open_rows == 0 and self._reset_row is None

    def __len__(self) -> int:
        """Returns the number of live transitions: all of committed episodes that are not evicted."""
        return 0 if self._store is None else self._store.num_transitions

    def add(self, time_step: Any) -> None:
        """Adds a time step. The last one of an episode commits it.

        A reset before the end of an episode ends and commits it.

        Args:
            time_step: has `time_step[name]` for each spec, `first()` and `last()`. Numbers become arrays of the spec's
                shape and dtype. `None` at a reset becomes reward 0 and discount 1. An array must have the spec's shape.
                It is converted to the stored dtype if that changes no value.

        Raises:
            EpisodeError: a value does not fit, or the older frames of an observation are not those of the rows before.
                The row was not added.
            CapacityError: the episode is longer than the capacity.
        """
        first, last = bool(time_step.first()), bool(time_step.last())
        row = {field.name: _as_array(field, time_step[field.name], first) for field in self._fields.values()}
        if self._store is None and not self._closed:
            if first and not last:  # the action of a reset comes from the spec, not from the agent
                self._reset_row = {name: value.copy() for name, value in row.items()}
                return
            action = self._fields["action"]
            narrow = row["action"].dtype == np.float32
            fields = {**self._fields, "action": replace(action, dtype="float32" if narrow else action.dtype)}
            self._store = self._created(fields)
            if self._reset_row is not None:
                self._add_row(self._reset_row, first=True, last=False)
                self._reset_row = None
        self._add_row(row, first, last)

    def close(self) -> None:
        """Seals, syncs and unlocks the store. An episode that has not ended is dropped.

        Committed episodes survive without this call.
        """
        self._closed = True
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _add_row(self, row: Row, first: bool, last: bool) -> None:
        store = self._store
        if store is None:
            raise EpisodeError(f"{self._path}: the storage has been closed; make a new one")
        values = {
            name: _converted(value, np.dtype(store.spec.field(name).dtype), name, self._open_rows)
            for name, value in row.items()
        }
        if first and self._open_rows > 1:
            store.end_episode()
        elif first and self._open_rows:
            store.discard_episode()  # a reset alone has no transition
        rows_before = 0 if first else self._open_rows
        self._open_rows = rows_before + 1
        try:
            store.add(values, last=last)
        except EpisodeError:  # this error means that the row was not added; after others it waits for its commit
            self._open_rows = rows_before
            raise
        if last:
            self._open_rows = 0

    def _existing(self) -> ReplayStore | None:
        try:
            store = ReplayStore.open(self._path, **self._options)
        except StoreNotFound:
            if not has_episode_files(self._path):
                return None
            is_image = self._fields["observation"].is_image
            convert_files(self._path, mode=self._mode, frame_stack=self._frame_stack if is_image else None)
            store = ReplayStore.open(self._path, **self._options)
        try:
            check_mode(store, self._mode)
            check_fields(store, self._fields)
        except SpecError:
            store.close()
            raise
        return store

    def _created(self, fields: Mapping[str, FieldSpec]) -> ReplayStore:
        return ReplayStore.create(self._path, fields.values(), mode=self._mode, **self._options)


def store_written_in(replay_dir: str | os.PathLike[str]) -> ReplayStore | None:
    """Returns the store in `replay_dir` that this process has open for writing. None without one.

    DrQ-v2's loader knows only the directory, and both halves have to use one store. A forked child gets None, because
    it does not write.
    """
    return ReplayStore.opened(Path(replay_dir) / STORE_NAME)


def check_mode(store: ReplayStore, mode: Mode) -> None:
    """Checks the mode of a store.

    Raises:
        SpecError: the store has another mode.
    """
    if store.spec.mode != mode:
        raise SpecError(
            f"{store.path}: expected a store of mode {mode!r}, found mode {store.spec.mode!r}; pass"
            f" mode={store.spec.mode!r} to ReplayBufferStorage and to make_replay_loader, on a command line"
            f" replay_mode={store.spec.mode}, or use another replay_dir"
        )


def _as_array(field: FieldSpec, value: Any, first: bool) -> NDArray[Any]:
    if value is None and first and field.name in _AT_RESET:
        value = _AT_RESET[field.name]
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "biuf":
        return np.full(field.stacked_shape, value, field.dtype)
    return array


def _converted(array: NDArray[Any], dtype: np.dtype[Any], name: str, row: int) -> NDArray[Any]:
    """Returns `array` in the stored dtype if both dtypes are of a kind, otherwise `array` itself.

    Raises:
        EpisodeError: the conversion would change a value.
    """
    if array.dtype == dtype or array.dtype.kind != dtype.kind:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(cast, array, equal_nan=dtype.kind == "f"):
        raise EpisodeError(
            f"field {name!r}, row {row}: expected values that {dtype} holds exactly, as the field is stored, got"
            f" {array.dtype} values that it rounds; convert them to {dtype} before add, or start a new replay_dir"
        )
    return cast
