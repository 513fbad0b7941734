"""The measurements on made-up episodes whose sizes are known."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from experiments.workloads.__main__ import main
from experiments.workloads.atari_sizes import measure_sizes
from experiments.workloads.quantised import CLAMPED_SHARE, measure
from replaystore.datasets.drqv2_npz import write_episode
from replaystore.errors import EpisodeFileError


def write(directory, index, observation):
    rows = len(observation)
    directory.mkdir(parents=True, exist_ok=True)
    write_episode(
        directory,
        {
            "observation": observation,
            "action": np.zeros((rows, 1), np.float32),
            "reward": np.zeros((rows, 1), np.float32),
            "discount": np.ones((rows, 1), np.float32),
        },
        index=index,
    )


@pytest.fixture
def states(tmp_path):
    """4 episodes of 256 rows, 40 values each; value 0 is far out in one row of 1,000."""
    random = np.random.default_rng(0)
    for index in range(4):
        observation = random.normal(0, 20, (256, 40))
        observation[100, 0] = 4000.0
        write(tmp_path / "states", index, observation)
    return tmp_path / "states"


def test_sizes_and_errors_of_quantised_observations(states):
    result = measure(states, batch_size=16, repeats=3)
    ways = {way.name: way for way in result.ways}
    assert (result.rows, result.transitions) == (1024, 1020)
    assert ways["float64, not packed"].row_bytes == 320
    assert ways["float64, not packed"].largest_error == 0
    for decimals, bits in ((2, 15), (1, 12)):
        way = ways[f"m = {decimals}, +-127"]
        assert (way.bits, way.row_bytes, way.share) == (bits, 40 * bits / 8, bits / 64)
        assert way.clamped == 4 / 40_960
        assert 0.4 * 10**-decimals < way.largest_error <= 0.5001 * 10**-decimals
        own = ways[f"m = {decimals}, own bounds"]
        assert own.clamped <= CLAMPED_SHARE
        assert own.largest_error <= 0.5001 * 10**-decimals
    assert all(way.milliseconds is not None and way.milliseconds.count == 3 for way in result.ways)
    assert json.loads(json.dumps(result.to_json()))["rows"] == 1024


def test_the_command_prints_a_table_and_json(states):
    arguments = ["quantised", str(states), "--repeats", "2", "--batch-size", "8"]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0, table.output
    assert "m = 2, +-127" in table.output
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(found.stdout)["conditions"]["batch_size"] == 8


def test_sizes_of_games(tmp_path):
    random = np.random.default_rng(0)
    still = np.broadcast_to(random.integers(0, 255, (1, 1, 84, 84), np.uint8), (33, 4, 84, 84)).copy()
    noise = random.integers(0, 255, (36, 84, 84), np.uint8)
    noise[:4] = noise[3]
    stacks = np.stack([noise[row : row + 4] for row in range(33)])
    moving = still.copy()
    for row in range(33):
        moving[row, :, 0, 0] = np.maximum(np.arange(row - 3, row + 1), 0)
    write(tmp_path / "Still", 0, moving)
    write(tmp_path / "Noise", 0, stacks)
    result = measure_sizes(tmp_path, ("default", "zstd 1, 32"))
    noisy, quiet = result.games
    assert (noisy.game, noisy.transitions, noisy.raw_bytes) == ("Noise", 32, 28_224)
    for name in ("default", "zstd 1, 32"):
        assert (
            33 * 7056 <= 32 * noisy.observation_bytes_per_transition[name] <= 33 * 7056 + 8192
        )  # headers, whole disk blocks
        assert 32 * quiet.observation_bytes_per_transition[name] < 3 * 7056 + 8192  # keyframes of noise
        stored = noisy.observation_bytes_per_transition[name] + quiet.observation_bytes_per_transition[name]
        assert result.average_factors[name] == pytest.approx(2 * 28_224 / stored)
    text = CliRunner().invoke(main, ["atari-sizes", str(tmp_path), "--configuration", "default"]).output
    assert "ratio of" in text


def test_directories_without_episodes_are_refused(tmp_path):
    for measured in (measure, measure_sizes):
        with pytest.raises(EpisodeFileError, match="found none"):
            measured(tmp_path)
    write(tmp_path, 0, np.zeros((5, 3), np.float32))
    with pytest.raises(EpisodeFileError, match="float64"):
        measure(tmp_path)
