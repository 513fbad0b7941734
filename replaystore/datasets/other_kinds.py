"""Names what a directory without episode files holds."""

from __future__ import annotations

import os
from pathlib import Path

from replaystore.storage.format.layout import Paths

_BY_FILE = (
    ("meta/info.json", "a LeRobot data set"),
    ("data/main_data.hdf5", "a Minari data set"),
    ("main_data.hdf5", "the data of a Minari data set"),
    ("dataset_info.json", "a TensorFlow data set"),
    ("zarr.json", "a Zarr group"),
    (".zgroup", "a Zarr group"),
)
_BY_SUFFIX = {
    ".hdf5": "HDF5 files",
    ".h5": "HDF5 files",
    ".parquet": "Parquet files",
    ".arrow": "Arrow files",
    ".tfrecord": "TFRecord files",
    ".zarr": "Zarr groups",
    ".npy": "single arrays (*.npy)",
    ".pkl": "pickles, which can run code when they are read",
    ".pickle": "pickles, which can run code when they are read",
    ".pt": "files of torch, which can run code when they are read",
    ".pth": "files of torch, which can run code when they are read",
    ".mp4": "videos",
    ".mcap": "ROS recordings",
    ".bag": "ROS recordings",
    ".db3": "ROS recordings",
}


def kind_of_directory(directory: str | os.PathLike[str]) -> str:
    """Returns what a directory without episode files holds, such as `"a Minari data set (data/main_data.hdf5)"`."""
    folder = Path(directory)
    if Paths(folder).head.is_file():
        return "a store of this package"
    for name, kind in _BY_FILE:
        if (folder / name).is_file():
            return f"{kind} ({name})"
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    for name in names:
        for suffix in Path(name).suffixes:  # the kind of x.tfrecord-00000-of-00001 is no last suffix
            files = _BY_SUFFIX.get(suffix.partition("-")[0])
            if files is not None:
                return f"{files} ({name})"
    inside = next((name for name in names if any((folder / name).glob("*.npz"))), None)
    if inside is not None:
        return f"episode files one level down; pass {folder / inside}"
    return f"other files ({', '.join(names[:3])})" if names else "an empty directory"
