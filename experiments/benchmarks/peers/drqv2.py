"""The replay loader of DrQ-v2, from the user's own checkout (github.com/facebookresearch/drqv2)."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.peers.data import PeerData
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, Unable, module_from
from replaystore.bench.drqv2_loader import make_loader, named
from replaystore.datasets.drqv2_npz import write_episode
from replaystore.runtime.extras import needs

with needs("experiments.benchmarks", "peers"):
    import psutil

WORKERS = (0, 1, 2, 4)
_READY_PER_WORKER = 2  # the DataLoader's default
_IDLE_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0


class Loader(Peer):
    """`make_replay_loader(...)` over episode files in its format."""

    def __init__(self, data: PeerData, checkout: Path | None, workers: int) -> None:
        if len(data.episodes) < workers:
            raise Unable(f"{workers} workers need as many episodes, there are {len(data.episodes)}")
        if min(episode.length for episode in data.episodes) < data.n_step:
            raise Unable(f"it needs episodes of at least n_step = {data.n_step} transitions")
        module: Any = module_from(checkout, "replay_buffer.py", "--drqv2")
        notes: tuple[str, ...] = ()
        if workers:
            notes = ("timed in blocks; the seeding of its workers is repaired, because it stops without that",)
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step, notes=notes)
        self.background = workers > 0
        self.ready_batches = _READY_PER_WORKER * workers
        self.cycle = max(1, workers)
        self._held_bytes = sum(array.nbytes for episode in data.episodes for array in episode.arrays().values())
        directory = Path(tempfile.mkdtemp(prefix="drqv2-", dir=data.scratch))
        for number, episode in enumerate(data.episodes):
            write_episode(directory / f"20000101T000000_{number}_{episode.length}.npz", episode.arrays())
        loader = make_loader(
            module,
            directory,
            max_transitions=data.num_transitions * max(1, workers),  # shared out evenly, while episodes are not
            batch_size=data.batch_size,
            workers=workers,
            n_step=data.n_step,
            discount=data.discount,
        )
        before = set(psutil.Process().children())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pinned memory where there is no GPU
            self._iterator: Iterator[Any] | None = iter(loader)
            next(self._iterator)
        self._children = [child for child in psutil.Process().children() if child not in before] if workers else []

    def turn(self) -> Batch:
        """Draws a batch."""
        assert self._iterator is not None
        return named(next(self._iterator))

    def held_bytes(self) -> int:
        """Returns the bytes that the buffer holds."""
        return self._held_bytes

    def settle(self) -> None:
        """Waits until the workers use no more processor time."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        before, now = -1.0, self._worker_seconds()
        while now != before and time.monotonic() < deadline:
            time.sleep(_IDLE_SECONDS)
            before, now = now, self._worker_seconds()

    def _worker_seconds(self) -> float:
        return sum(sum(child.cpu_times()[:2]) for child in self._children)

    def close(self) -> None:
        """Stops its workers."""
        self._iterator = None


def candidates(checkout: Path | None) -> list[Candidate]:
    """Returns the candidates. They need a checkout."""
    return [
        Candidate(f"DrQ-v2 loader, {count} worker{'' if count == 1 else 's'}", None, partial(_loader, checkout, count))
        for count in WORKERS
    ]


def _loader(checkout: Path | None, workers: int, data: PeerData) -> Peer:
    return Loader(data, checkout, workers)
