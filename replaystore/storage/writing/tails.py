"""Tail files: they hold the rows that are not in a sealed chunk yet."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from replaystore.runtime.durable_files import sync_directory, sync_file, write_fully
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format.layout import Paths


class TailFiles:
    """The open tail files. One thread writes. Another may close the files of a full chunk.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        power: whether `write` fsyncs, so that rows survive a power cut.
    """

    def __init__(self, paths: Paths, catalog: Catalog, *, power: bool) -> None:
        self._paths = paths
        self._catalog = catalog
        self._power = power
        self._descriptors: dict[tuple[int, int], int] = {}  # by position of the column, and chunk

    def write(self, chunk: int, row_in_chunk: int, rows: Sequence[NDArray[np.uint8]]) -> None:
        """Writes rows of one chunk.

        Args:
            chunk: number of the chunk.
            row_in_chunk: where the rows start in the chunk.
            rows: uint8 (rows, row_bytes), one array per column.

        Raises:
            OSError: the rows were not all written or not synced.
        """
        for column, column_rows in zip(self._catalog.columns, rows, strict=True):
            descriptor = self._descriptor(column.position, chunk)
            write_fully(descriptor, column_rows.data.cast("B"), row_in_chunk * column.row_bytes)
            if self._power:
                sync_file(descriptor)

    def sync_names(self) -> None:
        """Fsyncs the directory if `power` is set, so that the names of new files survive a power cut."""
        if self._power:
            sync_directory(self._paths.tails)

    def _descriptor(self, position: int, chunk: int) -> int:
        descriptor = self._descriptors.get((position, chunk))
        if descriptor is None:
            path = self._paths.tail(self._catalog.columns[position].name, chunk)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._descriptors[position, chunk] = descriptor
        return descriptor

    def close_chunk(self, chunk: int) -> None:
        """Closes the files of a chunk."""
        for column in self._catalog.columns:
            descriptor = self._descriptors.pop((column.position, chunk), None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Closes all files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
