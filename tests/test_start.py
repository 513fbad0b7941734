"""What importing and opening load, and how soon a batch is there."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore

FIELDS = [
    FieldSpec.image("observation", (3, 84, 84), frame_stack=3),
    FieldSpec(name="action", shape=(6,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
]
FIRST_BATCH = """
import json, sys, time
import numba, torch
started = time.process_time()
from replaystore import ReplayLoader, ReplayStore
with ReplayStore.open(sys.argv[1], read_only=True) as store:
    with ReplayLoader(store, batch_size=256, n_step=3, seed=0) as loader:
        batch = next(loader)
        seconds = time.process_time() - started
        print(json.dumps([seconds, list(batch["observation"].shape), "zarr" in sys.modules]))
"""


def run(code: str, *arguments: str):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "store"
    rows = 1100
    values = {
        "observation": (np.arange(rows)[:, None, None, None] * np.ones((3, 84, 84), np.int64)).astype(np.uint8),
        "action": np.zeros((rows, 6), np.float32),
        "reward": np.zeros((rows, 1), np.float32),
        "discount": np.ones((rows, 1), np.float32),
    }
    with ReplayStore.create(path, FIELDS, mode="full") as store:
        store.append(values)
    return str(path)


@pytest.mark.timing
def test_importing_takes_no_time():
    code = """
import json, time
started = time.perf_counter()
import replaystore
print(json.dumps(time.perf_counter() - started))
"""
    assert min(run(code) for _ in range(3)) < 0.1


def test_the_interface_loads_neither_torch_nor_zarr(store_path):
    code = """
import json, sys
import numpy as np
from replaystore import FieldSpec, FrameDelta, ReplayStore, RoundClamp, Sampler, StoreSpec
with ReplayStore.open(sys.argv[1], read_only=True) as store:
    store.gather(store.draw(Sampler(n_step=3), np.random.default_rng(0), 4), n_step=3)
print(json.dumps([name for name in ("torch", "zarr", "matplotlib", "click") if name in sys.modules]))
"""
    assert run(code, store_path) == []


def test_the_first_batch_needs_no_zarr(store_path):
    _, shape, has_zarr = run(FIRST_BATCH, store_path)
    assert shape == [256, 9, 84, 84]
    assert not has_zarr


@pytest.mark.timing
def test_the_first_batch_comes_soon(store_path):
    # Half a second on a quiet machine with the compiled kernels cached (the first run fills the cache). In CPU seconds,
    # of all threads, and with room for a busy machine, but not for compiling the kernels.
    assert min(run(FIRST_BATCH, store_path)[0] for _ in range(3)) < 1.5
