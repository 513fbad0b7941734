"""The comparison of two checkouts, of this one with itself, at a small size."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from made_up_episodes import write_directory

ROOT = Path(__file__).parents[2]


def test_this_checkout_beside_itself(tmp_path):
    write_directory(tmp_path, [12])
    command = [sys.executable, "-m", "experiments.compare_versions", str(ROOT), "--episodes", str(tmp_path)]
    options = ["--modes", "half", "--threads", "1", "--turns", "3", "--append-turns", "2"]
    done = subprocess.run([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["half, 1 threads, ms per batch", "half, us per appended row"]
    for line in lines:
        figures = [float(figure) for figure in re.findall(r"\d+\.\d+", line)]
        other, this, medians, by_turn, low, high = figures
        assert abs(this / other - medians) < 0.01 * medians + 0.001
        assert low <= by_turn <= high
