"""The replay loader of DrQ-v2, from the user's own checkout (github.com/facebookresearch/drqv2)."""

from __future__ import annotations

import importlib.util
import random
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from replaystore.errors import SpecError

_NAMES = "observation", "action", "reward", "discount", "next_observation"


def module_of_checkout(directory: Path, file_name: str) -> ModuleType:
    """Loads a module of a checkout under a name that no import finds.

    Raises:
        SpecError: there is no such file, or it does not load.
    """
    path = directory / file_name
    name = f"replaystore_peer_{abs(hash(str(path.resolve()))):x}"
    specification = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise SpecError(f"{directory}: expected a checkout with {file_name}, found no such file; pass its directory")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # its classes are looked up there when a worker process starts
    try:
        specification.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise SpecError(f"{path} does not load: {err!r}; install what it needs") from err
    return module


def named(batch: Sequence[Any]) -> dict[str, Any]:
    """Returns a batch as DrQ-v2 returns it, by name."""
    return dict(zip(_NAMES, batch, strict=True))


def _seed_worker(worker_id: int) -> None:
    """Seeds a worker. DrQ-v2's own function passes a NumPy integer to `random.seed`, which Python 3.11 refuses."""
    seed = int(np.random.get_state(legacy=False)["state"]["key"][0]) + worker_id  # noqa: NPY002
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 - the loader draws from this generator
    random.seed(seed)


def make_loader(
    module: Any, episode_dir: Path, *, max_transitions: int, batch_size: int, workers: int, n_step: int, discount: float
) -> Iterable[Sequence[Any]]:
    """Returns its loader of batches, tensors in the order of `named`. It reads all episodes before the first one.

    Args:
        module: `replay_buffer.py` of a checkout.
        episode_dir: episode files in its format. They are kept.
        max_transitions: most transitions that all workers hold together.
        batch_size: transitions per batch.
        workers: worker processes. 0 works in this process.
        n_step: steps of the return.
        discount: discount per step.
    """
    if hasattr(module, "_worker_init_fn"):
        module._worker_init_fn = _seed_worker
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pinned memory where there is no GPU
        loader: Iterable[Sequence[Any]] = module.make_replay_loader(
            episode_dir, max_transitions, batch_size, workers, True, n_step, discount
        )
    return loader
