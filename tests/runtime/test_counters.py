"""Counters against what is known of the data: which rows a batch reads, in which groups they lie, what was evicted."""

import dataclasses
import itertools
import os
import threading
import time

import numpy as np
import pytest

from replaystore import FieldSpec, ReplayLoader, ReplayStore, Sampler
from replaystore.codecs.frame_delta.chunk import parse_chunk
from replaystore.runtime.counters import Counters
from replaystore.storage.writing import chunk_files, sealer
from replaystore.testing.episodes import frame_of

STACK, SHAPE, CHUNK_ROWS, N_STEP = 3, (1, 12, 12), 32, 2
FRAME_BYTES = 144
FIELDS = [
    FieldSpec.image("observation", SHAPE, frame_stack=STACK),
    FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
    FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
]
SMALL_ROW_BYTES = 12  # action and reward
LENGTHS = [20, 45, 31, 32]  # 128 rows: four full chunks


def make_episode(number, rows, zeros=False):
    frames = np.stack([frame_of(number, t, SHAPE) for t in range(rows)])
    first = np.zeros_like(frames[:1]) if zeros else frames[:1]
    padded = np.concatenate([first, first, frames])
    return {
        "observation": np.concatenate([padded[k : k + rows] for k in range(STACK)], axis=1),
        "action": np.full((rows, 2), number, np.float32),
        "reward": np.ones((rows, 1), np.float32),
    }


def make_store(path, mode, zeros=False):
    with ReplayStore.create(path, FIELDS, mode=mode, chunk_rows=CHUNK_ROWS) as store:
        for number, rows in enumerate(LENGTHS):
            store.append(make_episode(number, rows, zeros))
    return path


def windows(store, rows, zeros):
    """The stored rows of each observation and next observation of a batch; None for a frame of zeros."""
    starts = [info.parts[0].first_row for info in store.episodes()]
    found = []
    for end in [*(int(row) - 1 for row in rows), *(int(row) + N_STEP - 1 for row in rows)]:
        start = max(first for first in starts if first <= end)
        found.append([
            row if row >= start else None if zeros else start for row in range(end - STACK + 1, end + 1)
        ])  # fmt: skip
    return found


def stored_bytes(store, frames):
    """(bytes, groups) that a batch reads: every frame of it, or each group once."""
    if store.spec.mode == "disk":
        return sum(STACK * FRAME_BYTES for _ in frames), 0
    rows = [row for window in frames for row in window if row is not None]
    if store.spec.mode == "half":
        return len(rows) * FRAME_BYTES, 0
    groups = {}
    for row in rows:
        chunk, local = divmod(row, CHUNK_ROWS)
        data = (store.path / f"observation/c.{chunk}.0.0.0").read_bytes()
        table = parse_chunk(memoryview(data), len(data), "chunk").table
        number = int(np.searchsorted(np.cumsum(table["num_rows"]), local, side="right"))
        groups[chunk, number] = int(table["length"][number])
    return sum(groups.values()), len(groups)


@pytest.mark.parametrize("residency", ["ram", "mapped", "files"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("mode", ["disk", "half", "full"])
def test_bytes_and_groups_of_a_batch(tmp_path, mode, zeros, residency):
    path = make_store(tmp_path / "store", mode, zeros)
    with ReplayStore.open(path, read_only=True, residency=residency) as store:
        opened = store.stats()
        files = list((path / "observation").glob("c.*"))
        held = residency == "ram"
        assert opened.chunk_files_loaded == opened.chunk_files_held == (len(files) if held else 0)
        assert opened.bytes_loaded == (sum(file.stat().st_size for file in files) if held else 0)
        assert opened.bytes_held == store.held_bytes
        assert opened.file_bytes_read == sum(LENGTHS) * SMALL_ROW_BYTES
        assert (opened.batches_gathered, opened.memory_bytes_read, opened.groups_decoded) == (0, 0, 0)
        rng = np.random.default_rng(5)
        for size in (1, 40, 7):
            before = store.stats()
            rows = store.draw(Sampler(n_step=N_STEP), rng, size)
            num_bytes, num_groups = stored_bytes(store, windows(store, rows, zeros))
            store.gather(rows, n_step=N_STEP)
            after = store.stats()
            read = [
                after.memory_bytes_read - before.memory_bytes_read, after.file_bytes_read - before.file_bytes_read,
            ]  # fmt: skip
            assert read == ([num_bytes, 0] if held else [0, num_bytes])
            assert after.groups_decoded - before.groups_decoded == num_groups
        assert (after.batches_gathered, after.transitions_gathered) == (3, 48)
        assert dataclasses.replace(after, memory_bytes_read=0, file_bytes_read=0, groups_decoded=0) == (
            dataclasses.replace(
                opened, memory_bytes_read=0, file_bytes_read=0, batches_gathered=3, transitions_gathered=48
            )
        )


def test_what_a_writer_appends_seals_and_evicts(tmp_path):
    with ReplayStore.create(tmp_path / "s", FIELDS, mode="half", chunk_rows=CHUNK_ROWS, capacity=100) as store:
        for number, rows in enumerate([20, 45, 31]):
            store.append(make_episode(number, rows))
        for env in ("a", "b"):
            episode = make_episode(9, 12)
            for t in range(12):
                store.add({name: values[t] for name, values in episode.items()}, env=env, last=t == 11)
                if t == 5:
                    store.commit_part(env)  # an episode in two parts is one episode
        store.flush()
        stats = store.stats()
        # 19 + 44 + 30 transitions and 11 of the next episode are too many, and the first one goes: 85, then 96.
        assert (stats.rows_appended, stats.episodes_appended) == (120, 5)
        assert (stats.rows_evicted, stats.episodes_evicted) == (20, 1)
        assert stats.rows_appended - stats.rows_evicted == store.num_rows
        assert stats.chunks_sealed == 120 // CHUNK_ROWS
        assert stats.bytes_sealed == 3 * CHUNK_ROWS * (FRAME_BYTES + SMALL_ROW_BYTES)
        assert stats.sealing_seconds > 0
        assert stats.chunk_files_held == 3
        assert stats.chunk_files_loaded == 0
        store.set_capacity(50)  # 96 - 44 is too many still
        assert store.num_transitions == 22
    closed = store.stats()
    assert (closed.rows_evicted, closed.episodes_evicted) == (20 + 45 + 31, 3)
    assert closed.chunks_sealed == 4  # the last one padded
    assert closed.chunk_files_held == 0


def test_waits_for_the_encoder(tmp_path, monkeypatch):
    go_on = threading.Event()
    seal = chunk_files.seal_column
    monkeypatch.setattr(
        chunk_files, "seal_column", lambda *given, **options: (go_on.wait(), seal(*given, **options))[1]
    )
    with ReplayStore.create(tmp_path / "s", FIELDS, mode="half", chunk_rows=CHUNK_ROWS) as store:
        for number in range(sealer.MAX_PENDING_CHUNKS):
            store.append(make_episode(number, CHUNK_ROWS))
        assert store.stats().encoder_waits == 0
        timer = threading.Timer(0.2, go_on.set)
        timer.start()
        start = time.monotonic()
        store.append(make_episode(9, CHUNK_ROWS))
        seconds = time.monotonic() - start
        timer.join()
        stats = store.stats()
        assert stats.encoder_waits == 1
        assert 0.1 < stats.encoder_wait_seconds <= seconds


def test_refreshes_count_where_something_came(tmp_path):
    with ReplayStore.create(tmp_path / "s", FIELDS, mode="half") as store:
        with ReplayStore.open(tmp_path / "s", read_only=True) as reader:
            assert not reader.refresh()
            for number in range(2):
                store.append(make_episode(number, 10))
                assert reader.refresh()
                assert not reader.refresh()
            assert reader.stats().refreshes == 2
            assert reader.stats().rows_appended == 0
        assert not store.refresh()
        assert store.stats().refreshes == 0


@pytest.mark.parametrize("mode", ["half", "full"])
def test_threads_of_loaders_lose_no_increment(tmp_path, mode):
    path = make_store(tmp_path / "store", mode)
    with ReplayStore.open(path, read_only=True, residency="ram", num_threads=2) as store:
        loaders = [
            ReplayLoader(store, batch_size=64, n_step=N_STEP, seed=seed, num_threads=3, pin_memory=False)
            for seed in range(2)
        ]
        for _ in range(150):
            for loader in loaders:
                next(loader)
        for loader in loaders:
            loader.close()
            stats = loader.stats()
            assert (stats.batches, stats.redraws) == (150, 0)
            assert 0 <= stats.waits <= 150
            assert (stats.wait_seconds > 0) == (stats.waits > 0)
        stats = store.stats()
        assert 300 <= stats.batches_gathered <= 300 + 2 * (4 + 1)  # and those drawn ahead, where they were begun
        assert stats.transitions_gathered == 64 * stats.batches_gathered
        if mode == "half":
            assert stats.memory_bytes_read == stats.transitions_gathered * 2 * STACK * FRAME_BYTES


def test_a_loader_counts_its_waits(tmp_path):
    path = make_store(tmp_path / "store", "half")
    with ReplayStore.open(path, read_only=True) as store:
        go_on, third, gather, numbers = threading.Event(), threading.Event(), store.gather, itertools.count(1)

        def gated(*given, **options):
            if next(numbers) == 3:
                third.set()  # so the one thread has handed the second batch over
            go_on.wait()
            return gather(*given, **options)

        store.gather = gated
        with ReplayLoader(store, batch_size=4, seed=0, num_threads=1, pin_memory=False) as loader:
            threading.Timer(0.1, go_on.set).start()
            next(loader)
            stats = loader.stats()
            assert (stats.batches, stats.waits) == (1, 1)
            assert 0.05 < stats.wait_seconds < 60
            assert third.wait(60)
            next(loader)
            assert dataclasses.replace(loader.stats(), batches=1, buffers=stats.buffers) == stats


def test_counters_add_up_over_threads_and_know_their_names():
    counters = Counters()
    threads = [
        threading.Thread(target=lambda: [counters.add(refreshes=1, rows_appended=2) for _ in range(5000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = counters.stats(chunk_files_held=3, bytes_held=4)
    assert (stats.refreshes, stats.rows_appended) == (40_000, 80_000)
    assert (stats.chunk_files_held, stats.bytes_held, stats.groups_decoded) == (3, 4, 0)
    with pytest.raises(KeyError):
        counters.add(no_such_counter=1)


def test_a_forked_child_counts_although_a_thread_of_the_parent_was_counting():
    adding, go_on = threading.Event(), threading.Event()

    class Slow(float):
        def __radd__(self, other):
            adding.set()
            go_on.wait()
            return other + float(self)

    counters = Counters()
    thread = threading.Thread(target=lambda: counters.add(encoder_wait_seconds=Slow(2.0)))
    thread.start()
    assert adding.wait(60)
    child = os.fork()
    if child == 0:
        try:
            counters.reset()
            counters.add(refreshes=1)
            stats = counters.stats(chunk_files_held=0, bytes_held=0)
            os._exit(0 if (stats.refreshes, stats.encoder_wait_seconds) == (1, 0) else 2)
        finally:
            os._exit(1)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counters.stats(chunk_files_held=0, bytes_held=0).encoder_wait_seconds == 2.0
