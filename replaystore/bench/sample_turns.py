"""What `bench sample` times, one turn at a time: stores, the plain copy, and the caller's candidates."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from replaystore.bench.sample_result import SampleTimes
from replaystore.bench.spread import Spread
from replaystore.runtime.workers import Workers
from replaystore.sampling.sampler import Sampler
from replaystore.spec import Residency
from replaystore.store import ReplayStore

Array = npt.NDArray[Any]

_COPY_SOURCE_BYTES = 256 << 20
_READ_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How batches are drawn.

    Attributes:
        batch_size: transitions per batch.
        n_step: steps of the return.
        discount: discount per step.
        threads: threads that gather a batch.
        seed: seed of the first generator. Each timed entry has its own generator.
    """

    batch_size: int
    n_step: int
    discount: float
    threads: int
    seed: int


class Background(Protocol):
    """A buffer that works on batches in the background.

    Attributes:
        ready_batches: most batches that wait to be taken.
        cycle: batches that become ready together. A block has a multiple of them.
    """

    ready_batches: int
    cycle: int

    def settle(self) -> None:
        """Waits until the buffer does no more work in the background."""


@dataclass(kw_only=True)
class Timed:
    """One entry to time.

    Attributes:
        label: the entry of the result, without times.
        turn: makes a batch.
        background: the buffer that works in the background. None if it works only during a turn.
        milliseconds: time per batch: one number per turn, or one per block if `background` is given.
    """

    label: SampleTimes
    turn: Callable[[], object]
    background: Background | None = None
    milliseconds: list[float] = field(default_factory=list)

    def result(self, batch_bytes: int) -> SampleTimes:
        """Returns the label with its times.

        Args:
            batch_bytes: bytes of one batch.
        """
        spread = Spread.of(self.milliseconds)
        return replace(
            self.label,
            blocks=len(self.milliseconds) if self.background is not None else 0,
            milliseconds=spread,
            megabytes_per_second=batch_bytes / (1000 * spread.median),
        )


class Candidate(Protocol):
    """Another buffer to time besides the stores. `run_sample` takes these as `candidates`."""

    def prepare(self, stack: ExitStack) -> Timed | SampleTimes:
        """Returns the candidate ready to make batches, or its entry in the result if there is nothing to time.

        Args:
            stack: closed once everything is measured. The candidate enters what must be closed.
        """


def open_stores(
    paths: Sequence[str | os.PathLike[str]], residencies: Sequence[Residency], draws: Draws, stack: ExitStack, *,
    new_arrays: bool, other_n_steps: Iterable[int], budget_bytes: int | None,
) -> Iterator[Timed]:  # fmt: skip
    """Opens each store in each residency.

    Args:
        paths: the stores.
        residencies: residencies to open each store in.
        draws: how batches are drawn.
        stack: closes the stores.
        new_arrays: whether to time each store once more with new arrays for each batch.
        other_n_steps: further n-steps to time in the first residency, for comparison with buffers that have no other.
        budget_bytes: RAM for each store. None takes what is available.
    """
    seeds = itertools.count(draws.seed)
    for path in paths:
        _read_all(Path(path))
        for residency in residencies:
            store = stack.enter_context(
                ReplayStore.open(
                    path, read_only=True, residency=residency, budget_bytes=budget_bytes, num_threads=draws.threads
                )
            )
            store.wait_until_filled()
            info = store.info()
            label = SampleTimes(
                kind="store",
                name=f"{Path(path).name}, {residency}",
                store=str(path),
                mode=store.spec.mode,
                residency=residency,
                transitions=info["transitions"],
                bytes_per_transition=info["bytes_per_transition"],
                observation_bytes_per_transition=info["observation_bytes_per_transition"],
                n_step=draws.n_step,
            )
            batch = store.allocate(draws.batch_size)
            yield Timed(label=label, turn=_gathers(store, batch, draws, next(seeds)))
            for n_step in other_n_steps if residency == residencies[0] else ():
                renamed = replace(label, name=f"{label.name}, n-step {n_step}", n_step=n_step)
                yield Timed(label=renamed, turn=_gathers(store, batch, replace(draws, n_step=n_step), next(seeds)))
            if new_arrays:
                renamed = replace(label, name=f"{label.name}, new arrays", new_arrays=True)
                yield Timed(label=renamed, turn=_gathers(store, None, draws, next(seeds)))


def _gathers(store: ReplayStore, batch: dict[str, Array] | None, draws: Draws, seed: int) -> Callable[[], object]:
    """Returns a turn that draws and gathers a batch with its own generator.

    With a shared generator the rows that another entry has just read would still be in the caches.
    """
    sampler, rng = Sampler(n_step=draws.n_step), np.random.default_rng(seed)

    def turn() -> object:
        rows = store.draw(sampler, rng, draws.batch_size)
        return store.gather(rows, n_step=draws.n_step, discount=draws.discount, out=batch)

    return turn


def plain_copy(row_bytes: int, draws: Draws, stack: ExitStack) -> Timed:
    """Copies random rows of an array larger than the caches into another one, as many bytes as a batch has.

    Args:
        row_bytes: bytes of a transition in a batch.
        draws: how batches are drawn.
        stack: closes the threads.
    """
    workers = Workers(stack.enter_context(ThreadPoolExecutor(draws.threads)), draws.threads)
    rng = np.random.default_rng(draws.seed)
    source = np.ones((max(draws.batch_size, _COPY_SOURCE_BYTES // row_bytes), row_bytes), np.uint8)
    out = np.empty((draws.batch_size, row_bytes), np.uint8)

    def turn() -> None:
        rows = rng.integers(0, len(source), draws.batch_size)

        def copy(start: int, stop: int) -> None:
            # with mode="raise" NumPy copies through another buffer
            np.take(source, rows[start:stop], axis=0, out=out[start:stop], mode="clip")

        workers.share(copy, workers.edges(draws.batch_size))

    return Timed(label=SampleTimes(kind="copy", name="plain copy"), turn=turn)


def _read_all(path: Path) -> None:
    """Reads every file of a store once, to fill the page cache."""
    buffer = bytearray(_READ_BYTES)
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with open(file, "rb", buffering=0) as raw:
                while raw.readinto(buffer):
                    pass
