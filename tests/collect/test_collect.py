"""Recording: what is written, and that only configuration and episode number decide it. Renders for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from replaystore.collect import CollectConfig, RenderingUnavailable, collect, ensure_rendering, record_episode
from replaystore.collect.environment import PixelEnvironment, find_task, luma, smooth_actions
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode, write_episode
from replaystore.errors import EpisodeFileError, MissingDependency, SpecError, WriteError

TINY = {"task": "walker_walk", "max_steps": 4, "image_size": 32, "fast_render": True}


@pytest.fixture(scope="module")
def rendering():
    try:
        return ensure_rendering()
    except MissingDependency as err:
        pytest.skip(f"cannot render: {err}")


@pytest.fixture(scope="module")
def recorded(rendering, tmp_path_factory):
    """Two tiny episodes: configuration, directory, files."""
    config = CollectConfig(**TINY, episodes=2, seed=5)
    folder = tmp_path_factory.mktemp("recorded")
    return config, folder, collect(config, folder)


# Without rendering


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "walker"},
        {"task": "../walker_walk"},
        {"episodes": -1},
        {"seed": 1.5},
        {"frame_stack": 0},
        {"action_repeat": True},
        {"image_size": 0},
        {"max_steps": 0},
        {"action_dtype": "int8"},
        {"action_smoothness": 1.0},
        {"action_spread": float("nan")},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong):
    with pytest.raises(SpecError, match=f"{next(iter(wrong))}: expected .* got"):
        CollectConfig(**{"task": "walker_walk", **wrong})


def test_a_configuration_survives_json():
    config = CollectConfig(task="quadruped_run", episodes=3, grayscale=True, max_steps=9)
    assert CollectConfig(**json.loads(json.dumps(config.to_json()))) == config
    assert config.observation_shape == (3, 84, 84)
    assert CollectConfig(task="quadruped_run").observation_shape == (9, 84, 84)


def test_tasks_are_found_by_name():
    known = (("walker", "walk"), ("ball_in_cup", "catch"), ("point_mass", "easy"), ("humanoid_CMU", "run"))
    assert find_task("walker_walk", known) == ("walker", "walk")
    assert find_task("cup_catch", known) == find_task("ball_in_cup_catch", known) == ("ball_in_cup", "catch")
    assert find_task("point_mass_easy", known) == find_task("pointmass_easy", known) == ("point_mass", "easy")
    assert find_task("humanoid_CMU_run", known) == ("humanoid_CMU", "run")
    with pytest.raises(SpecError, match="walker_walk"):
        find_task("walker_wlak", known)


def test_luma_is_the_nearest_whole_number_for_every_colour():
    levels = np.arange(256, dtype=np.uint8)
    grays = np.stack([levels] * 3, axis=-1)[None]
    np.testing.assert_array_equal(luma(grays)[0, 0], levels)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    exact = (pixels.astype(float) * [0.299, 0.587, 0.114]).sum(-1)
    assert np.abs(luma(pixels)[0] - exact).max() <= 0.5 + 1e-9


def test_random_actions_are_smooth_bounded_and_repeatable():
    def draw(seed, smoothness):
        actions = smooth_actions(np.random.default_rng(seed), 3, spread=0.5, smoothness=smoothness)
        return np.stack([next(actions) for _ in range(4000)])

    smooth, rough = draw(1, 0.9), draw(1, 0.0)
    np.testing.assert_array_equal(smooth, draw(1, 0.9))
    assert np.abs(smooth).max() == 1.0
    for actions, correlation in ((smooth, 0.9), (rough, 0.0)):
        assert np.corrcoef(actions[1:, 0], actions[:-1, 0])[0, 1] == pytest.approx(correlation, abs=0.06)
        assert actions.std() == pytest.approx(0.47, abs=0.05)


def run_python(program, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=False
    )


def test_importing_loads_neither_dm_control_nor_sets_anything():
    done = run_python(
        "import os, sys; before = dict(os.environ); import replaystore.collect;"
        "assert not {'dm_control', 'mujoco', 'torch'} & set(sys.modules); assert dict(os.environ) == before"
    )
    assert done.returncode == 0, done.stderr


def test_missing_dm_control_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'replaystore\[dmc\]'") as caught:
        record_episode(CollectConfig(**TINY), 0)
    assert not isinstance(caught.value, RenderingUnavailable)


@pytest.mark.dm_control
def test_no_opengl_names_the_package(monkeypatch):
    pytest.importorskip("dm_control", reason="dm_control is not installed")
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(RenderingUnavailable, match="libegl1"):
        ensure_rendering()


# With rendering


@pytest.mark.dm_control
def test_episodes_have_drqv2_names_shapes_and_dtypes(recorded):
    config, folder, paths = recorded
    assert [entry.index for entry in list_episode_files(folder)] == [0, 1]
    assert sorted(entry.name for entry in folder.iterdir()) == sorted([*(path.name for path in paths), "collect.json"])
    for index, path in enumerate(paths):
        assert path.stem.split("_")[1:] == [str(index), "4"]
        arrays = read_episode(path)
        assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
            "observation": ((5, *config.observation_shape), "uint8"),
            "action": ((5, 6), "float32"),
            "reward": ((5, 1), "float32"),
            "discount": ((5, 1), "float32"),
        }
        assert not arrays["action"][0].any()
        assert arrays["reward"][0] == 0
        assert arrays["discount"][0] == 1
        assert np.abs(arrays["action"]).max() <= 1
        assert (arrays["reward"][1:] > 0).all()
        assert arrays["observation"].std() > 10, "a picture of nothing"


@pytest.mark.dm_control
def test_stacks_shift_by_one_frame_and_start_with_the_first_repeated(recorded):
    for path in recorded[2]:
        frames = read_episode(path)["observation"].reshape(5, 3, 3, 32, 32)  # row, frame, channel, height, width
        np.testing.assert_array_equal(frames[0, 0], frames[0, 2])
        np.testing.assert_array_equal(frames[0, 1], frames[0, 2])
        np.testing.assert_array_equal(frames[1:, :-1], frames[:-1, 1:])
        assert (frames[1:, 2] != frames[:-1, 2]).any(axis=(1, 2, 3)).all(), "nothing moves"


@pytest.mark.dm_control
def test_an_episode_depends_on_seed_and_number_alone(recorded):
    config, _, paths = recorded
    again = record_episode(config, 1)
    for name, array in read_episode(paths[1]).items():
        np.testing.assert_array_equal(array, again[name])
    other_seed = record_episode(CollectConfig(**TINY, seed=6), 1)
    for other in (read_episode(paths[0]), other_seed):
        assert (other["action"] != again["action"]).any()
        assert (other["observation"][0] != again["observation"][0]).any()


@pytest.mark.dm_control
def test_repeats_add_up_rewards(rendering):
    config = {**TINY, "max_steps": None, "task": "pendulum_swingup"}
    single = PixelEnvironment(CollectConfig(**config, action_repeat=1), seed=3)
    double = PixelEnvironment(CollectConfig(**config, action_repeat=2, action_dtype="float64"), seed=3)
    with_repeat = PixelEnvironment(CollectConfig(task="walker_walk", action_repeat=600, image_size=8), seed=3)
    try:
        np.testing.assert_array_equal(single.reset().observation, double.reset().observation)
        action = np.array([0.3])
        rows = [single.step(action) for _ in range(6)]
        for place in range(3):
            row = double.step(action)
            assert row.reward == rows[2 * place].reward + rows[2 * place + 1].reward
            np.testing.assert_array_equal(row.observation[-3:], rows[2 * place + 1].observation[-3:])
        # 1,000 steps of the task: the second row ends early.
        with_repeat.reset()
        first, second = (with_repeat.step(np.zeros(6)) for _ in range(2))
        assert (first.last, second.last) == (False, True)
        assert (first.discount, second.discount) == (1.0, 1.0)
    finally:
        for env in (single, double, with_repeat):
            env.close()


class TrueEnd:
    """A task that ends truly in its second step, with bounds other than [-1, 1]."""

    def __init__(self, physics):
        self.physics = physics
        self.controls = []

    def action_spec(self):
        from dm_env import specs

        return specs.BoundedArray((2,), np.float64, minimum=[0.0, -4.0], maximum=[10.0, 0.0])

    def step(self, control):
        import dm_env

        self.controls.append(control.tolist())
        return dm_env.termination(2.0, None) if len(self.controls) == 2 else dm_env.transition(1.0, None, 0.5)


@pytest.mark.dm_control
def test_a_true_end_keeps_discount_zero_and_actions_are_scaled(rendering, monkeypatch):
    from dm_control import suite

    config = CollectConfig(**TINY, action_repeat=4)
    real = suite.load(*config.task.split("_"))
    fake = TrueEnd(real.physics)
    monkeypatch.setattr(suite, "load", lambda *given, **options: fake)
    row = PixelEnvironment(config, seed=0).step(np.array([-1.0, 0.5], np.float32))
    real.close()
    assert (row.reward, row.discount, row.last) == (1.0 + 0.5 * 2.0, 0.0, True)
    assert fake.controls == [[0.0, -1.0]] * 2


@pytest.mark.dm_control
def test_grayscale_and_black_floor_change_the_picture_only(rendering):
    plain = {"task": "walker_walk", "max_steps": 2, "image_size": 48, "seed": 2}
    color = record_episode(CollectConfig(**plain), 0)
    gray = record_episode(CollectConfig(**plain, grayscale=True), 0)
    black = record_episode(CollectConfig(**plain, black_floor=True), 0)
    fast = record_episode(CollectConfig(**plain, fast_render=True), 0)
    for other in (gray, black, fast):
        for name in ("action", "reward", "discount"):
            np.testing.assert_array_equal(other[name], color[name])
    assert gray["observation"].shape == (3, 3, 48, 48)
    rgb = color["observation"][0, -3:].transpose(1, 2, 0)
    np.testing.assert_array_equal(gray["observation"][0, -1:], luma(rgb))
    colored, blackened = (arrays["observation"][-1, -3:].astype(int) for arrays in (color, black))
    floor = (blackened == 0).all(axis=0)  # height, width
    assert 0.1 < floor.mean() < 0.8
    assert colored[:, floor].max(axis=0).min() > 40
    assert (colored[:, ~floor] == blackened[:, ~floor]).mean() > 0.95, "more than the floor has changed"
    assert black["observation"].max() > 150, "the walker is gone too"
    assert (fast["observation"] != color["observation"]).any()


@pytest.mark.dm_control
@pytest.mark.parametrize("task", ["quadruped_walk", "cup_catch", "point_mass_easy"])
def test_other_tasks_record(rendering, task):
    steps = []
    config = CollectConfig(**{**TINY, "task": task, "max_steps": 1, "black_floor": True})
    arrays = record_episode(config, 0, on_step=lambda index, step: steps.append((index, step)))
    assert arrays["observation"].shape == (2, 9, 32, 32)
    assert steps == [(0, 1)]


@pytest.mark.dm_control
def test_recording_goes_on_where_it_stopped(recorded, tmp_path):
    config, _, paths = recorded
    collect(CollectConfig(**TINY, seed=5, episodes=0), tmp_path)
    kept = write_episode(tmp_path, read_episode(paths[1]), index=1, timestamp="20200101T000000")
    before = kept.stat()
    (tmp_path / ".20200101T000000_0_4.npz.tmp").write_bytes(b"left by a run that was killed")
    seen = []
    found = collect(config, tmp_path, on_episode=lambda index, path, recorded: seen.append((index, path, recorded)))
    assert seen == [(0, found[0], True), (1, kept, False)]
    assert kept.stat().st_mtime_ns == before.st_mtime_ns
    first = read_episode(found[0])
    for name, array in read_episode(paths[0]).items():
        np.testing.assert_array_equal(array, first[name])
    assert collect(config, tmp_path) == found


@pytest.mark.dm_control
def test_recordings_are_not_mixed(recorded, tmp_path):
    _, folder, paths = recorded
    with pytest.raises(EpisodeFileError, match=r"another one \(grayscale\)"):
        collect(CollectConfig(**TINY, seed=5, grayscale=True), folder)
    (tmp_path / paths[0].name).write_bytes(paths[0].read_bytes())
    with pytest.raises(EpisodeFileError, match=r"collect\.json"):
        collect(CollectConfig(**TINY), tmp_path)


def test_a_directory_that_cannot_go_on_is_refused(tmp_path):
    config = CollectConfig(**TINY)
    collect(CollectConfig(**TINY, episodes=0), tmp_path)
    truncated = tmp_path / "20200101T000000_0_4.npz"
    truncated.write_bytes(b"PK")
    with pytest.raises(EpisodeFileError, match="zip archive"):
        collect(config, tmp_path)
    truncated.unlink()
    write_episode(tmp_path, {"observation": np.zeros((5, 3, 4, 4), np.uint8)}, index=0)
    with pytest.raises(EpisodeFileError, match="delete the file"):
        collect(config, tmp_path)
    (tmp_path / "collect.json").write_text("[" * 50000)
    with pytest.raises(EpisodeFileError, match="expected JSON"):
        collect(config, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        collect(config, tmp_path / "file")


def test_carried_episodes_fit_their_configuration():
    folder = Path(__file__).parents[2] / "experiments" / "recorded" / "walker_walk"
    stored = json.loads((folder / "collect.json").read_text())
    config = CollectConfig(**stored, episodes=4)
    assert collect(config, folder) == [entry.path for entry in list_episode_files(folder)]
    assert sum(entry.stat().st_size for entry in folder.iterdir()) < 2.8e6
