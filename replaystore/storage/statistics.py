"""Measures a store on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.opening import OpenedStore
from replaystore.storage.format.layout import Paths
from replaystore.storage.reading.session import ReadingSession

_BLOCK = 512  # unit of st_blocks


def allocated_bytes(path: Path) -> int:
    """Returns the bytes that a file takes on disk. Padding that was never written takes none. 0 for a missing file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return min(status.st_size, status.st_blocks * _BLOCK) if status.st_blocks else status.st_size


def store_statistics(files: OpenedStore, reading: ReadingSession) -> dict[str, Any]:
    """Returns what `ReplayStore.info` returns."""
    with reading.lock:
        on_disk = _on_disk(files.paths, files.catalog)
    cache = reading.cache
    return on_disk | {
        "residency": cache.residency, "held_bytes": reading.held_bytes, "cached_bytes": cache.cached_bytes,
        "budget_bytes": cache.budget_bytes,
    }  # fmt: skip


def _on_disk(paths: Paths, catalog: Catalog) -> dict[str, Any]:
    """Returns the figures that describe the files.

    Sizes are bytes on disk. Padding counts only where it takes space.
    """
    fields: dict[str, dict[str, Any]] = {}
    for column in catalog.columns:
        size = sum(allocated_bytes(paths.chunk(column.name, chunk, column.ndim)) for chunk in catalog.seals)
        # A tail file that is being sealed may already have its second name, as a chunk file. It counts once.
        size += sum(allocated_bytes(paths.tail(column.name, chunk)) for chunk in catalog.segments)
        fields[column.name] = {
            "role": column.spec.role,
            "dtype": column.spec.dtype,
            "shape": list(column.spec.stacked_shape),
            "stored_shape": list(column.shape),
            "scheme": dict(column.spec.scheme) if column.spec.scheme else None,
            "bytes_on_disk": size,
            "values_clamped": catalog.clamped[column.position],
        }
    index = catalog.index
    transitions = index.num_transitions
    observed = [column for column in catalog.columns if column.spec.role == "observation"]
    observation_bytes = sum(fields[column.name]["bytes_on_disk"] for column in observed)
    raw = sum(math.prod(column.spec.stacked_shape) * np.dtype(column.spec.dtype).itemsize for column in observed)
    everything = sum(entry["bytes_on_disk"] for entry in fields.values())
    log = sum(allocated_bytes(path) for path in paths.episodes.iterdir() if path.is_file())
    return {
        "path": str(paths.root),
        "format_version": catalog.spec.format_version,
        "mode": catalog.spec.mode,
        "transitions": transitions,
        "episodes": index.num_episodes,
        "rows": index.num_rows,
        "capacity": catalog.capacity,
        "disk_budget_bytes": catalog.disk_budget_bytes,
        "chunk_rows": catalog.spec.chunk_rows,
        "durability": catalog.spec.durability,
        "chunks": len(catalog.seals),
        "rows_in_tail": sum(segment.num_rows for segments in catalog.segments.values() for segment in segments),
        "bytes_on_disk": everything + log,
        "observation_bytes_per_transition": observation_bytes / transitions if transitions else None,
        "bytes_per_transition": everything / transitions if transitions else None,
        "compression_factor": raw * index.num_rows / observation_bytes if observation_bytes else None,
        "fields": fields,
    }
