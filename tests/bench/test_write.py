"""`bench write` measures what it says, at a tiny size."""

from __future__ import annotations

import json

import pytest
from made_up_episodes import write_directory

from replaystore.bench.write import run_write


@pytest.fixture
def episodes(tmp_path):
    return write_directory(tmp_path / "episodes", [20, 31, 9])


def test_every_mode_and_plain_files_are_timed(episodes, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    result = run_write(episodes, episodes=5, repeats=2, threads=1, work_dir=work)
    assert not list(work.iterdir())
    found = json.loads(json.dumps(result.to_json()))  # plain data
    assert found["rows"] == 20 + 31 + 9 + 20 + 31
    assert [entry["mode"] for entry in found["times"]] == ["disk", "half", "full", None]
    for entry in found["times"]:
        assert entry["rows_per_second"]["count"] == 2
        assert entry["rows_per_second"]["median"] > 0
        if entry["mode"] is None:
            assert entry["append_milliseconds"] is entry["add_microseconds"] is None
            continue
        assert entry["append_milliseconds"]["count"] == 2 * 5
        added = entry["add_microseconds"]  # of the first four episodes, the last row of each left out
        assert added["count"] == 2 * (19 + 30 + 8 + 19)
        assert 0 < added["p50"] <= added["p99"]


def test_episodes_of_one_row_have_no_add_to_time(tmp_path):
    result = run_write(
        write_directory(tmp_path / "episodes", [1, 1]), modes=("half",), episodes=2, repeats=1, frame_stack=3
    )
    assert result.times[0].add_microseconds is None
