"""A snapshot in use keeps its rows readable, whatever is evicted and sealed meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.spec import MODES
from replaystore.storage.writing import chunk_files as seal

FIELDS = [FieldSpec.image("observation", (1, 6, 5), frame_stack=2)]


def episode(number: int, rows: int) -> dict[str, np.ndarray]:
    values = (np.arange(rows * 30) * 7 + number * 83) % 251
    return {"observation": values.astype(np.uint8).reshape(rows, 1, 6, 5)}


@pytest.mark.parametrize("mode", MODES)
def test_a_chunk_that_dies_before_it_is_sealed(mode, tmp_path, monkeypatch):
    may_seal = threading.Event()
    seal_column = seal.seal_column

    def wait_and_seal(*arguments, **options):
        assert may_seal.wait(30)
        return seal_column(*arguments, **options)

    monkeypatch.setattr(seal, "seal_column", wait_and_seal)
    with ReplayStore.create(tmp_path / "store", FIELDS, mode=mode, chunk_rows=8, capacity=9) as store:
        store.append(episode(0, 8))
        snapshot = store.snapshot()
        rows = np.arange(1, 8)
        before = store.gather(rows, snapshot=snapshot)
        store.append(episode(1, 10))  # evicts episode 0, and with it all of chunk 0
        may_seal.set()
        store.flush()
        assert [info.episode for info in store.episodes()] == [1]
        after = store.gather(rows, snapshot=snapshot)
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        chunk = next((tmp_path / "store" / "observation").glob("c.0.*"), None)
        assert chunk is not None
        del snapshot
        store.append(episode(2, 3))
        assert not chunk.exists()
        assert store.verify().ok
