"""Compiles all kernels early, so that later processes load them from numba's cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.codecs.frame_delta import FrameDelta
from replaystore.codecs.round_clamp import RoundClamp
from replaystore.kernels.compiled import cache_directory
from replaystore.runtime.compilation import Compiled, cache_trouble, compiled
from replaystore.sampling.sampler import Sampler
from replaystore.spec import MODES, RESIDENCIES, FieldSpec, Mode
from replaystore.store import ReplayStore

_CHUNK_ROWS, _EPISODE_ROWS, _EPISODES = 32, 50, 3
_SIDE, _FRAME_STACK = 24, 3
_BATCH_SIZE, _N_STEPS = 64, (1, 3)
_PACKED_SIZES = (4, 12, 256)  # values per row, for reading one by one, eight at a time, and from chunks in memory
_LARGE_ROW = 100  # float32 values, more than the bytes of a row that is always held in memory


@dataclass(frozen=True)
class WarmUp:
    """What `warm_up` did.

    Attributes:
        compiled: kernels that were not in the cache, with those that they call.
        seconds: duration of the whole warm-up.
        cache_directory: directory of compiled kernels. None if they are not kept.
        trouble: why they are not kept. None if they are.
    """

    compiled: tuple[Compiled, ...]
    seconds: float
    cache_directory: str | None
    trouble: str | None

    def to_json(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)


def warm_up() -> WarmUp:
    """Stores and samples made-up episodes in every mode, in a temporary directory, and returns what was compiled."""
    started, earlier = time.perf_counter(), len(compiled())
    with tempfile.TemporaryDirectory(prefix="replaystore-warmup-") as directory:
        for mode in MODES:
            _use_store(Path(directory) / mode, mode, _fields(FrameDelta(frame_shape=(3, _SIDE, _SIDE))))
        for number, image in enumerate(_other_codecs()):
            _use_store(Path(directory) / f"codec-{number}", "full", _fields(image, packed_scalars=True))
    return WarmUp(tuple(compiled()[earlier:]), time.perf_counter() - started, cache_directory(), cache_trouble())


def _other_codecs() -> Iterable[FrameDelta]:
    shape = (3, _SIDE, _SIDE)
    yield FrameDelta(frame_shape=shape, entropy="zstd", reference="keyframe")
    yield FrameDelta(frame_shape=shape, entropy="points")
    yield FrameDelta(frame_shape=shape, entropy="lz4")


def _fields(image: FrameDelta, *, packed_scalars: bool = False) -> list[FieldSpec]:
    """Returns fields for all kernels: an image, a large field and several packed fields.

    Observations have a next value, other fields do not.
    """
    reward = RoundClamp(decimals=2, low=-10.0, high=10.0, row_size=1).get_config() if packed_scalars else None
    fields = [
        FieldSpec.image("observation", (3, _SIDE, _SIDE), frame_stack=_FRAME_STACK, scheme=image.get_config()),
        FieldSpec(name="features", shape=(_LARGE_ROW,), dtype="float32", role="observation"),
        FieldSpec(name="action", shape=(6,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward", scheme=reward),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    ]
    for dtype in ("float32", "float64"):
        for size in _PACKED_SIZES:
            codec = RoundClamp(decimals=2, low=-10.0, high=10.0, dtype=dtype, row_size=size)
            fields += [
                FieldSpec(
                    name=f"{role}_{dtype}_{size}", shape=(size,), dtype=dtype, role=role, scheme=codec.get_config()
                )
                for role in ("observation", "extra")
            ]
    return fields


def _episode(fields: Iterable[FieldSpec], rng: np.random.Generator) -> dict[str, Any]:
    episode: dict[str, Any] = {}
    for field in fields:
        if field.role == "discount":
            episode[field.name] = np.ones((_EPISODE_ROWS, *field.shape), field.dtype)
        elif field.dtype == "uint8":
            # Frames that hardly change, so that each kind of group is written.
            frames = np.repeat(rng.integers(0, 256, (1, *field.shape), np.uint8), _EPISODE_ROWS, axis=0)
            frames[np.arange(_EPISODE_ROWS), 0, np.arange(_EPISODE_ROWS) % _SIDE] = 7
            episode[field.name] = frames
        else:
            episode[field.name] = rng.uniform(-1, 1, (_EPISODE_ROWS, *field.shape)).astype(field.dtype)
    return episode


def _use_store(path: Path, mode: Mode, fields: list[FieldSpec]) -> None:
    rng = np.random.default_rng(0)
    if mode != "full":  # only mode full has codecs for images
        fields = [
            field if field.dtype != "uint8" else FieldSpec.image(field.name, field.shape, frame_stack=_FRAME_STACK)
            for field in fields
        ]
    with ReplayStore.create(path, fields, mode=mode, chunk_rows=_CHUNK_ROWS, num_threads=1) as store:
        store.append(_episode(fields, rng))
        _sample(store, rng)  # these rows are in no chunk yet
        for _ in range(_EPISODES - 1):
            store.append(_episode(fields, rng))
        store.flush()
        _sample(store, rng)
    for residency in RESIDENCIES:
        with ReplayStore.open(path, read_only=True, residency=residency, num_threads=1) as store:
            _sample(store, rng)
            store.read_episode(store.episodes()[0].episode)


def _sample(store: ReplayStore, rng: np.random.Generator) -> None:
    for n_step in _N_STEPS:
        for sampler in (Sampler(n_step=n_step), Sampler(n_step=n_step, distribution="per_episode")):
            store.gather(store.draw(sampler, rng, _BATCH_SIZE), n_step=n_step)
