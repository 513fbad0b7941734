"""The draws whose digests are kept in `draws.json`, computed with the public interface alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from drqv2_patch import ReplayBufferStorage, make_replay_loader
from replaystore import FieldSpec, ReplayDataset, ReplayLoader, ReplayStore, Sampler
from replaystore.testing.episodes import make_episode, stacks

FRAME = (3, 10, 12)  # with three frames stacked, the channels are the shortest axis still
FIELDS = (
    FieldSpec.image("observation", FRAME, frame_stack=3),
    FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
)
LENGTHS = (9, 2, 31, 5, 17, 40, 1, 12, 28, 3, 22)  # rows of the episodes
DISTRIBUTIONS: Any = ("uniform", "per_episode")
CASES = [(distribution, n_step, window) for distribution in DISTRIBUTIONS for n_step in (1, 3) for window in (None, 45)]


def digest(batches: Iterable[Mapping[str, Any]]) -> str:
    """Names, dtypes, shapes and bytes of batches, in order."""
    found = hashlib.sha256()
    for batch in batches:
        for name, values in batch.items():
            array = np.ascontiguousarray(values)
            found.update(f"{name} {array.dtype.str} {array.shape};".encode())
            found.update(array.tobytes())
    return found.hexdigest()


def arrays_of(number: int, num_rows: int) -> dict[str, np.ndarray]:
    """An episode as `append` takes it."""
    episode = make_episode(number, num_rows, FRAME)
    return {
        "observation": stacks(episode, 3, "first"),
        "action": episode.action,
        "reward": episode.reward[:, None],
        "discount": episode.discount[:, None],
    }


def _rows(number: int, num_rows: int) -> Iterator[dict[str, np.ndarray]]:
    arrays = arrays_of(number, num_rows)
    return ({name: array[t] for name, array in arrays.items()} for t in range(num_rows))


def store_with_history(path: Path, mode: Any, **options: Any) -> ReplayStore:
    """Two environments side by side, episodes in parts, evicted ones, one still open, chunks sealed and not."""
    store = ReplayStore.create(path, FIELDS, mode=mode, chunk_rows=16, capacity=120, **options)
    for number, num_rows in enumerate(LENGTHS[:6]):
        store.append(arrays_of(number, num_rows))
    for t, (one, other) in enumerate(zip(_rows(20, 14), _rows(21, 14), strict=True)):
        store.add(one, env=0, last=t == 13)
        store.add(other, env="b", last=False)
        if t % 5 == 4:
            store.commit_part("b")
    for number, num_rows in enumerate(LENGTHS[6:], 6):
        store.append(arrays_of(number, num_rows))
    store.flush()
    return store


def store_draws(path: Path, mode: Any) -> dict[str, Any]:
    """Rows of a sampler, and batches of the loader and of the data set."""
    found: dict[str, Any] = {}
    with store_with_history(path, mode) as store:
        for distribution, n_step, window in CASES:
            case = f"{distribution}, n_step {n_step}, window {window}"
            sampler = Sampler(n_step=n_step, distribution=distribution, window=window)
            found[f"rows: {case}"] = store.draw(sampler, np.random.default_rng(5), 12).tolist()
            options: Any = {"n_step": n_step, "distribution": distribution, "window": window, "batch_size": 16}
            with ReplayLoader(store, seed=7, discount=0.95, pin_memory=False, **options) as loader:
                found[f"loader: {case}"] = digest(islice(loader, 6))
            dataset = ReplayDataset(path, seed=7, discount=0.95, **options)
            found[f"data set: {case}"] = digest(islice(iter(dataset), 4))
    return found


class _TimeStep(NamedTuple):
    values: Mapping[str, Any]
    number: int
    num_rows: int

    def first(self) -> bool:
        return self.number == 0

    def last(self) -> bool:
        return self.number == self.num_rows - 1

    def __getitem__(self, name: Any) -> Any:
        return self.values[name]


class _ArraySpec(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: Any


def drqv2_draws(path: Path, mode: Any) -> dict[str, Any]:
    """Batches of DrQ-v2's loader over its storage."""
    specs = [_ArraySpec(field.name, field.stacked_shape, np.dtype(field.dtype)) for field in FIELDS]
    found = {}
    with ReplayBufferStorage(specs, path, mode) as storage:
        for number, num_rows in enumerate(LENGTHS):
            if num_rows > 1:
                for t, row in enumerate(_rows(number, num_rows)):
                    storage.add(_TimeStep(row, t, num_rows))
        for seed in (0, 3):
            with make_replay_loader(path, 100, 16, 2, True, 3, 0.99, mode, seed, pin_memory=False) as loader:
                names = ("observation", "action", "reward", "discount", "next_observation")
                batches = (dict(zip(names, batch, strict=True)) for batch in islice(loader, 6))
                found[f"drqv2: seed {seed}"] = digest(batches)
    return found


def sb3_draws(path: Path, mode: Any) -> dict[str, Any]:
    """Samples of the buffer for stable-baselines3, one step a transition, from two environments."""
    from replaystore.adapters.sb3 import StoreReplayBuffer

    buffer = StoreReplayBuffer(
        90, spaces.Box(0, 255, (9, *FRAME[1:]), np.uint8), spaces.Box(-100, 100, (2,), np.float32), "cpu", 2,
        path=path, mode=mode, frame_stack=3, commit_every=8, seed=11,
    )  # fmt: skip
    for number, num_rows in enumerate((9, 14, 30, 7, 21, 40)):
        both = [arrays_of(number, num_rows), arrays_of(number + 50, num_rows)]
        for t in range(1, num_rows):
            last = t == num_rows - 1
            infos = [{"TimeLimit.truncated": last and number % 2 == 0}] * 2
            before, after = (np.stack([arrays["observation"][t - back] for arrays in both]) for back in (1, 0))
            action = np.stack([arrays["action"][t] for arrays in both])
            reward = np.array([arrays["reward"][t, 0] for arrays in both])
            buffer.add(before, after, action, reward, np.array([last, last]), infos)
    samples = [buffer.sample(16) for _ in range(6)]
    buffer.close()
    names = ("observations", "actions", "next_observations", "dones", "rewards")
    return {"sb3": digest({name: getattr(sample, name).numpy() for name in names} for sample in samples)}
