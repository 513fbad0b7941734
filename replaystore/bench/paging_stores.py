"""Makes the stores that `bench paging` measures: one per mode, filled with recorded episodes again and again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

import replaystore
from replaystore.bench.paging_result import StoreSummary
from replaystore.datasets.drqv2_npz import list_episode_files, peek_episode, read_episode
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.errors import EpisodeFileError, StoreExists, WriteError
from replaystore.spec import FieldSpec, Mode
from replaystore.store import ReplayStore

Episode = dict[str, npt.NDArray[Any]]

_KEEP_BYTES = 1 << 30
_WARM_ROWS = 64
_WARM_CHUNK_ROWS = 16


class EpisodeSource:
    """Recorded episodes in order, without end. The first file follows the last.

    Args:
        directory: directory of episode files.
        frame_stack: frames in an observation. None derives it from the first episode.

    Attributes:
        files: the episode files.
        fields: fields of a store for these episodes.
        digest: CRC32C over the files, hexadecimal.

    Raises:
        EpisodeFileError: `directory` holds no episode files, or a damaged one.
    """

    def __init__(self, directory: str | Path, frame_stack: int | None = None) -> None:
        self.files = tuple(entry.path for entry in list_episode_files(directory) if entry.refusal is None)
        if not self.files:
            raise EpisodeFileError(f"{directory}: expected episode files (*.npz), found none; record some or check it")
        crc = 0
        for path in self.files:
            crc = google_crc32c.extend(crc, path.read_bytes())
        self.digest = f"{crc:08x}"
        self._rows = tuple(next(iter(peek_episode(path).values()))[0][0] for path in self.files)
        self._kept: dict[int, Episode] = {}
        self._kept_bytes = 0
        self.fields: tuple[FieldSpec, ...] = fields_from_episode(self.episode(0), frame_stack=frame_stack)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all fields, images as raw stacks."""
        return sum(math.prod(spec.stacked_shape) * np.dtype(spec.dtype).itemsize for spec in self.fields)

    @property
    def single_frame_row_bytes(self) -> int:
        """Bytes of one row of all fields, images as one raw frame."""
        return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in self.fields)

    def episode(self, number: int) -> Episode:
        """Returns the arrays of an episode by its number, counted from 0."""
        index = number % len(self.files)
        if index in self._kept:
            return self._kept[index]
        arrays = read_episode(self.files[index])
        num_bytes = sum(array.nbytes for array in arrays.values())
        if self._kept_bytes + num_bytes <= _KEEP_BYTES:
            self._kept[index] = arrays
            self._kept_bytes += num_bytes
        return arrays

    def link(self, directory: Path, num_episodes: int) -> Path:
        """Makes `directory` hold links to the files of the first `num_episodes` episodes, under names of DrQ-v2.

        Returns:
            The absolute path of `directory`.
        """
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for number in range(num_episodes):
            index = number % len(self.files)
            name = f"20000101T000000_{number}_{self._rows[index] - 1}.npz"
            (directory / name).symlink_to(self.files[index].absolute())
        return directory.absolute()

    def amount(self, num_bytes: float) -> tuple[int, int]:
        """Returns (episodes, rows) of the fewest episodes that hold at least `num_bytes` as raw stacked rows."""
        wanted_rows = max(1, math.ceil(num_bytes / self.row_bytes))
        cycles = max(0, wanted_rows // sum(self._rows) - 1)
        episodes, rows = cycles * len(self._rows), cycles * sum(self._rows)
        while rows < wanted_rows:
            rows += self._rows[episodes % len(self._rows)]
            episodes += 1
        return episodes, rows


@dataclass(frozen=True)
class StoreFolder:
    """The directory of the stores, and what they are made from.

    Attributes:
        directory: directory of the stores.
        source: the episodes.
        chunk_rows: rows per chunk.
        frame_delta: options of the image codec in mode `full`. None takes its defaults.
    """

    directory: Path
    source: EpisodeSource
    chunk_rows: int
    frame_delta: Mapping[str, Any] | None = None

    def fields(self, mode: Mode) -> tuple[FieldSpec, ...]:
        """Returns the fields of the store of that mode. Modes differ only in codecs."""
        if mode != "full" or self.frame_delta is None:
            return self.source.fields
        return with_schemes(self.source.fields, None, self.frame_delta)

    def path(self, mode: Mode) -> Path:
        """Returns the path of the store of that mode."""
        return self.directory / mode

    def warm_path(self, mode: Mode) -> Path:
        """Returns the path of a small store of that mode, for compiling kernels before a measurement."""
        return self.directory / f"{mode}-warm-up"

    def recipe(self, mode: Mode) -> dict[str, Any]:
        """Returns what the store of that mode is made from. If it changes, the store is made anew."""
        return {
            "replaystore": replaystore.__version__,
            "mode": mode,
            "chunk_rows": self.chunk_rows,
            "episode_files": [path.name for path in self.source.files],
            "digest": self.source.digest,
            "fields": [spec.to_json() for spec in self.fields(mode)],
        }

    def grow(self, mode: Mode, num_episodes: int, progress: Callable[[str], None]) -> StoreSummary:
        """Appends episodes to the store of a mode until it holds `num_episodes`. If it holds more, it is made anew.

        Args:
            mode: mode of the store.
            num_episodes: episodes that it will hold.
            progress: called with lines of text.

        Returns:
            How the store holds the data now.
        """
        path = self.path(mode)
        self._make_warm_store(mode)
        with self._open_or_create(path, mode, num_episodes, self.chunk_rows) as store:
            missing = num_episodes - store.num_episodes
            for number in range(store.num_episodes, num_episodes):
                store.append(self.source.episode(number))
                if (number + 1) % 50 == 0:
                    progress(f"{mode}: {number + 1} of {num_episodes} episodes appended")
            if missing:
                progress(f"{mode}: appended {missing} episodes, {store.num_transitions:,} transitions now")
        with ReplayStore.open(path, read_only=True, residency="mapped") as store:
            info = store.info()
        return StoreSummary(
            mode=mode,
            transitions=int(info["transitions"]),
            episodes=int(info["episodes"]),
            bytes_on_disk=int(info["bytes_on_disk"]),
            observation_bytes_per_transition=float(info["observation_bytes_per_transition"]),
            bytes_per_transition=float(info["bytes_per_transition"]),
            compression_factor=float(info["compression_factor"]),
            schemes={name: entry["scheme"] for name, entry in info["fields"].items() if entry["scheme"]},
        )

    def _make_warm_store(self, mode: Mode) -> None:
        with self._open_or_create(self.warm_path(mode), mode, 1, _WARM_CHUNK_ROWS) as store:
            if store.num_episodes == 0:
                store.append({name: array[:_WARM_ROWS] for name, array in self.source.episode(0).items()})

    def _open_or_create(self, path: Path, mode: Mode, most_episodes: int, chunk_rows: int) -> ReplayStore:
        recipe_path = path.with_name(f"{path.name}.json")
        if path.exists():
            if not recipe_path.exists():
                raise StoreExists(f"{path}: exists and was not made by this benchmark; choose another work_dir")
            if json.loads(recipe_path.read_text()) == self.recipe(mode):
                store = ReplayStore.open(path, residency="mapped")
                if store.num_episodes <= most_episodes:
                    return store
                store.close()
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe_path.write_text(json.dumps(self.recipe(mode), indent=1) + "\n")
        return ReplayStore.create(path, self.fields(mode), mode=mode, chunk_rows=chunk_rows, residency="mapped")


def check_space(folder: StoreFolder, modes: tuple[Mode, ...], rows: int) -> None:
    """Checks that the stores will fit the disk, before anything is written.

    Args:
        folder: the stores.
        modes: modes to store.
        rows: rows per store.

    Raises:
        WriteError: the stores will not fit.
    """
    folder.directory.mkdir(parents=True, exist_ok=True)
    single = folder.source.single_frame_row_bytes
    needed = sum(rows * (folder.source.row_bytes if mode == "disk" else single) for mode in modes)
    present = sum(path.stat().st_size for path in folder.directory.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder.directory).free
    if needed > present + free:
        raise WriteError(
            f"{folder.directory}: the stores need up to {needed:,} bytes, {free:,} are free;"
            " use smaller sizes, a smaller limit or another work_dir"
        )


def drop_page_cache(directory: Path) -> None:
    """Writes back every file below `directory` and drops its pages from the page cache.

    Mapped pages stay, so no store below `directory` may be open.
    """
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
