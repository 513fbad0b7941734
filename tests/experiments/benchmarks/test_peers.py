"""Other buffers, fed with self-identifying episodes, and the check of their batches, fed with wrong ones.

Tests of torchrl, sb3-extra-buffers and av skip where those are not installed (`pip install -e '.[peers]'`); those of
the checkouts of DrQ-v2 and drqv2_compress run where REPLAYSTORE_DRQV2 and REPLAYSTORE_DRQV2_COMPRESS name them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from experiments.benchmarks.peers import cpprb, drqv2, drqv2_compress, stable_baselines3, torchrl, video
from experiments.benchmarks.peers.check import Checker
from experiments.benchmarks.peers.data import PeerData, PeerEpisode, take_episodes
from experiments.benchmarks.peers.peer import Peer, Unable, array_bytes, imported, module_from
from experiments.benchmarks.peers.registry import candidates
from replaystore import ReplayStore
from replaystore.errors import SpecError
from replaystore.spec import FieldSpec
from replaystore.testing.episodes import make_episode, stacks

LENGTHS = (12, 9, 20)
RGB, GRAY = (3, 8, 6), (8, 6)


def fill(numbers, frame_shape, terminated=False):
    """Episodes as the peers get them; of rewards that differ, discounts of 1 but for a terminal state."""
    episodes = []
    for number, rows in numbers:
        made = make_episode(number, rows, frame_shape)
        discount = np.ones(rows, np.float32)
        discount[-1] = not terminated
        episodes.append(PeerEpisode(stacks(made, 3, "first"), made.action, made.reward, discount))
    return tuple(episodes)


def make_data(tmp_path, *, frame_shape=RGB, n_step=3, lengths=LENGTHS, batch_size=64, **options):
    return PeerData(
        observation=FieldSpec.image("observation", frame_shape, frame_stack=3),
        episodes=fill(enumerate(lengths), frame_shape, **options),
        batch_size=batch_size, n_step=n_step, discount=0.9, scratch=tmp_path,
    )  # fmt: skip


def vectors(tmp_path, n_step=1):
    rng = np.random.default_rng(3)
    episodes = tuple(
        PeerEpisode(
            rng.normal(size=(rows, 5)), rng.normal(size=(rows, 2)).astype(np.float32),
            rng.normal(size=rows).astype(np.float32), np.ones(rows, np.float32),
        )
        for rows in LENGTHS
    )  # fmt: skip
    field = FieldSpec(name="observation", shape=(5,), dtype="float64", role="observation")
    return PeerData(
        observation=field, episodes=episodes, batch_size=64, n_step=n_step, discount=0.9,
        scratch=tmp_path,
    )  # fmt: skip


def made(candidate_list, name, data):
    return next(candidate for candidate in candidate_list if candidate.name == name).make(data)


# The check, which must be able to fail


class Given(Peer):
    """Gives batches out of the data, as told."""

    def __init__(self, data, places, **wrong):
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step)
        self._data, self._places, self._wrong = data, places, wrong

    def turn(self):
        n = self._data.n_step
        rows = []
        for number, i in self._places:
            episode = self._data.episodes[number]
            steps = min(n, episode.length - i + 1)
            reward, _ = self._data.window_return(episode, i, steps)
            rows.append((episode.observation[i - 1], episode.observation[i + steps - 1], episode.action[i], reward))
        names = ("observation", "next_observation", "action", "reward")
        batch = {name: np.array([row[k] for row in rows]) for k, name in enumerate(names)}
        return {**batch, **{name: change(batch) for name, change in self._wrong.items()}}

    def held_bytes(self):
        return 0


def check(data, places, **wrong):
    peer = Given(data, places, **wrong)
    return Checker(data).check(peer, peer.turn())


def test_right_rows_are_exact_or_end_with_the_episode(tmp_path):
    data = make_data(tmp_path)
    found = check(data, [(0, 1), (0, 1), (1, 6), (1, 7), (2, 19)])  # episode 1 has 8 transitions: i = 7 has 2 steps
    assert (found.exact, found.short, found.distinct, found.rows) == (3, 2, 4, 5)
    assert found.right
    assert found.notes() == ("2 of 5 rows end with the episode, after fewer steps",)


def flipped(name):
    def change(batch):
        array = batch[name].copy()
        array[:1].reshape(-1)[-1] += 1
        return array

    return change


@pytest.mark.parametrize(
    ("name", "kind"),
    [("observation", "unknown"), ("next_observation", "wrong_next"), ("action", "unknown"), ("reward", "wrong_reward")],
)
def test_one_wrong_value_is_found(tmp_path, name, kind):
    data = make_data(tmp_path)
    found = check(data, [(0, 3), (1, 2)], **{name: flipped(name)})
    assert getattr(found, kind) == 1
    assert found.exact == 1
    assert not found.right
    assert len(found.notes()) == 1


def test_a_wrong_discount_and_one_step_instead_of_three_are_found(tmp_path):
    data = make_data(tmp_path)
    assert check(data, [(0, 3)], discount=lambda batch: np.array([0.9**3])).exact == 1
    assert check(data, [(0, 3)], discount=lambda batch: np.array([0.9**2])).wrong_reward == 1
    one = replace(data, n_step=1)
    peer = Given(one, [(0, 3), (2, 5)])
    assert Checker(data).check(peer, peer.turn()).wrong_next == 0  # it says n_step = 1
    peer.n_step = 3
    assert Checker(data).check(peer, peer.turn()).wrong_next == 2


def test_another_next_observation_is_forgiven_only_at_the_end_and_with_done(tmp_path):
    data = make_data(tmp_path)
    wrong = {"next_observation": flipped("next_observation")}
    assert check(data, [(1, 8)], done=lambda batch: np.ones(1), **wrong).masked == 1
    assert check(data, [(1, 8)], done=lambda batch: np.zeros(1), **wrong).wrong_next == 1
    assert check(data, [(1, 3)], done=lambda batch: np.ones(1), **wrong).wrong_next == 1


# Feeding


def test_take_episodes_reads_the_store_and_cuts_the_last_one(tmp_path):
    fields = [
        FieldSpec.image("observation", RGB, frame_stack=3),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
    ]
    expected = fill(enumerate(LENGTHS), RGB)
    with ReplayStore.create(tmp_path / "store", fields, mode="half") as store:
        for episode in expected:
            arrays = episode.arrays()
            store.append({name: arrays[name] for name in ("observation", "action", "reward")})
        field, taken = take_episodes(store, 15)
        assert field.name == "observation"
        assert [episode.length for episode in taken] == [11, 4]
        for got, wanted in zip(taken, expected, strict=False):
            rows = got.length + 1
            np.testing.assert_array_equal(got.observation, wanted.observation[:rows])
            np.testing.assert_array_equal(got.action, wanted.action[:rows])
            np.testing.assert_array_equal(got.reward, wanted.reward[:rows])
            assert (got.discount == 1).all()
        assert [episode.length for episode in take_episodes(store, 1000)[1]] == [11, 8, 19]
    with (
        ReplayStore.create(tmp_path / "other", fields[:1], mode="half") as store,
        pytest.raises(SpecError, match="--peers none"),
    ):
        take_episodes(store, 10)


# The buffers


def check_peer(peer, data, batches=8, shares=1):
    """Right rows, and in a batch most of the data, or of a worker's share of it."""
    checker, distinct = Checker(data), 0
    kinds = dict.fromkeys(("exact", "short", "masked"), 0)
    for _ in range(batches):
        batch = peer.turn()
        assert len(batch["observation"]) == data.batch_size
        found = checker.check(peer, batch)
        assert found.right, found
        distinct = max(distinct, found.distinct)
        for kind in kinds:
            kinds[kind] += getattr(found, kind)
    assert distinct > data.num_transitions // (2 * shares)
    assert kinds["exact"] > data.batch_size * batches // 2
    return kinds


def observation_bytes(data):
    return sum(episode.observation[0].nbytes for episode in data.episodes[:1])


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("frame_shape", [RGB, GRAY])
@pytest.mark.parametrize("terminated", [False, True])
def test_stable_baselines3(tmp_path, frame_shape, n_step, terminated):
    pytest.importorskip("stable_baselines3")
    data = make_data(tmp_path, frame_shape=frame_shape, n_step=n_step, terminated=terminated)
    plain = made(stable_baselines3.candidates(), "stable-baselines3", data)
    kinds = check_peer(plain, data)
    assert kinds["masked"] == 0
    assert (kinds["short"] > 0) == (n_step > 1)
    per_row = 2 * observation_bytes(data) + 2 * 4 + 3 * 4
    assert plain.held_bytes() == data.num_transitions * per_row
    optimised = made(stable_baselines3.candidates(), "stable-baselines3, optimize_memory_usage", data)
    assert optimised.n_step == 1
    assert check_peer(optimised, data)["short"] == 0
    assert optimised.held_bytes() == data.num_transitions * (per_row - observation_bytes(data))


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("frame_shape", [RGB, GRAY])
def test_cpprb(tmp_path, frame_shape, n_step):
    pytest.importorskip("cpprb")
    data = make_data(tmp_path, frame_shape=frame_shape, n_step=n_step)
    plain, once = (candidate.make(data) for candidate in cpprb.candidates())
    check_peer(plain, data)
    assert plain.held_bytes() == data.num_transitions * (2 * observation_bytes(data) + 2 * 4 + 4 + 4)
    check_peer(once, data)
    assert once.n_step == 1
    assert once.held_bytes() < data.num_transitions * (observation_bytes(data) / 3 + 16) + 3 * observation_bytes(data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["stable_baselines3", "cpprb"])
def test_vectors_of_float64(tmp_path, name):
    pytest.importorskip(name)
    data = vectors(tmp_path)
    for candidate in {"stable_baselines3": stable_baselines3, "cpprb": cpprb}[name].candidates():
        peer = candidate.make(data)
        assert np.asarray(peer.turn()["observation"]).dtype == np.float64
        check_peer(peer, data)


@pytest.mark.parametrize("n_step", [1, 3])
def test_torchrl(tmp_path, n_step):
    pytest.importorskip("torchrl")
    for data in (make_data(tmp_path, n_step=n_step), vectors(tmp_path, n_step)):
        (candidate,) = torchrl.candidates()
        peer = candidate.make(data)
        assert peer.num_transitions == sum(rows - n_step for rows in LENGTHS)
        assert check_peer(peer, data) == {"exact": 8 * 64, "short": 0, "masked": 0}
        assert peer.held_bytes() > peer.num_transitions * 2 * observation_bytes(data)


@pytest.mark.parametrize("method", ["rle", "rle-jit", "gzip1", "lz4-block"])
def test_sb3_extra_buffers(tmp_path, capsys, method):
    pytest.importorskip("sb3_extra_buffers")
    # Its gzip writes the number of values where gzip has the number of bytes, so it cannot read float64 back.
    for data in (make_data(tmp_path), *([] if method == "gzip1" else [vectors(tmp_path, 3)])):
        peer = made(stable_baselines3.compressed_candidates(), f"sb3-extra-buffers, {method}", data)
        assert check_peer(peer, data) == {"exact": 8 * 64, "short": 0, "masked": 0}
        assert peer.held_bytes() > peer.num_transitions * 40
    assert capsys.readouterr().out == ""  # stdout is for figures


@pytest.mark.parametrize("frame_shape", [(3, 16, 16), (1, 16, 16), (16, 16)])
@pytest.mark.parametrize("name", ["FFV1", "x264 lossless"])
def test_video_is_lossless_and_says_its_size(tmp_path, name, frame_shape, monkeypatch):
    pytest.importorskip("av")
    data = make_data(tmp_path, frame_shape=frame_shape)
    peer = made(video.candidates(), name, data)
    assert not peer.timed
    assert peer.held_bytes() > data.num_rows * np.prod(frame_shape) // 2  # of noise there is nothing to save
    decode = video.decode_frames
    monkeypatch.setattr(video, "decode_frames", lambda *a: decode(*a) ^ 1)
    with pytest.raises(Unable, match="did not give the same frames back"):
        made(video.candidates(), name, data)
    with pytest.raises(Unable, match="images only"):
        made(video.candidates(), name, vectors(tmp_path))


# Checkouts. A stand-in with the interface of DrQ-v2's module, so that ours is tested without it.

STAND_IN = """
import time
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

class Data(IterableDataset):
    def __init__(self, directory, n, gamma):
        self.files, self.n, self.gamma = sorted(directory.glob("*.npz")), n, gamma
    def __iter__(self):
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        episodes = [dict(np.load(file)) for file in self.files[worker::workers]]
        rng = np.random.default_rng(worker)
        while True:
            e = episodes[rng.integers(len(episodes))]
            i = int(rng.integers(1, len(e["reward"]) - self.n + 1))
            r, d = np.zeros(1, np.float32), np.ones(1, np.float32)
            for k in range(self.n):
                r += d * e["reward"][i + k]
                d *= e["discount"][i + k] * self.gamma
            yield e["observation"][i - 1], e["action"][i], r, d, e["observation"][i + self.n - 1]

def broken_seed(worker):
    raise TypeError("seeding")

_worker_init_fn = broken_seed

def make_replay_loader(directory, max_size, batch_size, num_workers, save_snapshot, nstep, discount):
    assert save_snapshot and max_size >= 38 * max(1, num_workers)
    return DataLoader(Data(directory, nstep, discount), batch_size=batch_size, num_workers=num_workers,
                      worker_init_fn=_worker_init_fn)
"""


@pytest.fixture
def stand_in(tmp_path):
    directory = tmp_path / "checkout"
    directory.mkdir()
    (directory / "replay_buffer.py").write_text(STAND_IN)
    return directory


@pytest.mark.parametrize("workers", [0, 2])
def test_drqv2_loader(tmp_path, stand_in, workers):
    data = make_data(tmp_path)
    others = psutil.Process().children()
    peer = made(drqv2.candidates(stand_in), f"DrQ-v2 loader, {workers} workers", data)
    try:
        assert (peer.background, peer.ready_batches) == (workers > 0, 2 * workers)
        assert peer.held_bytes() == data.num_rows * (observation_bytes(data) + 2 * 4 + 4 + 4)
        check_peer(peer, data, shares=max(1, workers))
        peer.settle()
        processes = [child for child in psutil.Process().children() if child not in others]
        assert len(processes) == workers
        seconds = [child.cpu_times()[:2] for child in processes]
        assert [child.cpu_times()[:2] for child in processes] == seconds  # they stand still
    finally:
        peer.close()
    assert not [child for child in processes if child.is_running()]


def test_what_a_checkout_cannot_do_is_said(tmp_path, stand_in):
    data = make_data(tmp_path)
    with pytest.raises(Unable, match="4 workers need as many episodes, there are 3"):
        made(drqv2.candidates(stand_in), "DrQ-v2 loader, 4 workers", data)
    with pytest.raises(Unable, match="needs a checkout"):
        made(drqv2.candidates(None), "DrQ-v2 loader, 0 workers", data)
    with pytest.raises(Unable, match="only gray frames of 84 x 84"):
        made(drqv2_compress.candidates(stand_in), "drqv2_compress Full", data)
    with pytest.raises(Unable, match=r"a checkout with replay_buffer\.py, found no such file"):
        module_from(tmp_path, "replay_buffer.py", "--drqv2")
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere")
    with pytest.raises(Unable, match="no_such_module_anywhere"):
        module_from(tmp_path, "broken.py", "--drqv2")
    assert not [name for name in sys.modules if "replaystore_peer_" in name and "broken" in str(sys.modules[name])]


@pytest.mark.skipif("REPLAYSTORE_DRQV2" not in os.environ, reason="REPLAYSTORE_DRQV2 names no checkout")
@pytest.mark.parametrize("workers", drqv2.WORKERS)
def test_real_drqv2(tmp_path, workers):
    data = make_data(tmp_path, lengths=(*LENGTHS, 15))
    peer = drqv2.Loader(data, Path(os.environ["REPLAYSTORE_DRQV2"]), workers)
    try:
        assert check_peer(peer, data, batches=4, shares=max(1, workers))["exact"] == 4 * 64
    finally:
        peer.close()


@pytest.mark.skipif("REPLAYSTORE_DRQV2_COMPRESS" not in os.environ, reason="no checkout is named")
@pytest.mark.parametrize("sparse", [False, True])
def test_real_drqv2_compress(tmp_path, sparse):
    data = make_data(tmp_path, frame_shape=(84, 84))
    peer = drqv2_compress.Compressed(data, Path(os.environ["REPLAYSTORE_DRQV2_COMPRESS"]), sparse=sparse)
    assert check_peer(peer, data)["exact"] == 8 * 64
    assert peer.held_bytes() > data.num_rows * 84 * 84


# What they have in common


def test_registry_names():
    names = [candidate.name for candidate in candidates()]
    assert len(set(names)) == len(names)
    assert [candidate.name for candidate in candidates(["cpprb"])] == ["cpprb", "cpprb, next_of and stack_compress"]
    with pytest.raises(SpecError, match="found rlpyt"):
        candidates(["rlpyt"])


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(Unable, match=r"no_such_package does not import .*replaystore\[peers\]"):
        imported("no_such_package.buffers")


def test_array_bytes_counts_what_objects_hold():
    strings = np.empty(2, object)
    strings[:] = [b"x" * 1000, b"y" * 10]
    assert array_bytes(np.zeros((3, 4), np.int32), "no array", None) == 48
    assert array_bytes(strings) == 2 * 8 + sys.getsizeof(b"x" * 1000) + sys.getsizeof(b"y" * 10)
