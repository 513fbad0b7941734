"""Recorded episodes, as a training loop sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from experiments.drqv2.environment import ArraySpec, TimeStep, data_specs
from replaystore.datasets.drqv2_npz import list_episode_files, peek_episode, read_episode
from replaystore.datasets.fields import fields_from_episode
from replaystore.errors import EpisodeFileError

Arrays = dict[str, npt.NDArray[Any]]


class TakesSteps(Protocol):
    """A storage that takes time steps."""

    def add(self, step: Any, /) -> None:
        """Adds a row."""


@dataclass(frozen=True)
class Recording:
    """Episodes of one task in a directory.

    Attributes:
        files: the episode files in order.
        image_shape: shape of an observation of `frame_stack` frames, (channel, height, width).
        num_actions: dimensions of an action.
    """

    files: tuple[Path, ...]
    image_shape: tuple[int, int, int]
    frame_stack: int
    num_actions: int

    @classmethod
    def find(cls, directory: str | Path) -> Self:
        """Finds the episodes of a directory.

        Raises:
            EpisodeFileError: there are none, or they have no uint8 images (channel, height, width).
        """
        files = tuple(entry.path for entry in list_episode_files(directory) if entry.refusal is None)
        if not files:
            raise EpisodeFileError(
                f"{directory}: expected episode files (*.npz), found none; record some with `replaystore collect`"
            )
        arrays = read_episode(files[0])
        field = next((each for each in fields_from_episode(arrays) if each.name == "observation"), None)
        shape = arrays["observation"].shape[1:] if field is not None else ()
        if field is None or not field.is_image or len(shape) != 3 or field.channels != "first":
            raise EpisodeFileError(
                f"{files[0]}: expected observations (channel, height, width) of uint8, found {shape}; record pixels"
            )
        image_shape = int(shape[0]), int(shape[1]), int(shape[2])
        return cls(files, image_shape, field.frame_stack, int(arrays["action"].shape[1]))

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Returns the specs for `ReplayBufferStorage`."""
        return data_specs(self.image_shape, self.num_actions)

    def num_transitions(self) -> int:
        """Returns the transitions of all files."""
        return sum(next(iter(peek_episode(path).values()))[0][0] - 1 for path in self.files)

    def episodes(self) -> Iterator[Arrays]:
        """Yields the arrays of each file."""
        return (read_episode(path) for path in self.files)

    def endless_steps(self) -> Iterator[TimeStep]:
        """Yields time steps without end. After the last file comes the first again."""
        for path in itertools.cycle(self.files):
            yield from time_steps(read_episode(path))


def time_steps(arrays: Arrays) -> list[TimeStep]:
    """Yields the rows of a recorded episode, with actions as float32."""
    rows = len(arrays["reward"])
    actions = arrays["action"].astype(np.float32)
    return [
        TimeStep(
            row,
            arrays["observation"][row],
            actions[row],
            float(arrays["reward"][row, 0]),
            float(arrays["discount"][row, 0]),
            row == rows - 1,
        )
        for row in range(rows)
    ]


def play(storage: TakesSteps, arrays: Arrays) -> None:
    """Adds a recorded episode, row by row, as a training loop does."""
    for step in time_steps(arrays):
        storage.add(step)
