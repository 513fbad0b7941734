"""`ReplayDataset`: a store as the data set of a torch `DataLoader`."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from replaystore.batches.protocol import BatchView
from replaystore.errors import Evicted
from replaystore.loading.arguments import sampler_and_view
from replaystore.loading.buffers import Tensors, tensors_of
from replaystore.loading.draws import Draws
from replaystore.loading.seeds import generator_of_worker, process_rank
from replaystore.runtime.numbers import whole_number
from replaystore.runtime.paths import local_path
from replaystore.sampling.protocol import RowSampler
from replaystore.sampling.sampler import Distribution
from replaystore.store import ReplayStore

_MOST_WORKERS = 256  # with epochs of their own


class _Batch(dict[str, torch.Tensor]):
    """A batch. If a `DataLoader` stacks several of them, it says so."""

    def update(self, *entries: Any, **more: Any) -> None:
        """Replaces tensors. A `DataLoader` puts the stacked ones into a copy of the first batch."""
        axes = {name: tensor.ndim for name, tensor in self.items()}
        super().update(*entries, **more)
        if any(self[name].ndim > count for name, count in axes.items()):
            warnings.warn(
                "DataLoader: ReplayDataset yields whole batches, and several of them were stacked to a batch of"
                " batches; pass batch_size=None to DataLoader, and the batch size to ReplayDataset",
                stacklevel=2,
            )


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

    Every worker opens the store for reading. It draws its own stream of batches, with its own copy of the sampler. The
    stream is seeded with the seed, the worker, the rank of the process in a distributed run, and the epoch: each
    iteration over the `DataLoader` is an epoch, and draws other batches than the one before. `ReplayLoader` is faster
    and needs no workers. Use this class in code that is built around a `DataLoader`.

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
        self._rank = process_rank()
        self._epochs = torch.zeros(_MOST_WORKERS, dtype=torch.int64)  # iterations that each worker has begun
        self._epochs.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration. Iterations count on from it."""
        self._epochs.fill_(whole_number(epoch, "epoch", least=0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch of the next iteration, as `{"epoch": int}`. The rank is that of the run that loads it."""
        return {"epoch": int(self._epochs.max())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the epoch of `state_dict`.

        Raises:
            SpecError: `state` has no epoch.
        """
        self.set_epoch(state.get("epoch"))  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rank": process_rank()}  # a worker that is not forked does not know it

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        number, rank = 0 if worker is None else worker.id, process_rank() or self._rank
        seed = self.seed if worker is None or self.seed is not None else worker.seed
        slot = min(number, _MOST_WORKERS - 1)
        epoch = int(self._epochs[slot])
        self._epochs[slot] = epoch + 1
        return self._batches(generator_of_worker(seed, number, rank, epoch))

    def _batches(self, rng: np.random.Generator) -> Iterator[Tensors]:
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
                yield _Batch(tensors_of(batch))
