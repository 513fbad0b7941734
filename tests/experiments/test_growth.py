"""The experiment on growth builds what it says, goes on where it was interrupted, and measures it."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from experiments.growth import __main__ as growth
from replaystore import ReplayStore


@pytest.fixture(scope="module")
def recorded():
    return growth.recorded_frames(growth.RECORDED)


def test_episodes_are_recorded_frames_forwards_and_backwards(recorded):
    first, second = (next(growth.made_episodes(recorded, number)) for number in (0, 1))
    frames = first["observation"]
    assert frames.shape == (growth.EPISODE_ROWS, 1, 84, 84)
    assert frames.dtype == np.uint8
    number = {frame.tobytes(): k for k, frame in enumerate(recorded[0])}
    at = [number[frame.tobytes()] for frame in frames]
    assert set(np.abs(np.diff(at)).tolist()) <= {0, 1}  # neighbours in the recording; equal ones look alike
    assert set(at) == set(number.values())
    assert not np.array_equal(first["action"], second["action"])
    again = growth.made_episodes(recorded, 0)
    next(again)
    np.testing.assert_array_equal(next(again)["observation"], second["observation"])


def test_building_goes_on_where_it_stopped(recorded, tmp_path):
    console = Console(quiet=True)
    path = tmp_path / "store"
    for transitions, episodes in ((600, 2), (600, 2), (1_001, 3)):
        growth.build(path, recorded, transitions, console)
        with ReplayStore.open(path, read_only=True) as store:
            assert store.num_episodes == episodes
            assert store.num_transitions == episodes * (growth.EPISODE_ROWS - 1) >= transitions
            for number, expected in zip(range(episodes), growth.made_episodes(recorded, 0), strict=False):
                np.testing.assert_array_equal(store.read_episode(number)["action"], expected["action"])
                np.testing.assert_array_equal(store.read_episode(number)["observation"][:, 2:], expected["observation"])
    found = growth.in_child("index", path)
    assert 0 < found["index_bytes_per_transition"] < 16
    assert 0 < found["catalog_bytes_per_transition"] < 16
