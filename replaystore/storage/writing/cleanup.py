"""Removes what a killed writer left behind."""

from __future__ import annotations

import logging
from pathlib import Path

from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format.layout import Paths

_logger = logging.getLogger(__name__)


def remove_leftovers(paths: Paths, catalog: Catalog, *, keep_tails: bool) -> list[Path]:
    """Removes files that the log does not name, or no longer names.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        keep_tails: whether to keep the tails of sealed chunks. They are needed if a power cut can still take the
            records of those seals.

    Returns:
        The tails of sealed chunks that were kept.

    Raises:
        OSError: a file cannot be removed.
    """
    unfinished = [path for directory in (paths.root, paths.episodes) for path in directory.glob("*.partial")]
    chunk_files, tails, kept = [], [], []
    for column in catalog.columns:
        for path in paths.array(column.name).iterdir():
            chunk = Paths.chunk_number(path.name)
            if path.name.endswith(".partial") or (chunk is not None and chunk not in catalog.seals):
                chunk_files.append(path)
    for path in paths.tails.iterdir():
        chunk = Paths.tail_chunk(path.name)
        if keep_tails and chunk in catalog.seals:
            kept.append(path)
        elif chunk is None or chunk not in catalog.segments:
            tails.append(path)
    for path in (*unfinished, *chunk_files, *tails):
        path.unlink()
    if unfinished or chunk_files or tails:
        _logger.info(
            "%s: removed what an earlier writer left behind: %d chunk files that the log does not have,"
            " %d tail files, %d unfinished metadata files",
            paths.root, len(chunk_files), len(tails), len(unfinished),
        )  # fmt: skip
    return kept
