"""The buffers Half and Full of drqv2_compress, from the user's checkout (github.com/A2R-Lab/drqv2_compress)."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.benchmarks.peers.data import PeerData, PeerEpisode
from experiments.benchmarks.peers.peer import Batch, Candidate, Peer, Unable, module_from
from replaystore.bench.drqv2_loader import named

_FRAME = (84, 84)


class Compressed(Peer):
    """`CompressedReplayBuffer`, filled step by step.

    Args:
        sparse: True for its Full, False for its Half.
    """

    def __init__(self, data: PeerData, checkout: Path | None, *, sparse: bool) -> None:
        field = data.observation
        if not field.is_image or field.stacked_shape != (field.frame_stack, *_FRAME):
            raise Unable(f"only gray frames of {_FRAME[0]} x {_FRAME[1]}")
        if len(data.action_shape) != 1:
            raise Unable(f"only actions with one axis, these have {data.action_shape}")
        if min(episode.length for episode in data.episodes) < data.n_step + 1:
            raise Unable(f"it needs episodes of more than n_step = {data.n_step} transitions")
        module = module_from(checkout, "compression_utils.py", "--drqv2-compress")
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step)
        scalar = SimpleNamespace(shape=(1,), dtype=np.float32)
        specs = (
            SimpleNamespace(shape=field.stacked_shape, dtype=np.uint8),
            SimpleNamespace(shape=data.action_shape, dtype=data.action_dtype),
            scalar,
            scalar,
        )
        started = not tracemalloc.is_tracing()
        if started:
            tracemalloc.start()  # Full holds Python objects for every frame, and only tracemalloc counts them
        before = tracemalloc.get_traced_memory()[0]
        try:
            self._buffer = module.CompressedReplayBuffer(
                data.num_rows, data.batch_size, field.frame_stack, data.n_step, data.discount, specs, sparse
            )
            for episode in data.episodes:
                for row in range(len(episode.reward)):
                    self._buffer.add(_time_step(episode, row))
            self._held_bytes = tracemalloc.get_traced_memory()[0] - before
        finally:
            if started:
                tracemalloc.stop()

    def turn(self) -> Batch:
        """Draws a batch."""
        return named(next(self._buffer))

    def held_bytes(self) -> int:
        """Returns the bytes that the buffer holds."""
        return self._held_bytes


def _time_step(episode: PeerEpisode, row: int) -> Any:
    return SimpleNamespace(
        observation=episode.observation[row],
        action=episode.action[row],
        reward=float(episode.reward[row]),
        discount=float(episode.discount[row]),
        first=lambda: row == 0,
        last=lambda: row == episode.length,
    )


def _compressed(checkout: Path | None, sparse: bool, data: PeerData) -> Peer:
    return Compressed(data, checkout, sparse=sparse)


def candidates(checkout: Path | None) -> list[Candidate]:
    """Returns the candidates. They need a checkout."""
    return [
        Candidate(f"drqv2_compress {name}", None, partial(_compressed, checkout, sparse))
        for name, sparse in (("Half", False), ("Full", True))
    ]
