"""The drop-in against a plain loop over the same episodes, written from the formulas in docs/design.md."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from drqv2_patch import ReplayBufferStorage, make_replay_loader
from drqv2_patch.storage import store_written_in
from replaystore.errors import (
    CapacityError,
    EpisodeError,
    EpisodeFileError,
    NotEnoughData,
    SpecError,
    StoreClosed,
    StoreLocked,
)

MODES = ["disk", "half", "full"]
SHAPE = (3, 5, 4)  # of a frame; an observation has 3 of them
LENGTHS = [7, 1, 3, 12, 2, 5]  # transitions
FIRST, MID, LAST = 0, 1, 2


class Spec(NamedTuple):
    """What is used of a dm_env spec."""

    shape: tuple[int, ...]
    dtype: Any
    name: str


class Step(NamedTuple):
    """A time step as DrQ-v2's environments return it."""

    step_type: int
    reward: Any
    discount: Any
    observation: Any
    action: Any

    def first(self) -> bool:
        return self.step_type == FIRST

    def last(self) -> bool:
        return self.step_type == LAST

    def __getitem__(self, key):
        return getattr(self, key) if isinstance(key, str) else tuple.__getitem__(self, key)


def specs(action: Any = np.float32) -> tuple[Spec, ...]:
    return (
        Spec((9, 5, 4), np.uint8, "observation"),
        Spec((2,), np.dtype(action), "action"),
        Spec((1,), np.float32, "reward"),
        Spec((1,), np.float32, "discount"),
    )


def episode(number: int, length: int, action: Any = np.float32) -> dict[str, np.ndarray]:
    """Arrays of an episode of `length` transitions, stacked, as the original writes them."""
    rng = np.random.default_rng([number, 5])
    frames = rng.integers(0, 256, (length + 1, *SHAPE), np.uint8)
    observation = np.stack(
        [np.concatenate([frames[max(0, t - 2)], frames[max(0, t - 1)], frames[t]]) for t in range(length + 1)]
    )
    arrays = {
        "observation": observation,
        "action": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32).astype(action),
        "reward": rng.normal(size=(length + 1, 1)).astype(np.float32),
        "discount": rng.choice(np.array([0.0, 0.9, 1.0], np.float32), (length + 1, 1)),
    }
    arrays["action"][0], arrays["reward"][0], arrays["discount"][0] = 0, 0, 1
    arrays["action"][:, 0] = np.where(np.arange(length + 1) > 0, number, 0)  # a batch says what it was drawn from
    arrays["action"][:, 1] = np.arange(length + 1)
    return arrays


EPISODES = [episode(number, length) for number, length in enumerate(LENGTHS)]


def steps(arrays: dict[str, np.ndarray], action: Any = None) -> list[Step]:
    """Time steps; rewards and discounts are numbers, as environments return them."""
    last = len(arrays["reward"]) - 1
    return [
        Step(
            FIRST if t == 0 else LAST if t == last else MID,
            float(arrays["reward"][t, 0]),
            float(arrays["discount"][t, 0]),
            arrays["observation"][t],
            arrays["action"][t] if action is None or t == 0 else arrays["action"][t].astype(action),
        )
        for t in range(last + 1)
    ]


def play(storage: ReplayBufferStorage, arrays: dict[str, np.ndarray], action: Any = None) -> None:
    for step in steps(arrays, action):
        storage.add(step)


def plain_transition(arrays: dict[str, np.ndarray], i: int, n_step: int, gamma: float) -> tuple[np.ndarray, ...]:
    """One transition by the formulas, in float32 and in their order."""
    total, running = np.zeros(1, np.float32), np.ones(1, np.float32)
    for k in range(n_step):
        total = total + running * arrays["reward"][i + k]
        running = running * (arrays["discount"][i + k] * np.float32(gamma))
    assert total.dtype == running.dtype == np.float32
    observations = arrays["observation"]
    return observations[i - 1], arrays["action"][i], total, running, observations[i + n_step - 1]


def transitions(n_step: int, lengths: list[int] = LENGTHS) -> list[tuple[int, int]]:
    """Every (episode, i) that can be drawn."""
    return [(e, i) for e, length in enumerate(lengths) for i in range(1, length - n_step + 2)]


def loader_of(path: Any, **options: Any) -> Any:
    arguments = {
        "max_size": 1000,
        "batch_size": 8,
        "num_workers": 2,
        "save_snapshot": True,
        "nstep": 3,
        "discount": 0.99,
        "seed": 1,
    }
    return make_replay_loader(path, **{**arguments, **options})


def assert_same(batch: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for one, two in zip(batch, other, strict=True):
        assert one.dtype == two.dtype
        assert one.numpy().tobytes() == two.numpy().tobytes()


def named(batch: tuple[torch.Tensor, ...]) -> list[tuple[int, int]]:
    """(episode, i) of each transition of a batch."""
    return [(int(e), int(i)) for e, i in batch[1].tolist()]


@pytest.fixture
def replay_dir(tmp_path):
    return tmp_path / "run" / "buffer"


# The same batches as the original


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_every_transition_is_that_of_a_plain_loop_bit_for_bit(replay_dir, mode, n_step):
    with ReplayBufferStorage(specs(), replay_dir, mode=mode) as storage:
        for arrays in EPISODES:
            play(storage, arrays)
        assert len(storage) == sum(LENGTHS)
        rows_of = {}
        for number, info in enumerate(storage.store.episodes()):
            rows = [row for part in info.parts for row in range(part.first_row, part.first_row + part.num_rows)]
            rows_of.update({(number, i): row for i, row in enumerate(rows)})
        every = transitions(n_step)
        batch = storage.store.gather([rows_of[name] for name in every], n_step=n_step, discount=0.99)
        names = ("observation", "action", "reward", "discount", "next_observation")
        for at, (number, i) in enumerate(every):
            expected = plain_transition(EPISODES[number], i, n_step, 0.99)
            for name, value in zip(names, expected, strict=True):
                assert batch[name][at].dtype == value.dtype
                assert batch[name][at].shape == value.shape
                assert batch[name][at].tobytes() == value.tobytes(), (name, number, i)


@pytest.mark.parametrize("n_step", [1, 3])
def test_loader_yields_those_transitions_and_the_same_ones_in_every_mode(tmp_path, n_step):
    drawn: dict[str, list[Any]] = {}
    for mode in MODES:
        with ReplayBufferStorage(specs(), tmp_path / mode, mode=mode) as storage:
            for arrays in EPISODES:
                play(storage, arrays)
            with loader_of(tmp_path / mode, mode=mode, nstep=n_step, num_workers=0) as loader:
                batches = iter(loader)
                drawn[mode] = [next(batches) for _ in range(40)]
    seen = set()
    for batch in drawn["full"]:
        assert [tuple(part.shape) for part in batch] == [(8, 9, 5, 4), (8, 2), (8, 1), (8, 1), (8, 9, 5, 4)]
        assert [part.dtype for part in batch] == [torch.uint8, *[torch.float32] * 3, torch.uint8]
        for at, (number, i) in enumerate(named(batch)):
            seen.add((number, i))
            for value, expected in zip(batch, plain_transition(EPISODES[number], i, n_step, 0.99), strict=True):
                assert value[at].numpy().tobytes() == expected.tobytes()
    assert seen == set(transitions(n_step))  # the last reward and the terminal observation among them
    for mode in MODES:
        for batch, other in zip(drawn["full"], drawn[mode], strict=True):
            assert_same(batch, other)


def test_draws_an_episode_uniformly_and_then_a_transition(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        for arrays in EPISODES:
            play(storage, arrays)
        with loader_of(replay_dir, batch_size=2000, nstep=2) as loader:
            drawn = [name for _ in range(15) for name in named(next(loader))]
    usable = [length - 1 for length in LENGTHS if length >= 2]
    expected = {(e, i): len(drawn) / len(usable) / (LENGTHS[e] - 1) for e, i in transitions(2)}
    assert set(drawn) == set(expected)
    statistic = sum((drawn.count(name) - count) ** 2 / count for name, count in expected.items())
    freedom = len(expected) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


# What is stored


def test_numbers_become_arrays_of_the_spec(replay_dir):
    first, last = steps(episode(0, 1))
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        storage.add(first._replace(reward=None, discount=None))
        storage.add(last._replace(reward=np.float64(1) / 3, discount=np.array([0.0], np.float32)))
        stored = storage.store.read_episode(0)
    assert stored["reward"].dtype == stored["discount"].dtype == np.float32
    assert stored["reward"].ravel().tolist() == [0, np.float32(1 / 3)]
    assert stored["discount"].ravel().tolist() == [1, 0]  # a true end stays one


@pytest.mark.parametrize(
    ("acts", "stored"), [(np.float32, "float32"), (np.float64, "float64")], ids=["float32", "float64"]
)
def test_a_float64_action_spec_stores_what_the_agent_acts_in(replay_dir, acts, stored):
    arrays = [episode(number, 4, np.float64) for number in range(2)]
    loader = loader_of(replay_dir, nstep=1)
    with ReplayBufferStorage(specs(np.float64), replay_dir) as storage:
        reset, *others = steps(arrays[0], acts)
        assert reset.action.dtype == np.float64
        storage.add(reset)
        storage.add(reset)  # nothing has been acted yet
        assert storage.store is None
        assert len(storage) == 0
        for step in others:
            storage.add(step)
        assert len(storage) == 4
        play(storage, arrays[1], acts)
        assert storage.store.spec.field("action").dtype == stored
        assert [info.num_rows for info in storage.store.episodes()] == [5, 5]
        assert storage.store.read_episode(1)["action"].tobytes() == arrays[1]["action"].astype(acts).tobytes()
        batch = next(loader)
        assert batch[1].dtype == getattr(torch, stored)
        assert storage.store.capacity == 1000  # the loader found the store when it was made
        loader.close()
    with ReplayBufferStorage(specs(np.float64), replay_dir) as storage:  # goes on in the dtype of the store
        play(storage, episode(2, 4), acts)
        assert storage.store.spec.field("action").dtype == stored


def test_an_array_is_never_rounded(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        reset, middle, *_ = steps(episode(0, 3))
        storage.add(reset)
        with pytest.raises(EpisodeError, match=r"'action', row 1: .* float64 values that it rounds"):
            storage.add(middle._replace(action=np.array([0.1, 0.2])))
        with pytest.raises(EpisodeError, match="expected uint8"):
            storage.add(middle._replace(observation=middle.observation.astype(np.float32)))
        with pytest.raises(EpisodeError, match=r"'action'.*\(1, 2\)"):
            storage.add(middle._replace(action=np.zeros((1, 2), np.float32)))
        with pytest.raises(EpisodeError, match="older 2 frames"):
            storage.add(middle._replace(observation=middle.observation[::-1].copy()))
        for step in steps(episode(0, 3))[1:]:  # none of them was added
            storage.add(step)
        assert len(storage) == 3


def test_a_reset_before_the_end_ends_the_episode(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        for step in steps(episode(0, 6))[:4]:
            storage.add(step)
        assert len(storage) == 0
        storage.add(steps(episode(1, 2))[0])
        assert len(storage) == 3
        play(storage, episode(1, 2))
        assert [info.num_rows for info in storage.store.episodes()] == [4, 3]
        assert storage.store.read_episode(0)["observation"].tobytes() == episode(0, 6)["observation"][:4].tobytes()


def test_observations_that_are_not_images_are_stored_as_they_are(replay_dir):
    state_specs = (Spec((4,), np.float32, "observation"), *specs()[1:])
    arrays = episode(0, 5)
    arrays["observation"] = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    with ReplayBufferStorage(state_specs, replay_dir) as storage:
        play(storage, arrays)
        with loader_of(replay_dir) as loader:
            batch = next(loader)
    assert batch[0].shape == batch[4].shape == (8, 4)
    for at, (_, i) in enumerate(named(batch)):
        assert batch[0][at].tolist() == arrays["observation"][i - 1].tolist()


def test_specs_that_cannot_work_are_refused(replay_dir):
    with pytest.raises(SpecError, match="missing"):
        ReplayBufferStorage(specs()[:2], replay_dir)
    with pytest.raises(SpecError, match="frame_stack=4 divides"):
        ReplayBufferStorage(specs(), replay_dir, frame_stack=4)
    with pytest.raises(SpecError, match="mode"):
        ReplayBufferStorage(specs(), replay_dir, mode="half-full")
    with pytest.raises(SpecError, match="at least 1"):
        loader_of(replay_dir, max_size=0)


def test_works_with_the_specs_and_time_steps_of_dm_env(replay_dir):
    dm_env = pytest.importorskip("dm_env")
    from dm_env import specs as dm_specs

    data_specs = (
        dm_specs.BoundedArray(np.concatenate([[9], [5, 4]]), np.uint8, 0, 255, "observation"),
        dm_specs.BoundedArray((2,), np.float64, -100, 100, "action"),
        dm_specs.Array((1,), np.float32, "reward"),
        dm_specs.Array((1,), np.float32, "discount"),
    )
    with ReplayBufferStorage(data_specs, replay_dir) as storage:
        for step in steps(episode(0, 4)):
            storage.add(step._replace(step_type=dm_env.StepType(step.step_type)))
        assert len(storage) == 4


# Directories of the original, resuming


def write_npz(directory: Any, episodes: list[dict[str, np.ndarray]]) -> dict[str, bytes]:
    directory.mkdir(parents=True)
    for number, arrays in enumerate(episodes):
        length = len(arrays["reward"]) - 1
        # Later numbers have earlier clocks, and 10 sorts before 9 as text.
        path = directory / f"20250101T0000{59 - number:02d}_{number + 8}_{length}.npz"
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
    return {path.name: path.read_bytes() for path in directory.glob("*.npz")}


@pytest.mark.parametrize("mode", MODES)
def test_a_directory_of_the_original_is_converted_and_stays(replay_dir, mode):
    files = write_npz(replay_dir, EPISODES)
    with ReplayBufferStorage(specs(), replay_dir, mode=mode) as storage:
        assert len(storage) == sum(LENGTHS)
        for info, arrays in zip(storage.store.episodes(), EPISODES, strict=True):
            stored = storage.store.read_episode(info.episode)
            assert {name: value.tobytes() for name, value in stored.items()} == {
                name: value.tobytes() for name, value in arrays.items()
            }
        play(storage, episode(6, 4))
    assert {path.name: path.read_bytes() for path in replay_dir.glob("*.npz")} == files
    assert sorted(path.name for path in replay_dir.iterdir() if path.suffix != ".npz") == ["store"]
    with ReplayBufferStorage(specs(), replay_dir, mode=mode) as storage:  # converted once
        assert len(storage) == sum(LENGTHS) + 4


@pytest.mark.parametrize("mode", MODES)
def test_a_loader_alone_converts_a_directory_of_the_original(tmp_path, mode):
    batches = {}
    for name in ("alone", "beside"):
        files = write_npz(tmp_path / name, EPISODES)
        if name == "beside":
            ReplayBufferStorage(specs(), tmp_path / name, mode=mode).close()
        for _ in range(2):  # converted once
            with loader_of(tmp_path / name, mode=mode) as loader:
                batches[name] = [next(loader) for _ in range(3)]
        assert {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.npz")} == files
        assert sorted(path.name for path in (tmp_path / name).iterdir() if path.suffix != ".npz") == ["store"]
    for one, other in zip(batches["alone"], batches["beside"], strict=True):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
    with ReplayBufferStorage(specs(), tmp_path / "alone", mode=mode) as storage:  # goes on with it
        play(storage, episode(6, 4))
        assert len(storage) == sum(LENGTHS) + 4


def test_a_damaged_file_stops_a_loader_alone(replay_dir):
    write_npz(replay_dir, EPISODES)
    (replay_dir / "20250101T000000_99_3.npz").write_bytes(b"PK")
    with loader_of(replay_dir) as loader:
        with pytest.raises(EpisodeFileError, match="_99_3"):
            next(loader)
        (replay_dir / "20250101T000000_99_3.npz").unlink()
        next(loader)


def test_loaders_of_several_processes_convert_together(replay_dir):
    write_npz(replay_dir, EPISODES)
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import time\n"
        "from pathlib import Path\n"
        "from test_drqv2_patch import *\n"
        "from replaystore.errors import StoreLocked\n"
        "for attempt in range(200):\n"
        "    with loader_of(Path(sys.argv[1])) as loader:\n"
        "        try:\n"
        "            next(loader)\n"
        "            break\n"
        "        except StoreLocked:\n"
        "            time.sleep(0.05)\n"
        "else:\n"
        "    sys.exit(9)\n"
    )
    here = str(__file__).rpartition("/")[0]
    runs = [subprocess.Popen([sys.executable, "-c", code, str(replay_dir), here]) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert sorted(path.name for path in replay_dir.iterdir() if path.suffix != ".npz") == ["store"]
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        assert storage.store.num_episodes == len(LENGTHS)


def test_an_interrupted_conversion_goes_on(replay_dir):
    write_npz(replay_dir, EPISODES)
    damaged = replay_dir / "20250101T000000_99_3.npz"
    damaged.write_bytes(b"PK")
    for _ in range(2):
        with pytest.raises(EpisodeFileError, match=damaged.name):
            ReplayBufferStorage(specs(), replay_dir)
    damaged.unlink()
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        assert len(storage) == sum(LENGTHS)
        assert storage.store.num_episodes == len(LENGTHS)


@pytest.mark.parametrize("closed", [True, False])
def test_resumes_where_a_process_ended(replay_dir, closed):
    code = (
        "import sys, os; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_drqv2_patch import *\n"
        "storage = ReplayBufferStorage(specs(), Path(sys.argv[1]))\n"
        "[play(storage, arrays) for arrays in EPISODES[:4]]\n"
        "[storage.add(step) for step in steps(EPISODES[4])[:2]]\n"
        f"storage.close() if {closed} else os._exit(1)\n"
    )
    here = str(__file__).rpartition("/")[0]
    subprocess.run([sys.executable, "-c", code, str(replay_dir), here], check=closed, timeout=120)
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        assert len(storage) == sum(LENGTHS[:4])  # the episode that had not ended is gone, as in the original
        for arrays in EPISODES[4:]:
            play(storage, arrays)
        for info, arrays in zip(storage.store.episodes(), EPISODES, strict=True):
            assert storage.store.read_episode(info.episode)["observation"].tobytes() == arrays["observation"].tobytes()


def test_another_mode_or_other_fields_are_refused(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir, mode="half") as storage:
        play(storage, EPISODES[0])
        with pytest.raises(SpecError, match="expected a store of mode 'full', found mode 'half'"):
            loader_of(replay_dir)
        with pytest.raises(StoreLocked):
            ReplayBufferStorage(specs(), replay_dir, mode="half")
    with pytest.raises(SpecError, match="expected a store of mode 'disk', found mode 'half'"):
        ReplayBufferStorage(specs(), replay_dir, mode="disk")
    with loader_of(replay_dir, mode="disk") as loader, pytest.raises(SpecError, match="'half'"):
        next(loader)
    with pytest.raises(SpecError, match="field 'observation'"):
        ReplayBufferStorage(specs(), replay_dir, mode="half", frame_stack=1)
    other = (specs()[0], Spec((3,), np.float32, "action"), *specs()[2:])
    with pytest.raises(SpecError, match=r"field 'action'.*\(3,\)"):
        ReplayBufferStorage(other, replay_dir, mode="half")
    with ReplayBufferStorage(specs(), replay_dir, mode="half") as storage:  # none of them holds the lock
        assert len(storage) == LENGTHS[0]


# The loader


def test_loader_is_made_before_anything_else(replay_dir):
    loader = loader_of(replay_dir)
    batches = iter(loader)
    with pytest.raises(NotEnoughData, match="no store yet"):
        next(batches)
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        with pytest.raises(NotEnoughData, match="n_step=3"):
            next(batches)
        play(storage, EPISODES[1])  # too short for 3 steps
        with pytest.raises(NotEnoughData, match="n_step=3"):
            next(batches)
        play(storage, EPISODES[0])
        assert {name for _ in range(3) for name in named(next(batches))} <= set(transitions(3))
        loader.close()
        with pytest.raises(StoreClosed):
            next(batches)
        assert len(storage) == LENGTHS[0] + LENGTHS[1]  # the storage stays open


def test_max_size_is_the_capacity_in_the_process_that_writes(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        for arrays in EPISODES[:4]:
            play(storage, arrays)
        with loader_of(replay_dir, max_size=20, nstep=1) as loader:
            assert len(storage) == 16  # 7 + 1 + 3 + 12 less the oldest
            for arrays in EPISODES[4:]:
                play(storage, arrays)
            assert len(storage) == 19
            drawn = {number for _ in range(30) for number, _ in named(next(loader))}
            assert drawn == {3, 4, 5}
            with pytest.raises(CapacityError, match="the open episode has 20 transitions, as many as the capacity"):
                play(storage, episode(9, 21))
            assert len(storage) == 19


def test_max_size_is_a_window_in_other_processes(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        for arrays in EPISODES:
            play(storage, arrays)
    with loader_of(replay_dir, max_size=20, nstep=1) as loader:  # nobody writes: opened to read
        assert {number for _ in range(30) for number, _ in named(next(loader))} == {3, 4, 5}
        with ReplayBufferStorage(specs(), replay_dir) as storage:
            assert len(storage) == sum(LENGTHS)
            play(storage, episode(6, 2))
            assert len(storage) == sum(LENGTHS) + 2
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_drqv2_patch import *\n"
        "with loader_of(sys.argv[1], max_size=9, nstep=1) as loader:\n"
        "    print(sorted({number for _ in range(30) for number, _ in named(next(loader))}))\n"
    )
    with ReplayBufferStorage(specs(), replay_dir):
        done = subprocess.run(
            [sys.executable, "-c", code, str(replay_dir), str(__file__).rpartition("/")[0]],
            check=True,
            timeout=120,
            capture_output=True,
            text=True,
        )
    assert done.stdout.strip() == "[4, 5, 6]"


def test_seed_follows_the_global_seed_of_numpy(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        for arrays in EPISODES:
            play(storage, arrays)

        def some(global_seed: int, **options: Any) -> list[Any]:
            np.random.seed(global_seed)  # noqa: NPY002 - what users of the original call
            with loader_of(replay_dir, **options) as loader:
                return [next(loader) for _ in range(5)]

        def same(one: list[Any], other: list[Any]) -> bool:
            return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))

        assert same(some(3, seed=None), some(3, seed=None, num_workers=4))
        assert not same(some(3, seed=None), some(4, seed=None))
        assert same(some(3, seed=8), some(4, seed=8))
        np.random.seed(3)  # noqa: NPY002
        with loader_of(replay_dir, seed=None) as one, loader_of(replay_dir, seed=None) as other:
            assert not same([next(one)], [next(other)])


def test_state_of_the_draws_is_saved_before_and_after_the_first_batch(replay_dir):
    with ReplayBufferStorage(specs(), replay_dir) as storage:
        fresh = loader_of(replay_dir, seed=5)
        started = fresh.state_dict()
        for arrays in EPISODES:
            play(storage, arrays)
        batches = [next(fresh) for _ in range(3)]
        middle = fresh.state_dict()
        batches += [next(fresh) for _ in range(3)]
        fresh.close()
    for state, rest in ((started, batches), (middle, batches[3:])):
        with loader_of(replay_dir, seed=99) as again:  # reads; the state waits for the store
            again.load_state_dict(state)
            assert again.state_dict() == state
            for batch in rest:
                assert_same(next(again), batch)
            again.load_state_dict(middle)
            assert_same(next(again), batches[3])


def test_runs_in_the_place_of_the_original(replay_dir, monkeypatch):
    """The order of calls in DrQ-v2's training loop."""
    replay_dir.parent.mkdir()
    monkeypatch.chdir(replay_dir.parent)
    storage = ReplayBufferStorage(specs(np.float64), replay_dir)
    loader = make_replay_loader(replay_dir, 1000, 16, 4, False, 3, 0.99)
    batches = None
    seen = 0
    for number, arrays in enumerate(EPISODES * 2):
        for step in steps(arrays, np.float32):
            storage.add(step)
            if number >= 1:
                batches = batches or iter(loader)
                obs, action, reward, discount, next_obs = next(batches)
                assert action.dtype == torch.float32
                assert obs.shape == next_obs.shape == (16, 9, 5, 4)
                assert reward.shape == discount.shape == (16, 1)
                seen += 1
    assert len(storage) == 2 * sum(LENGTHS)
    assert seen > 50
    loader.close()
    storage.close()
    assert storage.store is not None
    assert storage.store.closed
    assert store_written_in(replay_dir) is None


def test_the_writer_alone_shares_its_store_with_the_loader(replay_dir):
    with ReplayBufferStorage(specs(np.float32), replay_dir) as storage:
        assert storage.store is not None
        assert store_written_in(replay_dir) is storage.store
        assert store_written_in(replay_dir / ".." / replay_dir.name) is storage.store
        assert store_written_in(replay_dir.parent) is None
        child = os.fork()
        if not child:
            os._exit(0 if store_written_in(replay_dir) is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store_written_in(replay_dir) is storage.store
