"""Residency `auto`: many chunks are taken into memory in the background, within the budget, in nobody's way."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.errors import ChunkError
from replaystore.storage.reading import chunk_cache as residency
from replaystore.storage.reading.column_chunks import ColumnChunks
from replaystore.testing.episodes import join, make_episode, valid_steps
from replaystore.testing.oracle import transition

SHAPE = (6, 5)
LENGTHS = [13, 9, 30, 21]
GAMMA = 0.9


def patient(condition):
    """Waits until it holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


@pytest.fixture
def episodes():
    return [make_episode(number, length, SHAPE, zero_padding=False) for number, length in enumerate(LENGTHS)]


@pytest.fixture
def path(tmp_path, episodes):
    fields = [
        FieldSpec.image("observation", SHAPE, frame_stack=2, channels="first"),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
    ]
    with ReplayStore.create(tmp_path / "store", fields, mode="full", chunk_rows=4) as store:
        for episode in episodes:
            store.append(arrays_of(episode))
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def always_in_the_background(monkeypatch):
    monkeypatch.setattr(residency, "AT_ONCE_BYTES", 0)


def arrays_of(episode):
    return {
        "observation": episode.frames,
        "action": episode.action,
        "reward": episode.reward.reshape(-1, 1),
        "discount": episode.discount.reshape(-1, 1),
    }


def check(store, episodes):
    """Every transition is that of the oracle."""
    wanted = [(number, i) for number, length in enumerate(LENGTHS) for i in valid_steps(length, 2)]
    starts = {info.episode: info.parts[0].first_row for info in store.episodes()}
    batch = store.gather([starts[number] + i for number, i in wanted], n_step=2, discount=GAMMA)
    for b, (number, i) in enumerate(wanted):
        expected = transition(episodes[number], i, 2, GAMMA, 2)
        np.testing.assert_array_equal(batch["observation"][b], join(expected["obs"], "first"))
        np.testing.assert_array_equal(batch["next_observation"][b], join(expected["next_obs"], "first"))


@pytest.fixture
def slowly(monkeypatch):
    """Chunks are read one by one, each when `next` is released; `loaded` counts them."""

    class Gate:
        next = threading.Semaphore(0)
        loaded = 0

    load = ColumnChunks.load

    def gated(self, chunk):
        assert Gate.next.acquire(timeout=20)
        load(self, chunk)
        Gate.loaded += 1

    monkeypatch.setattr(ColumnChunks, "load", gated)
    return Gate


def chunk_bytes(store):
    return store.info()["cached_bytes"]


def filling():
    """The threads that take chunks into memory."""
    return [thread for thread in threading.enumerate() if thread.name == "replaystore-fill"]


def test_batches_come_right_while_chunks_come_in(path, episodes, slowly):
    with ReplayStore.open(path, read_only=True, residency="auto") as store:
        seen = []
        for count in range(6):
            patient(lambda wanted=count: slowly.loaded == wanted)
            seen.append(chunk_bytes(store))
            check(store, episodes)
            slowly.next.release()
        assert seen == sorted(set(seen))
        assert seen[0] == 0
        for _ in range(100):
            slowly.next.release()
        store.wait_until_filled()
        assert not filling()
        with ReplayStore.open(path, read_only=True, residency="ram") as other:
            assert chunk_bytes(store) == chunk_bytes(other) > seen[-1]
        check(store, episodes)


def test_a_store_closes_while_chunks_come_in(path, slowly, monkeypatch):
    store = ReplayStore.open(path, read_only=True, residency="auto")
    (filler,) = filling()
    waits, wait = threading.Event(), residency.ChunkCache.wait
    monkeypatch.setattr(residency.ChunkCache, "wait", lambda cache: (waits.set(), wait(cache)))
    closing = threading.Thread(target=store.close)
    closing.start()
    assert waits.wait(20)  # `close` has asked the thread to end
    slowly.next.release()  # the one that was being read
    closing.join(20)
    assert not closing.is_alive()
    assert not filler.is_alive()
    assert slowly.loaded <= 1


def test_the_budget_holds_while_a_writer_seals(path, episodes, slowly):
    for _ in range(200):
        slowly.next.release()
    with ReplayStore.open(path, residency="ram") as store:
        budget = chunk_bytes(store) * 2 // 3
    with ReplayStore.open(path, residency="auto", budget_bytes=budget) as store:
        for episode in episodes:
            store.append(arrays_of(episode))
            assert chunk_bytes(store) <= budget
        store.flush()
        store.wait_until_filled()
        assert budget // 2 < chunk_bytes(store) <= budget
        assert store.verify().ok


def test_damage_is_told_to_who_reads_it(path, episodes):
    chunk = path / "observation" / "c.3.0.0"
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 255
    chunk.write_bytes(data)
    with ReplayStore.open(path, read_only=True, residency="auto") as store:
        store.wait_until_filled()
        assert chunk_bytes(store) > 0
        with pytest.raises(ChunkError, match=str(chunk)):
            check(store, episodes)


def test_a_forked_child_reads_while_the_parent_fills(path, episodes, slowly):
    with ReplayStore.open(path, read_only=True, residency="auto") as store:
        slowly.next.release()
        patient(lambda: slowly.loaded == 1)
        child = os.fork()
        if child == 0:
            try:
                check(store, episodes)
                store.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for _ in range(100):
            slowly.next.release()
        check(store, episodes)
