"""Episodes, chunks, capacities and numbers at their limits and one either side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from faults import scenario

from replaystore import ReplayStore, Sampler
from replaystore.errors import CapacityError, EpisodeError, NotEnoughData
from replaystore.index.episode_index import EpisodeIndex
from replaystore.index.parts import Part
from replaystore.kernels.row_copies import RowSources, copy_rows
from replaystore.storage.format.layout import Paths
from replaystore.testing import episodes

CHUNK_ROWS = 8


@pytest.mark.parametrize("mode", scenario.MODES)
def test_lengths_around_chunks_and_steps(tmp_path: Path, mode: str) -> None:
    """Every length up to three chunks, at many offsets; each valid transition of each n_step, and no other."""
    path = tmp_path / "store"
    lengths = [*range(1, 3 * CHUNK_ROWS + 3), CHUNK_ROWS, CHUNK_ROWS - 1, CHUNK_ROWS + 1, 1, 1, 2]
    checked = 0
    with scenario.create(path, mode, chunk_rows=CHUNK_ROWS) as store:
        with pytest.raises(EpisodeError):
            store.append({name: array[:0] for name, array in scenario.arrays(1, 1).items()})
        assert store.num_episodes == 0
        for number, length in enumerate(lengths):
            assert store.append(scenario.arrays(number, length)) == number
    for residency in ("mapped", "files", "ram"):
        with ReplayStore.open(path, read_only=True, residency=residency) as store:
            infos = store.episodes()
            assert [info.num_rows for info in infos] == lengths
            for info in infos:
                scenario.check_live(store, info.episode)
            for n_step in (1, 3, 9):
                rows = [
                    info.parts[0].first_row + i for info in infos for i in episodes.valid_steps(info.num_rows, n_step)
                ]
                drawn = store.draw(Sampler(n_step=n_step), np.random.default_rng(0), 5000)
                assert set(drawn.tolist()) <= set(rows)
                if n_step == 1:
                    assert set(drawn.tolist()) == set(rows)
                batch = store.gather(np.array(rows), n_step=n_step, discount=0.9)
                checked += scenario.check_batch(batch, n_step, 0.9)
            assert store.verify().ok
    print(f"{mode}: {len(lengths)} episodes, {checked} transitions")


def test_episodes_shorter_than_the_steps(tmp_path: Path) -> None:
    with scenario.create(tmp_path / "store") as store:
        for number, length in enumerate((1, 2, 3, 1)):
            store.append(scenario.arrays(number, length))
        with pytest.raises(NotEnoughData):
            store.draw(Sampler(n_step=3), np.random.default_rng(0), 4)
        store.append(scenario.arrays(4, 4))
        rows = store.draw(Sampler(n_step=3), np.random.default_rng(0), 4)
        assert set(rows.tolist()) == {8}
        scenario.check_batch(store.gather(rows, n_step=3, discount=0.5), 3, 0.5)


@pytest.mark.parametrize("mode", scenario.MODES)
def test_episodes_around_the_capacity(tmp_path: Path, mode: str) -> None:
    capacity = 20
    with scenario.create(tmp_path / "store", mode, capacity=capacity) as store:
        for number in range(3):
            store.append(scenario.arrays(number, 6))
        with pytest.raises(CapacityError, match="20"):
            store.append(scenario.arrays(9, capacity + 2))
        assert [info.episode for info in store.episodes()] == [0, 1, 2]
        for number in range(3):
            scenario.check_live(store, number)
        store.append(scenario.arrays(3, 6))  # fills it exactly
        assert store.num_transitions == capacity
        assert store.num_episodes == 4
        store.append(scenario.arrays(4, 1))  # no transition: nothing has to go
        assert store.num_episodes == 5
        store.append(scenario.arrays(5, 2))
        assert [info.episode for info in store.episodes()] == [1, 2, 3, 4, 5]
        store.append(scenario.arrays(6, capacity + 1))  # exactly the capacity: alone
        assert [info.episode for info in store.episodes()] == [6]
        assert store.num_transitions == capacity
        scenario.check_live(store, 6)
        store.append(scenario.arrays(7, capacity))
        assert [info.episode for info in store.episodes()] == [7]
        assert store.verify().ok
    with ReplayStore.open(tmp_path / "store") as store:
        assert [scenario.check_live(store, info.episode)[0] for info in store.episodes()] == [7]


def test_set_capacity(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with scenario.create(path) as store:
        for number in range(10):
            store.append(scenario.arrays(number, 6))
        store.set_capacity(50)
        assert store.num_episodes == 10
        store.set_capacity(49)
        assert [info.episode for info in store.episodes()] == list(range(1, 10))
        store.set_capacity(7)
        assert [info.episode for info in store.episodes()] == [9]
        store.set_capacity(None)
        for number in range(10, 20):
            store.append(scenario.arrays(number, 6))
        assert store.num_episodes == 11
    with ReplayStore.open(path) as store:
        assert store.capacity is None
        assert [info.episode for info in store.episodes()] == list(range(9, 20))
        store.set_capacity(12)
    with ReplayStore.open(path, read_only=True) as store:
        assert store.capacity == 12
        assert [scenario.check_live(store, info.episode)[0] for info in store.episodes()] == [18, 19]


@pytest.mark.parametrize("mode", scenario.MODES)
def test_disk_budget(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "store"
    budget = 40_000
    with scenario.create(path, mode, disk_budget_bytes=budget) as store:
        for number in range(60):
            store.append(scenario.arrays(number, 9))
        store.flush()
        ids = [info.episode for info in store.episodes()]
        assert ids == list(range(ids[0], 60))
        assert 0 < ids[0] < 58
        used = sum(entry["bytes_on_disk"] for entry in store.info()["fields"].values())
        assert used <= budget + 2 * CHUNK_ROWS * 1000
        assert used > budget / 3
        for episode in ids:
            scenario.check_live(store, episode)
        assert store.verify().ok
    with ReplayStore.open(path) as store:
        assert store.verify().ok


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interleaved_parts(tmp_path: Path, mode: str, seed: int) -> None:
    """Open episodes of three environments in parts, ended, discarded or cut off by close, beside an evicting store."""
    path = tmp_path / "store"
    rng = np.random.default_rng(seed)
    numbers = iter(range(10_000))
    open_rows: dict[int, tuple[int, int, int]] = {}  # env -> number, rows added, rows committed
    expected: dict[int, int] = {}  # number -> rows
    order: list[int] = []
    store = scenario.create(path, mode, capacity=200)
    steps = 700
    for _ in range(steps):
        env = int(rng.integers(3))
        number, added, committed = open_rows.get(env, (next(numbers), 0, 0))
        what = rng.integers(0, 40)
        if what < 30:
            row = {name: array[added] for name, array in scenario.arrays(number, added + 1).items()}
            last = bool(rng.random() < 0.06)
            store.add(row, env=env, last=last)
            open_rows[env] = (number, added + 1, committed)
            if last:
                commit(expected, order, number, added + 1)
                del open_rows[env]
        elif what < 36 and added > committed:
            store.commit_part(env)
            commit(expected, order, number, added)
            open_rows[env] = (number, added, added)
        elif what == 36 and added:
            store.end_episode(env)
            commit(expected, order, number, added)
            del open_rows[env]
        elif what == 37 and added:
            store.discard_episode(env)
            del open_rows[env]
        elif what == 38:
            store.flush()
        elif what == 39 and rng.random() < 0.3:
            store.close()
            open_rows.clear()
            store = ReplayStore.open(path)
    found = {}
    for info in store.episodes():
        number, rows = scenario.check_live(store, info.episode)
        assert rows == expected[number]
        found[number] = rows
    live = [number for number in order if number in found]
    assert [n for n, _ in ((scenario.check_live(store, i.episode)) for i in store.episodes())] == live
    for number, (_, _, committed) in {n: v for v in open_rows.values() for n in [v[0]]}.items():
        assert not committed or number in found, "an open episode was evicted"
    n_step = 2
    rows = store.draw(Sampler(n_step=n_step), rng, 300)
    checked = scenario.check_batch(store.gather(rows, n_step=n_step, discount=0.9), n_step, 0.9)
    assert store.verify().ok
    store.close()
    with ReplayStore.open(path) as again:
        assert dict(scenario.check_live(again, i.episode) for i in again.episodes()) == found
        assert again.verify().ok
    print(f"{mode}, seed {seed}: {len(order)} episodes, {len(found)} live, {checked} transitions")


def commit(expected: dict[int, int], order: list[int], number: int, rows: int) -> None:
    if number not in expected:
        order.append(number)
    expected[number] = rows


@pytest.mark.parametrize("start", [2**31 - 5, 2**31, 2**32 - 3, 2**40])
def test_row_numbers_beyond_32_bits(start: int) -> None:
    index = EpisodeIndex(chunk_rows=CHUNK_ROWS)
    for number in range(6):
        index.add_part(Part(number, 0, start + 7 * number, 7, True, False))
    snapshot = index.snapshot()
    rows = Sampler(n_step=2).draw(snapshot, np.random.default_rng(0), 500).rows
    assert set(rows.tolist()) == {start + 7 * e + i for e in range(6) for i in range(1, 6)}
    assert index.remove_episodes([0, 1]) == list(range(start // 8, (start + 14) // 8))


@pytest.mark.parametrize("row", [2**21 - 1, 2**21, 2**22 - 1, 2**22, 2**23 + 1])
def test_bytes_beyond_32_bits(tmp_path: Path, row: int) -> None:
    """Rows of 1,024 bytes around offsets of 2^31, 2^32 and 2^33, read from a sparse file."""
    path = tmp_path / "sparse"
    content = episodes.frame_of(row, 1, (1024,))
    with open(path, "wb") as file:
        file.seek(row * 1024)
        file.write(content.tobytes())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        out = np.zeros((2, 1024), np.uint8)
        size = os.fstat(descriptor).st_size
        single = np.zeros(1, np.int64)
        sources = RowSources(np.zeros(1, np.int64), np.array([size]), np.array([descriptor]))
        failed = copy_rows(sources, single, np.array([row]), np.array([1]), 1024, out)
        assert failed == -1
        np.testing.assert_array_equal(out[1], content)
        beyond = copy_rows(sources, single, np.array([row + 1]), np.array([1]), 1024, out)
        assert beyond == 0
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("mode", scenario.MODES)
def test_a_store_beyond_32_bits(tmp_path: Path, mode: str) -> None:
    """A store whose next row is beyond 2^32: written, sealed, evicted, reopened and read."""
    path = tmp_path / "store"
    chunk = 2**32 // CHUNK_ROWS + 5
    scenario.create(path, mode, chunk_rows=CHUNK_ROWS).close()
    move_to(path, chunk * CHUNK_ROWS)
    with ReplayStore.open(path) as store:
        store.set_capacity(60)
        for number in range(1, 12):
            store.append(scenario.arrays(number, 10))
        assert store.episodes()[0].parts[0].first_row > 2**32
        rows = store.draw(Sampler(), np.random.default_rng(0), 200)
        assert rows.min() > 2**32
        checked = scenario.check_batch(store.gather(rows, discount=0.9), 1, 0.9)
        assert store.verify().ok
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        checked += scenario.check_batch(store.gather(rows, discount=0.9), 1, 0.9)
        assert store.verify().ok
    assert checked == 400


def move_to(path: Path, row: int) -> None:
    """Appends records of an episode at `row`, sealed and evicted: the next row is behind it."""
    from replaystore.storage.catalog.log import LogReader, LogWriter
    from replaystore.storage.format import layout
    from replaystore.storage.format.records import Seal, SealedColumn, pack_commit, pack_evict, pack_seal

    paths, catalog = Paths(path), scenario.catalog_of(path)
    reader = LogReader(paths)
    log = LogWriter(paths, reader.head, catalog.end, power=False)
    fields = len(catalog.columns)
    part = Part(0, 0, row, 1, True, False)
    empty = SealedColumn(0, 0, np.empty(0, np.uint32))
    log.append([(layout.COMMIT, pack_commit(part, [[0] * fields], [0] * fields))], catalog)
    log.append([(layout.EVICT, pack_evict([0]))], catalog)
    log.append([(layout.SEAL, pack_seal(Seal(row // CHUNK_ROWS, 1, (empty,) * fields)))], catalog)
    log.close()
    reader.close()
