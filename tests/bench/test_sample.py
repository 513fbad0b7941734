"""`bench sample` at a tiny size, its text and its plot."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from made_up_episodes import write_directory
from made_up_sample import RESULT
from matplotlib.image import imread

from replaystore.bench import sample
from replaystore.bench.sample_plot import plot_png
from replaystore.bench.sample_result import SampleResult, SampleTimes, first_of_each_store, time_ratio
from replaystore.bench.sample_text import format_factor, notes, table_rows
from replaystore.bench.sample_turns import Timed
from replaystore.datasets.convert import convert
from replaystore.errors import SpecError


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample")
    episodes = write_directory(directory / "in", [40, 30, 50], size=12)
    for mode in ("half", "full"):
        convert(episodes, directory / mode, mode=mode)
    return [directory / "half", directory / "full"]


class Sleeper:
    """A candidate whose batch takes 10 ms. In the background, those that are ready take none."""

    cycle = 4

    def __init__(self, name, *, background=False, n_step=3):
        self.label = SampleTimes(kind="peer", name=name, n_step=n_step)
        self.background = background
        self.ready_batches = self.ready = 3 if background else 0
        self.turns, self.settled, self.closed = 0, 0, False

    def prepare(self, stack):
        stack.callback(setattr, self, "closed", True)
        return Timed(label=self.label, turn=self.turn, background=self if self.background else None)

    def turn(self):
        self.turns += 1
        if self.ready:
            self.ready -= 1
        else:
            time.sleep(0.01)

    def settle(self):
        self.settled += 1
        self.ready = self.ready_batches


class Unready:
    """A candidate with nothing to time."""

    def prepare(self, stack):
        return SampleTimes(kind="peer", name="cannot", reason="no room")


def run(stores, candidates=(), **options):
    options = {"batch_size": 8, "num_batches": 5, "threads": 1, **options}
    return sample.run_sample(stores, candidates=candidates, **options)


def test_every_store_and_residency_is_timed_beside_the_copy(stores):
    result = run(stores, new_arrays=True)
    labels = [(entry.kind, entry.name, entry.new_arrays) for entry in result.times]
    expected = [
        ("store", f"{name}, {residency}{', new arrays' * new}", bool(new))
        for name in ("half", "full")
        for residency in ("ram", "mapped")
        for new in (0, 1)
    ]
    assert labels == [*expected, ("copy", "plain copy", False)]
    assert {entry.milliseconds.count for entry in result.times} == {5}
    assert {entry.transitions for entry in result.stores} == {117}
    assert result.raw_observation_bytes == 3 * 12 * 12
    assert 0 <= result.conditions["used_by_other_processes"] <= 1
    for entry in result.stores:
        assert entry.bytes_per_transition > entry.observation_bytes_per_transition > 0
        assert entry.megabytes_per_second == pytest.approx(result.batch_bytes / entry.milliseconds.median / 1000)
    assert [entry.name for entry in first_of_each_store(result.stores)] == ["half, ram", "full, ram"]


def test_candidates_in_the_background_are_timed_in_blocks_without_what_was_ready(stores):
    waits, alone = Sleeper("waits", background=True), Sleeper("does not", n_step=1)
    steps = []
    result = run(
        stores[:1],
        [waits, alone, Unready()],
        residencies=("ram",),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 3 + 3 + 5) for done in range(1, 12)]
    of_waits, of_alone, cannot = result.peers
    for entry in (of_waits, of_alone):
        assert entry.milliseconds.median >= 10  # less where batches that were ready counted
        assert entry.milliseconds.count == 5
    assert (of_waits.blocks, of_alone.blocks) == (5, 0)
    assert waits.turns == 5 * (3 + 4)  # in each block what was ready, and whole cycles
    assert waits.settled == 1 + 5
    assert alone.turns == 3 + 5
    assert waits.closed
    assert alone.closed
    assert (cannot.reason, cannot.milliseconds) == ("no room", None)
    assert "5 blocks" in result.conditions["background"]
    name = stores[0].name
    assert [(entry.name, entry.n_step) for entry in result.stores] == [
        (f"{name}, ram", 3),
        (f"{name}, ram, n-step 1", 1),  # beside a candidate that has one step alone
    ]
    assert [entry.n_step for entry in first_of_each_store(result.stores)] == [3]


def test_numbers_that_cannot_work_are_refused(stores):
    for wrong in ({"num_batches": 0}, {"threads": 0}, {"residencies": ()}):
        with pytest.raises(SpecError, match="from 1 on"):
            run(stores, **wrong)
    with pytest.raises(SpecError, match="expected a store"):
        run([])


# Text and plot


def test_table():
    rows = {row["buffer"]: row for row in table_rows(RESULT)}
    assert list(rows) == [
        "half, ram", "half, mapped", "full, ram", "plain copy", "fast [1]", "small", "video [2]", "none [3]",
    ]  # fmt: skip
    assert list(rows["half, ram"])[-2:] == ["x half, ram", "x full, ram"]
    assert rows["half, ram"] == {
        "buffer": "half, ram", "bytes per transition": "21,168", "raw / held": "3.0x", "ms per batch": "2.00",
        "p5 - p95": "1.80 - 3.00", "x copy": "2.0x", "x half, ram": "1.0x", "x full, ram": "0.2x",
    }  # fmt: skip
    assert rows["small"]["x half, ram"] == "125x"
    assert rows["video [2]"]["bytes per transition"] == "2,000"
    assert set(list(rows["none [3]"].values())[1:]) == {"-"}
    assert time_ratio(RESULT.times[0], RESULT.times[7]) is None


def test_notes_and_factors():
    texts = notes(RESULT)
    assert "4,000 transitions, other buffers 3,000 of them" in texts[0]
    assert texts[1:] == ["[1] fast: one | step", "[2] video: size alone", "[3] none: not measured: not installed"]
    busy = replace(RESULT, conditions={**RESULT.conditions, "used_by_other_processes": 0.4})
    assert "OTHER PROCESSES USED 40%" in notes(busy)[-1]
    assert [format_factor(value) for value in (None, 0.04, 9.94, 9.96, 1234.0)] == [
        "-",
        "0.0x",
        "9.9x",
        "10x",
        "1,234x",
    ]


def test_json_round_trip():
    assert SampleResult.from_json(json.loads(json.dumps(RESULT.to_json()))) == RESULT
    with pytest.raises(SpecError, match="not a result of bench sample"):
        SampleResult.from_json({"times": []})


def test_plot_draws_every_kind_of_entry():
    picture = imread(io.BytesIO(plot_png(RESULT, "walker")))
    assert picture.shape[0] > 500
    colours = {tuple(colour) for colour in (255 * picture[..., :3]).round().astype(int).reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0x8A, 0x93, 0xA0), (0xD5, 0x5E, 0x00)} <= colours  # a store, another, the copy
    without = imread(io.BytesIO(plot_png(replace(RESULT, times=RESULT.times[:4]), "walker")))
    assert not np.array_equal(picture, without)
    only_copy = replace(RESULT, times=RESULT.times[3:4])
    assert plot_png(only_copy).startswith(b"\x89PNG")
