"""`bench sample` at a tiny size, its text and its plot."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from made_up_episodes import write_directory
from matplotlib.image import imread

from experiments.benchmarks import __main__ as benchmarks
from replaystore.bench import sample
from replaystore.bench.peers.peer import Candidate, Peer, Unable
from replaystore.bench.peers.registry import candidates
from replaystore.bench.sample_plot import plot_png
from replaystore.bench.sample_result import SampleResult, SampleTimes, first_of_each_store, time_ratio
from replaystore.bench.sample_text import format_factor, notes, summary_rows, table_rows, to_markdown
from replaystore.bench.spread import Spread
from replaystore.datasets.convert import convert
from replaystore.errors import SpecError


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample")
    episodes = write_directory(directory / "in", [40, 30, 50], size=12)
    for mode in ("half", "full"):
        convert(episodes, directory / mode, mode=mode)
    return [directory / "half", directory / "full"]


class Sleeper(Peer):
    """A right buffer whose batch takes `seconds`. In the background, those that are ready take none."""

    made: ClassVar[list[Sleeper]] = []

    def __init__(self, data, *, seconds, background, wrong=False):
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step, notes=("sleeps",))
        self.background, self.ready_batches, self.cycle = background, 3 if background else 0, 4
        self._seconds, self._ready = seconds, self.ready_batches
        (first, *_) = data.n_step_transitions()
        self._batch = {name: array[:8] for name, array in first.items()}
        if wrong:
            self._batch["next_observation"] = self._batch["next_observation"][::-1]
        self.turns, self.settled, self.closed = 0, 0, False
        Sleeper.made.append(self)

    def turn(self):
        self.turns += 1
        if self._ready:
            self._ready -= 1
        else:
            time.sleep(self._seconds)
        return self._batch

    def settle(self):
        self.settled += 1
        self._ready = self.ready_batches

    def held_bytes(self):
        return 1000 * self.num_transitions

    def close(self):
        self.closed = True


def unable(data):
    raise Unable("cannot")


def failing(data):
    raise KeyError("no such thing")


def run(stores, peers=(), **options):
    Sleeper.made.clear()
    return sample.run_sample(stores, peers=peers, **{"batch_size": 8, "num_batches": 5, "threads": 1, **options})


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


def test_buffers_in_the_background_are_timed_in_blocks_without_what_was_ready(stores):
    peers = [
        Candidate("waits", None, partial(Sleeper, seconds=0.01, background=True)),
        Candidate("does not", None, partial(Sleeper, seconds=0.01, background=False)),
        Candidate("wrong", None, partial(Sleeper, seconds=0.0, background=False, wrong=True)),
        Candidate("cannot", None, unable),
        Candidate("fails", None, failing),
    ]
    result = run(stores[:1], peers, n_step=2, transitions=100)
    waits, alone, wrong, cannot, fails = result.peers
    for entry in (waits, alone):
        assert 10 <= entry.milliseconds.median < 15
        assert entry.milliseconds.count == 5
        assert entry.checked["exact"] == entry.checked["rows"] == 8
        assert entry.bytes_per_transition == 1000
    assert (waits.blocks, alone.blocks) == (5, 0)
    blocks, in_turn, _ = Sleeper.made
    assert blocks.turns == 1 + 5 * (3 + 4)  # the check; in each block what was ready, and whole cycles
    assert blocks.settled == 1 + 5
    assert in_turn.turns == 1 + 3 + 5
    assert all(peer.closed for peer in Sleeper.made)
    assert wrong.checked["wrong_next"] == 8
    assert "8 of 8 rows HAVE A WRONG NEXT OBSERVATION" in wrong.notes
    assert (cannot.reason, cannot.milliseconds) == ("cannot", None)
    assert (fails.reason, fails.milliseconds) == ("it fails: KeyError: 'no such thing'", None)
    assert "5 blocks" in result.conditions["background"]
    assert result.conditions["transitions_of_other_buffers"] == 100


def test_real_buffers_at_a_tiny_size(stores):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("cpprb")
    result = run(stores[:1], candidates(["stable-baselines3", "cpprb"]), residencies=("ram",))
    assert len(result.peers) == 4
    name = stores[0].name
    assert [(entry.name, entry.n_step) for entry in result.stores] == [
        (f"{name}, ram", 3),
        (f"{name}, ram, n-step 1", 1),  # beside a buffer that has one step alone
    ]
    assert [entry.n_step for entry in first_of_each_store(result.stores)] == [3]
    for entry in result.peers:
        assert entry.reason is None
        assert entry.milliseconds.count == 5
        assert sum(entry.checked[kind] for kind in ("exact", "short", "masked")) == entry.checked["rows"] == 8
    assert {"stable-baselines3", "cpprb", "torch"} <= set(result.conditions)
    table_rows(result)
    plot_png(result)


def test_numbers_that_cannot_work_are_refused(stores):
    for wrong in ({"num_batches": 0}, {"threads": 0}, {"transitions": 0}, {"residencies": ()}):
        with pytest.raises(SpecError, match="from 1 on"):
            run(stores, **wrong)
    with pytest.raises(SpecError, match="expected a store"):
        run([])


# Text and plot


def entry(kind, name, median=None, size=None, **options):
    spread = None if median is None else Spread(median, 0.9 * median, 1.5 * median, 9)
    return SampleTimes(kind=kind, name=name, milliseconds=spread, bytes_per_transition=size, **options)


RESULT = SampleResult(
    batch_bytes=32_522_240,
    raw_observation_bytes=63_504,
    times=(
        entry("store", "half, ram", 2.0, 21_168.0, store="a/half", mode="half", residency="ram", transitions=4000),
        entry("store", "half, mapped", 4.0, 21_168.0, store="a/half", mode="half", residency="mapped"),
        entry("store", "full, ram", 10.0, 5_000.0, store="a/full", mode="full", residency="ram", transitions=4000),
        entry("copy", "plain copy", 1.0),
        entry("peer", "fast", 1.5, 127_008.0, notes=("one | step",)),
        entry("peer", "small", 250.0, 4_000.0),
        entry("peer", "video", size=2_000.0, notes=("size alone",)),
        entry("peer", "none", reason="not installed"),
    ),
    conditions={"batch_size": 256, "threads": 2, "transitions_of_other_buffers": 3000, "commit": None},
)


def test_table():
    rows = {row["buffer"]: row for row in table_rows(RESULT)}
    assert list(rows) == [
        "half, ram", "half, mapped", "full, ram", "plain copy", "fast [1]", "small", "video [2]", "none [3]",
    ]  # fmt: skip
    assert list(rows["half, ram"])[-2:] == ["x half, ram", "x full, ram"]
    assert rows["half, ram"] == {
        "buffer": "half, ram", "bytes a transition": "21,168", "raw / held": "3.0x", "ms a batch": "2.00",
        "p5 - p95": "1.80 - 3.00", "x copy": "2.0x", "x half, ram": "1.0x", "x full, ram": "0.2x",
    }  # fmt: skip
    assert rows["small"]["x half, ram"] == "125x"
    assert rows["video [2]"]["bytes a transition"] == "2,000"
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


def test_summary_names_the_fastest_and_the_smallest_that_were_timed():
    (row,) = summary_rows({"walker": RESULT})
    assert row["fastest other"] == "fast: 127,008 B, 1.50 ms"
    assert row["smallest other"] == "small: 4,000 B, 250 ms"
    assert (row["full, ram"], row["plain copy"]) == ("5,000 B, 10.0 ms", "1.00 ms")
    alone = replace(RESULT, times=RESULT.times[:4])
    assert summary_rows({"walker": alone})[0]["fastest other"] == "-"


def test_markdown_has_as_many_cells_in_every_row():
    text = to_markdown({"walker": RESULT, "other": RESULT}, {"walker": "images/walker.png"})
    assert text.count("![") == 1
    assert "### walker\n\n![walker" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + len(RESULT.times))
    assert {line.replace("\\|", "").count("|") for line in tables} == {tables[0].count("|")}
    assert "commit -" in text


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


# The command that writes docs/benchmarks.md


def test_benchmarks_measures_once_and_writes_between_its_markers(tmp_path, monkeypatch):
    from click.testing import CliRunner

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

    monkeypatch.setattr(benchmarks, "run_sample", lambda *a, **k: pytest.fail("measured again"))
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
