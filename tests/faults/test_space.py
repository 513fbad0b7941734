"""No space, short writes, failing fsyncs: a typed error, nothing committed lost, and it goes on when it can."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import scenario
from faults.scenario import run_child

from replaystore import ReplayStore
from replaystore.errors import WriteError
from replaystore.storage.catalog.catalog import Catalog
from replaystore.storage.catalog.log import LogWriter
from replaystore.storage.format import layout


def check_all(path: Path, numbers: dict[int, int]) -> None:
    """The episodes are exactly those that were committed."""
    with ReplayStore.open(path, read_only=True) as reader:
        assert {i.episode: scenario.check_live(reader, i.episode)[0] for i in reader.episodes()} == numbers


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("limit", [700, 1500, 2500, 4000])
def test_short_writes(tmp_path: Path, mode: str, limit: int) -> None:
    """No file may grow beyond a limit: rows, seals and the log fail there, in the middle of a write."""
    path = tmp_path / "store"
    scenario.create(path, mode, chunk_rows=16).close()

    def body(report: Callable[[str], None]) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = ReplayStore.open(path)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        errors = 0
        committed: dict[int, int] = {}
        for number in range(30):
            # Every third one the limit is lifted.
            soft = resource.RLIM_INFINITY if number % 3 == 2 else limit
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            try:
                committed[store.append(scenario.arrays(number))] = number
            except WriteError:
                errors += 1
            try:
                store.flush()
            except WriteError:
                errors += 1
            check_all(path, committed)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        for _ in range(3):
            try:
                store.flush()
            except WriteError:
                errors += 1
        committed[store.append(scenario.arrays(77))] = 77
        assert store.verify().ok
        store.close()
        check_all(path, committed)
        assert len(committed) > 10
        report(f"{errors} {len(committed)}")

    errors, committed = map(int, run_child(body)[0].split())
    assert errors > 3
    with ReplayStore.open(path) as store:
        assert store.num_episodes == committed
        assert store.verify().ok
    print(f"{mode}, {limit} bytes: {errors} errors, {committed} episodes committed")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting a tmpfs is refused here: {made.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("capacity", [None, 60])
def test_full_disk(tmp_path: Path, mode: str, capacity: int | None) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "store"
        ballast = disk / "ballast"
        store = scenario.create(path, mode, chunk_rows=16, capacity=capacity)
        committed: dict[int, int] = {}
        errors = rounds = 0
        number = 0
        for leave in (0, 100_000, 40_000, 150_000, 20_000, 90_000):
            fill(ballast, leave)
            failed = 0
            for _ in range(100):
                number += 1
                try:
                    committed[store.append(scenario.arrays(number))] = number
                except WriteError:
                    failed += 1
                    if failed == 3:
                        break
            assert failed == 3 or (capacity is not None and leave), "the disk never filled up"
            errors += failed
            live = [info.episode for info in store.episodes()]
            assert live == sorted(committed)[-len(live) :]
            check_all(path, {episode: committed[episode] for episode in live})
            ballast.unlink()
            for _ in range(3):
                try:
                    store.flush()
                except WriteError:
                    errors += 1
            committed[store.append(scenario.arrays(1000 + rounds))] = 1000 + rounds
            if rounds % 2:  # as after a crash: on a disk that is full again
                store.close()
                fill(ballast)
                try:
                    store = ReplayStore.open(path)
                except WriteError:
                    errors += 1
                    ballast.unlink()
                    store = ReplayStore.open(path)
                ballast.unlink(missing_ok=True)
            if capacity is None:
                store.set_capacity(30)
                store.flush()
                store.set_capacity(None)
            assert store.verify().ok, store.verify().problems
            rounds += 1
        live = [info.episode for info in store.episodes()]
        store.close()
        check_all(path, {episode: committed[episode] for episode in live})
        if capacity is not None:
            assert len(live) < len(committed)
    print(f"{mode}, capacity {capacity}: full {rounds} times, {errors} errors, {len(committed)} episodes committed")


def fill(ballast: Path, leave: int = 0) -> None:
    """Takes all the space there is, but `leave` bytes."""
    with open(ballast, "ab", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
    with open(ballast, "r+b") as file:
        file.truncate(ballast.stat().st_size - leave)


def test_a_failing_sealer_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next call and at `flush`, each time that it fails; then everything is sealed after all."""
    from replaystore.storage.writing import chunk_files as seal

    path = tmp_path / "store"
    real = seal.seal_column
    failing = [True]

    def seal_column(*args: object, **options: object) -> object:
        if failing[0]:
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(seal, "seal_column", seal_column)
    committed: dict[int, int] = {}
    heard = 0
    with scenario.create(path, "full") as store:
        for number in range(20):
            try:
                committed[store.append(scenario.arrays(number, 8))] = number
            except WriteError as err:
                heard += "sealing failed" in str(err)
        with pytest.raises(WriteError, match="sealing failed"):
            store.flush()
        check_all(path, committed)
        failing[0] = False
        for _ in range(3):
            try:
                store.flush()
            except WriteError:
                heard += 1
        assert store.info()["chunks"] == len(committed)
        assert store.verify().ok
    check_all(path, committed)
    assert heard >= 3
    assert len(committed) >= 3


@pytest.mark.parametrize("when", [1, 2, 3, 5, 6, 7, 8, 9, 12, 15, 20, 26])
def test_a_failing_fsync(tmp_path: Path, when: int) -> None:
    """Durability `power`: after a failed fsync nothing is written until the store is opened again."""
    if scenario.strace_problem():
        pytest.skip(scenario.strace_problem())
    path = tmp_path / "store"
    scenario.create(path, "full", durability="power").close()

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        committed: dict[int, int] = {}
        failed = False
        for number in range(12):
            try:
                committed[store.append(scenario.arrays(number))] = number
                assert not failed, "the writer went on after a failed fsync"
                store.flush()
            except WriteError:
                failed = True
        assert failed
        for attempt in (lambda: store.append(scenario.arrays(50)), lambda: store.flush(sync=True), store.close):
            try:
                attempt()
            except WriteError:
                continue
            raise AssertionError(f"{attempt} did not refuse")
        for episode, number in committed.items():
            report(f"{episode} {number}")

    options = ["-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:when={when}"]
    lines, status = scenario.traced(body, options)
    assert status == 0, lines
    committed = {int(a): int(b) for a, b in map(str.split, lines)}
    with ReplayStore.open(path) as store:
        found = {i.episode: scenario.check_live(store, i.episode)[0] for i in store.episodes()}
        assert {episode: found[episode] for episode in committed} == committed
        assert len(found) <= len(committed) + 1
        store.append(scenario.arrays(60))
        assert store.verify().ok


@pytest.mark.parametrize("syscall", ["pwrite64", "ftruncate", "rename"])
def test_a_write_that_fails_with_an_io_error(tmp_path: Path, syscall: str) -> None:
    if scenario.strace_problem():
        pytest.skip(scenario.strace_problem())
    points = (1, 2, 3, 5, 6, 7, 9, 13)
    failed = 0
    for when in points:
        path = tmp_path / f"store{when}"
        scenario.create(path, "full").close()

        def body(report: Callable[[str], None], path: Path = path) -> None:
            store = None
            for number in range(8):
                for act in ("open", "append", "flush", "close"):  # each thread meets the error once
                    try:
                        if act == "open":
                            store = ReplayStore.open(path) if store is None else store
                        elif store is None:
                            break
                        elif act == "append":
                            report(f"done {store.append(scenario.arrays(number))} {number}")
                        elif act == "flush":
                            store.flush()
                        elif number % 2:
                            closing, store = store, None
                            closing.close()
                    except WriteError:
                        report(f"error {act} {number}")

        options = ["-e", f"trace={syscall}", "-e", f"inject={syscall}:error=EIO:when={when}"]
        lines, status = scenario.traced(body, options)
        assert status == 0, (when, lines)
        said = [line.split() for line in lines]
        committed = {int(episode): int(number) for word, episode, number in said if word == "done"}
        failed += any(word == "error" for word, _, _ in said)
        with ReplayStore.open(path) as store:
            found = {i.episode: scenario.check_live(store, i.episode)[0] for i in store.episodes()}
            assert {episode: found[episode] for episode in committed} == committed
            assert store.verify().ok
    assert failed >= 3
    print(f"{syscall}: {failed} of {len(points)} points raised")


def test_an_eviction_that_cannot_be_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The episode is committed, so `append` returns its id; the next call hears of the eviction."""
    path = tmp_path / "store"
    real = LogWriter.append
    failing = [True]

    def append(self: LogWriter, records: list[tuple[int, bytes]], catalog: Catalog) -> list[int]:
        if failing[0] and any(kind == layout.EVICT for kind, _ in records):
            raise WriteError(28, "No space left on device")
        return real(self, records, catalog)

    monkeypatch.setattr(LogWriter, "append", append)
    with scenario.create(path, "full", capacity=20) as store:
        committed = {store.append(scenario.arrays(number, 8)): number for number in range(3)}
        with pytest.raises(WriteError, match="No space"):
            store.append(scenario.arrays(9, 8))
        check_all(path, committed)
        failing[0] = False
        committed[store.append(scenario.arrays(3, 8))] = 3
        assert [info.episode for info in store.episodes()] == [2, 3]
        check_all(path, {2: committed[2], 3: committed[3]})
        assert store.verify().ok
