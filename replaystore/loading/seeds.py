"""Seeds of the draws: the processes of a distributed run and the epochs of a data set draw different batches."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch.distributed


def process_rank() -> int:
    """Returns the rank of this process in a distributed run, and 0 outside one.

    It asks torch.distributed, and then the variable RANK, which torchrun sets and workers inherit.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdecimal() else 0


def generator_of_rank(seed: Any, rank: int) -> np.random.Generator:
    """Returns the generator of a loader. Rank 0 has the generator of the seed alone.

    Args:
        seed: what `numpy.random.SeedSequence` takes, or a generator, which is returned as it is. None: fresh entropy.
        rank: rank of the process.
    """
    if rank and not isinstance(seed, (np.random.Generator, np.random.BitGenerator)):
        seed = np.random.SeedSequence(seed, spawn_key=(rank,))
    return np.random.default_rng(seed)


def generator_of_worker(seed: Any, worker: int, rank: int, epoch: int) -> np.random.Generator:
    """Returns the generator of one worker of a data set, in one process and epoch.

    Args:
        seed: what `numpy.random.SeedSequence` takes. None: fresh entropy.
        worker: number of the worker.
        rank: rank of the process.
        epoch: iterations that the worker has begun before.
    """
    key = (worker, rank, epoch) if epoch else (worker, rank) if rank else (worker,)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
