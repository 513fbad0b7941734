"""Makes a store from the episode files that DrQ-v2 left in a directory."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from replaystore.errors import StoreError

_CONVERTING_NAME = "store.converting"  # renamed when every episode file is in

_logger = logging.getLogger(__name__)


def has_episode_files(path: Path) -> bool:
    """Whether there are episode files beside the path of a store."""
    from replaystore.datasets.drqv2_npz import list_episode_files

    return path.parent.is_dir() and bool(list_episode_files(path.parent))


def convert_files(path: Path, **options: Any) -> None:
    """Makes a store from the episode files beside it, whole or not at all. The files stay where they are.

    If it is interrupted, the next call goes on. If another process makes the store meanwhile, that one is kept.

    Args:
        path: path of the store.
        options: as for `replaystore.datasets.convert.convert`.

    Raises:
        EpisodeFileError: a file is damaged.
        EpisodeError: a file does not fit the others.
        StoreLocked: another process converts them now.
    """
    from replaystore.datasets.convert import convert

    temporary = path.with_name(_CONVERTING_NAME)
    _logger.info("%s: converting the episode files beside it", path)
    try:
        report = convert(path.parent, temporary, channels="first", **options)
        temporary.rename(path)
    except (StoreError, OSError):
        if not path.exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)  # another process was first
    else:
        for note in report.notes:
            _logger.warning("%s: %s", path, note)
