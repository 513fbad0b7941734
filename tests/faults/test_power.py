"""What survives a power cut: the order of fsyncs, and stores as a cut may leave them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import scenario

from replaystore import ReplayStore
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Head, Paths

_CALL = re.compile(r"(\w+)\((?:\d+<([^>]*)>|(.*?))[,) ]")


def calls_of(output: Path, root: Path) -> list[tuple[str, str]]:
    """(system call, what it was about) of a trace, files relative to the store."""
    found = []
    for line in output.read_text().splitlines():
        match = _CALL.search(line)
        if match is None or "resumed" in line:
            continue
        name, path, _ = match.groups()
        if name == "write":
            found.append((name, line.split('"')[1].removesuffix("\\n")))
        elif path is not None and path.startswith(str(root)):
            found.append((name, path[len(str(root)) + 1 :]))
        elif name in ("rename", "link", "unlink", "linkat", "renameat"):
            quoted = re.findall(r'"([^"]*)"', line)
            if quoted and quoted[-1].startswith(str(root)):
                found.append((name, quoted[-1][len(str(root)) + 1 :]))
    return found


def trace(tmp_path: Path, body: Callable[[Callable[[str], None]], None]) -> list[tuple[str, str]]:
    if scenario.strace_problem():
        pytest.skip(scenario.strace_problem())
    output = tmp_path / "trace"
    options = ["-y", "-s", "200", "-e", "trace=pwrite64,fsync,fdatasync,rename,link,linkat,unlink,ftruncate,write"]
    lines, status = scenario.traced(body, options, output)
    assert status == 0, lines
    return calls_of(output, tmp_path / "store")


def between(calls: list[tuple[str, str]], start: str, stop: str) -> list[tuple[str, str]]:
    return calls[calls.index(("write", start)) + 1 : calls.index(("write", stop))]


@pytest.mark.parametrize("mode", scenario.MODES)
def test_order_of_fsyncs_of_a_commit(tmp_path: Path, mode: str) -> None:
    """Rows are synced before the log names them, and the log before `append` returns."""
    path = tmp_path / "store"
    scenario.create(path, mode, durability="power", chunk_rows=64).close()

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        store.append(scenario.arrays(1, 5))
        for number in (2, 3, 4):
            report(f"begin{number}")
            store.append(scenario.arrays(number, 5))
            report(f"end{number}")
        store.close()

    calls = trace(tmp_path, body)
    names = [spec.name for spec in scenario.fields()]
    tails = {f"episodes/tail/{name}.0" for name in names}
    for number in (2, 3, 4):
        during = between(calls, f"begin{number}", f"end{number}")
        log = during.index(("pwrite64", "episodes/log.0"))
        for tail in tails:
            assert during.index(("pwrite64", tail)) < during.index(("fsync", tail)) < log
        assert during.index(("fsync", "episodes/tail")) < log
        synced = during.index(("fsync", "episodes/log.0"))
        head = during.index(("pwrite64", "episodes/head"))
        assert log < synced < head < during.index(("fsync", "episodes/head"))
    print(f"{mode}: the order of 3 commits")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_order_of_fsyncs_of_a_seal_and_an_eviction(tmp_path: Path, mode: str) -> None:
    """A tail goes after the log has the seal of its chunk, a chunk after the log has its eviction."""
    path = tmp_path / "store"
    scenario.create(path, mode, durability="power", chunk_rows=8, capacity=20).close()

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        for number in range(12):
            store.append(scenario.arrays(number, 8))
            store.flush()
        store.close()

    calls = trace(tmp_path, body)
    tails = [at for at, call in enumerate(calls) if call[0] == "unlink" and call[1].startswith("episodes/tail/")]
    chunks = [
        at for at, call in enumerate(calls) if call[0] == "unlink" and "/c." in call[1] and "episodes" not in call[1]
    ]
    evicted = 0
    for at in tails:
        name, _, chunk = calls[at][1].removeprefix("episodes/tail/").rpartition(".")
        made = [
            k for k, call in enumerate(calls[:at])
            if (call[0] in ("rename", "link", "linkat") and call[1].startswith(f"{name}/c.{chunk}."))
            or call == ("rename", f"{name}/c.{chunk}.0.0.partial")
        ]  # fmt: skip
        assert made, calls[at]
        after = calls[made[-1] : at]
        named = after.index(("fsync", name))
        logged = after.index(("pwrite64", "episodes/log.0"))
        assert named < logged < after.index(("fsync", "episodes/log.0"))
    for at in chunks:
        name, chunk = calls[at][1].split("/")
        made_at = [
            k for k, call in enumerate(calls[:at]) if call[0] in ("rename", "link") and call[1] == f"{name}/{chunk}"
        ]
        if not made_at:
            continue
        before = calls[made_at[-1] : at]
        evicted += 1
        last_log = max(k for k, call in enumerate(before) if call == ("pwrite64", "episodes/log.0"))
        assert ("fsync", "episodes/log.0") in before[last_log:]
        assert ("fsync", "episodes/head") in before[last_log:]
    assert len(tails) >= 12 * len(scenario.fields())
    assert evicted >= 8 * len(scenario.fields())
    print(f"{mode}: {len(tails)} tails and {evicted} evicted chunk files unlinked in order")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_flush_with_sync_reaches_every_file(tmp_path: Path, mode: str) -> None:
    """Durability `process`: what was written since the last sync is fsynced, tails that stay open among them."""
    path = tmp_path / "store"
    scenario.create(path, mode, chunk_rows=16).close()

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        for number in range(6):
            report(f"begin{number}")
            store.append(scenario.arrays(number, 5))
            store.flush(sync=True)
            report(f"end{number}")
        os_exit_without_close(store)

    calls = trace(tmp_path, body)
    checked = 0
    for number in range(6):
        during = between(calls, f"begin{number}", f"end{number}")
        written = {name for call, name in during if call == "pwrite64" and name.startswith("episodes/tail/")}
        gone = {name for call, name in during if call == "unlink"}
        assert written
        head = max(k for k, call in enumerate(during) if call == ("pwrite64", "episodes/head"))
        for name in written - gone:
            assert ("fsync", name) in during[:head], (number, name)
            checked += 1
        assert during[head + 1 :].count(("fsync", "episodes/head")) == 1
    print(f"{mode}: {checked} tail files in 6 syncs")


def test_what_a_killed_writer_left_is_synced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "store"
    scenario.create(path, "half", chunk_rows=8).close()
    scenario.run_child(lambda report: os_exit_without_close(ReplayStore.open(path), 3))

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        report("begin")
        store.flush(sync=True)
        report("end")
        os_exit_without_close(store)

    during = between(trace(tmp_path, body), "begin", "end")
    catalog = scenario.catalog_of(path)
    paths = Paths(path)
    for column in catalog.columns:
        for chunk in catalog.seals:
            assert ("fsync", str(paths.chunk(column.name, chunk, column.ndim).relative_to(path))) in during
        for chunk in catalog.segments:
            assert ("fsync", str(paths.tail(column.name, chunk).relative_to(path))) in during
    assert catalog.seals
    assert catalog.segments
    print(f"{len(catalog.seals)} chunks and {len(catalog.segments)} tails of {len(catalog.columns)} fields")


def os_exit_without_close(store: ReplayStore, episodes: int = 0) -> None:
    """Leaves a child as a kill would: nothing is closed."""
    for number in range(episodes):
        store.append(scenario.arrays(number, 7))
    if episodes:
        store.flush()


# Stores as a power cut may leave them


class Cut:
    """A store of a killed writer, `process` durability, copied so that each trial can break it anew."""

    def __init__(
        self,
        tmp_path: Path,
        mode: str,
        monkeypatch: pytest.MonkeyPatch,
        *,
        synced_after: int,
        capacity: int | None = None,
    ) -> None:
        self.original = tmp_path / "original"
        self._work = tmp_path / "work"
        scenario.create(self.original, mode, chunk_rows=8, capacity=capacity).close()

        def body(report: Callable[[str], None]) -> None:
            store = ReplayStore.open(self.original)
            for number in range(14):
                store.append(scenario.arrays(number, 2 + number % 5))
                if number == synced_after:
                    store.flush(sync=True)
            store.flush()

        scenario.run_child(body)
        self.synced_after = synced_after
        real = layout.boot_id()
        monkeypatch.setattr(layout, "boot_id", lambda: bytes(b ^ 0x5A for b in real))

    def fresh(self) -> Path:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self.original, self._work)
        return self._work

    def check(self, path: Path) -> int:
        """A prefix, at least what was synced, in every way to open it; returns its length."""
        with ReplayStore.open(path, read_only=True) as reader:
            before = self.numbers(reader)
        with ReplayStore.open(path, residency="mapped") as writer:
            found = self.numbers(writer)
            assert found == before
            assert writer.verify().ok
            writer.append(scenario.arrays(99))
        with ReplayStore.open(path, read_only=True) as reader:
            assert self.numbers(reader) == [*found, 99]
            assert reader.verify().ok, reader.verify().problems
        assert found == list(range(len(found)))
        assert len(found) > self.synced_after, "what was synced is lost"
        return len(found)

    @staticmethod
    def numbers(store: ReplayStore) -> list[int]:
        return [scenario.check_live(store, info.episode)[0] for info in store.episodes()]


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("synced_after", [-1, 6])
def test_files_lost_by_a_power_cut(
    tmp_path: Path, mode: str, synced_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any unsynced file zeroed, emptied or missing: a prefix of the commits is left, and all that was synced."""
    cut = Cut(tmp_path, mode, monkeypatch, synced_after=synced_after)
    head = layout_head(cut.original)
    unsynced = unsynced_files(cut.original, head)
    assert unsynced
    rng = np.random.default_rng(3)
    lengths = []
    whole = cut.check(cut.fresh())
    assert whole == 14
    ways = ("zeros", "empty", "missing", "half")
    for turn, name in enumerate(unsynced):
        path = cut.fresh()
        lose(path / name, ways[(turn + turn // 4) % 4])
        lengths.append(cut.check(path))
        # No episode that ends before what is lost is lost with it.
        number = int(name.rpartition(".")[2] if "tail" in name else Path(name).name.split(".")[1])
        assert lengths[-1] >= whole_before(cut.original, number), name
    for _ in range(10):  # several at once, and the end of the log
        path = cut.fresh()
        for name in unsynced:
            if rng.random() < 0.3:
                lose(path / name, ways[rng.integers(4)])
        log = Paths(path).log(head.generation)
        data = bytearray(log.read_bytes())
        end = int(rng.integers(head.synced, len(data) + 1))
        data[end:] = bytes(len(data) - end) if rng.random() < 0.5 else b""
        log.write_bytes(data)
        lengths.append(cut.check(path))
    assert min(lengths) < 14
    print(
        f"{mode}, synced after {synced_after}: {len(lengths)} power cuts, {min(lengths)} to {max(lengths)} of 14 left"
    )


def whole_before(root: Path, chunk: int) -> int:
    """Episodes of a store that end before a chunk begins."""
    ends = [info.parts[-1].first_row + info.parts[-1].num_rows for info in scenario.catalog_of(root).index.episodes()]
    return sum(end <= chunk * 8 for end in ends)


def layout_head(root: Path) -> Head:
    with open(Paths(root).head, "rb") as file:
        return layout.read_head(file.fileno(), Paths(root).head)


def unsynced_files(root: Path, head: Head) -> list[str]:
    """Chunk and tail files that the synced part of the log does not name: a power cut may take them."""
    from replaystore.storage.catalog.catalog import Catalog
    from replaystore.storage.catalog.log import LogReader

    paths, reader = Paths(root), LogReader(Paths(root))
    synced, catalog = Catalog("synced"), scenario.catalog_of(root)
    reader.replay(synced, beyond_head=False, stop=max(head.synced, 1))
    reader.close()
    names = []
    for column in catalog.columns:
        names += [paths.chunk(column.name, chunk, column.ndim) for chunk in catalog.seals if chunk not in synced.seals]
        names += [paths.tail(column.name, chunk) for chunk in catalog.segments if chunk not in synced.segments]
    # Where a chunk holds synced rows and is its tail under another name, those rows are on disk.
    shared = {chunk for chunk in catalog.seals if chunk in synced.segments}
    return [
        str(path.relative_to(root))
        for path in names
        if path.stat().st_nlink == 1 or Paths.chunk_number(path.name) not in shared
    ]


def assert_only_derived(problems: list[str]) -> None:
    """Nothing is wrong but files for plain Zarr readers, which a writer makes anew."""
    assert all(problem.endswith("open the store for writing and close it to mend it") for problem in problems), problems


def lose(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "missing":
        path.unlink()
        return
    keep = {"zeros": 0, "half": size // 2, "empty": 0}[how]
    data = path.read_bytes()[:keep] + (b"" if how == "empty" else bytes(size - keep))
    path.unlink()  # the file may be a link
    path.write_bytes(data)


@pytest.mark.parametrize("mode", scenario.MODES)
def test_an_eviction_that_the_log_lost(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unlinks reached the disk and the records of eviction did not: the younger episodes are all there."""
    path = tmp_path / "store"
    scenario.create(path, mode, chunk_rows=8, capacity=1000).close()

    def body(report: Callable[[str], None]) -> None:
        store = ReplayStore.open(path)
        for number in range(12):
            store.append(scenario.arrays(number, 8))
        store.flush()

    scenario.run_child(body)
    real = layout.boot_id()
    monkeypatch.setattr(layout, "boot_id", lambda: bytes(16) if real != bytes(16) else bytes(15) + b"\1")
    trials = 0
    for evicted in (1, 2, 5):
        for partly in (0, 1, 3):
            trial = tmp_path / f"trial{evicted}{partly}"
            shutil.copytree(path, trial)
            columns = scenario.catalog_of(trial).columns
            for chunk in range(evicted):
                names = list(columns) if chunk < evicted - 1 or not partly else list(columns)[-partly:]
                for column in names:
                    Paths(trial).chunk(column.name, chunk, column.ndim).unlink()
            for residency in ("mapped", "files", "ram"):
                with ReplayStore.open(trial, read_only=True, residency=residency) as reader:
                    assert Cut.numbers(reader) == list(range(evicted, 12))
                    assert_only_derived(reader.verify().problems)
            reader = ReplayStore.open(trial, read_only=True)
            with ReplayStore.open(trial) as writer:
                assert Cut.numbers(writer) == list(range(evicted, 12))
                writer.append(scenario.arrays(50))
                writer.flush()
                assert writer.verify().ok
                reader.refresh()
                assert Cut.numbers(reader) == [*range(evicted, 12), 50]
            reader.close()
            trials += 1
    print(f"{mode}: {trials} lost evictions")
