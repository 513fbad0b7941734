"""The lines of a run: its device, the memory of its buffer, and how far it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drqv2_patch import training
from drqv2_patch.device import check_device_argument, choose_device, describe_device
from drqv2_patch.progress import Pulse, buffer_line, measured_row_bytes
from drqv2_patch.storage import ReplayBufferStorage
from replaystore.errors import SpecError

SIDE = 16
ROW_BYTES = 3 * SIDE * SIDE + 2 * 4 + 4 + 4


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Spec(SimpleNamespace):
    """What is used of a dm_env spec."""


def specs() -> list[Spec]:
    return [
        Spec(name="observation", shape=(9, SIDE, SIDE), dtype=np.uint8),
        Spec(name="action", shape=(2,), dtype=np.float32),
        Spec(name="reward", shape=(1,), dtype=np.float32),
        Spec(name="discount", shape=(1,), dtype=np.float32),
    ]


class Step(dict[str, Any]):
    """A time step of an episode of `LENGTH` rows after the reset; every frame is its row's number."""

    LENGTH = 600

    def __init__(self, row: int) -> None:
        frames = [np.full((3, SIDE, SIDE), max(row - back, 0) % 251, np.uint8) for back in (2, 1, 0)]
        super().__init__(observation=np.concatenate(frames), action=np.zeros(2, np.float32), reward=0.0, discount=1.0)
        self.row = row

    def first(self) -> bool:
        return self.row == 0

    def last(self) -> bool:
        return self.row == self.LENGTH


def fill(storage: ReplayBufferStorage, episodes: int) -> None:
    for _ in range(episodes):
        for row in range(Step.LENGTH + 1):
            storage.add(Step(row))


def test_auto_is_the_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    assert describe_device("auto", torch.device("cpu")) == "cpu (auto: torch finds no CUDA device)"
    assert describe_device("cpu", torch.device("cpu")) == "cpu"
    for name in ("cuda", "cuda:0"):
        with pytest.raises(SpecError, match=r"found none; pass device=cpu"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SpecError, match=r"expected one of 2 CUDA devices, found cuda:2; pass device=cuda:1"):
        choose_device("cuda:2")
    with pytest.raises(SpecError, match=r"expected auto, cpu, cuda or cuda:NUMBER, found 'gpu'"):
        choose_device("gpu")


def test_the_last_device_of_the_command_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fine in ([], ["device=cuda", "device=auto"], ["agent.device=cuda"], ["device=cuda", "-m"]):
        check_device_argument(fine)
    for refused in (["device=cuda"], ["device=cpu", "++device=cuda:0"], ["device='cuda'"]):
        with pytest.raises(SpecError, match="pass device=cpu"):
            check_device_argument(refused)


def test_lines_are_due_within_seconds_and_then_once_a_minute() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    due = []
    for tenth in range(20_000):
        clock.now = tenth / 10
        if pulse.due():
            due.append(clock.now)
    gaps = np.diff(due)
    assert due[0] == 2.0
    assert gaps[0] == pytest.approx(5.0)
    assert (np.diff(gaps) > -0.11).all()
    assert gaps[-1] == pytest.approx(60.0)
    assert pulse.seconds == clock.now


@pytest.mark.parametrize(
    ("mode", "residency", "budget", "words"),
    [
        ("disk", "mapped", None, "{raw}; in files, of which the page cache keeps what it has room for"),
        ("half", "auto", 1 << 40, "{raw}; all in memory"),
        ("half", "auto", 1 << 20, "{raw}; 1.0 MiB of it in memory, the rest in files"),
        ("full", "ram", 1 << 20, "at most {raw}, which is their size before compression; all in memory, where there"
         " is room for 1.0 MiB"),
    ],
)  # fmt: skip
def test_memory_of_the_buffer(tmp_path: Path, mode: Any, residency: Any, budget: int | None, words: str) -> None:
    row_bytes = ROW_BYTES + (2 * 3 * SIDE * SIDE if mode == "disk" else 0)
    raw = f"{10_000 * row_bytes / (1 << 20):.1f} MiB"
    with ReplayBufferStorage(specs(), tmp_path, mode, residency=residency, budget_bytes=budget) as storage:
        assert buffer_line(storage, 10_000) == f"buffer: mode {mode}, 10,000 transitions take {words.format(raw=raw)}"


@pytest.mark.parametrize("mode", ["disk", "half", "full"])
def test_memory_is_measured_once_rows_are_encoded(tmp_path: Path, mode: Any) -> None:
    with ReplayBufferStorage(specs(), tmp_path, mode) as storage:
        fill(storage, 1)
        assert storage.store is not None
        storage.store.flush()
        assert measured_row_bytes(storage.store) is None  # 601 rows are no chunk
    with ReplayBufferStorage(specs(), tmp_path, mode) as storage:  # what is closed is sealed
        assert storage.store is not None
        assert storage.store.info()["chunks"] == 1
        assert measured_row_bytes(storage.store) is None
        fill(storage, 3)
        storage.store.flush()  # waits for the chunks that are being encoded
        found = measured_row_bytes(storage.store)
        assert found is not None
        if mode == "full":
            assert 16 < found < ROW_BYTES / 4  # plain frames compress; action, reward and discount do not
        else:  # raw rows: what is measured is what is computed
            assert found == pytest.approx(storage.row_bytes(), rel=0.02)
    with ReplayBufferStorage(specs(), tmp_path, mode) as storage:
        assert "measured at its rows so far" in buffer_line(storage, 10_000)


def test_a_patched_run_says_how_far_it_is(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    clock = Clock()
    monkeypatch.setattr(training, "Pulse", lambda: Pulse(clock))
    environments = [SimpleNamespace(step=Step) for _ in range(2)]
    with ReplayBufferStorage(specs(), tmp_path, "half") as storage:
        workspace = SimpleNamespace(
            cfg=SimpleNamespace(replay_buffer_size=100, num_seed_frames=40, num_train_frames=1000),
            replay_storage=storage, replay_loader=SimpleNamespace(num_batches=0), global_frame=0, _global_episode=0,
            train_env=environments[0], eval_env=environments[1],
        )  # fmt: skip
        training.start(workspace)
        assert capsys.readouterr().out.startswith("buffer: mode half, 100 transitions take")
        for second in range(1, 31):  # the evaluation before the first frame, an episode of 10 steps
            clock.now = float(second)
            time_step = workspace.eval_env.step(Step.LENGTH if second % 10 == 0 else second % 10)
            assert isinstance(time_step, Step)
        assert capsys.readouterr().out.splitlines()[:2] == [
            "evaluation at frame 0: episode 1, 2 steps so far",
            "evaluation at frame 0: episode 1, 7 steps so far",
        ]
        for second in range(31, 51):
            clock.now, workspace.global_frame = float(second), 2 * (second - 30)
            workspace.train_env.step(1)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("frame ")
        assert lines[0].endswith("of 1,000, episode 1: 2 frames/s, the first update comes at frame 40")
        workspace.global_frame, workspace.replay_loader.num_batches, clock.now = 60, 10, 100.0
        workspace.train_env.step(1)
        assert "10 updates" in capsys.readouterr().out
