import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_up_episodes import made_up_episode, made_up_frames, write_directory, write_made_up

from replaystore.datasets.convert import convert
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.datasets.export import export
from replaystore.datasets.fields import fields_from_episode, with_schemes
from replaystore.datasets.sources import read_sources, sources_path
from replaystore.errors import (
    CapacityError,
    EpisodeError,
    EpisodeFileError,
    SpecError,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreNotFound,
)
from replaystore.spec import MODES
from replaystore.store import ReplayStore

LENGTHS = [40, 7, 1, 65, 23]


def contents(path):
    """Every episode of a store by id, after checking the store."""
    with ReplayStore.open(path, read_only=True, residency="mapped") as store:
        problems = store.verify().problems
        assert not problems
        return {info.episode: store.read_episode(info.episode) for info in store.episodes()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])


def assert_holds(path, directory, files=None):
    files = files or [entry.path for entry in list_episode_files(directory)]
    episodes = contents(path)
    assert list(episodes) == list(range(len(files)))
    for episode, file in zip(episodes.values(), files, strict=True):
        assert_same(episode, read_episode(file))


# Fields


@pytest.mark.parametrize(("channels", "frame_shape"), [(1, (1, 8, 8)), (3, (3, 8, 8))])
def test_fields_of_stacked_images(channels, frame_shape):
    arrays = made_up_episode(2, 30, channels=channels) | {"observation": _stacks(channels, 12)}
    fields = {field.name: field for field in fields_from_episode(arrays)}
    image = fields["observation"]
    assert (image.shape, image.frame_stack, image.channels) == ((frame_shape[0], 12, 12), 3, "first")
    assert [fields[name].role for name in arrays] == ["observation", "action", "reward", "discount", "extra"]
    assert fields["step"].shape == ()


def _stacks(channels, size, rows=30, channels_last=False):
    stacks = made_up_episode(2, rows, channels=channels, size=size)["observation"]
    return np.ascontiguousarray(np.moveaxis(stacks, 1, -1)) if channels_last else stacks


def test_channels_last_and_zero_padding():
    arrays = {"pixels": np.moveaxis(made_up_episode(1, 20, channels=3, size=12, zeros=True)["observation"], 1, -1)}
    (field,) = fields_from_episode(arrays)
    assert (field.shape, field.frame_stack, field.channels, field.role) == ((12, 12, 3), 3, "last", "observation")


def test_single_frames_and_plain_gray():
    frames = made_up_frames(0, 20, channels=3, size=12)
    (color,) = fields_from_episode({"camera_left": frames})
    assert (color.shape, color.frame_stack) == ((3, 12, 12), 1)
    (gray,) = fields_from_episode({"mask": frames[:, 0]})
    assert (gray.shape, gray.frame_stack, gray.role, gray.is_image) == ((12, 12), 1, "extra", True)


def test_what_cannot_be_told_needs_an_option():
    one_row = {"observation": np.full((1, 3, 12, 12), 9, np.uint8)}
    with pytest.raises(SpecError, match=r"frame_stack=1 \.\. 3"):
        fields_from_episode(one_row)
    assert fields_from_episode(one_row, 3)[0].frame_stack == 3
    cube = {"observation": np.zeros((5, 12, 12, 12), np.uint8)}
    with pytest.raises(SpecError, match="channels='first' or 'last'"):
        fields_from_episode(cube)
    assert fields_from_episode(cube, 4, channels="last")[0].shape == (12, 12, 3)
    with pytest.raises(SpecError, match="does not divide the 3 channels"):
        fields_from_episode(one_row, 2)


def test_an_episode_of_one_row_that_cannot_be_a_stack_is_a_single_frame():
    colors = np.arange(3, dtype=np.uint8)[None, :, None, None] + np.ones((1, 3, 12, 12), np.uint8)
    assert fields_from_episode({"observation": colors})[0].frame_stack == 1


def test_roles():
    arrays = {
        "proprio_arm": np.zeros((4, 5), np.float32),
        "states": np.zeros((4, 5), np.float64),
        "discount": np.zeros((4, 1), np.bool_),
        "reward": np.zeros(4, np.int64),
        "seen": np.zeros(4, np.bool_),
    }
    fields = fields_from_episode(arrays)
    assert [field.role for field in fields] == ["observation"] * 2 + ["discount", "reward", "extra"]
    assert [field.dtype for field in fields] == ["float32", "float64", "float32", "float32", "bool"]
    with pytest.raises(SpecError, match="a reward is one float per row"):
        fields_from_episode({"reward": np.zeros((4, 2), np.float32)})
    assert fields_from_episode(arrays, roles={"seen": "action"})[-1].role == "action"
    with pytest.raises(SpecError, match="no fields \\['nothing'\\]"):
        fields_from_episode(arrays, roles={"nothing": "action"})


@pytest.mark.parametrize("shape", [(21,), (21, 1), (21, 1, 1)])
@pytest.mark.parametrize("dtypes", [("int64", "float32"), ("float32", "bool"), ("int8", "int32"), ("float64", "uint8")])
def test_rewards_and_discounts_of_any_dtype_give_returns(tmp_path, shape, dtypes):
    reward, discount = np.arange(21), np.arange(21) < 20
    episode = {
        "observation": np.arange(84, dtype=np.float32).reshape(21, 4),
        "action": np.zeros((21, 2), np.float32),
        "reward": reward.reshape(shape).astype(dtypes[0]),
        "discount": discount.reshape(shape).astype(dtypes[1]),
    }
    (tmp_path / "episodes").mkdir()
    np.savez(tmp_path / "episodes" / "a_20.npz", **episode)
    convert(tmp_path / "episodes", tmp_path / "store")
    rows = np.arange(1, 19)
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        batch = store.gather(rows, n_step=3, discount=0.5)
    returns = [reward[i] + 0.5 * reward[i + 1] + 0.25 * reward[i + 2] * discount[i + 1] for i in rows]
    assert batch["reward"].reshape(-1).tolist() == returns
    assert batch["discount"].reshape(-1).tolist() == [0.125] * 17 + [0]


@pytest.mark.parametrize("name", ["Observation", "next_observation", "episodes", "a-b"])
def test_names_that_a_store_cannot_have(name):
    with pytest.raises(SpecError, match="rename"):
        fields_from_episode({name: np.zeros((4, 5), np.float32)})


def test_arrays_without_rows():
    with pytest.raises(SpecError, match="at least one row"):
        fields_from_episode({"action": np.zeros((0, 3), np.float32)})
    with pytest.raises(SpecError, match="at least one row"):
        fields_from_episode({"action": np.float32(3)[()].reshape(())})


def test_schemes_are_completed_from_the_field():
    fields = fields_from_episode(made_up_episode(0, 20))
    found = {
        field.name: field.scheme
        for field in with_schemes(fields, {"action": {"id": "replaystore.round_clamp", "decimals": 1}}, {"level": 9})
    }
    assert found["action"]["row_size"] == 3
    assert found["action"]["dtype"] == "float64"
    assert tuple(found["observation"]["frame_shape"]) == (1, 8, 8)
    assert found["observation"]["level"] == 9
    with pytest.raises(SpecError, match="no fields"):
        with_schemes(fields, {"velocity": {"id": "replaystore.round_clamp"}}, None)


# Conversion


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zeros", [False, True])
def test_all_arrays_come_back(tmp_path, mode, zeros):
    source = write_directory(tmp_path / "in", LENGTHS, channels=3, zeros=zeros, size=12)
    seen = []
    report = convert(
        source, tmp_path / "store", mode=mode, chunk_rows=32, progress=lambda done, total: seen.append((done, total))
    )
    assert (report.converted, report.already_present, report.skipped) == (5, 0, ())
    assert report.transitions == sum(LENGTHS) - len(LENGTHS)
    assert seen[-1] == (5, 5)
    assert_holds(tmp_path / "store", source)
    assert read_sources(tmp_path / "store").complete
    exported = export(tmp_path / "store", tmp_path / "out")
    assert exported.written == 5
    for file in list_episode_files(source):
        assert_same(read_episode(tmp_path / "out" / file.path.name), read_episode(file.path))
    assert export(tmp_path / "store", tmp_path / "out").already_present == 5
    assert {path.name for path in tmp_path.iterdir()} == {"in", "store", "out"}


def test_a_directory_that_grew(tmp_path):
    source = write_directory(tmp_path / "in", LENGTHS[:2])
    convert(source, tmp_path / "store", chunk_rows=32)
    before = (tmp_path / "store/observation/c.0.0.0.0").stat()
    write_directory(source, LENGTHS[2:], first=2)
    report = convert(source, tmp_path / "store")
    assert (report.converted, report.already_present) == (3, 2)
    assert_holds(tmp_path / "store", source)
    after = (tmp_path / "store/observation/c.0.0.0.0").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert convert(source, tmp_path / "store").converted == 0


def test_a_file_that_sorts_before_those_that_are_in(tmp_path):
    source = write_directory(tmp_path / "in", [10, 11], first=5)
    convert(source, tmp_path / "store")
    late = write_made_up(source, 2, 12)
    assert convert(source, tmp_path / "store").converted == 1
    order = [entry.path for entry in list_episode_files(source) if entry.path != late] + [late]
    assert_holds(tmp_path / "store", source, order)


def test_capacity(tmp_path):
    source = write_directory(tmp_path / "in", [20, 20, 20])
    convert(source, tmp_path / "store", capacity=40)
    assert list(contents(tmp_path / "store")) == [1, 2]
    assert convert(source, tmp_path / "store").converted == 0
    write_made_up(source, 3, 60)
    with pytest.raises(CapacityError, match="_3_59"):
        convert(source, tmp_path / "store")
    assert list(contents(tmp_path / "store")) == [1, 2]
    assert len(read_sources(tmp_path / "store").entries) == 4  # the announcement, dropped by the next run
    (source / "20260101T000003_3_59.npz").unlink()
    assert convert(source, tmp_path / "store").converted == 0
    assert len(read_sources(tmp_path / "store").entries) == 3


def test_empty_directory_and_an_empty_one_as_the_store(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(EpisodeFileError, match="found an empty directory"):
        convert(tmp_path / "in", tmp_path / "store")
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()
    convert(write_directory(tmp_path / "in", [5, 6]), tmp_path / "store")
    assert_holds(tmp_path / "store", tmp_path / "in")


def test_a_failed_creation_leaves_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    np.savez_compressed(source / "20260101T000000_0_4.npz", Observation=np.zeros((5, 3)))
    with pytest.raises(SpecError, match="rename"):
        convert(source, tmp_path / "store")
    source = write_directory(tmp_path / "in2", [5])
    with pytest.raises(SpecError):
        convert(source, tmp_path / "store", mode="half", frame_delta={"level": 3})
    assert {path.name for path in tmp_path.iterdir()} == {"in", "in2"}


def test_something_else_at_the_path(tmp_path):
    source = write_directory(tmp_path / "in", [5])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(StoreExists, match="choose another path"):
        convert(source, tmp_path / "other")
    assert (tmp_path / "other/file").read_text() == "mine"
    arrays = made_up_episode(0, 5)
    with ReplayStore.create(tmp_path / "trained", fields_from_episode(arrays)) as store:
        store.append(arrays)
    with pytest.raises(StoreExists, match="made by a conversion"):
        convert(source, tmp_path / "trained")


def test_other_options_than_those_of_the_store(tmp_path):
    source = write_directory(tmp_path / "in", [5, 9])
    convert(source, tmp_path / "store", frame_delta={"level": 5})
    convert(source, tmp_path / "store", frame_delta={"level": 5}, frame_stack=3, chunk_rows=1024, durability="process")
    for options, what in [
        ({"mode": "half"}, "mode"),
        ({"frame_stack": 1}, "frame_stack"),
        ({"capacity": 9}, "capacity"),
        ({"chunk_rows": 9}, "chunk_rows"),
        ({"frame_delta": {"level": 6}}, "scheme of 'observation'"),
        ({"durability": "power"}, "durability"),
        ({"roles": {"step": "action"}}, "role of 'step'"),
    ]:
        with pytest.raises(SpecError, match=f"{what}.*convert into a new store"):
            convert(source, tmp_path / "store", **options)


def test_episodes_of_another_task(tmp_path):
    source = write_directory(tmp_path / "in", [5])
    convert(source, tmp_path / "store")
    write_directory(tmp_path / "in", [6], first=1, channels=3)
    with pytest.raises(SpecError, match=r"_1_5.npz: expected the store's fields"):
        convert(source, tmp_path / "store", skip_damaged=True)
    assert len(contents(tmp_path / "store")) == 1


def test_a_file_that_changed(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    convert(source, tmp_path / "store")
    (source / "20260101T000001_1_5.npz").write_bytes(b"other")
    with pytest.raises(EpisodeFileError, match=r"_1_5.npz: expected the \d+ bytes"):
        convert(source, tmp_path / "store")


def test_damaged_files(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6, 7, 8])
    damaged = source / "20260101T000001_1_5.npz"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    broken = source / "20260101T000002_2_6.npz"
    arrays = made_up_episode(2, 7)
    arrays["observation"][3, 0] ^= 255
    np.savez_compressed(broken, **arrays)
    (source / "20260101T000009_9_9.npz").symlink_to(damaged)
    with pytest.raises(EpisodeFileError, match="_1_5"):
        convert(source, tmp_path / "store")
    assert not read_sources(tmp_path / "store").complete
    report = convert(source, tmp_path / "store", skip_damaged=True)
    assert (report.converted, report.already_present) == (1, 1)
    names = ["20260101T000001_1_5.npz", "20260101T000002_2_6.npz", "20260101T000009_9_9.npz"]
    assert [skipped.file for skipped in report.skipped] == names
    assert "row 3" in report.skipped[1].reason
    damaged.unlink()
    with pytest.raises(EpisodeError, match="row 3"):
        convert(source, tmp_path / "store")
    assert [source.file[-9:] for source in read_sources(tmp_path / "store").entries] == ["0_0_4.npz", "3_3_7.npz"]


def test_the_first_file_is_damaged(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    (source / "20260101T000000_0_4.npz").write_bytes(b"PK")
    with pytest.raises(EpisodeFileError, match="_0_4"):
        convert(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert convert(source, tmp_path / "store", skip_damaged=True).converted == 1


def test_a_second_conversion_is_refused_while_one_runs(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    refused = []

    def progress(done, total):
        if done == 1 and not refused:
            with pytest.raises(StoreLocked) as caught:
                convert(source, tmp_path / "store")
            refused.append(caught.value)

    assert convert(source, tmp_path / "store", progress=progress).converted == 2
    assert refused
    assert_holds(tmp_path / "store", source)


def test_conversions_at_the_same_time(tmp_path):
    source = write_directory(tmp_path / "in", [30] * 12, size=24)
    runs = [start_conversion(source, tmp_path / "store") for _ in range(3)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert 0 in [run.returncode for run in runs]
    assert all(run.returncode == 0 or b"StoreLocked" in error for run, error in zip(runs, errors, strict=True))
    assert convert(source, tmp_path / "store").converted == 0
    assert_holds(tmp_path / "store", source)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "store"}


# Interruptions

_CONVERT = (
    "import sys; from replaystore.datasets.convert import convert\n"
    "convert(*sys.argv[1:3], mode=sys.argv[3], chunk_rows=64)"
)


def start_conversion(source, store, mode="full"):
    return subprocess.Popen(
        [sys.executable, "-c", _CONVERT, str(source), str(store), mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_kills(tmp_path):
    source = write_directory(tmp_path / "in", [50 + 7 * (k % 5) for k in range(40)], size=24)
    files = [entry.path for entry in list_episode_files(source)]
    rng = np.random.default_rng(0)
    mode, store, hits = "full", tmp_path / "store", 0
    for trial in range(12):
        run = start_conversion(source, store, mode)
        head = sources_path(store)
        before = head.stat().st_size if head.exists() else -1
        while run.poll() is None and (not head.exists() or head.stat().st_size == before):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.08)))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        hits += run.returncode == -signal.SIGKILL
        if store.exists():
            found = contents(store)
            assert len(found) <= len(files)
            for episode, file in zip(found.values(), files, strict=False):
                assert_same(episode, read_episode(file))
            if read_sources(store).complete:
                shutil.rmtree(store)
                mode = MODES[trial % 3]
    assert hits >= 4
    convert(source, store, mode=mode, chunk_rows=64)
    assert_holds(store, source)
    assert convert(source, store, mode=mode).converted == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in", "store"}


def test_a_kill_while_the_store_is_made(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    stale = tmp_path / ".store.replaystore-new"
    (stale / "observation").mkdir(parents=True)
    assert convert(source, tmp_path / "store").converted == 2
    assert_holds(tmp_path / "store", source)
    assert not stale.exists()


_STOP = """
import os, sys
from replaystore.datasets.convert import convert
from replaystore.store import ReplayStore
append, calls = ReplayStore.append, []
def stop(store, episode):
    calls.append(1)
    if len(calls) == 3 and sys.argv[3] == "before":
        os._exit(9)
    append(store, episode)
    if len(calls) == 3:
        os._exit(9)
    return len(calls) - 1
ReplayStore.append = stop
convert(*sys.argv[1:3], chunk_rows=32)
"""


@pytest.mark.parametrize("stop", ["before", "after"])
def test_a_stop_beside_the_commit(tmp_path, stop):
    source = write_directory(tmp_path / "in", LENGTHS)
    run = subprocess.run([sys.executable, "-c", _STOP, str(source), str(tmp_path / "store"), stop], check=False)
    assert run.returncode == 9
    assert not read_sources(tmp_path / "store").complete
    report = convert(source, tmp_path / "store")
    assert report.already_present == (2 if stop == "before" else 3)
    assert_holds(tmp_path / "store", source)


def test_a_torn_line_is_dropped(tmp_path):
    source = write_directory(tmp_path / "in", LENGTHS)
    convert(source, tmp_path / "store")
    path = sources_path(tmp_path / "store")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"episode":5,"fi')
    assert read_sources(tmp_path / "store").complete
    convert(source, tmp_path / "store")
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        {"episode": 9, "file": "../x.npz", "file_bytes": 1, "rows": 1},
        {"episode": 9, "file": "x.npz", "file_bytes": -1, "rows": 1},
        {"episode": 0, "file": "x.npz", "file_bytes": 1, "rows": 1},
        {"episode": 9, "file": "20260101T000000_0_39.npz", "file_bytes": 1, "rows": 1},
        {"episode": 9},
        [],
        "text",
    ],
)
def test_damaged_sources(tmp_path, line):
    source = write_directory(tmp_path / "in", LENGTHS)
    convert(source, tmp_path / "store")
    path = sources_path(tmp_path / "store")
    path.write_bytes(path.read_bytes() + json.dumps(line).encode() + b"\n")
    with pytest.raises(StoreError, match=r"sources.jsonl, line \d"):
        convert(source, tmp_path / "store")
    with pytest.raises(StoreError, match=r"sources.jsonl, line \d"):
        export(tmp_path / "store", tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"sources.jsonl, line 1"):
        convert(source, tmp_path / "store")


def test_episodes_from_elsewhere(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    convert(source, tmp_path / "store")
    with ReplayStore.open(tmp_path / "store") as store:
        store.append(made_up_episode(77, 9))
    write_made_up(source, 2, 7)
    assert convert(source, tmp_path / "store").converted == 1
    found = contents(tmp_path / "store")
    assert [len(episode["reward"]) for episode in found.values()] == [5, 6, 9, 7]
    report = export(tmp_path / "store", tmp_path / "out")
    assert report.written == 4
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[0] == "20000101T000002_2_8.npz"
    path = sources_path(tmp_path / "store")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # one episode, not complete
    with pytest.raises(StoreError, match="from elsewhere"):
        convert(source, tmp_path / "store")


# Export


def test_export_never_overwrites(tmp_path):
    source = write_directory(tmp_path / "in", [5, 6])
    convert(source, tmp_path / "store")
    export(tmp_path / "store", tmp_path / "out")
    target = write_made_up(tmp_path / "out", 1, 6, zeros=True)
    before = target.read_bytes()
    with pytest.raises(EpisodeFileError, match="export into another directory"):
        export(tmp_path / "store", tmp_path / "out")
    assert target.read_bytes() == before
    with pytest.raises(StoreNotFound):
        export(tmp_path / "in", tmp_path / "out2")
    assert not Path(tmp_path / "out2").exists()


def test_export_of_a_store_that_was_not_converted_sorts_like_its_episodes(tmp_path):
    arrays = [made_up_episode(number, 4) for number in range(12)]
    with ReplayStore.create(tmp_path / "store", fields_from_episode(arrays[0])) as store:
        for episode in arrays:
            store.append(episode)
    export(tmp_path / "store", tmp_path / "out")
    for path, expected in zip(sorted((tmp_path / "out").iterdir()), arrays, strict=True):
        with np.load(path) as found:
            assert_same({name: found[name] for name in found.files}, expected)
