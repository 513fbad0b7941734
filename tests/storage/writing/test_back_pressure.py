"""A caller that appends faster than chunks are encoded waits: nothing is lost, and memory stays bounded."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayStore
from replaystore.columns.frame_groups import FrameGroups
from replaystore.errors import WriteError
from replaystore.storage.writing import sealer

CHUNK_ROWS, SHAPE = 64, (1, 40, 40)
CHUNK_BYTES = CHUNK_ROWS * 1600
FIELDS = [FieldSpec.image("observation", SHAPE, frame_stack=2)]


def episode(number: int, rows: int) -> dict[str, np.ndarray]:
    """Noise, so that encoding does not make it smaller; its first pixels say which frame of which episode it is."""
    frames = np.random.default_rng(number).integers(0, 256, (rows, *SHAPE), dtype=np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = number, np.arange(rows) % 256
    return {"observation": frames}


@pytest.fixture
def encoder(monkeypatch):
    """Chunks that the encoder may finish: a semaphore."""
    allowed = threading.Semaphore(0)
    encode = FrameGroups.encode_chunk

    def slow(*arguments):
        assert allowed.acquire(timeout=60)
        return encode(*arguments)

    monkeypatch.setattr(FrameGroups, "encode_chunk", slow)
    return allowed


class Caller(threading.Thread):
    """Appends episodes of half a chunk until told to stop."""

    def __init__(self, store: ReplayStore, episodes: int, add: bool) -> None:
        super().__init__(daemon=True)
        self.store, self.episodes, self.add, self.appended = store, episodes, add, 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for number in range(self.episodes):
                given = episode(number, CHUNK_ROWS // 2)
                if self.add:
                    for row, frame in enumerate(given["observation"]):
                        self.store.add({"observation": frame}, last=row == CHUNK_ROWS // 2 - 1)
                else:
                    self.store.append(given)
                self.appended += 1
        except BaseException as err:
            self.error = err

    def stand_still(self) -> int:
        """Waits until it has not appended for a while; returns how many episodes it has."""
        before = -1
        while before != self.appended:
            before = self.appended
            time.sleep(0.3)
        return before


def warm_up(path: Path, encoder: threading.Semaphore) -> None:
    """Loads what the first use of a store loads, so that it is not counted."""
    with ReplayStore.create(path, FIELDS, chunk_rows=CHUNK_ROWS, residency="mapped") as store:
        store.append(episode(0, CHUNK_ROWS + 1))
        encoder.release()
        store.flush()
        store.read_episode(0)
        encoder.release()


@pytest.mark.parametrize("add", [False, True], ids=["append", "add"])
def test_the_caller_waits_and_nothing_is_lost(add, tmp_path, encoder, monkeypatch):
    total = 40
    warm_up(tmp_path / "other", encoder)
    with ReplayStore.create(tmp_path / "store", FIELDS, chunk_rows=CHUNK_ROWS, residency="mapped") as store:
        tracemalloc.start()
        try:
            caller = Caller(store, total, add)
            caller.start()
            most = 2 * sealer.MAX_PENDING_CHUNKS  # episodes of half a chunk
            assert caller.stand_still() == most
            assert caller.is_alive()
            # What was committed can be read meanwhile, from the tail files.
            assert store.num_episodes == most
            for number in range(most):
                np.testing.assert_array_equal(
                    store.read_episode(number)["observation"][:, 1:], episode(number, CHUNK_ROWS // 2)["observation"]
                )
            for _ in range(3):
                encoder.release()
            assert caller.stand_still() == most + 2 * 3
            for _ in range(total):
                encoder.release()
            caller.join(60)
            store.flush()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert caller.error is None
        assert caller.appended == total
        # All of it is 20 chunks; a chunk is in memory three times while it is encoded, beside what the caller builds.
        assert peak < 10 * CHUNK_BYTES
        for number in range(total):
            np.testing.assert_array_equal(
                store.read_episode(number)["observation"][:, 1:], episode(number, CHUNK_ROWS // 2)["observation"]
            )
        assert store.verify().ok


def test_one_episode_of_many_chunks_is_not_held_back_half_way(tmp_path, encoder):
    rows = CHUNK_ROWS * (sealer.MAX_PENDING_CHUNKS + 3)
    with ReplayStore.create(tmp_path / "store", FIELDS, chunk_rows=CHUNK_ROWS, residency="mapped") as store:
        store.append(episode(0, rows))
        assert store.num_rows == rows
        for _ in range(rows):
            encoder.release()
        store.flush()
        np.testing.assert_array_equal(store.read_episode(0)["observation"][:, 1:], episode(0, rows)["observation"])


def test_an_encoder_that_fails_ends_the_wait_and_is_tried_again(tmp_path, monkeypatch):
    encode, broken = FrameGroups.encode_chunk, threading.Event()
    broken.set()

    def fail(*arguments):
        time.sleep(0.05)
        if broken.is_set():
            raise OSError(28, "No space left on device")
        return encode(*arguments)

    monkeypatch.setattr(FrameGroups, "encode_chunk", fail)
    with ReplayStore.create(tmp_path / "store", FIELDS, chunk_rows=CHUNK_ROWS, residency="mapped") as store:
        appended, messages = 0, []
        while len(messages) < 3:
            try:
                store.append(episode(appended, CHUNK_ROWS))
            except WriteError as err:
                messages.append(str(err))
            else:
                appended += 1
        assert all("committed rows are safe" in message for message in messages)
        broken.clear()
        store.append(episode(appended, CHUNK_ROWS))
        store.flush()
        for number in range(appended + 1):
            np.testing.assert_array_equal(
                store.read_episode(number)["observation"][:, 1:], episode(number, CHUNK_ROWS)["observation"]
            )
        assert store.verify().ok
