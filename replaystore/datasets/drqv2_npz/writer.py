"""Writes episode files in the format of `numpy.savez_compressed`, whole or not at all."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from replaystore.datasets.drqv2_npz.names import episode_file_name
from replaystore.datasets.drqv2_npz.reader import MAX_MEMBERS
from replaystore.errors import EpisodeError, WriteError
from replaystore.runtime.durable_files import replacement

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def write_episode(
    path: str | os.PathLike[str],
    arrays: Mapping[str, npt.ArrayLike],
    *,
    index: int | None = None,
    timestamp: str | None = None,
) -> Path:
    """Writes an episode file that `numpy.load`, DrQ-v2 and `read_episode` can read, and returns its path.

    The bytes go to a hidden temporary file whose name does not end in `.npz`. It is synced and then renamed. A file of
    the same name is replaced.

    Args:
        path: the file. With `index`, the directory for a file named by `episode_file_name`.
        arrays: bool, integer and float arrays of at most 64 bits per item, by field name, with equal numbers of rows.
            They are written in little-endian byte order and C order.
        index: number of the episode, if `path` is a directory.
        timestamp: timestamp in the name, with `index`.

    Raises:
        EpisodeError: `read_episode` would refuse the arrays, or their numbers of rows differ.
        WriteError: the file cannot be written. Nothing is left behind.
    """
    plain = {name: _plain_array(name, array) for name, array in arrays.items()}
    rows = {array.shape[0] for array in plain.values()}
    if not 1 <= len(plain) <= MAX_MEMBERS or len(rows) != 1 or 0 in rows:
        shapes = {name: array.shape for name, array in plain.items()}
        raise EpisodeError(
            f"{os.fspath(path)}: expected 1 to {MAX_MEMBERS} fields with one number of rows, at least 1,"
            f" found {shapes}; cut them to one length"
        )
    target = Path(path)
    if index is not None:
        target /= episode_file_name(index, rows.pop() - 1, timestamp)
    try:
        with replacement(target, sync=True, shared=True) as raw:
            _write_archive(raw, plain)
    except OSError as err:
        raise WriteError(f"{target}: expected to write an episode file: {err}; check the directory and space") from err
    return target


def _plain_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    if not isinstance(name, str) or not _FIELD.fullmatch(name):
        raise EpisodeError(f"field {name!r}: expected a name of letters, digits and '_'; rename the field")
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.ndim < 1:
        raise EpisodeError(
            f"field {name!r}: expected rows of a bool, integer or float dtype of at most 64 bits,"
            f" found {array.dtype} {array.shape}; convert it first"
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _write_archive(raw: IO[bytes], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
