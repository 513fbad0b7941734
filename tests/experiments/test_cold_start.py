"""The measurement of cold starts, at a small size."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

STEPS = ("import", "append", "first_batch", "batches")


@pytest.fixture
def episode_dir(tmp_path):
    rows = 12
    np.savez_compressed(
        tmp_path / f"20260101T000000_0_{rows - 1}.npz",
        observation=np.full((rows, 9, 84, 84), 5, np.uint8),
        action=np.zeros((rows, 6), np.float32),
        reward=np.zeros((rows, 1), np.float32),
        discount=np.ones((rows, 1), np.float32),
    )
    return tmp_path


def test_a_cold_start_compiles_and_a_warm_one_does_not(episode_dir):
    command = [sys.executable, "-m", "experiments.cold_start", "--modes", "half", "--episodes", str(episode_dir)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["half"]
    assert found["cold"]["compiled"] > 5
    assert found["warm"]["compiled"] == 0
    for run in (found["cold"], found["warm"]):
        assert all(run[f"{step}_{kind}"] > 0 for step in STEPS for kind in ("seconds", "cpu_seconds"))
    for kind in ("seconds", "cpu_seconds"):
        difference = sum(found["cold"][f"{step}_{kind}"] - found["warm"][f"{step}_{kind}"] for step in STEPS[1:])
        assert found["beyond_warm"][kind] == pytest.approx(difference)
        assert difference > 0
