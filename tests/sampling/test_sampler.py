import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_rows import World, actions

from replaystore.errors import NotEnoughData, SpecError
from replaystore.index.episode_index import EpisodeIndex
from replaystore.index.parts import Part
from replaystore.sampling.generators import generator_state, restore_generator
from replaystore.sampling.sampler import Sampler
from replaystore.testing.episodes import valid_steps


def build(lengths, parts=1):
    """Episodes of so many rows, each committed in `parts` parts that alternate with those of the others."""
    world, index = World(8), EpisodeIndex(chunk_rows=8)
    for k in range(parts):
        for env, rows in enumerate(lengths):
            some = rows // parts if k < parts - 1 else rows - (parts - 1) * (rows // parts)
            if some:
                index.add_part(Part(**world.commit(env, some, last=k == parts - 1)))
    return world, index


def valid_rows(world, n_step):
    return [[world.rows[e][i] for i in valid_steps(len(world.rows[e]), n_step)] for e in world.order]


def chi_square(drawn, probability):
    """Statistic over its standard deviation, less its mean: beyond 5 the draw does not have that distribution."""
    count = np.array([np.count_nonzero(drawn == row) for row in probability])
    expected = np.array(list(probability.values())) * len(drawn)
    assert count.sum() == len(drawn)  # nothing else was drawn
    freedom = len(probability) - 1
    return (((count - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


LENGTHS = [3, 20, 1, 2, 9, 31, 4, 15]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("n_step", [1, 3])
def test_each_distribution_is_what_it_says(n_step, parts):
    world, index = build(LENGTHS, parts)
    rows = [some for some in valid_rows(world, n_step) if some]
    total = sum(map(len, rows))
    uniform = {row: 1 / total for some in rows for row in some}
    per_episode = {row: 1 / len(rows) / len(some) for some in rows for row in some}
    snapshot = index.snapshot()
    for distribution, right, wrong in (("uniform", uniform, per_episode), ("per_episode", per_episode, uniform)):
        sampler = Sampler(n_step=n_step, distribution=distribution)
        drawn = sampler.draw(snapshot, np.random.default_rng(3), 40_000).rows
        assert drawn.dtype == np.int64
        assert drawn.shape == (40_000,)
        assert chi_square(drawn, right) < 5
        assert chi_square(drawn, wrong) > 50  # the check tells the two apart


@settings(max_examples=40)
@given(actions(), st.integers(1, 4), st.sampled_from(["uniform", "per_episode"]), st.integers(0, 2**32))
def test_only_and_all_valid_rows_are_drawn(happened, n_step, distribution, seed):
    world, index = World(8), EpisodeIndex(chunk_rows=8)
    for what, *rest in happened:
        if what == "part":
            index.add_part(Part(**world.commit(*rest)))
        elif what == "evict" and (oldest := world.oldest_complete()) is not None:
            world.evict(oldest)
            index.remove_episodes([oldest])
    valid = {row for some in valid_rows(world, n_step) for row in some}
    sampler = Sampler(n_step=n_step, distribution=distribution)
    rng = np.random.default_rng(seed)
    if not valid:
        before = generator_state(rng)
        with pytest.raises(NotEnoughData, match=f"at least {n_step + 1} rows"):
            sampler.draw(index.snapshot(), rng, 4)
        assert generator_state(rng) == before
        return
    drawn = sampler.draw(index.snapshot(), rng, 6000).rows
    assert set(drawn.tolist()) == valid


@pytest.mark.parametrize("distribution", ["uniform", "per_episode"])
def test_both_ends_are_sampled(distribution):
    world, index = build([6])  # L = 5
    for n_step, steps in ((1, {1, 2, 3, 4, 5}), (3, {1, 2, 3}), (5, {1})):
        drawn = (
            Sampler(n_step=n_step, distribution=distribution).draw(index.snapshot(), np.random.default_rng(0), 500).rows
        )
        assert {world.rows[0].index(row) for row in drawn} == steps
        assert max(steps) + n_step - 1 == 5  # the last reward and the terminal observation are used
    with pytest.raises(NotEnoughData, match=r"n_step=6 needs an episode of at least 7 rows, the longest .* has 6;"):
        Sampler(n_step=6, distribution=distribution).draw(index.snapshot(), np.random.default_rng(0), 1)


@pytest.mark.parametrize("distribution", ["uniform", "per_episode"])
def test_window_keeps_the_newest_whole_episodes(distribution):
    world, index = build([5, 5, 5])  # 4 transitions each
    for window, episodes in ((1, {2}), (4, {2}), (7, {2}), (8, {1, 2}), (11, {1, 2}), (12, {0, 1, 2}), (99, {0, 1, 2})):
        sampler = Sampler(window=window, distribution=distribution)
        drawn = sampler.draw(index.snapshot(), np.random.default_rng(1), 300).rows
        owners = world.owners()
        assert {owners[row][0] for row in drawn.tolist()} == episodes
    index.add_part(Part(**world.commit(0, 1, last=False)))  # a reset alone hides nothing
    assert len(Sampler(window=1).draw(index.snapshot(), np.random.default_rng(1), 5).rows) == 5


@pytest.mark.parametrize("distribution", ["uniform", "per_episode"])
def test_same_seed_same_rows(distribution):
    sampler = Sampler(n_step=2, distribution=distribution)
    draws = []
    for _ in range(2):
        _, index = build(LENGTHS)
        rng = np.random.default_rng(11)
        draws.append([sampler.draw(index.snapshot(), rng, 64).rows.tolist() for _ in range(5)])
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generator_state_goes_through_json(name):
    rng = np.random.Generator(getattr(np.random, name)(5))
    rng.integers(0, 10, 7, dtype=np.uint8)
    rng.random(dtype=np.float32)
    saved = json.loads(json.dumps(generator_state(rng)))
    restored = restore_generator(saved)
    assert type(restored.bit_generator).__name__ == name
    assert rng.integers(0, 2**60, 1000).tolist() == restored.integers(0, 2**60, 1000).tolist()
    assert restore_generator(saved).random() != rng.random()


def test_bad_generator_states_are_refused():
    good = generator_state(np.random.default_rng(0))
    for bad in (
        {},
        {"bit_generator": "default_rng"},
        {"bit_generator": "PCG64"},
        {**good, "state": {"state": 1}},
        {**good, "state": {"state": "1", "inc": 2}},
        {**good, "extra": 1},
        {**generator_state(np.random.Generator(np.random.MT19937(0))), "state": {"key": [1, 2], "pos": 0}},
        [],
    ):
        with pytest.raises(SpecError, match="state of"):
            restore_generator(bad)


@pytest.mark.parametrize(
    "wrong",
    [{"n_step": 0}, {"n_step": 1.5}, {"n_step": True}, {"distribution": "other"}, {"window": 0}, {"window": "all"}],
)
def test_bad_configurations_are_refused(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        Sampler(**wrong)


def test_bad_batch_sizes_are_refused():
    _, index = build([5])
    for wrong in (0, -1, 2.5):
        with pytest.raises(SpecError, match="batch_size"):
            Sampler().draw(index.snapshot(), np.random.default_rng(0), wrong)
