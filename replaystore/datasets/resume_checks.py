"""Checks that a conversion's options, its files and an existing store agree."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.datasets.fields import with_schemes
from replaystore.datasets.files import EpisodeFiles
from replaystore.datasets.rows import Array
from replaystore.datasets.sources import Sources
from replaystore.errors import EpisodeFileError, SpecError, StoreError
from replaystore.spec import Channels, Durability, FieldSpec, Mode, Role, StoreSpec
from replaystore.store import ReplayStore


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """The options of a conversion; see `convert`."""

    mode: Mode
    frame_stack: int | None
    channels: Channels | None
    roles: Mapping[str, Role] | None
    allow_nonfinite: Collection[str]
    capacity: int | None
    chunk_rows: int | None
    schemes: Mapping[str, Mapping[str, Any]] | None
    frame_delta: Mapping[str, Any] | None
    durability: Durability | None


def check_options(store: ReplayStore, options: ConversionOptions) -> None:
    """Checks that the options are those that the store was made with.

    Raises:
        SpecError: an option differs from the store.
    """
    spec = store.spec
    asked: list[tuple[str, Any, Any]] = [
        ("mode", options.mode, spec.mode),
        ("capacity", options.capacity, store.capacity),
        ("chunk_rows", options.chunk_rows, spec.chunk_rows),
        ("durability", options.durability, spec.durability),
    ]
    bare = [replace(field, scheme=None) for field in spec.fields]
    schemed = with_schemes(bare, options.schemes, options.frame_delta)
    for field, wanted in zip(spec.fields, schemed, strict=True):
        asked.append((f"scheme of {field.name!r}", _plain(wanted.scheme), _plain(field.scheme)))
        asked.append((f"role of {field.name!r}", (options.roles or {}).get(field.name), field.role))
        if field.name in options.allow_nonfinite:
            asked.append((f"allow_nonfinite of {field.name!r}", True, field.allow_nonfinite))
        if field.is_image and len(field.shape) == 3:
            asked.append((f"frame_stack of {field.name!r}", options.frame_stack, field.frame_stack))
            asked.append((f"channels of {field.name!r}", options.channels, field.channels))
    for what, wanted_value, found in asked:
        if wanted_value is not None and wanted_value != found:
            raise SpecError(
                f"{store.path}: expected a store with {what} {wanted_value!r}, found {found!r};"
                " give the options that it was made with, or convert into a new store"
            )


def _plain(scheme: Mapping[str, Any] | None) -> Any:
    return None if scheme is None else json.loads(json.dumps(dict(scheme)))


def check_sources(store: ReplayStore, sources: Sources) -> int:
    """Checks that the store holds only episodes of its conversion.

    Returns:
        The id of the store's next episode.

    Raises:
        StoreError: the store got other episodes before its conversion was complete.
    """
    next_episode = store.next_episode_id
    announced = sources.entries[-1].episode + 1 if sources.entries else 0
    entry = sources.by_episode().get(next_episode - 1)
    newest = next((info for info in store.episodes() if info.episode == next_episode - 1), None)
    foreign = entry is not None and newest is not None and entry.rows != newest.num_rows
    if foreign or (next_episode > announced and not sources.complete):
        raise StoreError(
            f"{store.path}: expected only episodes of its conversion, which is not complete, found episode"
            f" {next_episode - 1} from elsewhere; convert into a new store"
        )
    return next_episode


def files_present(path: Path, files: EpisodeFiles, sources: Sources) -> set[str]:
    """Returns the names of the files whose episodes are in the store.

    Args:
        path: the store, for errors.
        files: the episode files.
        sources: the files that the store was made from.

    Raises:
        EpisodeFileError: a file is not the one that was converted.
    """
    known = {entry.file: entry for entry in sources.entries}
    present = set()
    for entry in files.entries:
        source = known.get(entry.path.name)
        if source is None:
            continue
        found = files.size(entry)
        if found != source.file_bytes:
            raise EpisodeFileError(
                f"{entry.path}: expected the {source.file_bytes} bytes that are in {path} as episode"
                f" {source.episode}, found {found}; convert changed files into a new store"
            )
        present.add(entry.path.name)
    return present


def check_fields(spec: StoreSpec, rows: Mapping[str, Array], where: str) -> None:
    """Checks that an episode has the fields of the store.

    Args:
        spec: the fields of the store.
        rows: the episode, by field name.
        where: the file, for the error.

    Raises:
        SpecError: the episode has other fields.
    """
    found = {name: (array.dtype.name, array.shape[1:]) for name, array in rows.items()}
    if set(found) != {field.name for field in spec.fields} or not all(
        _fits(field, *found[field.name]) for field in spec.fields
    ):
        expected = {field.name: (field.dtype, field.stacked_shape) for field in spec.fields}
        raise SpecError(
            f"{where}: expected the store's fields {expected}, found {found}; convert other episodes into a store of"
            " their own, or skip or rename what differs"
        )


def _fits(field: FieldSpec, dtype: str, shape: tuple[int, ...]) -> bool:
    if field.role in ("reward", "discount"):  # a commit casts them
        return math.prod(shape) == 1 and np.dtype(dtype).kind in "biuf"
    return dtype == field.dtype and shape in (field.stacked_shape, field.shape)
