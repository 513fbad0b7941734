"""Makes the empty store that a conversion fills, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.datasets.resume_checks import ConversionOptions
from replaystore.datasets.rows import Array
from replaystore.datasets.sources import make_sources
from replaystore.errors import WriteError
from replaystore.runtime.locks import ExclusiveLock
from replaystore.store import ReplayStore


def is_unused(path: Path) -> bool:
    """Whether a store can be made at `path`: nothing is there, or an empty directory."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def create_store(path: Path, arrays: Mapping[str, Array], options: ConversionOptions) -> None:
    """Makes an empty store, whole or not at all. It is made under a temporary name and then renamed.

    If another process made the store meanwhile, that one is kept.

    Args:
        path: path of the store.
        arrays: an episode, from which the fields are derived.
        options: the options of the conversion.

    Raises:
        SpecError: the episode or the options do not make fields.
        WriteError: the parent directory cannot be made.
    """
    fields = fields_from_episode(
        arrays, options.frame_stack, channels=options.channels, roles=options.roles,
        allow_nonfinite=options.allow_nonfinite,
    )  # fmt: skip
    fields = with_schemes(fields, options.schemes, options.frame_delta)
    target = path.absolute()
    temporary = target.with_name(f".{target.name}.replaystore-new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise WriteError(f"{path}: expected a place for a store: {err}; choose another path") from err
    with ExclusiveLock(target.parent, wait=True):
        if not is_unused(path):
            return  # another process made it meanwhile
        if temporary.exists():
            shutil.rmtree(temporary)  # left by a process that was killed
        try:
            ReplayStore.create(
                temporary,
                fields,
                mode=options.mode,
                capacity=options.capacity,
                chunk_rows=options.chunk_rows,
                durability=options.durability or "process",
                residency="mapped",
            ).close()
            make_sources(temporary)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
