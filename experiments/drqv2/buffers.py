"""The replay buffers to compare, behind one interface: our modes, and DrQ-v2's own from a user's checkout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from drqv2_patch import ReplayBufferStorage, make_replay_loader
from experiments.benchmarks.peers.peer import Unable, module_from
from experiments.drqv2.environment import ArraySpec, TimeStep, data_specs
from replaystore import FrameDelta
from replaystore.bench.drqv2_loader import make_loader
from replaystore.errors import SpecError
from replaystore.spec import MODES

ORIGINAL, PUBLISHED = "original", "published"
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
BUFFERS = (ORIGINAL, "disk", "half", PUBLISHED, "full")


@dataclass(frozen=True, kw_only=True)
class BufferConfig:
    """A buffer to open, as plain data for another process.

    Attributes:
        kind: one of `BUFFERS`. `published` is mode `full` with the published scheme as its codec.
        directory: its replay directory.
        checkout: a checkout of DrQ-v2, for `original`.
        image_shape: shape of an observation, (channel, height, width).
        frame_stack: frames per observation.
        num_actions: dimensions of an action.
        capacity: most transitions.
        batch_size: transitions per batch.
        n_step: steps of a transition.
        discount: discount per step.
        seed: seed of the draws.
        workers: threads of a store, or worker processes of the original. With 0 the caller fills batches.
        residency: residency of a store.
        budget_bytes: memory budget of a store.
    """

    kind: str
    directory: str
    checkout: str | None
    image_shape: tuple[int, int, int]
    frame_stack: int
    num_actions: int
    capacity: int
    batch_size: int
    n_step: int
    discount: float
    seed: int
    workers: int
    residency: str
    budget_bytes: int | None

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Returns the specs of a time step."""
        return data_specs(self.image_shape, self.num_actions)


class Buffer(Protocol):
    """The interface that a training loop needs."""

    def add(self, step: TimeStep) -> None:
        """Adds a row."""

    def batch(self) -> Sequence[torch.Tensor]:
        """Returns observation, action, reward, discount and next observation."""

    def held_bytes(self) -> int | None:
        """Returns the bytes of encoded chunks in memory, or None if the buffer does not count them."""

    def close(self) -> None:
        """Closes the buffer."""


def published_scheme(image_shape: Sequence[int], frame_stack: int) -> dict[str, Any]:
    """Returns the codec of the published scheme for observations of this shape."""
    channels, height, width = image_shape
    shape = channels // frame_stack, height, width
    config: dict[str, Any] = FrameDelta.published(frame_shape=shape, frame_stack=frame_stack).get_config()
    return config


def open_buffer(config: BufferConfig) -> Buffer:
    """Opens the buffer that `config` describes, in its directory.

    Raises:
        SpecError: there is no such kind, or the checkout cannot be used.
    """
    if config.kind == ORIGINAL:
        return _Original(config)
    if config.kind != PUBLISHED and config.kind not in MODES:
        raise SpecError(f"buffer: expected one of {', '.join(BUFFERS)}, got {config.kind!r}")
    return _Store(config)


def check_checkout(checkout: str | None) -> None:
    """Raises `SpecError` unless `checkout` is a checkout of DrQ-v2."""
    if checkout is not None and not (Path(checkout) / "replay_buffer.py").is_file():
        raise SpecError(f"drqv2: expected a checkout of DrQ-v2, found no replay_buffer.py in {checkout}")


class _Store:
    """A store, as the trainer uses it."""

    def __init__(self, config: BufferConfig) -> None:
        mode = cast(Any, "full" if config.kind == PUBLISHED else config.kind)
        reading: dict[str, Any] = {"residency": config.residency, "budget_bytes": config.budget_bytes}
        self._storage = ReplayBufferStorage(
            config.specs, config.directory, mode=mode, frame_stack=config.frame_stack, **reading
        )
        self._loader = make_replay_loader(
            config.directory, config.capacity, config.batch_size, config.workers, True, config.n_step,
            config.discount, mode, config.seed,
        )  # fmt: skip
        if self._storage.store is not None:
            self._storage.store.wait_until_filled()

    def add(self, step: TimeStep) -> None:
        self._storage.add(step)

    def batch(self) -> Sequence[torch.Tensor]:
        return next(self._loader)

    def held_bytes(self) -> int | None:
        store = self._storage.store
        return None if store is None else int(store.info()["held_bytes"])

    def close(self) -> None:
        self._loader.close()
        self._storage.close()


class _Original:
    """DrQ-v2's storage and loader. Its workers start with the first batch."""

    def __init__(self, config: BufferConfig) -> None:
        try:
            module: Any = module_from(
                None if config.checkout is None else Path(config.checkout), "replay_buffer.py", "drqv2=PATH"
            )
        except Unable as err:
            raise SpecError(f"{ORIGINAL}: {err}") from err
        directory = Path(config.directory)
        self._storage = module.ReplayBufferStorage(config.specs, directory)
        self._loader = make_loader(
            module,
            directory,
            max_transitions=config.capacity,
            batch_size=config.batch_size,
            workers=config.workers,
            n_step=config.n_step,
            discount=config.discount,
        )
        self._batches: Iterator[Any] | None = None

    def add(self, step: TimeStep) -> None:
        self._storage.add(step)

    def batch(self) -> Sequence[torch.Tensor]:
        if self._batches is None:
            self._batches = iter(self._loader)
        found: Sequence[torch.Tensor] = next(self._batches)
        return found

    def held_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        self._batches = None


def episode_length(path: Path) -> int:
    """Returns the transitions of an episode file, from its name."""
    return int(path.stem.split("_")[2])


def link_episodes(files: Sequence[Path], directory: Path, first: int = 0) -> None:
    """Puts episode files into a directory. Their names count from `first`, one second apart, from the year 2000 on.

    DrQ-v2's workers divide the files by number, and look for new ones only among the latest names. The files are hard
    links, or copies if links do not work. `replaystore.datasets.drqv2_npz` refuses symbolic links.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files, first):
        timestamp = (_BEGINNING + timedelta(seconds=number)).strftime("%Y%m%dT%H%M%S")
        target = directory / f"{timestamp}_{number}_{episode_length(path)}.npz"
        if target.exists():
            continue
        try:
            os.link(path.resolve(), target)
        except OSError:
            temporary = target.with_suffix(".tmp")
            shutil.copyfile(path, temporary)
            temporary.rename(target)
