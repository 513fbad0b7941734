"""The commands that compare stores with other buffers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_up_episodes import write_directory

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import sample
from experiments.benchmarks.peers.peer import Candidate, Unable
from replaystore.datasets.convert import convert


def unable(data):
    raise Unable("cannot")


def test_benchmarks_measures_once_and_writes_between_its_markers(tmp_path, monkeypatch):
    rgb = write_directory(tmp_path / "rgb", [30, 25], size=12, channels=3)
    games = tmp_path / "atari"
    games.mkdir()
    write_directory(games / "Pong", [30], size=12)
    docs = tmp_path / "docs" / "benchmarks.md"
    docs.parent.mkdir()
    docs.write_text(f"before\n{benchmarks.BEGIN}\nFORMER\n{benchmarks.END}\nafter\n")
    monkeypatch.setattr(benchmarks, "candidates", lambda names, **paths: [Candidate("cannot", None, unable)])
    arguments = [
        str(tmp_path / "work"), "--walker-rgb", str(rgb), "--atari", str(games), "--num-batches", "2",
        "--transitions", "80", "--docs", str(docs),
    ]  # fmt: skip
    outcome = CliRunner().invoke(benchmarks.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    text = docs.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "FORMER" not in text
    assert text.count("not measured: cannot") == 2
    assert "Atari Pong, gray, stack 4, n-step 1" in text
    for name in ("walker_rgb", "atari_pong"):
        assert f"images/sampling_{name}.png" in text
        assert (docs.parent / "images" / f"sampling_{name}.png").exists()
    stored = json.loads((tmp_path / "work" / "walker_rgb.json").read_text())
    assert [entry["name"] for entry in stored["times"][:2]] == ["half, ram", "half, mapped"]
    assert (stored["conditions"]["n_step"], len(stored["times"])) == (3, 5 * 2 + 2)
    assert min(entry["transitions"] for entry in stored["times"] if entry["kind"] == "store") >= 80

    monkeypatch.setattr(benchmarks, "run_beside_peers", lambda *a, **k: pytest.fail("measured again"))
    assert CliRunner().invoke(benchmarks.main, arguments).exit_code == 0
    assert docs.read_text() == text


def test_benchmarks_rounds_vectors_within_the_bounds_of_the_data(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        state = np.concatenate([rng.normal(size=(20, 3)) * [1, 50, 0], np.full((20, 1), 2000.0)], axis=1)
        np.savez(
            tmp_path / f"20260101T000000_{number}_19.npz",
            observation=state, action=np.zeros((20, 2), np.float32), reward=np.zeros((20, 1), np.float32),
        )  # fmt: skip
    found = benchmarks.configurations(tmp_path)
    assert list(found) == ["raw", "rounded-1", "rounded-2"]
    scheme = found["rounded-2"]["schemes"]["observation"]
    assert scheme["decimals"] == 2
    assert scheme["low"][2:] == [0.0, 2000.0]
    assert scheme["high"][2:] == [1.0, 2001.0]
    assert scheme["high"][1] > 50
    convert(tmp_path, tmp_path / "store", **found["rounded-2"])


def test_sample_command(tmp_path):
    pytest.importorskip("cpprb")
    convert(write_directory(tmp_path / "in", [40, 30], size=12), tmp_path / "store")
    arguments = [
        str(tmp_path / "store"), "--num-batches", "2", "--batch-size", "8", "--peers", "cpprb,drqv2",
        "--transitions", "60", "--json-file", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(sample.main, arguments)
    assert result.exit_code == 0, result.output
    assert "plain copy" in result.stdout
    assert "needs a checkout (--drqv2 PATH)" in " ".join(result.stdout.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert [entry["name"] for entry in found["times"] if entry["kind"] == "peer"][-1].startswith("cpprb, next_of")
    assert found["conditions"]["transitions_of_other_buffers"] == 60
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(sample.main, [str(tmp_path / "store"), "--peers", "rlpyt"]).exit_code == 2
    refused = CliRunner().invoke(sample.main, [str(tmp_path / "in"), "--peers", "none"])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
