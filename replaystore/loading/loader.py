"""Batches of transitions as torch tensors, filled by background threads."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.errors import Evicted, SpecError, StoreClosed, StoreError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.loading.buffers import Buffer, Loan, Tensors
from replaystore.runtime.preemption import let_others_preempt
from replaystore.sampling.generators import generator_state, restore_generator
from replaystore.sampling.sampler import Distribution, Sampler
from replaystore.store import ReplayStore

_logger = logging.getLogger(__name__)

_REDRAWS = 100  # in a row, before a reader gives up on a writer that evicts faster than it reads


@dataclass
class _Pending:
    """A batch that was drawn. `state`: of the generator after the draw."""

    future: Future[Buffer]
    state: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """What one loader did since it was made.

    Attributes:
        batches: handed out.
        waits: times that the batch asked for was not filled yet.
        wait_seconds: time that the consumer waited then.
        redraws: batches drawn again because another process had evicted rows of them.
    """

    batches: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    redraws: int = 0


class ReplayLoader:
    """Yields batches without end: a mapping of names to tensors, as `ReplayStore.gather` describes them.

    Rows are drawn in the consumer's thread, in its order, `prefetch` batches ahead; threads only fill memory. So a
    seed gives the same batches for any number of threads and in every mode. A batch's memory is used again once no
    tensor over it is alive, the loader's own included, which holds the last two batches; keeping batches is safe and
    takes new memory. An error in a thread is raised by the `next` that asks for the batch. For one consumer thread.

    Pinned memory may be copied with `non_blocking=True`: copies on the stream that is current when the tensors are let
    go have ended before the memory is filled again. For other streams or devices, synchronise before.

    Args:
        store: open in this process, to write or to read.
        batch_size: transitions a batch.
        n_step, discount: of the n-step return.
        distribution: `"uniform"` over transitions, or `"per_episode"` as DrQ-v2 draws.
        window: draw only from the newest episodes with at most this many transitions.
        seed: of the draws: a number, a `numpy.random.Generator` to use, or None for fresh entropy.
        num_threads: threads that fill batches.
        prefetch: batches drawn ahead.
        pin_memory: page-locked memory; None: where CUDA is available.

    Raises:
        SpecError: a value that cannot work.
    """

    def __init__(
        self, store: ReplayStore, *, batch_size: int = 256, n_step: int = 1, discount: float = 0.99,
        distribution: Distribution = "uniform", window: int | None = None,
        seed: int | np.random.Generator | None = None, num_threads: int = 2, prefetch: int = 4,
        pin_memory: bool | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1 or num_threads < 1 or prefetch < 0:
            raise SpecError(
                "batch_size and num_threads are at least 1, prefetch at least 0;"
                f" got {batch_size}, {num_threads}, {prefetch}"
            )
        self.store = store
        self.sampler = Sampler(n_step=n_step, distribution=distribution, window=window)
        self.batch_size = batch_size
        self.discount = float(discount)
        self._rng = np.random.default_rng(seed)
        self._consumed = generator_state(self._rng)
        self._prefetch = prefetch
        self._pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._pending: deque[_Pending] = deque()
        self._free: deque[Buffer] = deque(maxlen=prefetch + 3)  # all that are in use at once, one consumed
        self._lent: set[Loan] = set()
        self._handed: deque[tuple[torch.Tensor, ...]] = deque()  # the last two batches
        self._batches, self._waits, self._wait_seconds, self._redraws = 0, 0, 0.0, 0
        self._process = os.getpid()
        self._closed = False
        self._pool = ThreadPoolExecutor(num_threads, "replaystore-load", let_others_preempt)
        self._most_threads = min(num_threads, len(os.sched_getaffinity(0)))  # of one batch
        self._finalizer = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensors:
        """The next batch.

        Raises:
            NotEnoughData: there is no valid transition yet; append and call again.
        """
        self._require_open()
        # Destroying a tensor gives up the interpreter, and beside a thread that was just given work that may take
        # milliseconds. So the batch before the current one is let go of here, while the threads have nothing to do.
        while len(self._handed) > 1:
            self._handed.popleft()
        while len(self._pending) < self._prefetch + 2:  # before one is taken: where this raises, none is lost
            self._draw()
        pending = self._pending.popleft()
        for attempt in range(_REDRAWS):
            try:
                buffer = self._result(pending.future)
                break
            except Evicted:  # a writer elsewhere was faster
                if attempt + 1 == _REDRAWS:
                    raise
                self._redraws += 1
                _logger.debug("%s: rows of a batch were evicted, it is drawn again", self.store.path)
                self.store.refresh()
                self._draw()
                pending = self._pending.pop()
        self._consumed = pending.state
        batch = Loan(buffer, self._lent, self._free).tensors()
        self._handed.append(tuple(batch.values()))
        self._batches += 1
        return batch

    def _result(self, future: Future[Buffer]) -> Buffer:
        if future.done():
            return future.result()
        start = time.monotonic()
        try:
            return future.result()
        finally:
            self._waits += 1
            self._wait_seconds += time.monotonic() - start

    def stats(self) -> LoaderStats:
        """What this loader did since it was made. Also when closed."""
        return LoaderStats(
            batches=self._batches, waits=self._waits, wait_seconds=self._wait_seconds, redraws=self._redraws
        )

    def state_dict(self) -> dict[str, Any]:
        """State of the draws after the last batch consumed: JSON-able."""
        return {"generator": self._consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on as after the batch at which `state` was taken; batches drawn ahead are drawn anew.

        They are the same batches if the store holds what it held when they were drawn: where the last `prefetch + 1`
        batches were taken with no commit between them.
        """
        self._rng = restore_generator(state["generator"])
        self._consumed = generator_state(self._rng)
        self._drop_pending()

    def close(self) -> None:
        """Stops the threads. The store stays open."""
        if not self._closed:
            self._closed = True
            self._handed.clear()
            self._drop_pending()
            self._finalizer.detach()
            self._pool.shutdown()
            self._free.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed("the loader has been closed; make a new one")
        if os.getpid() != self._process:
            raise StoreError("a loader does not cross fork: its threads stayed in the parent; make one in this process")

    def _draw(self) -> None:
        snapshot = self.store.snapshot()
        rows = self.store.draw(self.sampler, self._rng, self.batch_size, snapshot=snapshot)
        # Where no other is being filled, all threads work on it: it is there sooner, above all before a learner that
        # sleeps meanwhile wants the cores back.
        waiting = sum(not pending.future.done() for pending in self._pending)
        num_threads = max(1, self._most_threads - waiting)
        buffer = self._free.popleft() if self._free else Buffer(self.store, self.batch_size, self._pinned)
        future = self._pool.submit(
            _fill, self.store, rows, self.sampler.n_step, self.discount, snapshot, buffer, self._free, num_threads
        )
        self._pending.append(_Pending(future, generator_state(self._rng)))

    def _drop_pending(self) -> None:
        dropped = list(self._pending)
        self._pending.clear()
        for pending in reversed(dropped):  # those not begun first, so that none begins meanwhile
            pending.future.cancel()
        for pending in dropped:
            if not pending.future.cancelled() and pending.future.exception() is None:
                self._free.append(pending.future.result())


def _fill(
    store: ReplayStore, rows: NDArray[np.int64], n_step: int, discount: float, snapshot: IndexSnapshot,
    buffer: Buffer, free: deque[Buffer], num_threads: int,
) -> Buffer:  # fmt: skip
    try:
        buffer.wait_for_copies()
        store.gather(
            rows, n_step=n_step, discount=discount, out=buffer.arrays, snapshot=snapshot, num_threads=num_threads
        )
    except BaseException:
        free.append(buffer)
        raise
    return buffer
