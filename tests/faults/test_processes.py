"""Writers and readers in several processes, forks, read-only file systems, few descriptors, clocks that jump."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from faults import scenario
from faults.scenario import Child, run_child

from replaystore import ReplayStore, Sampler
from replaystore.errors import Evicted, NotEnoughData, StoreError, StoreLocked, WriteError
from replaystore.storage.reading.small_fields import SmallRows


def test_second_writer(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with scenario.create(path) as store:
        store.append(scenario.arrays(1))

        def refused(report: Callable[[str], None]) -> None:
            start = time.monotonic()
            try:
                ReplayStore.open(path)
            except StoreLocked as err:
                report(f"{time.monotonic() - start} {err}")

        (line,) = run_child(refused)
        seconds, _, message = line.partition(" ")
        assert float(seconds) < 0.5
        assert f"process {os.getpid()}" in message
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            ReplayStore.open(path)
        store.append(scenario.arrays(2))

    trials = 10
    for _ in range(trials):

        def hold(report: Callable[[str], None]) -> None:
            store = ReplayStore.open(path)
            report("open")
            time.sleep(60)
            store.close()

        owner = Child(hold)
        assert owner.first_line()
        with pytest.raises(StoreLocked, match=f"process {owner.pid}"):
            ReplayStore.open(path)
        owner.kill()
        owner.wait()
        with ReplayStore.open(path) as store:
            assert store.num_episodes == 2
    print(f"{trials} locks died with their owner")


def delays_of_a_reader(path: Path, mode: str) -> list[float]:
    """Seconds from each commit that a reader saw until it saw it; it has seen the last one."""
    scenario.create(path, mode).close()

    def read(report: Callable[[str], None]) -> None:
        with ReplayStore.open(path, read_only=True) as store:
            report("open")
            seen = 0
            while seen < 6:
                count = store.snapshot().num_episodes
                if count > seen:
                    report(f"{count} {time.monotonic()}")
                    scenario.check_live(store, count - 1)
                    seen = count
                time.sleep(0.01)

    reader = Child(read)
    assert reader.first_line()
    committed = []
    with ReplayStore.open(path) as store:
        for number in range(6):
            store.append(scenario.arrays(number))
            committed.append(time.monotonic())
            time.sleep(0.3)
    lines, status = reader.wait()
    assert status == 0, lines
    assert lines[-1].split()[0] == "6"
    return [float(at) - committed[int(count) - 1] for count, at in map(str.split, lines[1:])]


@pytest.mark.parametrize("mode", scenario.MODES)
def test_a_reader_sees_new_episodes(tmp_path: Path, mode: str) -> None:
    assert delays_of_a_reader(tmp_path / "store", mode)


@pytest.mark.timing
@pytest.mark.parametrize("mode", scenario.MODES)
def test_a_reader_sees_new_episodes_within_a_second(tmp_path: Path, mode: str) -> None:
    delays = delays_of_a_reader(tmp_path / "store", mode)
    assert max(delays) < 1.0
    print(f"{mode}: {len(delays)} sightings, slowest after {max(delays):.3f} s")


MOST_SECONDS = 200.0  # for work that takes a few on an idle machine


def sample_from(path: Path, openings: int, residency: str, seed: int) -> Callable[[Callable[[str], None]], None]:
    """Opens the store so many times, and draws from it as often each time."""

    def body(report: Callable[[str], None]) -> None:
        rng = np.random.default_rng(seed)
        checked = evicted = opened = 0
        end = time.monotonic() + MOST_SECONDS
        while opened < openings and time.monotonic() < end:
            with ReplayStore.open(path, read_only=True, residency=residency, num_threads=2) as store:
                opened += 1
                for _ in range(20):
                    try:
                        n_step = int(rng.integers(1, 4))
                        checked += scenario.draw_and_check(store, rng, 48, n_step)
                    except Evicted:
                        evicted += 1
                    except NotEnoughData:
                        time.sleep(0.01)
                    if time.monotonic() > end:
                        break
        report(f"{checked} {evicted} {opened}")

    return body


@pytest.mark.parametrize("mode", scenario.MODES)
def test_readers_beside_an_evicting_writer(tmp_path: Path, mode: str) -> None:
    """Every transition that a reader gathers is exact; what is evicted meanwhile raises `Evicted`."""
    path = tmp_path / "store"
    scenario.create(path, mode, capacity=120).close()
    readers_are_done = tmp_path / "done"

    def write(report: Callable[[str], None]) -> None:
        end = time.monotonic() + MOST_SECONDS
        number = 0
        with ReplayStore.open(path) as store:
            while (number <= 20 or not readers_are_done.exists()) and time.monotonic() < end:
                store.append(scenario.arrays(number))
                number += 1
        report(str(number))

    writer = Child(write)
    readers = [
        Child(sample_from(path, 3, residency, seed))
        for seed, residency in enumerate(("mapped", "files", "ram", "auto"))
    ]
    results = [child.wait(MOST_SECONDS + 30) for child in readers]
    readers_are_done.touch()
    results.append(writer.wait(MOST_SECONDS + 30))
    for lines, status in results:
        assert status == 0, lines
    counts = np.array([list(map(int, lines[0].split())) for lines, _ in results[:4]])
    written = int(results[4][0][0])
    assert written > 20
    assert counts[:, 0].min() > 500
    assert counts[:, 2].tolist() == [3, 3, 3, 3]
    print(f"{mode}: {written} episodes written, transitions checked, evictions met, openings: {counts.tolist()}")


@pytest.mark.parametrize("residency", ["mapped", "files", "ram"])
def test_a_snapshot_outlives_eviction(tmp_path: Path, residency: str) -> None:
    """In the writer's process a batch drawn before an eviction is read exactly, as long as its snapshot is held."""
    rng = np.random.default_rng(3)
    exact = 0
    with scenario.create(tmp_path / "store", "full", capacity=300, residency=residency) as store:
        number = 0
        for _ in range(30):
            store.append(scenario.arrays(number))
            number += 1
        for _ in range(14):
            snapshot = store.snapshot()
            rows = store.draw(Sampler(), rng, 32, snapshot=snapshot)
            for _ in range(int(rng.integers(0, 70))):
                store.append(scenario.arrays(number))
                number += 1
            exact += scenario.check_batch(store.gather(rows, discount=0.9, snapshot=snapshot), 1, 0.9)
        del snapshot
        store.append(scenario.arrays(number))
        oldest = store.episodes()[0].parts[0].first_row // 8
        store.flush()
        files = {path.name for path in (store.path / "observation").glob("c.*")}
        assert f"c.{oldest - 1}.0.0" not in files
        with pytest.raises(Evicted):
            store.gather(rows, discount=0.9)
    print(f"{residency}: {exact} transitions exact")


def child_of_a_fork(store: ReplayStore, report: Callable[[str], None]) -> None:
    rng = np.random.default_rng(os.getpid())
    checked = 0
    for _ in range(5):
        try:
            checked += scenario.draw_and_check(store, rng)
        except Evicted:
            pass
    for refused in (lambda: store.append(scenario.arrays(0)), store.flush):
        try:
            refused()
        except StoreError:
            pass
        else:
            raise AssertionError("the child wrote")
    store.close()
    report(str(checked))


def test_fork_under_load(tmp_path: Path) -> None:
    """Children forked while threads append, seal and sample: they read, they do not write, nobody hangs."""
    path = tmp_path / "store"
    failures: list[BaseException] = []
    forks = 40
    checked = 0
    with scenario.create(path, "full", capacity=150) as store:
        for number in range(12):
            store.append(scenario.arrays(number))
        stop = threading.Event()

        def append() -> None:
            number = 12
            while not stop.is_set():
                store.append(scenario.arrays(number))
                number += 1

        def sample() -> None:
            rng = np.random.default_rng(1)
            while not stop.is_set():
                try:
                    scenario.draw_and_check(store, rng)
                except Evicted:
                    pass

        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    work()
                except BaseException as err:
                    failures.append(err)

            return run

        threads = [threading.Thread(target=guarded(work)) for work in (append, sample)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(forks):
                lines, status = Child(lambda report: child_of_a_fork(store, report)).wait(20)
                assert status == 0, lines
                checked += int(lines[0])
                with pytest.raises(StoreLocked):
                    ReplayStore.open(path)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        assert not failures, failures
        assert store.verify().ok
    with ReplayStore.open(path) as store:
        for info in store.episodes():
            scenario.check_live(store, info.episode)
        assert store.verify().ok
    assert checked > forks
    print(f"{forks} forks, {checked} transitions checked in the children")


def read_in_worker(path: str, count: int) -> str:
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent))
    with ReplayStore.open(path, read_only=True) as store:
        for info in store.episodes()[:count]:
            found = store.read_episode(info.episode)["action"]
            assert found[:, 1].tolist() == list(range(len(found)))
    try:
        ReplayStore.open(path)
    except StoreLocked as err:
        return str(err)
    return "not refused"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods(tmp_path: Path, method: str) -> None:
    path = tmp_path / "store"
    with scenario.create(path) as store:
        for number in range(8):
            store.append(scenario.arrays(number))
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            message = pool.apply_async(read_in_worker, (str(path), 8)).get(60)
            pool.close()
            pool.join()
        assert f"process {os.getpid()}" in message
        store.append(scenario.arrays(8))
        assert store.verify().ok


@contextmanager
def read_only_mount(path: Path) -> Iterator[Path]:
    target = path.with_name("mounted")
    target.mkdir()
    made = subprocess.run(["mount", "--bind", path, target], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a bind mount is refused here: {made.stderr.strip()}")
    try:
        again = subprocess.run(["mount", "-o", "remount,ro,bind", target], capture_output=True, text=True)
        if again.returncode:
            pytest.skip(f"a read-only mount is refused here: {again.stderr.strip()}")
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("live", [False, True])
def test_read_only_file_system(tmp_path: Path, live: bool) -> None:
    path = tmp_path / "store"
    scenario.create(path, "full").close()

    def write(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        for number in range(10):
            store.append(scenario.arrays(number))
        if not live:
            store.close()

    run_child(write)
    with read_only_mount(path) as mounted:

        def read(report: Callable[[str], None]) -> None:
            with ReplayStore.open(mounted, read_only=True) as store:
                report(str(scenario.draw_and_check(store, np.random.default_rng(0), 64)))
                assert store.verify().ok

        if scenario.strace_problem():
            lines = run_child(read)
        else:
            output = tmp_path / "trace"
            wanted = "openat,open,creat,unlink,rename,mkdir,link,ftruncate,pwrite64,chmod,utimensat"
            lines, status = scenario.traced(read, ["-y", "-e", f"trace={wanted}"], output)
            assert status == 0, lines
            for line in output.read_text().splitlines():
                if str(mounted) in line:
                    assert "openat" in line, line
                    assert not any(flag in line for flag in ("O_RDWR", "O_WRONLY", "O_CREAT", "O_TRUNC")), line
        assert int(lines[0]) == 64
        with pytest.raises(WriteError, match="read_only"):
            ReplayStore.open(mounted)


@pytest.mark.parametrize("mode", scenario.MODES)
def test_few_file_descriptors(tmp_path: Path, mode: str) -> None:
    """Many more chunks than descriptors: one long episode, and batches over all chunks, in several threads."""

    def body(report: Callable[[str], None]) -> None:
        limit = 64 + max(0, scenario.open_descriptors() - 10)  # 64 but for what this child inherited
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        path = tmp_path / "store"
        rng = np.random.default_rng(2)
        with scenario.create(path, mode, (32, 32), chunk_rows=4, residency="mapped", num_threads=3) as store:
            store.append(scenario.arrays(0, 400, (32, 32)))
            for number in range(1, 20):
                store.append(scenario.arrays(number, 21, (32, 32)))
            store.flush()
            checked = 0
            for _ in range(4):
                rows = store.draw(Sampler(), rng, 256)
                checked += scenario.check_batch(store.gather(rows, discount=0.9), 1, 0.9, (32, 32))
        with ReplayStore.open(path, read_only=True, residency="mapped") as store:
            rows = store.draw(Sampler(), rng, 256)
            checked += scenario.check_batch(store.gather(rows, discount=0.9), 1, 0.9, (32, 32))
            chunks = store.info()["chunks"]
            assert store.verify().ok
        report(f"{chunks} {checked}")

    chunks, checked = map(int, run_child(body)[0].split())
    assert chunks * 2 > 64
    print(f"{mode}: {chunks} chunks, {checked} transitions with 64 descriptors")


def test_clock_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    real = time.time
    with scenario.create(path, capacity=100) as store, ReplayStore.open(path, read_only=True) as reader:
        for number, years in enumerate([0, 10, -10, 50, -40, 0, 3, 0] * 4):
            monkeypatch.setattr(time, "time", lambda y=years: real() + y * 31_557_600)
            monkeypatch.setattr(time, "time_ns", lambda y=years: int((real() + y * 31_557_600) * 1e9))
            store.append(scenario.arrays(number))
            reader.refresh()
            assert [i.episode for i in reader.episodes()] == [i.episode for i in store.episodes()]
            scenario.check_live(reader, number)
    with ReplayStore.open(path) as store:
        ids = [info.episode for info in store.episodes()]
        assert ids == list(range(ids[0], 32))
        assert store.verify().ok


def test_small_fields_arrive_in_any_order() -> None:
    """Rows held in memory while older ones are still being read, and their beginning has died."""
    held = SmallRows(8)
    rows = np.arange(5000 * 8).astype(np.uint8).reshape(5000, 8)
    held.put(3000, rows[3000:4500], 2500)
    held.put(2000, rows[2000:3000], 2500)
    held.put(100, rows[100:200], 2500)
    for first, last in ((2500, 3000), (3000, 4500)):
        found = np.empty((last - first, 8), np.uint8)
        held.take(np.arange(first, last), found)
        np.testing.assert_array_equal(found, rows[first:last])
