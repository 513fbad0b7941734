"""A store for a torch `DataLoader`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from replaystore.errors import Evicted
from replaystore.loading.buffers import Tensors
from replaystore.sampling.sampler import Distribution, Sampler
from replaystore.store import ReplayStore


class ReplayDataset(IterableDataset[Tensors]):
    """A store for a torch `DataLoader`, which must be given `batch_size=None`: each item is a whole batch.

    Every worker opens the store to read and draws its own stream, from (seed, worker). `ReplayLoader` is faster and
    needs no workers; this is for code that is built around a `DataLoader`.

    Args:
        path: of the store.
        seed: None for fresh entropy.
        residency, budget_bytes: as in `ReplayStore.open`, for each worker.
        batch_size, n_step, discount, distribution, window: as in `ReplayLoader`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, batch_size: int = 256, n_step: int = 1, discount: float = 0.99,
        distribution: Distribution = "uniform", window: int | None = None, seed: int | None = None,
        residency: Any = "mapped", budget_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self.batch_size = batch_size
        self.sampler = Sampler(n_step=n_step, distribution=distribution, window=window)
        self.discount = float(discount)
        self.seed = seed
        self._residency = residency
        self._budget_bytes = budget_bytes

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        seeds = np.random.SeedSequence(self.seed if worker is None or self.seed is not None else worker.seed)
        rng = np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=(number,)))
        with ReplayStore.open(
            self.path, read_only=True, residency=self._residency, budget_bytes=self._budget_bytes
        ) as store:
            while True:
                rows = store.draw(self.sampler, rng, self.batch_size)
                try:
                    batch = store.gather(rows, n_step=self.sampler.n_step, discount=self.discount)
                except Evicted:
                    store.refresh()
                    continue
                yield {name: torch.from_numpy(array) for name, array in batch.items()}
