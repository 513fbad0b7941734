"""Stores beside other buffers at a tiny size."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
from made_up_episodes import write_directory

from experiments.benchmarks.beside_peers import run_beside_peers
from experiments.benchmarks.peers.peer import Candidate, Peer, Unable
from experiments.benchmarks.peers.registry import candidates
from replaystore.bench.sample_plot import plot_png
from replaystore.bench.sample_text import table_rows
from replaystore.datasets.convert import convert
from replaystore.errors import SpecError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sample")
    episodes = write_directory(directory / "in", [40, 30, 50], size=12)
    convert(episodes, directory / "half", mode="half")
    return directory / "half"


class Right(Peer):
    """A buffer whose batches are right, or have wrong next observations."""

    made: ClassVar[list[Right]] = []

    def __init__(self, data, *, background=False, wrong=False):
        super().__init__(num_transitions=data.num_transitions, n_step=data.n_step, notes=("is right",))
        self.background = background
        (first, *_) = data.n_step_transitions()
        self._batch = {name: array[:8] for name, array in first.items()}
        if wrong:
            self._batch["next_observation"] = self._batch["next_observation"][::-1]
        self.turns, self.settled, self.closed = 0, 0, False
        Right.made.append(self)

    def turn(self):
        self.turns += 1
        return self._batch

    def settle(self):
        self.settled += 1

    def held_bytes(self):
        return 1000 * self.num_transitions

    def close(self):
        self.closed = True


def unable(data):
    raise Unable("cannot")


def failing(data):
    raise KeyError("no such thing")


def run(store, peers, **options):
    Right.made.clear()
    return run_beside_peers([store], peers, **{"batch_size": 8, "num_batches": 5, "threads": 1, **options})


def test_the_first_batch_of_each_buffer_is_checked(store):
    peers = [
        Candidate("waits", None, partial(Right, background=True)),
        Candidate("does not", None, Right),
        Candidate("wrong", None, partial(Right, wrong=True)),
        Candidate("cannot", None, unable),
        Candidate("fails", None, failing),
    ]
    result = run(store, peers, n_step=2, transitions=100)
    waits, alone, wrong, cannot, fails = result.peers
    for entry in (waits, alone):
        assert entry.checked["exact"] == entry.checked["rows"] == 8
        assert entry.bytes_per_transition == 1000
        assert entry.notes == ("is right",)
    assert (waits.blocks, alone.blocks) == (5, 0)
    blocks, in_turn, _ = Right.made
    assert (blocks.turns, blocks.settled) == (1 + 5, 1 + 5)  # the check, and a batch in each block
    assert (in_turn.turns, in_turn.settled) == (1 + 3 + 5, 0)
    assert all(peer.closed for peer in Right.made)
    assert wrong.checked["wrong_next"] == 8
    assert "8 of 8 rows HAVE A WRONG NEXT OBSERVATION" in wrong.notes
    assert (cannot.reason, cannot.milliseconds) == ("cannot", None)
    assert (fails.reason, fails.milliseconds) == ("it fails: KeyError: 'no such thing'", None)
    assert result.conditions["transitions_of_other_buffers"] == 100
    assert "other buffers" in result.conditions["distribution"]


def test_real_buffers_at_a_tiny_size(store):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("cpprb")
    result = run(store, candidates(["stable-baselines3", "cpprb"]), residencies=("ram",))
    assert len(result.peers) == 4
    assert [entry.n_step for entry in result.stores] == [3, 1]  # some of the buffers have one step alone
    for entry in result.peers:
        assert entry.reason is None
        assert entry.milliseconds.count == 5
        assert sum(entry.checked[kind] for kind in ("exact", "short", "masked")) == entry.checked["rows"] == 8
    assert {"stable-baselines3", "cpprb", "torch"} <= set(result.conditions)
    table_rows(result)
    plot_png(result)


def test_without_peers_it_is_the_measurement_of_stores(store):
    result = run(store, [], residencies=("ram",))
    assert [entry.kind for entry in result.times] == ["store", "copy"]
    assert result.conditions["distribution"] == "uniform"


def test_numbers_that_cannot_work_are_refused(store):
    with pytest.raises(SpecError, match="from 1 on"):
        run(store, [Candidate("cannot", None, unable)], transitions=0)
    with pytest.raises(SpecError, match="expected a store"):
        run_beside_peers([], [Candidate("cannot", None, unable)])
