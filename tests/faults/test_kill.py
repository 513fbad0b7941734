"""A writer that dies at any moment: what was committed is there, exactly; what was under way is whole or absent."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import scenario
from faults.scenario import Child, rows_of

from replaystore import ReplayStore
from replaystore.errors import StoreError
from replaystore.storage.format.layout import Paths

CAPACITY = 100


class Account:
    """What a killed writer said it had committed, over its whole life."""

    def __init__(self) -> None:
        self.committed: dict[int, tuple[int, int]] = {}  # episode -> number, rows at least
        self.next_number = 0
        self.checked = 0

    def note(self, lines: list[str]) -> None:
        for line in lines:
            word, *values = line.split()
            assert word in ("start", "part", "done"), line
            if word == "start":
                self.next_number = max(self.next_number, int(values[0]) + 1)
            else:
                episode, number, rows = map(int, values)
                self.committed[episode] = (number, rows)

    def check(self, store: ReplayStore) -> None:
        """Compares the live episodes with the account; those unknown to it must be whole."""
        infos = store.episodes()
        ids = [info.episode for info in infos]
        assert ids == list(range(ids[0], ids[-1] + 1)) if ids else not self.committed, ids
        found = {episode: scenario.check_live(store, episode) for episode in ids}
        for episode, (number, rows) in self.committed.items():
            if episode >= ids[0]:
                assert episode in found, f"episode {episode} was committed and is gone"
                assert found[episode][0] == number, episode
                assert found[episode][1] >= rows, episode
        for episode, (number, rows) in found.items():
            whole = rows == rows_of(number)
            in_parts = number % 4 == 3 and rows % scenario.PART_ROWS == 0
            assert whole or in_parts, f"episode {episode}, number {number}: {rows} of {rows_of(number)} rows"
            self.committed[episode] = (number, rows)
        if ids and ids[0] > 0 and ids[0] - 1 in self.committed:
            last_evicted = self.committed[ids[0] - 1][1] - 1
            assert store.num_transitions + last_evicted > CAPACITY, "more was evicted than the capacity asks for"
        self.checked += len(found)


def write_on(path: Path, first: int, count: int, seed: int) -> Callable[[Callable[[str], None]], None]:
    """A writer's life: opens the store, commits in every way, flushes, closes and opens it again."""

    def body(report: Callable[[str], None]) -> None:
        rng = np.random.default_rng(seed)
        store = ReplayStore.open(path)
        for number in range(first, first + count):
            report(f"start {number}")
            if number % 4 < 2:
                episode = store.append(scenario.arrays(number))
            else:
                following = max([info.episode for info in store.episodes()], default=-1) + 1
                episode = scenario.add_episode(
                    store, number, parts=number % 4 == 3,
                    note=lambda rows, e=following, n=number: report(f"part {e} {n} {rows}"),
                )  # fmt: skip
            report(f"done {episode} {number} {rows_of(number)}")
            what = rng.integers(0, 12)
            if what == 0:
                store.flush()
            elif what == 1:
                store.flush(sync=True)
            elif what == 2:
                store.close()
                store = ReplayStore.open(path)
        store.close()

    return body


def check_after_death(path: Path, account: Account) -> None:
    with ReplayStore.open(path, read_only=True) as reader:
        account.check(reader)
    with ReplayStore.open(path, residency=("mapped", "files", "ram", "auto")[account.checked % 4]) as writer:
        account.check(writer)
        report = writer.verify()
        assert report.ok, report.problems
        assert writer.num_transitions <= CAPACITY
        ids = [info.episode for info in writer.episodes()]
    with ReplayStore.open(path, read_only=True) as reader:
        assert [info.episode for info in reader.episodes()] == ids
        report = reader.verify()
        assert report.ok, report.problems
    assert_no_strays(path)


def assert_no_strays(path: Path) -> None:
    """A closed store holds the chunks that are live and nothing else."""
    paths, catalog = Paths(path), scenario.catalog_of(path)
    assert not catalog.segments
    for column in catalog.columns:
        names = {file.name for file in paths.array(column.name).iterdir()} - {"zarr.json"}
        assert names == {paths.chunk(column.name, chunk, column.ndim).name for chunk in catalog.seals}
    assert not list(paths.tails.iterdir())
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize(("mode", "wanted"), [("full", 50), ("half", 25), ("disk", 25)])
def test_random_kills(tmp_path: Path, mode: str, wanted: int) -> None:
    path = tmp_path / "store"
    scenario.create(path, mode, capacity=CAPACITY).close()
    account = Account()
    rng = np.random.default_rng([17, scenario.MODES.index(mode)])
    kills = trials = 0
    while kills < wanted or len(account.committed) <= 2 * wanted:
        trials += 1
        assert trials < 20 * wanted, f"{kills} kills, {len(account.committed)} commits"
        child = Child(write_on(path, account.next_number, 2000, seed=trials))
        assert child.first_line()
        time.sleep(float(rng.uniform(0, 0.12)))
        child.kill()
        lines, status = child.wait()
        assert status == -signal.SIGKILL, lines[-3:]
        kills += 1
        account.note(lines[:-1] if lines and len(lines[-1].split()) < 2 else lines)
        check_after_death(path, account)
    print(f"{mode}: {kills} kills, {account.next_number} episodes begun, {account.checked} compared")


POINTS = {
    "pwrite64": (1, 2, 3, 7, 8, 12, 13, 21, 40, 57),
    "openat": (3, 9, 15, 22, 31, 45, 60, 83, 110),
    "rename": (1, 2, 4, 6, 9),
    "link": (1, 2, 3, 5, 8),
    "linkat": (1, 2),
    "unlink": (1, 2, 5, 9, 14, 20),
    "ftruncate": (1, 2, 3, 5, 8),
    "fsync": (1, 2, 4, 9, 14),
    "close": (5, 17, 40),
    "pread64": (2, 9, 30),
}


@pytest.mark.parametrize("mode", scenario.MODES)
def test_killed_at_a_system_call(tmp_path: Path, mode: str) -> None:
    if scenario.strace_problem():
        pytest.skip(scenario.strace_problem())
    path = tmp_path / "store"
    scenario.create(path, mode, capacity=CAPACITY).close()
    account = Account()
    killed: dict[str, int] = {}
    for turn, (syscall, points) in enumerate(POINTS.items()):
        for when in points[scenario.MODES.index(mode) :: 2]:
            # Some calls are made by few of the writers: a writer that finishes was not hit, and is not counted.
            body = write_on(path, account.next_number, 40, seed=100 * turn + when)
            options = ["-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=KILL:when={when}"]
            lines, status = scenario.traced(body, options)
            assert status in (0, -signal.SIGKILL), lines[-3:]
            killed[syscall] = killed.get(syscall, 0) + (status != 0)
            account.note([line for line in lines if len(line.split()) > 1])
            check_after_death(path, account)
    assert sum(killed.values()) >= 12, killed
    for syscall in ("pwrite64", "unlink", "ftruncate", "openat", "fsync"):
        assert killed[syscall] > 0, f"no {syscall} was hit: {killed}"
    assert killed.get("rename", 0) + killed.get("link", 0) + killed.get("linkat", 0) > 0, killed
    print(f"{mode}: {sum(killed.values())} of {sum(len(p) for p in POINTS.values())} points hit: {killed}")


@pytest.mark.parametrize("syscall", ["pwrite64", "openat", "mkdir", "rename"])
def test_killed_while_it_is_created(tmp_path: Path, syscall: str) -> None:
    """A store that was never made whole is refused by name, or is whole and empty."""
    if scenario.strace_problem():
        pytest.skip(scenario.strace_problem())
    killed = opened = 0
    for when in (1, 2, 3, 4):
        path = tmp_path / f"{syscall}{when}"
        options = ["-e", f"trace={syscall}", "-e", f"inject={syscall}:signal=KILL:when={when}"]
        _, status = scenario.traced(lambda report, p=path: scenario.create(p).close(), options)
        killed += status == -signal.SIGKILL
        try:
            store = ReplayStore.open(path)
        except StoreError:
            continue
        with store:
            assert store.num_episodes == 0
            store.append(scenario.arrays(1))
            assert store.verify().ok
            opened += 1
    assert killed > 0
    print(f"{syscall}: {killed} of 4 points hit, {opened} stores were whole already")
