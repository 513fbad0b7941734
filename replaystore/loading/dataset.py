"""`ReplayDataset`: a store as the data set of a torch `DataLoader`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from replaystore.batches.protocol import BatchView
from replaystore.errors import Evicted
from replaystore.loading.arguments import sampler_and_view
from replaystore.loading.buffers import Tensors, tensors_of
from replaystore.loading.draws import Draws
from replaystore.runtime.numbers import whole_number
from replaystore.runtime.paths import local_path
from replaystore.sampling.protocol import RowSampler
from replaystore.sampling.sampler import Distribution
from replaystore.store import ReplayStore


class ReplayDataset(IterableDataset[Tensors]):
    """A store as the data set of a torch `DataLoader`. Each item is a whole batch, so pass `batch_size=None`.

    >>> import tempfile
    >>> from torch.utils.data import DataLoader
    >>> from replaystore.testing.episodes import make_store
    >>> path = tempfile.mkdtemp() + "/store"
    >>> make_store(path).close()
    >>> loader = DataLoader(ReplayDataset(path, batch_size=16, n_step=3, seed=0), batch_size=None)
    >>> for batch in loader:
    ...     break
    >>> batch["observation"].shape
    torch.Size([16, 9, 4, 5])

    Every worker opens the store for reading. It draws its own stream of batches, seeded with (seed, worker), with its
    own copy of the sampler. `ReplayLoader` is faster and needs no workers. Use this class in code that is built around
    a `DataLoader`.

    Args:
        path: directory of the store.
        batch_size: as in `ReplayLoader`.
        n_step: as in `ReplayLoader`.
        discount: as in `ReplayLoader`.
        distribution: as in `ReplayLoader`.
        window: as in `ReplayLoader`.
        sampler: as in `ReplayLoader`. It is copied for each iteration, and pickled for workers.
        view: as in `ReplayLoader`. It is pickled for workers.
        seed: seed of the draws. None: fresh entropy.
        residency: residency of each worker's store, as in `ReplayStore.open`.
        budget_bytes: budget of each worker's store, as in `ReplayStore.open`.

    Raises:
        SpecError: a value is outside its range, or two arguments contradict each other.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, batch_size: int = 256, n_step: int | None = None,
        discount: float | None = None, distribution: Distribution | None = None, window: int | None = None,
        sampler: RowSampler | None = None, view: BatchView | None = None, seed: int | None = None,
        residency: Any = "mapped", budget_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.path = local_path(path)
        self.batch_size = whole_number(batch_size, "batch_size")
        self.sampler, self.view = sampler_and_view(
            n_step=n_step, discount=discount, distribution=distribution, window=window, sampler=sampler, view=view
        )
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
            draws = Draws(store, copy.deepcopy(self.sampler), rng)
            while True:
                snapshot, draw = draws.draw(self.batch_size)
                try:
                    batch = store.gather(draw, view=self.view, snapshot=snapshot)
                except Evicted:
                    store.refresh()
                    continue
                yield tensors_of(batch)
