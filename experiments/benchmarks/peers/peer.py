"""The interface of the other buffers: one batch per turn, the bytes they hold, and why one is not measured."""

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
from replaystore.bench.drqv2_loader import module_of_checkout
from replaystore.errors import SpecError
from replaystore.runtime.extras import install_command

Array = npt.NDArray[Any]
Batch = Mapping[str, Any]


class Unable(Exception):
    """A buffer cannot hold these data or is not installed. The table shows the message."""


class Peer(ABC):
    """A buffer that holds the data.

    Attributes:
        num_transitions: number of transitions that it holds.
        n_step: steps of its transitions.
        notes: what a reader of the table has to know.
        timed: whether `turn` may be called. If not, only its size is measured.
        background: whether it prepares batches between calls; see `settle`.
        ready_batches: with `background`, the most batches that it keeps ready.
        cycle: with `background`, the number of batches that it finishes together. A block has a multiple of them.
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
        """Draws a batch of arrays or tensors. Axis 0 counts transitions.

        It has `observation`, `next_observation`, `action` and `reward`, and may have `discount` and `done`."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes of everything that it holds for its transitions."""

    def restore(self, observations: Array) -> Array:
        """Returns observations of a batch in the layout of the data, if the buffer uses another one."""
        return observations

    def settle(self) -> None:
        """Waits until it does no more work in the background."""
        return

    def close(self) -> None:
        """Ends it."""
        return


@dataclass(frozen=True)
class Candidate:
    """A buffer to compare with.

    Attributes:
        name: its name in tables.
        package: distributions whose versions are listed in the conditions.
        make: returns the filled buffer, or raises `Unable`.
    """

    name: str
    package: str | None
    make: Callable[[PeerData], Peer]


def imported(name: str) -> Any:
    """Imports a module of an optional package. The package then logs only errors, as some write to stdout.

    Raises:
        Unable: the package is not installed or does not load.
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
    """Loads a module of a checkout under a name that no import finds.

    Raises:
        Unable: there is no such file, or it does not load.
    """
    if directory is None:
        raise Unable(f"needs a checkout ({option} PATH)")
    try:
        return module_of_checkout(directory, file_name)
    except SpecError as err:
        raise Unable(f"{err} ({option})") from err


def array_bytes(*arrays: Any) -> int:
    """Returns the bytes of the arguments that are NumPy arrays. Objects that they refer to count as theirs."""
    found = [array for array in arrays if isinstance(array, np.ndarray)]
    objects = (item for array in found if array.dtype == object for item in array.reshape(-1))
    return sum(array.nbytes for array in found) + sum(map(sys.getsizeof, objects))
