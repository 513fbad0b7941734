"""Recording: whole episodes, the same ones however often it was interrupted, and never two kinds in one directory."""

import numpy as np
import pytest

from experiments.workloads.recording import CONFIG_NAME, EpisodeRows, record
from replaystore.datasets.drqv2_npz import list_episode_files, read_episode
from replaystore.errors import EpisodeFileError

CONFIG = {"environment": "made up", "seed": 3}


def play(index):
    """Episode `index`: 3 + index transitions, each value telling episode and row."""
    rows = EpisodeRows(np.array([index, 0.0]), np.zeros(1, np.float32))
    for row in range(1, 4 + index):
        rows.add(np.array([index, float(row)]), np.full(1, row, np.float32), row / 4, terminated=row == 3 + index)
    return rows.arrays()


def contents(directory):
    return {entry.index: read_episode(entry.path) for entry in list_episode_files(directory)}


def test_rows_are_those_of_drqv2():
    arrays = play(1)
    assert arrays["observation"].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3], [1, 4]]
    assert arrays["action"].tolist() == [[0], [1], [2], [3], [4]]
    assert arrays["reward"].tolist() == [[0], [0.25], [0.5], [0.75], [1]]
    assert arrays["discount"].tolist() == [[1], [1], [1], [1], [0]]
    assert {arrays[name].dtype.name for name in ("action", "reward", "discount")} == {"float32"}


def test_an_interrupted_run_goes_on(tmp_path):
    played = []

    def failing(index):
        played.append(index)
        if index == 2:
            raise KeyboardInterrupt
        return play(index)

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, CONFIG, 10, failing)
    done = record(tmp_path, CONFIG, 10, lambda index: (played.append(index), play(index))[1])
    assert played == [0, 1, 2, 2]
    assert (done.episodes, done.transitions, done.new_episodes) == (3, 12, 1)
    again = record(tmp_path, CONFIG, 10, lambda index: pytest.fail("nothing is left to play"))
    assert (again.episodes, again.transitions, again.new_episodes) == (3, 12, 0)
    longer = record(tmp_path, CONFIG, 13, play)
    assert (longer.episodes, longer.new_episodes) == (4, 1)
    for index, arrays in contents(tmp_path).items():
        for name, array in play(index).items():
            np.testing.assert_array_equal(arrays[name], array)


def test_progress_ends_at_all(tmp_path):
    seen = []
    record(tmp_path, CONFIG, 8, play, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 8), (3, 8), (7, 8), (8, 8)]


def test_other_configurations_are_refused(tmp_path):
    record(tmp_path, CONFIG, 3, play)
    with pytest.raises(EpisodeFileError, match="seed"):
        record(tmp_path, {**CONFIG, "seed": 4}, 3, play)
    (tmp_path / CONFIG_NAME).write_text("{")
    with pytest.raises(EpisodeFileError, match="JSON"):
        record(tmp_path, CONFIG, 3, play)
    (tmp_path / CONFIG_NAME).unlink()
    with pytest.raises(EpisodeFileError, match="null"):
        record(tmp_path, CONFIG, 3, play)


def test_a_gap_is_refused(tmp_path):
    record(tmp_path, CONFIG, 12, play)
    list_episode_files(tmp_path)[1].path.unlink()
    with pytest.raises(EpisodeFileError, match="number 1"):
        record(tmp_path, CONFIG, 12, play)
