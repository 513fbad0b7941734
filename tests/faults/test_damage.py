"""Damaged files: every change is reported, by a typed error or by `verify`, and what is not damaged stays readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from faults import scenario

from replaystore import FieldSpec, ReplayStore
from replaystore.errors import ChunkError, DamageError, FormatVersionError, LogError, ReplayStoreError
from replaystore.storage.format import layout
from replaystore.storage.format.layout import Paths

LARGE = (32, 32)  # rows of 1,024 bytes and more have a checksum each


def closed_store(path: Path, mode: str, episodes: int = 4, frame_shape: tuple[int, ...] = scenario.FRAME) -> Path:
    with scenario.create(path, mode, frame_shape) as store:
        for number in range(episodes):
            store.append(scenario.arrays(number, 5, frame_shape))
    return path


def live_store(path: Path, mode: str, frame_shape: tuple[int, ...] = scenario.FRAME) -> Path:
    """A store whose writer was killed: sealed chunks, and rows in the tail."""
    scenario.create(path, mode, frame_shape).close()

    def body(report: object) -> None:
        store = ReplayStore.open(path)
        for number in range(4):
            store.append(scenario.arrays(number, 5, frame_shape))
        store.flush()

    scenario.run_child(body)
    assert scenario.catalog_of(path).segments
    assert scenario.catalog_of(path).seals
    return path


def outcome(path: Path, residency: str = "mapped") -> str:
    """What becomes of a damaged store: how it is noticed, or an empty string."""
    try:
        with ReplayStore.open(path, read_only=True, residency=residency) as store:
            report = store.verify()
            return "" if report.ok else "verify"
    except ReplayStoreError as err:
        return type(err).__name__


def test_every_bit_of_a_tiny_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fields = [FieldSpec.image("o", (3, 4)), FieldSpec(name="r", shape=(1,), dtype="float32", role="reward")]
    with ReplayStore.create(path, fields, mode="full", chunk_rows=4) as store:
        for number in range(3):
            frames = scenario.arrays(number, 3, (3, 4))
            store.append({"o": frames["observation"], "r": frames["reward"]})
    counts: dict[str, int] = {}
    with ReplayStore.open(path, read_only=True) as store:
        assert store.verify().ok
        for file in scenario.data_files(path):
            data = file.read_bytes()
            derived = file.name == "zarr.json"
            with open(file, "r+b", buffering=0) as handle:
                for at in range(len(data)):
                    # One bit a byte of the JSON files, which are compared as they are, of the zeros in a slot, and of
                    # every other byte of the first record.
                    sparse = (
                        derived
                        or (file.name == "log.0" and 20 <= at < 900 and at % 2)
                        or (file.name == "head" and 56 <= at % layout.HEAD_SLOT_BYTES < 508)
                    )
                    for bit in [(at * 5 + 3) % 8] if sparse else range(8):
                        handle.seek(at)
                        handle.write(bytes([data[at] ^ (1 << bit)]))
                        try:
                            assert not store.verify().ok, f"{file}, byte {at}, bit {bit} went unnoticed"
                        finally:
                            handle.seek(at)
                            handle.write(data[at : at + 1])
                        counts[file.parent.name] = counts.get(file.parent.name, 0) + 1
        assert store.verify().ok
    print(f"{sum(counts.values())} flips: {counts}")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_flips_and_truncations_of_a_closed_store(tmp_path: Path, mode: str) -> None:
    path = closed_store(tmp_path / "store", mode)
    rng = np.random.default_rng(5)
    seen: dict[str, int] = {}
    assert outcome(path) == ""
    descriptors = scenario.open_descriptors()
    for file in scenario.data_files(path):
        data = file.read_bytes()
        for at in sorted({0, len(data) - 1, *rng.integers(0, len(data), 14).tolist()}):
            for changed in (data[at] ^ 0xFF, data[at] ^ (1 << int(rng.integers(8)))):
                file.write_bytes(data[:at] + bytes([changed]) + data[at + 1 :])
                found = outcome(path, ("mapped", "files", "ram")[at % 3])
                assert found, f"{file}: byte {at} {data[at]:#x} -> {changed:#x} went unnoticed"
                seen[found] = seen.get(found, 0) + 1
        for length in sorted({0, 1, len(data) - 1, len(data) // 2, *rng.integers(0, len(data), 4).tolist()}):
            file.write_bytes(data[:length])
            found = outcome(path)
            assert found, f"{file}: {length} of {len(data)} bytes went unnoticed"
            seen[found] = seen.get(found, 0) + 1
        if "log" not in file.name:
            file.write_bytes(data + b"\0")
            found = outcome(path)
            assert found, f"{file}: one byte more went unnoticed"
            seen[found] = seen.get(found, 0) + 1
        file.unlink()
        found = outcome(path)
        assert found, f"{file}: missing, and went unnoticed"
        seen[found] = seen.get(found, 0) + 1
        file.write_bytes(data)
    assert outcome(path) == ""
    assert scenario.open_descriptors() <= descriptors, "an opening that failed left files open"
    print(f"{mode}: {sum(seen.values())} damages: {seen}")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_truncation_at_every_length(tmp_path: Path, mode: str) -> None:
    path = closed_store(tmp_path / "store", mode, episodes=2)
    paths, catalog = Paths(path), scenario.catalog_of(path)
    files = [paths.chunk(column.name, 0, column.ndim) for column in catalog.columns] + [paths.log(0), paths.head]
    count = 0
    with ReplayStore.open(path, read_only=True) as store:
        for file in files:
            data = file.read_bytes()
            for length in range(len(data) - 1, -1, -1 if len(data) < 700 else -3):
                with open(file, "r+b") as handle:
                    handle.truncate(length)
                assert not store.verify().ok, f"{file}: {length} of {len(data)} bytes went unnoticed"
                count += 1
            file.write_bytes(data)
        assert store.verify().ok
    print(f"{mode}: {count} lengths")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_swapped_chunks_of_one_size(tmp_path: Path, mode: str) -> None:
    count = 0
    for shape in (scenario.FRAME, LARGE):
        path = tmp_path / f"store{shape[0]}"
        with scenario.create(path, mode, shape) as store:
            for number in range(6):
                store.append(scenario.arrays(number, 8, shape))
        paths, catalog = Paths(path), scenario.catalog_of(path)
        for column in catalog.columns:
            one, other = paths.chunk(column.name, 1, column.ndim), paths.chunk(column.name, 5, column.ndim)
            first, second = one.read_bytes(), other.read_bytes()
            if len(first) != len(second):
                continue
            one.write_bytes(second)
            other.write_bytes(first)
            for residency in ("mapped", "files", "ram"):
                assert outcome(path, residency), column.name
                with (
                    pytest.raises(ChunkError, match=column.name),
                    ReplayStore.open(path, read_only=True, residency=residency) as store,
                ):
                    store.read_episode(1)
                count += 1
            one.write_bytes(first)
            other.write_bytes(second)
        assert outcome(path) == ""
    assert count >= 16
    print(f"{mode}: {count} swaps")


@pytest.mark.parametrize("mode", scenario.MODES)
@pytest.mark.parametrize("shape", [scenario.FRAME, LARGE])
def test_damage_met_by_gather(tmp_path: Path, mode: str, shape: tuple[int, int]) -> None:
    """Wrong bytes never reach a batch: the damaged row raises `ChunkError`, the other chunks are read exactly."""
    path = tmp_path / "store"
    with scenario.create(path, mode, shape) as store:
        for number in range(5):
            store.append(scenario.arrays(number, 8, shape))
    paths, catalog = Paths(path), scenario.catalog_of(path)
    rng = np.random.default_rng(1)
    raised = read = 0
    for column in (catalog.columns[0], catalog.columns[4]):
        file = paths.chunk(column.name, 2, column.ndim)
        data = file.read_bytes()
        for trial in range(12):
            at = int(rng.integers(0, len(data)))
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << trial % 8)]) + data[at + 1 :])
            with pytest.raises(ReplayStoreError), ReplayStore.open(path, read_only=True, residency="ram"):
                pass
            with ReplayStore.open(path, read_only=True, residency="mapped") as store:
                assert not store.verify().ok
                for number in (0, 1, 3, 4):
                    rows = np.arange(number * 8 + 1, number * 8 + 8)
                    batch = store.gather(rows, discount=0.5)
                    read += scenario.check_batch(batch, 1, 0.5, shape)
                # A flip in the frame of one row need not be met by reading another: each row alone, twice.
                damaged = 0
                for row in range(17, 24):
                    for _ in range(2):
                        try:
                            batch = store.gather(np.array([row]), discount=0.5)
                        except (ChunkError, FormatVersionError) as err:
                            damaged += str(file) in str(err)
                        else:
                            read += scenario.check_batch(batch, 1, 0.5, shape)
                assert damaged >= 2, f"{column.name}: byte {at} went unnoticed"
                raised += damaged
        file.write_bytes(data)
    assert outcome(path) == ""
    print(f"{mode} {shape}: 24 flips, {raised} errors, {read} exact transitions")


@pytest.mark.parametrize("mode", scenario.MODES)
def test_damage_of_a_live_store(tmp_path: Path, mode: str) -> None:
    """Tails, chunks, log and head of a store that nobody closed. Files derived for Zarr lag behind there."""
    path = live_store(tmp_path / "store", mode)
    backup = tmp_path / "backup"
    shutil.copytree(path, backup)
    paths, catalog = Paths(path), scenario.catalog_of(path)
    rng = np.random.default_rng(2)
    seen: dict[str, int] = {}
    derived = {paths.group, paths.chunk(layout.EPISODES, 0, 2)} | {
        file for file in scenario.data_files(path) if file.name == "zarr.json"
    }
    used_rows = {chunk: sum(s.num_rows for s in segments) for chunk, segments in catalog.segments.items()}
    used = {
        paths.tail(column.name, chunk): rows * column.row_bytes
        for column in catalog.columns
        for chunk, rows in used_rows.items()
    }
    descriptors = scenario.open_descriptors()
    for file in scenario.data_files(path):
        if file in derived:
            continue
        data = file.read_bytes()
        end = used.get(file, len(data))
        for at in sorted({0, end - 1, *rng.integers(0, end, 12).tolist()}):
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
            found = outcome(path)
            assert found, f"{file}: byte {at} went unnoticed"
            seen[found] = seen.get(found, 0) + 1
            check_writer(path, backup, bool(at % 2))
        for length in sorted({0, end - 1, end // 2}):
            file.write_bytes(data[:length])
            found = outcome(path)
            assert found, f"{file}: {length} of {end} bytes went unnoticed"
            seen[found] = seen.get(found, 0) + 1
        file.write_bytes(data)
    assert outcome(path) == ""
    assert scenario.open_descriptors() <= descriptors, "an opening that failed left files open"
    print(f"{mode}: {sum(seen.values())} damages: {seen}")


def check_writer(path: Path, backup: Path, do: bool) -> None:
    """A writer that opens a damaged live store raises a typed error, or has every episode exactly."""
    if not do:
        return
    trial = path.with_name("trial")
    shutil.copytree(path, trial)
    try:
        store = ReplayStore.open(trial, residency="mapped")
    except ReplayStoreError:
        shutil.rmtree(trial)
        return
    try:
        infos = store.episodes()
        assert len(infos) == 4, "an episode was lost in silence"
        for info in infos:
            try:
                scenario.check_live(store, info.episode)
            except DamageError:
                pass
    finally:
        try:
            store.close()
        except ReplayStoreError:
            pass
        shutil.rmtree(trial)


def test_torn_end_of_the_log(tmp_path: Path) -> None:
    """Beyond the head a torn record is dropped, a whole one counts for the writer; before it, damage is an error."""
    path = live_store(tmp_path / "store", "full")
    log = Paths(path).log(0)
    data = log.read_bytes()
    catalog = scenario.catalog_of(path)
    more = layout.pack_record(
        layout.CONFIG, catalog.sequence, json.dumps({"capacity": 7, "disk_budget_bytes": None}).encode()
    )
    trial = tmp_path / "trial"
    for length in range(len(more) + 1):
        shutil.copytree(path, trial)
        Paths(trial).log(0).write_bytes(data + more[:length])
        with ReplayStore.open(trial, read_only=True) as reader:
            assert [info.episode for info in reader.episodes()] == [0, 1, 2, 3]
            assert reader.capacity is None
            assert reader.verify().ok
        if length % 5 == 0 or length == len(more):
            with ReplayStore.open(trial) as writer:
                assert writer.capacity == (7 if length == len(more) else None)
                assert writer.num_episodes == (1 if length == len(more) else 4)
                writer.append(scenario.arrays(9, 4))
            assert outcome(trial) == ""
        shutil.rmtree(trial)
    records = [record.end for record in layout.read_records(data, 0, 0, len(data), "")]
    for end in records[:-1]:
        log.write_bytes(data[: end + 3])
        with pytest.raises(LogError, match=r"log\.0"):
            ReplayStore.open(path)
        with pytest.raises(LogError, match=r"log\.0"):
            ReplayStore.open(path, read_only=True)
    print(f"{len(more) + 1} torn ends, {len(records) - 1} tears before the head")


def test_the_lock_file_is_not_data(tmp_path: Path) -> None:
    path = closed_store(tmp_path / "store", "full")
    for content in (b"", b"\xff\xfe garbage \0" * 100, b"process 1 on elsewhere"):
        Paths(path).lock.write_bytes(content)
        assert outcome(path) == ""
        with ReplayStore.open(path) as store:
            assert store.num_episodes == 4
    Paths(path).lock.unlink()
    assert outcome(path) == ""


@pytest.mark.parametrize("version", [0, 2, 77, "1", None])
def test_another_format_version(tmp_path: Path, version: object) -> None:
    path = closed_store(tmp_path / "store", "full", episodes=0)
    log = Paths(path).log(0)
    data = log.read_bytes()
    first, *rest = layout.read_records(data, 0, 0, len(data), "")
    spec = {**json.loads(first.payload), "format_version": version}
    payload = json.dumps(spec, sort_keys=True).encode()
    end = len(layout.pack_record(layout.CREATE, 0, payload))
    log.write_bytes(layout.pack_record(layout.CREATE, 0, payload) + data[first.end :])
    with open(Paths(path).head, "rb") as file:
        head = layout.read_head(file.fileno(), Paths(path).head)
    moved = len(data) - first.end + end
    Paths(path).head.write_bytes(
        layout.Head(sequence=9, generation=0, committed=moved, synced=moved, boot_id=head.boot_id)
        .pack()
        .ljust(1024, b"\0")
    )
    for read_only in (True, False):
        with pytest.raises(FormatVersionError, match=str(version)):
            ReplayStore.open(path, read_only=read_only)
    assert len(rest) >= 1
