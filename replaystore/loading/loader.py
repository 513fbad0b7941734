"""`ReplayLoader` yields batches as torch tensors. Background threads fill them."""

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

from replaystore.batches.layout import allocate_batch
from replaystore.batches.protocol import BatchView
from replaystore.errors import Evicted, SpecError, StoreClosed, StoreError
from replaystore.loading.arguments import sampler_and_view
from replaystore.loading.buffers import Buffer, Loan, Tensors, pinned_empty, tensors_of
from replaystore.loading.draws import Draws
from replaystore.loading.seeds import generator_of_rank, process_rank
from replaystore.loading.stats import LoaderStats
from replaystore.runtime.numbers import whole_number
from replaystore.runtime.preemption import let_others_preempt
from replaystore.sampling.protocol import Draw, RowSampler
from replaystore.sampling.sampler import Distribution
from replaystore.store import ReplayStore

_logger = logging.getLogger(__name__)

_REDRAWS = 100  # attempts at one batch, in case the writer evicts faster than this reader reads


@dataclass
class _Pending:
    """A batch that was drawn and is being filled.

    Attributes:
        future: the buffer, once it is filled.
        draw: the drawn rows.
        state: state of the generator and the sampler after the draw.
    """

    future: Future[Buffer]
    draw: Draw
    state: dict[str, Any]


class ReplayLoader:
    """An endless iterator over batches of torch tensors. Background threads fill the batches.

    >>> import tempfile
    >>> from replaystore.testing.episodes import make_store
    >>> store = make_store(tempfile.mkdtemp() + "/store")
    >>> loader = ReplayLoader(store, batch_size=16, n_step=3, discount=0.99, seed=0)
    >>> for step, batch in enumerate(loader):  # a dict: observation, next_observation, action, reward, discount
    ...     loss = batch["reward"].mean()
    ...     if step == 2:
    ...         break
    >>> batch["observation"].shape
    torch.Size([16, 9, 4, 5])
    >>> loader.close(), store.close()
    (None, None)

    A batch has the arrays of `ReplayStore.gather`, and `weight` and columns if the sampler draws them.

    The consumer's thread draws the rows, `prefetch` batches ahead. Background threads only fill memory. A seed
    therefore gives the same batches for any number of threads and in every mode. If a background thread fails, the
    `next` that asks for that batch raises the error. Only one thread may consume.

    The memory of a batch is used again once no tensor over it is alive. The loader itself keeps the last two batches
    alive. Keeping more batches is safe, and takes more memory.

    Pinned memory may be copied with `non_blocking=True`. The loader waits for copies on the stream that was current
    when the batch was released, before it fills the memory again. Synchronise other streams and devices yourself.

    Args:
        store: the store, open in this process for writing or reading.
        batch_size: rows per batch.
        n_step: steps of the n-step return. None: taken from `view`, then from `sampler`, else 1.
        discount: discount factor of the n-step return. None: 0.99.
        distribution: `"uniform"` over transitions, or `"per_episode"` as in DrQ-v2. None: `"uniform"`.
        window: draws only from the newest episodes with at most this many transitions. None: draws from all.
        sampler: replaces the `Sampler` of `n_step`, `distribution` and `window`. One loader at a time may use it.
        view: replaces the `TransitionView` of `n_step` and `discount`.
        seed: seed of the draws, or the `numpy.random.Generator` to use. None: fresh entropy. The rank of a distributed
            run enters a seed that is a number, so its processes draw different batches.
        num_threads: threads that fill batches.
        prefetch: batches to draw ahead.
        pin_memory: whether to use page-locked memory. None: only if CUDA is available.

    Raises:
        SpecError: a value is outside its range, or two arguments contradict each other.
    """

    def __init__(
        self, store: ReplayStore, *, batch_size: int = 256, n_step: int | None = None, discount: float | None = None,
        distribution: Distribution | None = None, window: int | None = None, sampler: RowSampler | None = None,
        view: BatchView | None = None, seed: int | np.random.Generator | None = None, num_threads: int = 2,
        prefetch: int = 4, pin_memory: bool | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(store, ReplayStore):
            raise SpecError(
                f"store: expected an open ReplayStore, got {type(store).__name__} {store!r}; open it with"
                " ReplayStore.open(path)"
            )
        batch_size = whole_number(batch_size, "batch_size")
        num_threads = whole_number(num_threads, "num_threads")
        prefetch = whole_number(prefetch, "prefetch", least=0)
        self.store = store
        self.sampler, self.view = sampler_and_view(
            n_step=n_step, discount=discount, distribution=distribution, window=window, sampler=sampler, view=view
        )
        self.batch_size = batch_size
        self._layout = self.view.layout(store.spec)
        self._draws = Draws(store, self.sampler, generator_of_rank(seed, process_rank()))
        self._consumed = self._draws.state()
        self._prefetch = prefetch
        self._pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._pending: deque[_Pending] = deque()
        self._free: deque[Buffer] = deque(maxlen=prefetch + 3)  # the buffers in use at once; one is being consumed
        self._lent: set[Loan] = set()
        self._handed: deque[tuple[torch.Tensor, ...]] = deque()  # the last two batches
        self._batches, self._waits, self._wait_seconds, self._redraws, self._buffers = 0, 0, 0.0, 0, 0
        self._process = os.getpid()
        self._closed = False
        self._pool = ThreadPoolExecutor(num_threads, "replaystore-load", let_others_preempt)
        self._threads_per_batch = min(num_threads, len(os.sched_getaffinity(0)))
        self._finalizer = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensors:
        """Returns the next batch.

        Raises:
            NotEnoughData: no row can be drawn yet. Append and call again.
            StoreClosed: the loader or the store is closed.
            StoreError: this process is a fork of the one that made the loader.
            ChunkError: stored data are damaged.
            Evicted: another process evicts rows faster than this one reads them.
        """
        self._require_open()
        # Destroying a tensor releases the interpreter. If a thread has just got work, taking it back may take
        # milliseconds. So the batch before the current one is released here, while no thread starts.
        while len(self._handed) > 1:
            self._handed.popleft()
        while len(self._pending) < self._prefetch + 2:  # draw before taking one, so that an error loses none
            self._draw()
        pending = self._pending.popleft()
        for attempt in range(_REDRAWS):
            try:
                buffer = self._result(pending.future)
                break
            except Evicted:  # another process evicted rows of the batch
                if attempt + 1 == _REDRAWS:
                    raise
                self._redraws += 1
                _logger.debug("%s: rows of a batch were evicted, it is drawn again", self.store.path)
                self.store.refresh()
                self._draw()
                pending = self._pending.pop()
        self._consumed = pending.state
        batch = Loan(buffer, self._lent, self._free).tensors()
        extras = pending.draw.extras()
        if extras:
            batch.update(tensors_of(extras, self._pinned))
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
        """Returns what this loader has done since it was made. It works on a closed loader, too."""
        return LoaderStats(
            batches=self._batches, waits=self._waits, wait_seconds=self._wait_seconds, redraws=self._redraws,
            buffers=self._buffers,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the draws after the last consumed batch.

        Returns:
            `generator`, which is JSON-able, and `sampler` if the sampler has a state of its own.
        """
        return self._draws.whole_state(self._consumed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch at which `state` was taken. Batches that were drawn ahead are drawn again.

        They are the same batches if the store and the sampler have not changed since the first draw. That holds if
        there was no commit and no update of the sampler while the last `prefetch + 1` batches were taken.

        Args:
            state: the result of `state_dict`. If it has no `sampler`, the sampler keeps its state.

        Raises:
            SpecError: `state` does not hold the state of a generator.
        """
        self._draws.load(state)
        self._consumed = self._draws.state()
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
        snapshot, draw = self._draws.draw(self.batch_size)
        # If no other batch is being filled, all threads work on this one. It is then ready sooner, before a sleeping
        # learner wakes up and needs the cores.
        waiting = sum(not pending.future.done() for pending in self._pending)
        num_threads = max(1, self._threads_per_batch - waiting)
        buffer = self._free.popleft() if self._free else self._new_buffer()
        future = self._pool.submit(buffer.fill, self.store, draw, self.view, snapshot, self._free, num_threads)
        self._pending.append(_Pending(future, draw, self._draws.state()))

    def _new_buffer(self) -> Buffer:
        self._buffers += 1
        empty = pinned_empty if self._pinned else np.empty
        return Buffer(allocate_batch(self._layout, self.batch_size, empty), self._pinned)

    def _drop_pending(self) -> None:
        dropped = list(self._pending)
        self._pending.clear()
        for pending in reversed(dropped):  # last one first, so that none starts meanwhile
            pending.future.cancel()
        for pending in dropped:
            if not pending.future.cancelled() and pending.future.exception() is None:
                self._free.append(pending.future.result())
