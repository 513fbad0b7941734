"""The reading half: DrQ-v2's `make_replay_loader` over a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from drqv2_patch.conversion import convert_files, has_episode_files
from drqv2_patch.storage import STORE_NAME, Mode, Residency, check_mode, store_written_in
from replaystore import ReplayLoader, ReplayStore
from replaystore.errors import NotEnoughData, SpecError, StoreClosed, StoreNotFound
from replaystore.runtime.extras import needs
from replaystore.sampling.generators import seeded_generator

with needs("drqv2_patch", "drqv2"):
    import torch

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def make_replay_loader(
    replay_dir: str | os.PathLike[str], max_size: int, batch_size: int, num_workers: int, save_snapshot: bool,
    nstep: int, discount: float, mode: Mode = "full", seed: int | None = None, *, residency: Residency = "auto",
    budget_bytes: int | None = None, pin_memory: bool | None = None,
) -> TupleLoader:  # fmt: skip
    """Returns a `TupleLoader` over `replay_dir`. Neither the store nor an episode has to exist yet.

    If there is no store, but episode files of DrQ-v2, the first batch makes the store from them. Files that come later
    are not read.

    Args:
        replay_dir: the one given to `ReplayBufferStorage`.
        max_size: in the process of the `ReplayBufferStorage`, the store's capacity in transitions. The oldest episodes
            beyond it are deleted. In other processes, batches are drawn from the newest episodes of at most so many
            transitions.
        batch_size: transitions per batch.
        num_workers: threads that fill batches. 0 counts as 1. The batches do not depend on it.
        save_snapshot: has no effect, because episodes always stay on disk.
        nstep: steps of the return.
        discount: per step of the return.
        mode: must be that of the store.
        seed: seeds the draws. None takes a seed from NumPy's global generator (`np.random.seed`) now.
        residency: as in `ReplayStore.open`. Used only in processes without the `ReplayBufferStorage`, which has its
            own.
        budget_bytes: as `residency`.
        pin_memory: whether batches are page-locked. None means if CUDA is available.

    Raises:
        SpecError: a value cannot work, or the store has another mode.
    """
    del save_snapshot
    return TupleLoader(
        replay_dir,
        max_size=max_size,
        batch_size=batch_size,
        num_threads=max(1, num_workers),
        n_step=nstep,
        discount=discount,
        mode=mode,
        seed=seed,
        residency=residency,
        budget_bytes=budget_bytes,
        pin_memory=pin_memory,
    )


class TupleLoader:
    """Yields batches without end, drawn as DrQ-v2 draws: an episode uniformly, then one of its transitions.

    A batch is a tuple of tensors (observation, action, reward, discount, next_observation). Observations and actions
    are (batch, *shape) in the stored dtype. Reward and discount are float32 (batch, 1). `make_replay_loader` describes
    the arguments.

    Attributes:
        num_batches: batches that this loader returned.
    """

    def __init__(
        self, replay_dir: str | os.PathLike[str], *, max_size: int, batch_size: int, num_threads: int, n_step: int,
        discount: float, mode: Mode, seed: int | None, residency: Residency, budget_bytes: int | None,
        pin_memory: bool | None,
    ) -> None:  # fmt: skip
        if min(max_size, batch_size, n_step) < 1:
            raise SpecError(f"max_size, batch_size and nstep are at least 1, got {max_size}, {batch_size} and {n_step}")
        self._path = Path(replay_dir).absolute() / STORE_NAME
        self._max_size = int(max_size)
        self._mode: Mode = mode
        self._reading: dict[str, Any] = {"residency": residency, "budget_bytes": budget_bytes}
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "num_threads": num_threads,
            "n_step": n_step,
            "discount": discount,
            "distribution": "per_episode",
            "pin_memory": pin_memory,
        }
        self._rng = seeded_generator(seed)
        self._state: Mapping[str, Any] = {"generator": self._rng.bit_generator.state}
        self._loader: ReplayLoader | None = None
        self._own: ReplayStore | None = None  # opened here, to read
        self._closed = False
        self.num_batches = 0
        if store_written_in(replay_dir) is not None:
            self._start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            NotEnoughData: no episode of at least `nstep` transitions is committed yet. Add more and call again.
            SpecError: the store has another mode, or lacks a field that DrQ-v2 uses.
            EpisodeError: an episode file, from which the store is made, is damaged or does not fit the others.
            StoreLocked: another process makes the store from the episode files now.
            StoreClosed: the loader has been closed.
        """
        batch = next(self._start())
        self.num_batches += 1
        return batch["observation"], batch["action"], batch["reward"], batch["discount"], batch["next_observation"]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the draws after the last consumed batch, as JSON-able data."""
        return dict(self._state) if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch at which `state` was taken."""
        if self._loader is None:
            self._state = dict(state)
        else:
            self._loader.load_state_dict(state)

    def close(self) -> None:
        """Stops the threads. A `ReplayBufferStorage` stays open."""
        self._closed = True
        if self._loader is not None:
            self._loader.close()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self) -> ReplayLoader:
        if self._closed:
            raise StoreClosed(f"{self._path}: the loader has been closed; make a new one")
        if self._loader is not None:
            return self._loader
        store = store_written_in(self._path.parent)
        window = None
        if store is None:
            store, window = self._open_to_read(), self._max_size
        try:
            check_mode(store, self._mode)
            missing = {"observation", "action", "reward"} - {field.name for field in store.spec.fields}
            if missing:
                raise SpecError(f"{self._path}: expected fields that DrQ-v2 uses, found none called {sorted(missing)}")
            loader = ReplayLoader(store, seed=self._rng, window=window, **self._options)
            loader.load_state_dict(self._state)
        except BaseException:
            if window is not None:
                store.close()
            raise
        if window is None:
            store.set_capacity(self._max_size)
        else:
            self._own = store
        self._loader = loader
        return loader

    def _open_to_read(self) -> ReplayStore:
        if not self._path.exists() and has_episode_files(self._path):
            convert_files(self._path, mode=self._mode)
        try:
            return ReplayStore.open(self._path, read_only=True, **self._reading)
        except StoreNotFound as err:
            raise NotEnoughData(
                f"{self._path}: no store yet; ReplayBufferStorage makes it, and an episode is there when it has ended"
            ) from err
