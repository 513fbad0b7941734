"""What other buffers have in common: a batch a turn, the bytes they hold, and why they cannot where they cannot."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from experiments.benchmarks.peers.data import PeerData
from replaystore.runtime.extras import install_command

Array = npt.NDArray[Any]
Batch = Mapping[str, Any]


class Unable(Exception):
    """A buffer cannot hold these data, or is not installed; the message is for the table."""


class Peer(ABC):
    """A buffer that holds the data.

    Attributes:
        num_transitions: that it holds. n_step: of its batches.
        notes: what a reader has to know.
        timed: False: held for its size alone; `turn` is not called.
        background: whether it works on batches while it is not asked for one; see `settle`.
        ready_batches: at most so many wait to be taken, where `background`.
        cycle: batches that come about together, where `background`: a block has a multiple of them.
    """

    timed: ClassVar[bool] = True
    background: bool = False
    ready_batches: int = 0
    cycle: int = 1

    def __init__(self, *, num_transitions: int, n_step: int, notes: tuple[str, ...] = ()) -> None:
        self.num_transitions = num_transitions
        self.n_step = n_step
        self.notes = notes

    @abstractmethod
    def turn(self) -> Batch:
        """Draws a batch: `observation`, `next_observation`, `action`, `reward`, and `discount` and `done` if it has
        them; arrays or tensors, transitions first."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes of everything that it holds for its transitions."""

    def restore(self, observations: Array) -> Array:
        """Observations of a batch in the layout of the data, where it has one of its own."""
        return observations

    def settle(self) -> None:
        """Waits until nothing of it works in the background."""
        return

    def close(self) -> None:
        """Ends it."""
        return


@dataclass(frozen=True)
class Candidate:
    """A buffer to compare with.

    Attributes:
        name: as shown. package: distributions whose versions belong to the conditions.
        make: fills it; raises `Unable`.
    """

    name: str
    package: str | None
    make: Callable[[PeerData], Peer]


def imported(name: str) -> Any:
    """A module of an optional package, which from then on logs errors alone: some write to stdout.

    Raises:
        Unable: it is not installed, or does not load.
    """
    package = name.split(".")[0]
    logger = logging.getLogger(package)
    logger.setLevel(logging.ERROR)  # for what it logs while it is imported
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise Unable(f"{package} does not import ({err}); {install_command('peers')}") from err
    finally:
        logger.setLevel(logging.ERROR)  # importing may have changed it


def module_from(directory: Path | None, file_name: str, option: str) -> ModuleType:
    """A module of a checkout, under a name that no import finds.

    Raises:
        Unable: there is no such file, or it does not load.
    """
    if directory is None:
        raise Unable(f"needs a checkout ({option} PATH)")
    path = directory / file_name
    name = f"replaystore_peer_{abs(hash(str(path.resolve()))):x}"
    specification = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise Unable(f"no {file_name} in {directory} ({option})")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # its classes are looked up there when a worker process starts
    try:
        specification.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise Unable(f"{path} does not load: {err!r}") from err
    return module


def array_bytes(*arrays: Any) -> int:
    """Bytes of those arguments that are NumPy arrays, with the objects that they refer to, each taken to be theirs."""
    found = [array for array in arrays if isinstance(array, np.ndarray)]
    objects = (item for array in found if array.dtype == object for item in array.reshape(-1))
    return sum(array.nbytes for array in found) + sum(map(sys.getsizeof, objects))
