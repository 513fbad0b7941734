"""`experiments.prefetch`: what counts as a wait, and a whole run at a tiny size."""

from __future__ import annotations

import json
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_up_episodes import made_up_episode

from experiments import prefetch
from replaystore import ReplayLoader, ReplayStore
from replaystore.datasets.fields import fields_from_episode


class SlowLoader:
    """Takes `seconds[k]` for batch k."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.taken = 0

    def __next__(self) -> dict[str, torch.Tensor]:
        time.sleep(self.seconds[self.taken])
        self.taken += 1
        return {"reward": torch.full((2,), self.taken)}


def test_waits_are_those_of_next_after_the_warm_up() -> None:
    loader = SlowLoader([0.02] * prefetch.WARM_UP + [0.0, 0.03, 0.0])
    consumed: list[float] = []
    waits, releases, rate = prefetch.take(loader, consumed.append, 0.25, 3)  # type: ignore[arg-type]
    assert loader.taken == len(consumed) == prefetch.WARM_UP + 3
    assert set(consumed) == {0.25}
    assert len(releases) == len(waits) == 3
    assert waits[1] >= 0.03
    assert max(waits[0], waits[2]) < waits[1]
    assert 3 / rate >= 0.03


@pytest.mark.parametrize("name", ["idle", "busy"])
def test_consumers_take_as_long_as_asked(name: str) -> None:
    wall, cpu = time.perf_counter(), time.thread_time()
    prefetch.CONSUMERS[name](0.05)
    assert time.perf_counter() - wall >= 0.05
    assert (time.thread_time() - cpu < 0.01) == (name == "idle")


@pytest.mark.parametrize("mode", ["half", "full"])
def test_a_whole_run(tmp_path: Path, mode: str) -> None:
    episodes = tmp_path / "episodes"
    episodes.mkdir()
    for number in range(2):
        name = f"20260301T120000_{number}_40.npz"
        np.savez_compressed(episodes / name, **made_up_episode(number, 41, size=12))
    arguments = [str(episodes), str(tmp_path / "work"), "--mode", mode, "--transitions", "100", "--batch-size", "8"]
    arguments += ["--step-ms", "1", "--batches", "5", "--rounds", "2", "--json", "--plot", str(tmp_path / "plot.png")]
    run = CliRunner().invoke(prefetch.main, arguments)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert (result["mode"], result["transitions"]) == (mode, 120)
    assert set(result["consumers"]) == {"idle", "busy", "none"}
    for name, entry in result["consumers"].items():
        waits = result["waits_ms"][name]
        assert entry["batches"] == len(waits) == 10
        for p in (50, 95, 99):
            assert entry["wait_ms"][f"p{p}"] == pytest.approx(np.percentile(waits, p))
    assert result["consumers"]["idle"]["batches_per_second"] < 1000
    assert result["reached"] == (np.median(result["waits_ms"]["idle"]) < 0.5)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_consumer_that_goes_on_destroys_no_tensor_itself(tmp_path: Path) -> None:
    """It would give up the interpreter just when the threads were given work."""
    destroyed: list[str] = []
    episode = made_up_episode(0, 41, size=12)
    with ReplayStore.create(tmp_path / "store", fields_from_episode(episode), mode="half") as store:
        store.append(episode)
        with ReplayLoader(store, batch_size=4, seed=0) as loader:
            batch = next(loader)
            for number in range(4):
                weakref.finalize(batch["observation"], destroyed.append, f"batch {number}")
                following = next(loader)
                expected = [f"batch {earlier}" for earlier in range(number)]
                assert destroyed == expected, "the one before is destroyed within next"
                batch = following
                del following
                assert destroyed == expected, "and not where the consumer goes on to the next one"
    del batch
    assert len(destroyed) == 4
