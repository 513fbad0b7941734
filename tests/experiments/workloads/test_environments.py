"""The real environments, where they are installed: what is recorded, and that it repeats."""

import numpy as np
import pytest
from click.testing import CliRunner

from experiments.workloads.__main__ import main
from experiments.workloads.atari import AtariConfig, make_environment, play, record_game
from experiments.workloads.humanoid import HumanoidConfig, record_humanoid
from replaystore import ReplayStore
from replaystore.datasets.convert import convert
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.errors import SpecError


@pytest.fixture
def atari():
    pytest.importorskip("ale_py", exc_type=ImportError)
    pytest.importorskip("cv2", exc_type=ImportError)


@pytest.fixture
def mujoco():
    pytest.importorskip("gymnasium.envs.mujoco", exc_type=ImportError)


def test_a_game_repeats_and_converts(atari, tmp_path):
    config = AtariConfig(game="Breakout", seed=2, episode_limit=40)
    done = record_game(config, tmp_path / "episodes", 60)
    files = [entry.path for entry in list_episode_files(done.directory)]
    assert (done.episodes, done.transitions) == (2, 80) == (len(files), 80)
    episodes = [read_episode(path) for path in files]
    for index, episode in enumerate(episodes):
        observation = episode["observation"]
        assert (observation.shape, observation.dtype) == ((41, 4, 84, 84), np.uint8)
        np.testing.assert_array_equal(observation[1:, :-1], observation[:-1, 1:])
        assert (observation[0] == observation[0, 0]).all()
        assert (episode["action"].shape, episode["action"].dtype) == ((41, 1), np.int64)
        assert set(episode["action"].ravel()) == set(range(4))
        assert (episode["discount"] == 1).all()  # cut off, not ended
        for name, array in play(make_environment(config), config, index).items():
            np.testing.assert_array_equal(episode[name], array)
    assert (episodes[0]["action"] != episodes[1]["action"]).any()
    convert(done.directory, tmp_path / "store", mode="full")
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        assert store.info()["fields"]["observation"]["stored_shape"] == [1, 84, 84]
        np.testing.assert_array_equal(store.read_episode(1)["observation"], episodes[1]["observation"])


def test_a_game_ends_with_discount_0_and_not_with_a_life(atari):
    config = AtariConfig(game="Breakout", seed=0)
    env = make_environment(config)
    arrays = play(env, config, 0)
    assert arrays["discount"][:-1].all()
    assert arrays["discount"][-1] == 0
    assert env.unwrapped.ale.lives() == 0


def test_an_unknown_game_is_refused(atari, tmp_path):
    with pytest.raises(SpecError, match="Brokeout"):
        record_game(AtariConfig(game="Brokeout"), tmp_path, 1)
    result = CliRunner().invoke(main, ["atari", str(tmp_path), "--games", "Brokeout"])
    assert result.exit_code == 1
    assert "Brokeout" in result.output


def test_humanoid_repeats(mujoco, tmp_path):
    first, second = (record_humanoid(HumanoidConfig(seed=1), tmp_path / name, 40) for name in "ab")
    assert first.transitions == second.transitions >= 40
    pairs = zip(list_episode_files(first.directory), list_episode_files(second.directory), strict=True)
    for one, other in pairs:
        arrays, again = read_episode(one.path), read_episode(other.path)
        assert {name: (array.shape[1:], array.dtype.name) for name, array in arrays.items()} == {
            "observation": ((348,), "float64"),
            "action": ((17,), "float32"),
            "reward": ((1,), "float32"),
            "discount": ((1,), "float32"),
        }
        assert arrays["discount"][-1] == 0
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, again[name])


def test_an_unknown_environment_is_refused(mujoco, tmp_path):
    with pytest.raises(SpecError, match="Humanoidd"):
        record_humanoid(HumanoidConfig(environment="Humanoidd-v5"), tmp_path, 1)
