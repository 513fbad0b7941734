"""Writes the metadata files that make a store a Zarr v3 group, and the episode table for plain Zarr readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.column import Column
from replaystore.columns.raw_rows import bytes_codec
from replaystore.runtime.durable_files import replace_file
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.format import layout
from replaystore.storage.format.dimensions import dimension_names
from replaystore.storage.format.layout import Paths

_KEY_ENCODING = {"name": "default", "configuration": {"separator": "."}}


def _array(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
    codec: dict[str, Any],
    dimensions: tuple[str, ...] | None,
) -> bytes:
    fill: Any = False if dtype.kind == "b" else 0.0 if dtype.kind == "f" else 0
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": _KEY_ENCODING,
        "fill_value": fill,
        "codecs": [codec],
        "attributes": {},
        "storage_transformers": [],
    }
    if dimensions is not None:
        document["dimension_names"] = list(dimensions)
    return json.dumps(document, indent=2).encode()


def column_metadata(column: Column, catalog: Catalog, dimensions: tuple[str, ...] | None) -> bytes:
    """Returns `zarr.json` of a field. Its array ends with the last sealed row.

    Args:
        column: the field.
        catalog: the state of the log.
        dimensions: names of the axes. None: the axes get no names.
    """
    shape = (sealed_rows(catalog), *column.shape)
    return _array(shape, (catalog.spec.chunk_rows, *column.shape), column.dtype, column.codec.zarr_codec(), dimensions)


def group_metadata(catalog: Catalog) -> bytes:
    """Returns `zarr.json` of the group. Its attributes hold the specification and the range of live rows."""
    parts = catalog.index.snapshot().index
    live = (0, 0)
    if parts.part_first_row.size:
        live = (int(parts.part_first_row[0]), int(parts.part_first_row[-1] + parts.part_num_rows[-1]))
    attributes = {"replaystore": {**catalog.spec.to_json(), "live_rows": live}}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2).encode()


def sealed_rows(catalog: Catalog) -> int:
    """Returns one past the last row that plain Zarr can read."""
    chunk_rows = catalog.spec.chunk_rows
    return max((seal.chunk * chunk_rows + seal.num_rows for seal in catalog.seals.values()), default=0)


def episode_table(catalog: Catalog) -> NDArray[np.int64]:
    """Returns the live parts, int64 (parts, 6). `layout.TABLE_COLUMNS` names the columns."""
    rows = [
        (part.episode, part.t_start, part.first_row, part.num_rows, part.last, part.zero_padding)
        for info in catalog.index.episodes()
        for part in info.parts
    ]
    table = np.asarray(rows, "<i8").reshape(-1, len(layout.TABLE_COLUMNS))
    return table[np.argsort(table[:, layout.TABLE_COLUMNS.index("first_row")], kind="stable")]


def published_files(paths: Paths, catalog: Catalog, *, named: bool = True) -> dict[Path, bytes]:
    """Returns the contents of all files for plain Zarr readers, by path.

    Args:
        paths: the files of the store.
        catalog: the state of its log.
        named: whether axes have names. Older releases wrote none, and such a store has none until it is published
            again.
    """
    table = episode_table(catalog)
    names = dimension_names(catalog.columns)
    files = {
        paths.metadata(column.name): column_metadata(column, catalog, names[column.name] if named else None)
        for column in catalog.columns
    }
    files[paths.metadata(layout.EPISODES)] = _array(
        table.shape,
        (max(1, len(table)), table.shape[1]),
        np.dtype(np.int64),
        bytes_codec(np.dtype(np.int64)),
        names[layout.EPISODES] if named else None,
    )
    files[paths.chunk(layout.EPISODES, 0, 2)] = table.tobytes()
    files[paths.group] = group_metadata(catalog)
    return files


def published_paths(paths: Paths, catalog: Catalog) -> list[Path]:
    """Returns the paths of all files for plain Zarr readers."""
    arrays = [*(column.name for column in catalog.columns), layout.EPISODES]
    return [*map(paths.metadata, arrays), paths.chunk(layout.EPISODES, 0, 2), paths.group]


def publish(paths: Paths, catalog: Catalog, *, power: bool) -> None:
    """Writes all files for plain Zarr readers. Each is replaced as a whole."""
    for path, data in published_files(paths, catalog).items():
        replace_file(path, data, sync=power)
