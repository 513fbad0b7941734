"""Stores of every released format version are read: closed ones, and ones that a killed writer left behind."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from replaystore import ReplayStore, Sampler
from replaystore.episodes.stacks import stacks_from_frames
from replaystore.spec import MODES

GOLDEN = Path(__file__).parent / "golden" / "stores"
_spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

STORES = [f"v1_{mode}{state}" for mode in MODES for state in ("", "_open")]


def _assert_whole(store: ReplayStore) -> None:
    assert [info.num_rows for info in store.episodes()] == list(make.LENGTHS)
    for number in range(len(make.LENGTHS)):
        found, expected = store.read_episode(number), make.episode(number)
        for spec in make.fields():
            values = expected[spec.name]
            if spec.is_image:
                values = stacks_from_frames(spec, values, False)
            np.testing.assert_array_equal(found[spec.name], values, err_msg=spec.name)


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("read_only", [True, False])
def test_golden_store_reads(name: str, read_only: bool, tmp_path: Path) -> None:
    assert (GOLDEN / name).is_dir(), "a golden store is missing; restore it from version control"
    path = tmp_path / name
    shutil.copytree(GOLDEN / name, path)
    tails = path / "episodes" / "tail"
    if tails.exists() and not any(tails.iterdir()):
        tails.rmdir()  # as version control leaves it
    with ReplayStore.open(path, read_only=read_only) as store:
        _assert_whole(store)
        assert store.verify().ok, store.verify().problems
        rows = store.draw(Sampler(n_step=2), np.random.default_rng(0), 8)
        assert store.gather(rows, n_step=2)["observation"].shape == (8, 9, 6, 5)
        if not read_only:
            store.append(make.episode(0))
    with ReplayStore.open(path, read_only=True) as store:
        assert store.num_episodes == len(make.LENGTHS) + (not read_only)
        assert store.verify().ok, store.verify().problems
    for array in [spec.name for spec in make.fields()] + ["episodes"]:
        document = json.loads((path / array / "zarr.json").read_bytes())
        assert ("dimension_names" in document) is (not read_only), "names come with the next seal"


@pytest.mark.parametrize("mode", MODES)
def test_damaged_metadata_of_a_golden_store_are_noticed(mode: str, tmp_path: Path) -> None:
    """Metadata without names of axes are whole; any other difference is none that an earlier version wrote."""
    path = tmp_path / "store"
    shutil.copytree(GOLDEN / f"v1_{mode}", path)
    files = sorted(path.rglob("zarr.json"))
    assert len(files) == 2 + len(make.fields())
    for file in files:
        data = file.read_bytes()
        for at in range(0, len(data), 7):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with ReplayStore.open(path, read_only=True) as store:
                (problem,) = store.verify().problems
            assert str(file) in problem
        file.write_bytes(data)
