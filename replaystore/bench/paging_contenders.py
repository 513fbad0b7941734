"""What a measured process of `bench paging` draws batches from: a store, plain memory maps, or DrQ-v2's loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt

from replaystore.bench.paging_config import CONTENDERS, DRQV2, MEMMAP, PagingConfig
from replaystore.datasets.drqv2_npz import peek_episode
from replaystore.errors import BudgetError
from replaystore.sampling.sampler import Sampler
from replaystore.spec import RESIDENCIES, Residency
from replaystore.store import ReplayStore

_CRC_BYTES = 1 << 20  # copied at a time, because a copy of the whole batch would count against the limit

Batch = dict[str, npt.NDArray[Any]]


class Contender(Protocol):
    """One thing to measure. Before it is opened, it has compiled and imported what it needs.

    Attributes:
        uses_budget: whether `open` takes a budget.
    """

    uses_budget: bool

    def open(self, budget_bytes: int | None) -> str:
        """Opens the data, and keeps at most `budget_bytes` of it in RAM. Returns where the bytes are."""

    def draw(self) -> None:
        """Makes a batch. This is what is timed."""

    def remember(self) -> None:
        """Keeps the checksum of the batch that was made last."""

    def checksums(self) -> list[str]:
        """Returns the checksums of the batches that were remembered. Nothing if others cannot draw the same batches."""

    def batch_bytes(self) -> int:
        """Returns the bytes of the arrays of a batch."""

    def resident_bytes(self) -> int:
        """Returns the bytes of data that are kept in RAM."""

    def close(self) -> None:
        """Lets go of the data."""


def make_contender(name: str, config: PagingConfig, request: Mapping[str, Any]) -> Contender:
    """Returns the contender of that name.

    Args:
        name: one of `CONTENDERS`.
        config: what to measure.
        request: paths by name: `store`, `warm_store` and `episodes`.
    """
    if name == DRQV2:
        return DrQv2(config, Path(request["episodes"]))
    kind = Memmap if name == MEMMAP else Store
    return kind(name, config, request["store"], request["warm_store"])


def checksum(batch: Batch) -> str:
    """Returns the CRC32C over all arrays of a batch, as hexadecimal digits."""
    crc = 0
    for name in sorted(batch):
        flat = np.ascontiguousarray(batch[name]).view(np.uint8).reshape(-1)
        for start in range(0, len(flat), _CRC_BYTES):
            crc = google_crc32c.extend(crc, flat[start : start + _CRC_BYTES].tobytes())
    return f"{crc:08x}"


class Store:
    """A store, opened as its mode is measured."""

    def __init__(self, name: str, config: PagingConfig, path: str, warm_path: str) -> None:
        self._config = config
        self._path = path
        self._residency = CONTENDERS[name][1]
        self._sampler = Sampler(n_step=config.n_step)
        self._rng = np.random.default_rng(config.seed)
        self._checksums: list[str] = []
        self._store: ReplayStore
        self._rows: npt.NDArray[np.int64]
        self._batch = self._warm_up(warm_path)
        self.uses_budget = self._residency is None

    def _warm_up(self, path: str) -> Batch:
        """Compiles all kernels on a few rows in each residency. Returns the batch's arrays for reuse."""
        batch: Batch | None = None
        for residency in RESIDENCIES:
            with ReplayStore.open(path, read_only=True, residency=residency, num_threads=self._config.threads) as store:
                rows = store.draw(self._sampler, np.random.default_rng(0), self._config.batch_size)
                batch = self._gather(store, rows, batch)
        assert batch is not None
        return batch

    def _gather(self, store: ReplayStore, rows: npt.NDArray[np.int64], batch: Batch | None) -> Batch:
        return store.gather(rows, n_step=self._config.n_step, discount=self._config.discount, out=batch)

    def open(self, budget_bytes: int | None) -> str:
        """Opens the store.

        Where RAM may be used, it is opened with `ram`. If that is refused, it is opened with `auto`, which keeps what
        fits. Opening with `auto` at once would not tell whether everything is in RAM.
        """
        chosen = self._residency
        names: dict[Residency, str] = {"ram": "ram", "auto": "ram + files"} if chosen is None else {chosen: chosen}
        for residency, name in names.items():
            try:
                self._store = ReplayStore.open(
                    self._path,
                    read_only=True,
                    residency=residency,
                    budget_bytes=budget_bytes,
                    num_threads=self._config.threads,
                )
            except BudgetError:
                if residency == "auto":
                    raise
            else:
                self._store.wait_until_filled()
                return name
        raise AssertionError("auto refuses nothing")

    def draw(self) -> None:
        """Draws and gathers a batch."""
        self._rows = self._store.draw(self._sampler, self._rng, self._config.batch_size)
        self._gather(self._store, self._rows, self._batch)

    def remember(self) -> None:
        """Keeps the checksum of the batch."""
        self._checksums.append(checksum(self._batch))

    def checksums(self) -> list[str]:
        """Returns the checksums that were kept."""
        return self._checksums

    def batch_bytes(self) -> int:
        """Returns the bytes of the batch's arrays."""
        return sum(array.nbytes for array in self._batch.values())

    def resident_bytes(self) -> int:
        """Returns the bytes that the store holds."""
        return int(self._store.info()["held_bytes"])

    def close(self) -> None:
        """Closes the store."""
        self._store.close()


class Memmap(Store):
    """The images of a store in mode `disk`, read as a user of NumPy would: a `memmap` per chunk file, without a cache.

    All rows of the store are in chunks. The store draws the rows.
    """

    def open(self, budget_bytes: int | None) -> str:
        """Opens the store, and maps its chunk files."""
        super().open(budget_bytes)
        self._remembered: list[tuple[npt.NDArray[np.int64], str]] = []
        self._maps: dict[str, dict[int, npt.NDArray[Any]]] = {}
        for field in self._store.spec.fields:
            if field.is_image and field.role == "observation":
                files = (self._store.path / field.name).glob("c.*")
                self._maps[field.name] = {
                    int(file.name.split(".")[1]): np.memmap(file, np.uint8, "r").reshape(-1, *field.stacked_shape)
                    for file in files
                }
        return MEMMAP

    def draw(self) -> None:
        """Draws rows, and reads their observations."""
        self._rows = self._store.draw(self._sampler, self._rng, self._config.batch_size)
        chunk_rows = self._store.spec.chunk_rows
        for field, maps in self._maps.items():
            for name, wanted in ((field, self._rows - 1), (f"next_{field}", self._rows + self._config.n_step - 1)):
                chunks = wanted // chunk_rows
                for chunk in np.unique(chunks).tolist():
                    chosen = chunks == chunk
                    self._batch[name][chosen] = maps[chunk][wanted[chosen] - chunk * chunk_rows]

    def _images(self) -> Batch:
        return {name: self._batch[name] for field in self._maps for name in (field, f"next_{field}")}

    def remember(self) -> None:
        """Keeps the rows of the batch, and the checksum of its images."""
        self._remembered.append((self._rows, checksum(self._images())))

    def checksums(self) -> list[str]:
        """Returns the checksums of the whole batches, gathered by the store. Their images are those of the maps."""
        for rows, images in self._remembered:
            self._gather(self._store, rows, self._batch)
            assert checksum(self._images()) == images, "the maps hold other images"
            super().remember()
        return super().checksums()


class DrQv2:
    """The replay loader of DrQ-v2 without worker processes, over episode files of the same data.

    It holds all episodes as raw stacks in RAM, and draws as it does.
    """

    uses_budget = False

    def __init__(self, config: PagingConfig, episode_dir: Path) -> None:
        from replaystore.bench.drqv2_loader import module_of_checkout

        assert config.drqv2 is not None
        self._config = config
        self._episode_dir = episode_dir
        self._module = module_of_checkout(Path(config.drqv2), "replay_buffer.py")
        self._batches: Iterator[Any]
        self._batch: Any = ()

    def open(self, budget_bytes: int | None) -> str:
        """Reads all episodes."""
        from replaystore.bench.drqv2_loader import make_loader

        files = [peek_episode(path.resolve()) for path in self._episode_dir.iterdir()]
        self._resident_bytes = sum(
            int(np.prod(shape)) * dtype.itemsize for file in files for shape, dtype in file.values()
        )
        num_rows = sum(next(iter(file.values()))[0][0] for file in files)
        loader = make_loader(
            self._module,
            self._episode_dir,
            max_transitions=num_rows,
            batch_size=self._config.batch_size,
            workers=0,
            n_step=self._config.n_step,
            discount=self._config.discount,
        )
        self._batches = iter(loader)
        self.draw()
        return "ram"

    def draw(self) -> None:
        """Takes a batch."""
        self._batch = next(self._batches)

    def remember(self) -> None:
        """Does nothing: its batches are others."""

    def checksums(self) -> list[str]:
        """Returns nothing."""
        return []

    def batch_bytes(self) -> int:
        """Returns the bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self._batch)

    def resident_bytes(self) -> int:
        """Returns the bytes of the arrays of all episodes."""
        return self._resident_bytes

    def close(self) -> None:
        """Ends its loader."""
        del self._batches
