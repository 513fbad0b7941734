"""A patched checkout trains, is killed, and goes on: the program of tests/small_drqv2.py, and its parts."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_drqv2
import torch

from drqv2_patch import rewind as rewinding
from drqv2_patch import snapshot
from drqv2_patch.errors import RunError
from drqv2_patch.patch.checkout import Checkout
from drqv2_patch.patch.config_edits import ReplayOptions
from drqv2_patch.rewind import Mark, finish_rewind, mark_of, rewind
from drqv2_patch.runs import check_config, check_directory, run_directory
from drqv2_patch.training import load_snapshot, run, save_snapshot, snapshot_is_due
from replaystore import FieldSpec, ReplayStore, Sampler

MODES = ["disk", "half", "full"]


@pytest.fixture
def checkout(tmp_path):
    path = tmp_path / "checkout"
    small_drqv2.write_checkout(path)
    Checkout(path).apply(ReplayOptions())
    return path


def train(checkout: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "KILL_AT")}
    return subprocess.run(
        [sys.executable, "train.py", *overrides],
        cwd=checkout,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a run is refused."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: error: ")
    return line


def run_of(checkout: Path) -> Path:
    """The directory of the only run."""
    (found,) = (checkout / "runs").glob("*/*")
    return found


def numbers_of(run: Path) -> list[float]:
    """What the store of a run holds, episode after episode: the first pixel of each row."""
    with ReplayStore.open(run / "buffer" / "store", read_only=True) as store:
        assert store.verify().ok
        return [
            float(pixel)
            for info in store.episodes()
            for pixel in store.read_episode(info.episode)["observation"][:, -1, 0, 0]
        ]


# The patched program


def test_trains_to_its_end_and_alike_in_every_mode(checkout):
    found = {}
    for mode in MODES:
        done = train(checkout, f"replay_mode={mode}", f"hydra.run.dir=runs/today/1_{mode}")
        assert done.returncode == 0, done.stderr
        # Hydra shows the log lines of the package as well.
        device, first, *lines = (line for line in done.stdout.splitlines() if "][replaystore." not in line)
        assert re.fullmatch(rf"device: (cpu|cuda) \(auto: .*\); logs and snapshots: .*1_{mode}", device)
        row_bytes = 3 * 8 * 8 * (3 if mode == "disk" else 1) + 2 * 4 + 4 + 4
        size = f"{'at most ' if mode == 'full' else ''}{1000 * row_bytes / 1024:.1f} KiB"
        assert first.startswith(f"buffer: mode {mode}, 1,000 transitions take {size}")
        assert first.endswith("; all in memory")
        assert "ended at frame 240, episode 10: 95 updates, 120 transitions" in lines
        assert "MUJOCO_GL is glfw" in done.stdout  # the checkout's own choice where the user has none
        run = checkout / "runs" / "today" / f"1_{mode}"
        found[mode] = snapshot.read_snapshot(run / "snapshot.pt")
        with ReplayStore.open(run / "buffer" / "store", read_only=True) as store:
            assert store.spec.mode == mode
            assert store.num_episodes == 10
    for mode in MODES:
        assert (found[mode]["step"], found[mode]["episode"]) == (120, 10)
        assert found[mode]["agent"]["count"] == 120 - 25
        assert torch.equal(found[mode]["agent"]["net"]["weight"], found["full"]["agent"]["net"]["weight"])
        assert found[mode]["loader"] == found["full"]["loader"]


def test_goes_on_after_a_kill(checkout, tmp_path):
    options = ["snapshot_every_frames=60", "num_train_frames=400"]
    killed = train(checkout, *options, KILL_AT="89", MUJOCO_GL="egl")
    assert killed.returncode == -signal.SIGKILL
    run = run_of(checkout)
    before = snapshot.read_snapshot(run / "snapshot.pt")
    # 88 steps are 7 episodes; 60 frames are passed at the end of the 3rd, 120 at that of the 5th.
    assert (before["step"], before["episode"]) == (60, 5)
    assert before["replay"] == {"next_episode": 5, "num_episodes": 5}
    pixels = numbers_of(run)
    assert len(pixels) == 7 * 13
    exact = tmp_path / "exact"
    shutil.copytree(checkout, exact)

    assert "expected a new directory, found an earlier run" in refused(train(checkout, f'hydra.run.dir="{run}"'))
    assert numbers_of(run) == pixels
    for directory, resume, known, newer in ((checkout, "true", 7, 2), (exact, "exact", 5, 0)):
        done = train(directory, f"resume={resume}", *reversed(options), MUJOCO_GL="egl")
        assert done.returncode == 0, done.stderr
        assert "MUJOCO_GL is egl" in done.stdout  # the user's choice
        assert f"resumed at frame 120, episode 5: {known} episodes, {newer} of them newer" in done.stdout
        assert ("2 of the episodes, newer than the snapshot, are dropped" in done.stdout) == (resume == "exact")
        assert run_of(directory).name == run.name
        after = snapshot.read_snapshot(run_of(directory) / "snapshot.pt")
        assert (after["step"], after["episode"]) == (200, 5 + (200 - 60) // 12)
        assert after["agent"]["count"] == 200 - 25
        episodes = known + (200 - 60) // 12
        assert after["replay"]["num_episodes"] == episodes
        now = numbers_of(run_of(directory))
        assert now[: known * 13] == pixels[: known * 13]
        assert len(now) == episodes * 13
        # The environment's generator went on from the snapshot: the first new episode is not the first of all again.
        fresh = now[known * 13 : (known + 1) * 13]
        assert all(fresh != pixels[start : start + 13] for start in range(0, len(pixels), 13))


def test_killed_before_the_first_snapshot(checkout):
    options = ["snapshot_every_frames=null", "num_train_frames=96"]
    assert train(checkout, *options, KILL_AT="30").returncode == -signal.SIGKILL
    run = run_of(checkout)
    with pytest.raises(RunError, match=r"expected a snapshot to resume exactly from, .* use resume=true"):
        check_directory(SimpleNamespace(resume="exact"), run)
    done = train(checkout, "resume=true", *options)
    assert done.returncode == 0, done.stderr
    assert "nothing but episodes to resume" in done.stdout
    assert len(numbers_of(run)) == (2 + 4) * 13
    assert not (run / "snapshot.pt").exists()


def test_bad_input_is_one_line(checkout):
    run = checkout / "runs" / "today" / "1_x"
    where = f"hydra.run.dir={run}"
    done = train(checkout, "resume=true", "num_train_frames=48", where)
    assert done.returncode == 0, done.stderr
    assert "nothing to resume" in done.stdout
    line = refused(train(checkout, "resume=true", "size=6", where))
    assert "field 'observation': expected uint8 (3, 6, 6)" in line
    assert "another replay_dir" in line
    shutil.copy(checkout / ".drqv2_patch" / "original" / "logger.py", checkout / "logger.py")
    line = refused(train(checkout))
    assert f"python -m drqv2_patch revert {checkout}, then apply" in line


# Where a run goes on


def test_run_directory_is_that_of_the_last_run_with_the_same_overrides(tmp_path):
    def made(name: str, *files: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).mkdir()
        return tmp_path / name

    made("2024.01.02/101010_a=1,b=2", "buffer")
    last = made("2024.01.03/090000_a=1,b=2", "buffer")
    made("2024.01.03/080000_a=1,b=2", "buffer")
    made("2024.01.03/100000_a=1", "buffer")  # other overrides
    made("2024.01.03/110000_a=1,b=2")  # no run
    fresh = str(tmp_path / "2024.01.04" / "070000_a=1,b=2")
    for resume in (True, "exact"):
        assert run_directory(resume, fresh) == str(last)
    assert run_directory(False, fresh) == fresh
    assert run_directory(True, fresh + "0") == fresh + "0"


def test_long_overrides_are_cut_to_a_name_that_stays_apart(tmp_path):
    def name(overrides: str, time: str = "070000", resume: bool = False) -> Path:
        return Path(run_directory(resume, str(tmp_path / "2024.01.04" / f"{time}_{overrides}")))

    long = "é" * 100 + "x" * 100
    assert len(name(long).name.encode()) <= 255
    assert name(long) != name(long + "y")
    (name(long) / "buffer").mkdir(parents=True)
    assert name(long, "080000", resume=True) == name(long)
    assert name(long + "y", "080000", resume=True) == name(long + "y", "080000")


class Config(SimpleNamespace):
    """What is used of an OmegaConf configuration."""

    def __getitem__(self, key):
        return getattr(self, key)


GOOD = {
    "replay_mode": "full",
    "replay_residency": "auto",
    "replay_budget": "2GiB",
    "resume": False,
    "snapshot_every_frames": None,
    "nstep": 3,
    "num_seed_frames": 4,
    "device": "auto",
}


def test_updates_before_the_first_episode_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    @run
    def main(cfg):
        with new_store(tmp_path / "store") as store:
            store.draw(Sampler(n_step=cfg.nstep), np.random.default_rng(0), 4)

    with pytest.raises(SystemExit) as stopped:
        main(Config(**GOOD))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: num_seed_frames: expected enough frames for an episode of 3 steps to")
    assert line.endswith("found 4 and no such episode; raise it")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replay_mode", "zip"),
        ("replay_residency", None),
        ("replay_budget", "lots"),
        ("resume", "yes"),
        ("resume", 0),
        ("snapshot_every_frames", 0),
        ("snapshot_every_frames", 1.5),
    ],
)
def test_configuration_is_checked(name, value):
    check_config(Config(**GOOD))
    with pytest.raises(RunError, match=f"{name}: expected .* found {re.escape(repr(value))}"):
        check_config(Config(**{**GOOD, name: value}))


def test_snapshots_are_due_at_multiples_that_were_passed():
    def due_at(every: int | None, always: bool = False) -> list[int]:
        cfg = SimpleNamespace(snapshot_every_frames=every, save_snapshot=always)
        workspace = SimpleNamespace(cfg=cfg, global_frame=0)
        found = []
        for workspace.global_frame in range(30, 331, 30):
            if snapshot_is_due(workspace):
                found.append(workspace.global_frame)
                workspace.snapshot_frame = workspace.global_frame
        return found

    assert due_at(100) == [120, 210, 300]
    assert due_at(10) == list(range(30, 331, 30))
    assert due_at(None) == []
    assert due_at(None, always=True) == list(range(30, 331, 30))


# Snapshots


class Agent:
    def __init__(self, inputs: int = 3) -> None:
        self.net = torch.nn.Linear(inputs, 2)
        self.opt = torch.optim.Adam(self.net.parameters())
        self.alpha = torch.ones(2, requires_grad=True)
        self.device = "cpu"


def test_a_snapshot_restores_agent_and_generators(tmp_path):
    agent, other = Agent(), Agent()
    agent.net(torch.ones(3)).sum().backward()
    agent.opt.step()
    with torch.no_grad():
        agent.alpha += 1
    other.device = "elsewhere"
    worlds = {"train": SimpleNamespace(task=SimpleNamespace(random=np.random.RandomState(5))), "eval": object()}
    path = tmp_path / "snapshot.pt"

    def draws() -> list[float]:
        return [
            float(torch.rand(())),
            float(np.random.rand()),  # noqa: NPY002
            float(np.random.normal()),  # noqa: NPY002
            random.random(),
            worlds["train"].task.random.normal(),
        ]

    draws()  # NumPy keeps the second of two normal numbers
    snapshot.write_snapshot(
        path, {"agent": snapshot.agent_state(agent), "random": snapshot.random_state(worlds), "loader": {"a": 1 << 120}}
    )
    expected = draws()
    assert draws() != expected
    payload = snapshot.read_snapshot(path)
    snapshot.load_agent_state(other, payload["agent"])
    snapshot.load_random_state(payload["random"], worlds)
    assert draws() == expected
    assert payload["loader"] == {"a": 1 << 120}
    assert torch.equal(other.net.weight, agent.net.weight)
    assert torch.equal(other.alpha, agent.alpha)
    assert other.opt.state_dict()["state"][0]["exp_avg"].equal(agent.opt.state_dict()["state"][0]["exp_avg"])
    assert other.device == "elsewhere"  # a setting
    with pytest.raises(RunError, match=r"agent\.net: expected it to fit .* resume with the task"):
        snapshot.load_agent_state(Agent(inputs=4), payload["agent"])
    del other.alpha
    with pytest.raises(RunError, match="expected the parts"):
        snapshot.load_agent_state(other, payload["agent"])


def test_a_workspace_goes_on_with_counters_time_and_draws(tmp_path, capsys):
    class Timer:
        def __init__(self, seconds: float) -> None:
            self._start_time = time.time() - seconds

        def total_time(self) -> float:
            return time.time() - self._start_time

    class Workspace(SimpleNamespace):
        @property
        def counters(self) -> tuple[int, int, int]:
            return self._global_step, self._global_episode, self.replay_loader.state

    class Loader:
        def __init__(self, state: int) -> None:
            self.state = state

        def state_dict(self) -> dict[str, int]:
            return {"state": self.state}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.state = state["state"]

    def workspace(step: int, draws: int, store: ReplayStore, seconds: float = 0) -> Workspace:
        return Workspace(
            **{"work_dir": tmp_path, "agent": Agent(), "timer": Timer(seconds), "train_env": None, "eval_env": None},
            **{"_global_step": step, "_global_episode": step // 10, "global_frame": 2 * step},
            **{"replay_loader": Loader(draws), "replay_storage": SimpleNamespace(store=store)},
        )

    with new_store(tmp_path / "store") as store:
        write(store, 0, 1)
        first = workspace(50, 9, store, seconds=1000)
        save_snapshot(first)
        assert first.snapshot_frame == 100
        write(store, 2)
        second = workspace(0, 1, store)
        load_snapshot(second)
    assert second.counters == (50, 5, 9)
    assert 1000 <= second.timer.total_time() < 1100
    assert torch.equal(second.agent.net.weight, first.agent.net.weight)
    assert "episode 5: 3 episodes, 1 of them newer" in capsys.readouterr().out


def test_a_write_that_is_interrupted_leaves_the_snapshot_before(tmp_path, monkeypatch):
    path = tmp_path / "snapshot.pt"
    snapshot.write_snapshot(path, {"step": 1})

    def torn(payload, file):
        file.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        snapshot.write_snapshot(path, {"step": 2})
    monkeypatch.undo()
    assert snapshot.read_snapshot(path)["step"] == 1
    snapshot.write_snapshot(path, {"step": 3})
    assert snapshot.read_snapshot(path)["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot.pt"]


def test_a_snapshot_is_data_and_not_code(tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (canary,)

    path = tmp_path / "snapshot.pt"
    whole = None
    for payload in ({"format": "drqv2_patch 1", "agent": Hostile()}, {"agent": Agent()}):
        torch.save(payload, path)
        whole = path.read_bytes()
        with pytest.raises(RunError, match="expected a snapshot of format"):
            snapshot.read_snapshot(path)
    assert not canary.exists()
    torch.save({"step": 1}, path)
    with pytest.raises(RunError, match="found None"):
        snapshot.read_snapshot(path)
    for damaged in (b"", b"PK", whole[:200], pickle.dumps({"step": 1})):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=re.escape(str(path))):
            snapshot.read_snapshot(path)


# Rewinding


def write(store: ReplayStore, *numbers: int) -> None:
    """Episodes of 4 rows that hold their number, for ever the same."""
    for number in numbers:
        rows = np.random.default_rng(number).integers(0, 256, (4, 3, 6, 6), np.uint8)
        store.append({"observation": rows, "action": np.full((4, 1), number + 1 / 3, np.float32)})


def new_store(path: Path, capacity: int | None = None) -> ReplayStore:
    fields = [
        FieldSpec.image("observation", (3, 6, 6), frame_stack=3, channels="first"),
        FieldSpec(name="action", shape=(1,), dtype="float32", role="action"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    return ReplayStore.create(path, fields, mode="full", capacity=capacity)


def held(path: Path) -> dict[int, bytes]:
    """Number: observations of each episode."""
    with ReplayStore.open(path, read_only=True) as store:
        assert store.verify().ok
        episodes = [store.read_episode(info.episode) for info in store.episodes()]
    return {int(rows["action"][0, 0]): rows["observation"].tobytes() for rows in episodes}


def test_rewinding_drops_what_is_newer_and_nothing_else(tmp_path):
    path = tmp_path / "buffer" / "store"
    with new_store(path, capacity=21) as store:
        write(store, *range(5))
        mark = mark_of(store)
        write(store, 5, 6)
    whole = held(path)
    assert rewind(path, Mark(7, 7)) == 0
    assert rewind(path, mark) == 2
    assert held(path) == {number: whole[number] for number in range(5)}
    assert rewind(path, mark) == 0
    with ReplayStore.open(path) as store:
        assert store.capacity == 21
        assert mark_of(store) == mark
        write(store, 7)
        later = mark_of(store)
        assert later == Mark(6, 6)
        write(store, 8)
    assert rewind(path, later) == 1
    assert rewind(path, mark) == 1
    assert list(held(path)) == [0, 1, 2, 3, 4]
    assert sorted(file.name for file in path.parent.iterdir()) == ["episode_numbers.json", "store"]


def test_one_start_at_a_time_drops_episodes(tmp_path):
    path = tmp_path / "buffer" / "store"
    with new_store(path, capacity=21) as store:
        write(store, 0, 1)
        mark = mark_of(store)
        write(store, 2)
    copy = path.with_name("store.rewinding")
    copy.mkdir()  # as another process makes it, which holds the lock
    with rewinding.exclusive(path):
        for call in (lambda: rewind(path, mark), lambda: finish_rewind(path)):
            with pytest.raises(RunError, match="found one that drops episodes"):
                call()
    assert copy.exists()
    finish_rewind(path)  # it was killed
    assert not copy.exists()
    assert rewind(path, mark) == 1
    path.rename(path.with_name("store.rewound"))  # and nothing took its place
    finish_rewind(path)
    assert len(held(path)) == 2


def test_numbers_go_on_after_evictions_and_rewindings(tmp_path):
    path = tmp_path / "store"
    with new_store(path, capacity=9) as store:  # 3 episodes
        write(store, *range(5))
        first = mark_of(store)
        assert first == Mark(5, 3)
    with ReplayStore.open(path) as store:
        store.set_capacity(30)
        write(store, 5, 6)
    assert rewind(path, first) == 2
    assert list(held(path)) == [2, 3, 4]
    with ReplayStore.open(path) as store:
        assert store.next_episode_id == 3  # a new store
        write(store, 7)
        second = mark_of(store)
        assert second == Mark(6, 4)
        write(store, 8)
    assert rewind(path, second) == 1
    with ReplayStore.open(path) as store:
        assert mark_of(store) == second
    assert list(held(path)) == [2, 3, 4, 7]


def test_rewinding_refuses_where_episodes_are_missing(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(RunError, match="the 2 episodes that the snapshot knows, found 0"):
        rewind(path, Mark(2, 2))
    assert rewind(path, Mark(0, 0)) == 0
    with new_store(path, capacity=9) as store:
        write(store, 0, 1, 2)
        mark = mark_of(store)
        write(store, 3)  # evicts the first
    before = held(path)
    with pytest.raises(RunError, match=r"the 3 episodes that the snapshot knows, found 2 of them.*use resume=true"):
        rewind(path, mark)
    with pytest.raises(RunError):
        rewind(path, Mark(9, 3))
    assert held(path) == before


def test_an_interrupted_rewinding_loses_nothing(tmp_path, monkeypatch):
    pristine = tmp_path / "pristine" / "store"
    with new_store(pristine) as store:
        write(store, *range(3))
        mark = mark_of(store)
        write(store, 3)
    whole = held(pristine)
    real = {"rename": Path.rename, "rmtree": shutil.rmtree, "write": rewinding.write_numbers}
    points = 0
    for count in range(1, 20):
        for when in ("before", "after"):
            path = tmp_path / f"{count}{when}" / "store"
            shutil.copytree(pristine.parent, path.parent)
            left = [count]

            def dies(function, left=left, when=when):
                def counted(*arguments, **options):
                    left[0] -= 1
                    if left[0] == 0:
                        if when == "after":
                            function(*arguments, **options)
                        raise KeyboardInterrupt
                    return function(*arguments, **options)

                return counted

            monkeypatch.setattr(Path, "rename", dies(real["rename"]))
            monkeypatch.setattr(rewinding.shutil, "rmtree", dies(real["rmtree"]))
            monkeypatch.setattr(rewinding, "write_numbers", dies(real["write"]))
            try:
                rewind(path, mark)
            except KeyboardInterrupt:
                points += 1
            monkeypatch.undo()
            finish_rewind(path)
            assert held(path) in (whole, {number: whole[number] for number in range(3)})
            assert rewind(path, mark) in (0, 1)
            assert list(held(path)) == [0, 1, 2]
            with ReplayStore.open(path) as store:
                assert mark_of(store) == mark
    assert points == 10  # the numbers, two renames, the old store removed; and a test removes nothing
