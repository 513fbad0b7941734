"""Compares stores with other replay buffers, which are filled with transitions of the first store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.peers.check import Checker
from experiments.benchmarks.peers.data import PeerData, take_episodes
from experiments.benchmarks.peers.peer import Candidate, Unable
from experiments.benchmarks.peers.versions import versions_of
from replaystore import ReplayStore
from replaystore.bench.sample import DISCOUNT, run_sample
from replaystore.bench.sample_result import SampleResult, SampleTimes
from replaystore.bench.sample_turns import Timed
from replaystore.errors import SpecError
from replaystore.runtime.extras import needs

with needs("experiments.benchmarks", "peers"):
    import torch

_OTHERWISE = {
    "distribution": "uniform; other buffers draw as they do, from generators of their own",
    "memory_of_batches": "stores fill arrays that the caller owns, other buffers return new ones",
}


@dataclass(frozen=True)
class Fed:
    """Another buffer and the data that it is to hold, as `run_sample` takes candidates."""

    candidate: Candidate
    data: PeerData

    def prepare(self, stack: ExitStack) -> Timed | SampleTimes:
        """The buffer with the data in it, its first batch checked; or why it cannot hold them.

        Args:
            stack: closes the buffer.
        """
        label = SampleTimes(kind="peer", name=self.candidate.name)
        try:
            peer = self.candidate.make(self.data)
            stack.callback(peer.close)
            batch = peer.turn() if peer.timed else {}
        except Unable as err:
            return replace(label, reason=str(err))
        except Exception as err:  # other people's code, in a version of its own: it may fail in any way
            return replace(label, reason=f"it fails: {type(err).__name__}: {err}")
        label = replace(
            label,
            transitions=peer.num_transitions,
            bytes_per_transition=peer.held_bytes() / peer.num_transitions,
            notes=peer.notes,
        )
        if not peer.timed:
            return label
        checked = Checker(self.data).check(peer, batch)
        label = replace(label, n_step=peer.n_step, checked=asdict(checked), notes=peer.notes + checked.notes())
        return Timed(label=label, turn=peer.turn, background=peer if peer.background else None)


def run_beside_peers(
    store_paths: Sequence[str | os.PathLike[str]],
    peers: Sequence[Candidate],
    *,
    transitions: int = 4000,
    batch_size: int = 256,
    n_step: int = 3,
    threads: int = 2,
    work_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> SampleResult:
    """Times batches from stores, from other buffers, and a copy of a batch, in turn.

    Args:
        store_paths: the stores; the first one feeds the other buffers.
        peers: the other buffers; see `peers.registry.candidates`.
        transitions: the most that each of the other buffers holds.
        batch_size: transitions per batch.
        n_step: steps of the return.
        threads: threads that gather a batch, and that torch works with: most buffers copy with it.
        work_dir: for files of other buffers, removed afterwards. None: the system's temporary directory.
        options: further arguments of `run_sample`.

    Raises:
        SpecError: there is nothing to measure, or a number is below 1.
        BudgetError: a store does not fit RAM.
    """
    options |= {"batch_size": batch_size, "n_step": n_step, "threads": threads}
    if not peers:
        return run_sample(store_paths, **options)
    if not store_paths or min(transitions, batch_size, n_step, threads) < 1:
        raise SpecError("sample: expected a store, and transitions, batch_size, n_step and threads from 1 on")
    with tempfile.TemporaryDirectory(prefix="replaystore-peers-", dir=work_dir) as scratch, _torch_threads(threads):
        with ReplayStore.open(store_paths[0], read_only=True, residency="mapped", num_threads=threads) as store:
            observation, episodes = take_episodes(store, transitions)
        data = PeerData(
            observation=observation,
            episodes=episodes,
            batch_size=batch_size,
            n_step=n_step,
            discount=DISCOUNT,
            scratch=Path(scratch),
        )
        result = run_sample(store_paths, candidates=[Fed(peer, data) for peer in peers], **options)
    stated = {"transitions_of_other_buffers": data.num_transitions, **versions_of(peers)}
    return replace(result, conditions={**result.conditions, **_OTHERWISE, **stated})


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """torch, which most buffers copy with, works with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
