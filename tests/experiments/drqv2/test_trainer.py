"""The training loop over an environment that is made up, and once over a real one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drqv2_patch.errors import RunError
from drqv2_patch.snapshot import write_snapshot
from experiments.drqv2 import trainer
from experiments.drqv2.environment import Environment, TimeStep
from experiments.drqv2.evaluation import newest_frames, write_video
from experiments.drqv2.logs import RunLog, read_evaluations
from experiments.drqv2.same_learning import digest_of
from experiments.drqv2.train_config import CONFIG
from experiments.drqv2.trainer import FORM, REPLAY, SNAPSHOT, read_run, train
from replaystore import ReplayStore
from replaystore.collect import CollectConfig, RenderingUnavailable, ensure_rendering
from replaystore.errors import MissingDependency, SpecError

from .conftest import SIDE, frame

LENGTH = 10  # rows of an episode: 20 frames


class MadeUp:
    """Episodes of self-identifying frames; the reward says how near the action is to one half."""

    stop_at: tuple[int, int] | None = None  # (episode, row) at which the process is killed, so to speak

    def __init__(self, config: CollectConfig, seed: int, episode: int = 0) -> None:
        self.num_actions = 2
        self._config = config
        self._episode = episode - 1
        self._row = 0

    def _step(self, action: np.ndarray, reward: float) -> TimeStep:
        channels = 1 if self._config.grayscale else 3
        frames = [frame(self._episode, max(0, self._row - k), channels, self._config.image_size) for k in (2, 1, 0)]
        return TimeStep(self._row, np.concatenate(frames), action, reward, 1.0, self._row == LENGTH)

    def skip_to(self, episode: int) -> None:
        self._episode = max(self._episode, episode - 1)

    def reset(self) -> TimeStep:
        self._episode += 1
        self._row = 0
        return self._step(np.zeros(2, np.float32), 0.0)

    def step(self, action: np.ndarray) -> TimeStep:
        self._row += 1
        if (self._episode, self._row) == MadeUp.stop_at:
            raise KeyboardInterrupt
        return self._step(action, 1.0 - float(np.abs(action - 0.5).mean()))

    def close(self) -> None:
        return


@pytest.fixture(autouse=True)
def made_up(monkeypatch, request):
    if "dm_control" not in request.keywords:
        monkeypatch.setattr(trainer, "Environment", MadeUp)
        monkeypatch.setattr("experiments.drqv2.evaluation.Environment", MadeUp)
    monkeypatch.setattr(MadeUp, "stop_at", None)


def agent_digest(directory: str) -> str:
    return digest_of(read_run(Path(directory))["agent"])


def rows_of(directory: str) -> list[int]:
    with ReplayStore.open(Path(directory) / REPLAY / "store", read_only=True) as store:
        return [info.num_rows - 1 for info in store.episodes()]


def test_a_run_stores_what_it_saw_and_ends_by_itself(train_config):
    ended = train(replace(train_config, eval_every_frames=50, train_frames=110))
    assert (ended["frame"], ended["episode"], ended["updates"]) == (110, 5, 23)  # every other row from the 10th on
    with ReplayStore.open(Path(train_config.output_dir) / REPLAY / "store", read_only=True) as store:
        for number in range(5):
            rows = store.read_episode(number)
            assert np.array_equal(rows["observation"][:, -1:], [frame(number, row) for row in range(LENGTH + 1)])
            assert rows["action"][0].tolist() == [0, 0]
            closeness = 1 - np.abs(rows["action"][1:] - 0.5).mean(axis=1)
            np.testing.assert_allclose(rows["reward"][1:, 0], closeness, rtol=1e-6)
        assert store.num_episodes == 5  # the open one is dropped
    assert [entry["frame"] for entry in read_evaluations(Path(train_config.output_dir))] == [0, 50, 100, 110]


def test_the_mode_changes_nothing_that_is_learned(train_config, tmp_path):
    digests = set()
    for mode in ("disk", "half", "full"):
        directory = str(tmp_path / mode)
        train(replace(train_config, replay_mode=mode, output_dir=directory, deterministic=True))
        digests.add(agent_digest(directory))
    other = str(tmp_path / "other")
    train(replace(train_config, output_dir=other, seed=4, deterministic=True))
    torch.use_deterministic_algorithms(False)
    assert len(digests) == 1
    assert agent_digest(other) not in digests


def test_a_killed_run_goes_on_from_its_snapshot_with_every_committed_episode(train_config, monkeypatch):
    monkeypatch.setattr(MadeUp, "stop_at", (3, 5))
    with pytest.raises(KeyboardInterrupt):
        train(train_config)
    assert rows_of(train_config.output_dir) == [LENGTH] * 3
    state = read_run(Path(train_config.output_dir))
    assert (state["frame"], state["episode"], state["step"]) == (40, 2, 20)  # an episode older than the store
    monkeypatch.setattr(MadeUp, "stop_at", None)
    ended = train(replace(train_config, resume=True))
    assert (ended["frame"], ended["episode"]) == (100, 5)
    assert train(replace(train_config, resume=True)) == ended | {"seconds": pytest.approx(ended["seconds"], abs=5)}
    assert rows_of(train_config.output_dir) == [LENGTH] * 6
    assert ended["updates"] == state["updates"] + 15


def test_resuming_restores_agent_sampler_and_generators(train_config, monkeypatch):
    """Cut at a snapshot, the run goes on with the same weights, noise and sampler."""
    train(replace(train_config, train_frames=40))
    saved = read_run(Path(train_config.output_dir))
    seen = {}

    class Watched(trainer.Run):
        def to_the_end(self):
            seen["agent"] = digest_of(self.agent.state_dict())
            seen["loader"] = self.loader.state_dict()
            seen["torch"] = torch.get_rng_state()
            return super().to_the_end()

    monkeypatch.setattr(trainer, "Run", Watched)
    train(replace(train_config, resume=True))
    assert seen["agent"] == digest_of(saved["agent"])
    assert seen["loader"] == saved["loader"]
    assert torch.equal(seen["torch"], saved["random"]["torch"])


def test_resume_without_a_snapshot_starts_with_what_was_committed(train_config, monkeypatch):
    monkeypatch.setattr(MadeUp, "stop_at", (1, 5))
    with pytest.raises(KeyboardInterrupt):
        train(train_config)
    assert not (Path(train_config.output_dir) / SNAPSHOT).exists()
    monkeypatch.setattr(MadeUp, "stop_at", None)
    assert train(replace(train_config, resume=True))["frame"] == 100
    with ReplayStore.open(Path(train_config.output_dir) / REPLAY / "store", read_only=True) as store:
        starts = [store.read_episode(number)["observation"][0, -1:] for number in range(store.num_episodes)]
    assert np.array_equal(starts, [frame(number, 0) for number in range(6)])  # no episode is seen twice


def test_what_cannot_work_is_one_error_with_the_remedy(train_config, tmp_path):
    train(replace(train_config, train_frames=40))
    cases = [
        (replace(train_config), "has a run already; pass resume=true"),
        (replace(train_config, resume=True, replay_mode="half"), "replay_mode: expected full.*got half"),
        (
            replace(train_config, resume=True, image_size=24),
            "image_size: expected 20.*got 24; resume with",
        ),
        (replace(train_config, replay_mode="most"), "expected one of disk, half, full, got 'most'"),
        (replace(train_config, device="tpu"), "device: expected one of"),
        (replace(train_config, task="walkerwalk"), "expected domain_task"),
        (replace(train_config, batch_size=0), "batch_size: expected at least 1"),
        (replace(train_config, output_dir=str(tmp_path / "x"), image_size=10), "at least 15"),
    ]
    if not torch.cuda.is_available():
        cases.append((replace(train_config, output_dir=str(tmp_path / "y"), device="cuda"), "pass device=cpu"))
    for config, words in cases:
        with pytest.raises(SpecError, match=words):
            train(config)
    smaller = replace(train_config.agent, hidden_dim=4)
    with pytest.raises(SpecError, match=r"agent.hidden_dim: expected 8"):
        train(replace(train_config, resume=True, agent=smaller))
    (Path(train_config.output_dir) / CONFIG).unlink()
    with pytest.raises(SpecError, match=r"config.json: expected the settings that the run began with"):
        train(replace(train_config, resume=True))


def test_a_run_that_could_not_learn_says_so(train_config):
    with pytest.raises(SpecError, match="n_step: expected an episode of at least 11 rows"):
        train(replace(train_config, n_step=LENGTH + 1))


def test_a_snapshot_is_whole_or_refused(tmp_path):
    path = tmp_path / SNAPSHOT
    write_snapshot(path, {"value": torch.arange(1000)}, FORM)
    content = path.read_bytes()
    assert torch.equal(read_run(tmp_path)["value"], torch.arange(1000))
    assert [each.name for each in tmp_path.iterdir()] == [SNAPSHOT]
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:cut])
        with pytest.raises(RunError, match="delete it"):
            read_run(tmp_path)
    write_snapshot(path, {"value": 1}, "another 1")
    with pytest.raises(RunError, match="found 'another 1'; delete it"):
        read_run(tmp_path)


def test_pictures_of_a_video_are_the_newest_frames():
    stacks = [np.concatenate([frame(0, max(0, row - k)) for k in (2, 1, 0)]) for row in range(4)]
    pictures = newest_frames(stacks, 3)
    assert pictures.shape == (4, 20, 20, 3)
    for row, picture in enumerate(pictures):
        for channel in range(3):
            assert np.array_equal(picture[:, :, channel], frame(0, row)[0])


def test_what_is_not_installed_is_named(train_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "imageio.v3", None)
    with pytest.raises(MissingDependency, match="tensorboard=false"):
        train(replace(train_config, tensorboard=True))
    with pytest.raises(MissingDependency, match="save_video=false"):
        train(replace(train_config, save_video=True, resume=True))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("replay_mode=fall", "expected one of disk, half, full"),
        ("fnord=1", "fnord"),
        ("device=cuda", "expected a CUDA device that torch can use, found none; pass device=cpu"),
    ],
)
def test_the_command_ends_with_one_line_and_status_2(tmp_path, override, words):
    pytest.importorskip("hydra")
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device, so device=cuda is no mistake here")
    command = [sys.executable, "-m", "experiments.drqv2.train", f"output_dir={tmp_path / 'run'}", override]
    root = Path(trainer.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=120)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    if override == "device=cuda":
        assert not (tmp_path / "run").exists()


@pytest.mark.dm_control
def test_trains_on_a_real_task(train_config):
    try:
        ensure_rendering()
    except (MissingDependency, RenderingUnavailable) as err:
        pytest.skip(str(err))
    config = replace(train_config, max_episode_steps=6, train_frames=30, seed_frames=14, fast_render=True)
    assert train(config)["updates"] == 4
    assert rows_of(config.output_dir) == [6, 6]
    with pytest.raises(SpecError, match="walker_walk"):
        train(replace(config, task="walker_wlak", output_dir=f"{config.output_dir}-2"))
    first, second = (Environment(config.environment(), 1, episode=2) for _ in range(2))
    for environment in (first, second):
        environment.reset()
    action = np.full(first.num_actions, 0.3, np.float32)
    assert np.array_equal(first.step(action).observation, second.step(action).observation)
    first.close()
    second.close()


def test_event_files_hold_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, tensorboard=True, total_frames=10, frame=0) as log:
        log.episode(4, {"reward": 2.5})
        log.evaluation({"frame": 6, "reward": 3.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/reward")] == [(4, 2.5)]
    assert [(each.step, each.value) for each in events.Scalars("eval/reward")] == [(6, 3.5)]


def test_a_video_shows_the_frames(tmp_path):
    pytest.importorskip("av")
    iio = pytest.importorskip("imageio.v3")
    frames = np.zeros((6, 20, 20, 3), np.uint8)
    for number, each in enumerate(frames):
        each[:] = 40 * number
    write_video(tmp_path / "videos" / "0.mp4", frames)
    found = iio.imread(tmp_path / "videos" / "0.mp4", plugin="pyav")
    assert found.shape == (6, 80, 80, 3)
    assert np.abs(found.mean(axis=(1, 2, 3)) - 40 * np.arange(6)).max() < 8  # H.264 is lossy
    assert [each.name for each in (tmp_path / "videos").iterdir()] == ["0.mp4"]


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@cuda
@pytest.mark.parametrize("deterministic", [False, True])
def test_trains_and_resumes_on_cuda(train_config, deterministic):
    config = replace(train_config, device="cuda", deterministic=deterministic)
    first = train(replace(config, train_frames=60))
    ended = train(replace(config, resume=True))
    torch.use_deterministic_algorithms(False)
    assert (first["frame"], ended["frame"]) == (60, 100)
    assert ended["updates"] > first["updates"]
    state = read_run(Path(config.output_dir))["agent"]["optimisers"]["critic"]["state"]
    assert all(each["step"].device.type == "cpu" for each in state.values())  # on the device every update would wait


@cuda
def test_modes_learn_the_same_on_cuda(train_config, tmp_path):
    digests = set()
    for mode in ("disk", "half", "full"):
        directory = str(tmp_path / mode)
        train(replace(train_config, replay_mode=mode, output_dir=directory, device="cuda", deterministic=True))
        digests.add(agent_digest(directory))
    torch.use_deterministic_algorithms(False)
    assert len(digests) == 1


def test_a_run_says_what_it_does_from_its_start(train_config, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("experiments.drqv2.logs.Pulse", lambda: SimpleNamespace(due=lambda: True))
    train(replace(train_config, device="auto", train_frames=40, eval_every_frames=30))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"device: cpu (auto: torch finds no CUDA device); logs and snapshots: {train_config.output_dir}"
    row_bytes = SIDE * SIDE + 2 * 4 + 4 + 4
    assert lines[1] == (
        f"buffer: mode full, 1,000 transitions take at most {1000 * row_bytes / 1024:.1f} KiB, which is their size"
        " before compression; all in memory"
    )
    assert lines[2] == "evaluation at frame 0: episode 1 of 1, row 0"
    assert "frame 2 of 40  the first update comes at frame 20" in lines
    assert any(line.startswith("frame 40 of 40  ") and line.endswith(" updates") for line in lines)
    assert train(replace(train_config, device="auto", resume=True, train_frames=60))["frame"] == 60
    assert "measured at its rows so far" not in capsys.readouterr().err  # 33 rows are no chunk
    assert train(replace(train_config, device="cpu", resume=True, train_frames=80))["frame"] == 80
