import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_rows import World, actions

from replaystore.index.episode_index import EpisodeIndex
from replaystore.index.parts import Part
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.drawn_rows import drawn_rows
from replaystore.kernels.returns import cached_returns, n_step_returns
from replaystore.kernels.windows import PartIndex, part_of, transition_rows, window_rows
from replaystore.testing.episodes import Episode, make_episode, valid_steps
from replaystore.testing.oracle import transition


def build(happened, chunk_rows=8):
    world, index = World(chunk_rows), EpisodeIndex(chunk_rows=chunk_rows)
    for what, *rest in happened:
        if what == "part":
            index.add_part(Part(**world.commit(*rest)))
        elif what == "skip":
            world.skip_to_chunk()
        elif (oldest := world.oldest_complete()) is not None:
            world.evict(oldest)
            index.remove_episodes([oldest])
    return world, index


def windows(snapshot: IndexSnapshot, rows, frame_stack):
    out = np.full((len(rows), frame_stack), -7, np.int64)
    bad = window_rows(np.asarray(rows, np.int64), snapshot.index, out)
    return bad, out


def transitions(snapshot: IndexSnapshot, rows, n_step, frame_stack):
    """The first bad one, the steps, and the stacks before and after."""
    steps = np.full((len(rows), n_step), -7, np.int64)
    both = np.full((2 * len(rows), frame_stack), -7, np.int64)
    bad = transition_rows(np.asarray(rows, np.int64), snapshot.index, steps, both)
    return bad, steps, both[: len(rows)], both[len(rows) :]


@settings(max_examples=60)
@given(actions(), st.integers(1, 5), st.integers(1, 4))
def test_rows_equal_the_model(happened, n_step, frame_stack):
    world, index = build(happened)
    snapshot = index.snapshot()
    owners = world.owners()
    good = []
    for row in range(-1, world.end_row + 2):
        part = part_of(row, snapshot.index)
        assert (part >= 0) == (row in owners)
        if row not in owners:
            assert windows(snapshot, [row], frame_stack)[0] == 0
            assert transitions(snapshot, [row], 1, frame_stack)[0] == 0
            continue
        episode, t = owners[row]
        of_t = world.rows[episode]
        assert snapshot.episode_ids[snapshot.part_episode[part]] == episode
        padding = -1 if episode % 3 == 1 else of_t[0]

        def stack(newest, of_t=of_t, padding=padding):
            return [of_t[s] if s >= 0 else padding for s in range(newest - frame_stack + 1, newest + 1)]

        bad, out = windows(snapshot, [row], frame_stack)
        assert bad == -1
        assert out[0].tolist() == stack(t)
        bad, during, before, after = transitions(snapshot, [row], n_step, frame_stack)
        fits = t > 0 and t + n_step <= len(of_t)
        assert bad == (-1 if fits else 0)
        if fits:
            assert during[0].tolist() == of_t[t : t + n_step]
            assert before[0].tolist() == stack(t - 1)
            assert after[0].tolist() == stack(t + n_step - 1)
            good.append((row, before[0].tolist(), after[0].tolist()))
    bad, during, before, after = transitions(snapshot, [row for row, _, _ in good], n_step, frame_stack)
    assert bad == -1
    found = zip(during[:, 0].tolist(), before.tolist(), after.tolist(), strict=True)
    assert list(found) == good


@settings(max_examples=60)
@given(actions(), st.integers(1, 5), st.data())
def test_transitions_by_their_place_among_all(happened, n_step, data):
    world, index = build(happened)
    snapshot = index.snapshot()
    start, cumulative = snapshot.counts(n_step, data.draw(st.none() | st.integers(1, 20)))
    total = int(cumulative[-1]) if len(cumulative) else 0
    if not total:
        return
    kept = [int(episode) for episode in snapshot.episode_ids[start:]]
    every = [world.rows[number][i] for number in kept for i in valid_steps(len(world.rows[number]), n_step)]
    assert len(every) == total
    middles = (np.arange(total) + 0.5) / total
    assert snapshot.transitions(middles, start, cumulative).tolist() == every
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert snapshot.transitions(ends, start, cumulative).tolist() == [every[0], every[-1]]
    for outside in (1.0, -1e-9, np.nan):
        with pytest.raises(IndexError, match="not including 1"):
            snapshot.transitions(np.array([0.5, outside]), start, cumulative)


@settings(max_examples=40)
@given(actions(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_every_transition_equals_the_oracle(happened, n_step, frame_stack, seed):
    world, index = build(happened)
    shape = (2, 3)
    frames = np.full((world.end_row + 1, *shape), 255, np.uint8)
    action = np.full((world.end_row + 1, 2), np.nan, np.float32)
    reward, discount = action[:, 0].copy(), action[:, 0].copy()
    episodes: dict[int, Episode] = {}
    for number in world.order:
        rows = world.rows[number]
        episode = episodes[number] = make_episode(number, len(rows), shape, zero_padding=number % 3 == 1)
        frames[rows], action[rows] = episode.frames, episode.action
        reward[rows], discount[rows] = episode.reward, episode.discount
    wanted = [(number, i) for number in world.order for i in valid_steps(len(world.rows[number]), n_step)]
    np.random.default_rng(seed).shuffle(wanted)
    rows = [world.rows[number][i] for number, i in wanted]
    snapshot = index.snapshot()
    padded = np.concatenate([frames, np.zeros((1, *shape), np.uint8)])  # row -1 is a frame of zeros
    bad, during, before, after = transitions(snapshot, rows, n_step, frame_stack)
    assert bad == -1
    total, product = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    n_step_returns(reward[during], discount[during], np.float32(0.97), total, product)
    for b, (number, i) in enumerate(wanted):
        expected = transition(episodes[number], i, n_step, 0.97, frame_stack)
        np.testing.assert_array_equal(padded[before[b]], expected["obs"])
        np.testing.assert_array_equal(padded[after[b]], expected["next_obs"])
        np.testing.assert_array_equal(action[rows[b]], expected["action"])
        assert total[b].tobytes() == expected["reward"].tobytes()
        assert product[b].tobytes() == expected["discount"].tobytes()


def test_first_bad_row_is_named():
    index = EpisodeIndex(chunk_rows=8)
    index.add_part(Part(episode=0, t_start=0, first_row=0, num_rows=5, last=True, zero_padding=False))
    index.add_part(Part(episode=1, t_start=0, first_row=5, num_rows=5, last=True, zero_padding=False))
    snapshot = index.snapshot()
    assert transitions(snapshot, [1, 4, 5, 0], 1, 3)[0] == 2  # row 5 is a reset: nothing came before it
    assert transitions(snapshot, [1, 4, 6], 2, 3)[0] == 1  # row 4 is the last of its episode
    assert transitions(snapshot, [1, 2, 8, 9], 2, 3)[0] == 3
    assert transitions(snapshot, [10], 1, 3)[0] == 0
    assert windows(snapshot, [1, 4, 10, 0], 3)[0] == 2


def test_rows_above_two_to_the_31():
    index = EpisodeIndex(chunk_rows=1 << 20)
    start = 2**40 + 3
    index.add_part(Part(episode=0, t_start=0, first_row=start, num_rows=2**33, last=False, zero_padding=True))
    index.add_part(Part(episode=1, t_start=0, first_row=start + 2**33, num_rows=4, last=True, zero_padding=False))
    index.add_part(
        Part(episode=0, t_start=2**33, first_row=start + 2**33 + 4, num_rows=4, last=True, zero_padding=True)
    )
    snapshot = index.snapshot()
    row = start + 2**33 - 1
    bad, during, before, after = transitions(snapshot, [row], 3, 3)
    assert bad == -1
    assert during.tolist() == [[row, row + 5, row + 6]]
    assert before.tolist() == [[row - 3, row - 2, row - 1]]
    assert after.tolist() == [[row, row + 5, row + 6]]
    assert windows(snapshot, [row + 5], 3)[1].tolist() == [[row - 1, row, row + 5]]
    assert snapshot.rows_of(np.array([0, 0]), np.array([2**33 - 1, 2**33])).tolist() == [row, row + 5]


def test_small_outputs_are_refused():
    none = np.zeros(0, np.int64)
    some = np.zeros(2, np.int64)
    index = PartIndex(none, none, none, none, none, none.astype(bool), none, none)
    with pytest.raises(ValueError, match="fewer rows"):
        window_rows(some, index, np.zeros((1, 2), np.int64))
    for steps, both in ((1, 4), (2, 3)):
        with pytest.raises(ValueError, match="smaller than the batch"):
            transition_rows(some, index, np.zeros((steps, 2), np.int64), np.zeros((both, 2), np.int64))
    with pytest.raises(ValueError, match="smaller than shares"):
        drawn_rows(some.astype(float), some, 0, index, some[:1])
    values = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        n_step_returns(values, values, np.float32(1), values[:2, 0].copy(), values[:, 0].copy())


@pytest.mark.parametrize("n_step", [1, 2, 3, 7])
def test_returns_equal_a_float32_loop_bit_for_bit(n_step):
    rng = np.random.default_rng(n_step)
    cases = 100_000
    reward = (rng.normal(size=(cases, n_step)) * 10.0 ** rng.integers(-3, 4, (cases, n_step))).astype(np.float32)
    discount = rng.uniform(0, 1, (cases, n_step)).astype(np.float32)
    gamma = np.float32(0.99)
    total, product = np.empty(cases, np.float32), np.empty(cases, np.float32)
    n_step_returns(reward, discount, gamma, total, product)
    expected, acc = np.zeros(cases, np.float32), np.ones(cases, np.float32)
    for k in range(n_step):
        expected += acc * reward[:, k]
        acc *= discount[:, k] * gamma
    assert np.array_equal(total.view(np.uint32), expected.view(np.uint32))
    assert np.array_equal(product.view(np.uint32), acc.view(np.uint32))
    held = reward.reshape(-1, 1).view(np.uint8), discount.reshape(-1, 1).view(np.uint8)
    steps = np.arange(cases * n_step).reshape(cases, n_step) + 7
    total[:], product[:] = 0, 0
    assert cached_returns(7, held[0], 7, held[1], steps, gamma, total, product)
    assert np.array_equal(total.view(np.uint32), expected.view(np.uint32))
    assert np.array_equal(product.view(np.uint32), acc.view(np.uint32))
    for bases in ((8, 7), (7, 8), (6, 7), (7, 6)):
        assert not cached_returns(bases[0], held[0], bases[1], held[1], steps, gamma, total, product)
    n_step_returns(reward, discount, 0.99, total, product)  # a Python float is rounded to float32 first
    assert np.array_equal(total.view(np.uint32), expected.view(np.uint32))
    wide = np.zeros(cases)
    scale = np.ones(cases)
    for k in range(n_step):
        wide += scale * reward[:, k]
        scale *= discount[:, k] * 0.99
    # The comparison can fail: a float64 accumulator gives other bits once there is something to accumulate.
    assert n_step == 1 or not np.array_equal(wide.astype(np.float32), expected)


def test_infinity_and_nan_pass_through():
    reward = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, -np.inf]], np.float32)
    discount = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]], np.float32)
    total, product = np.empty(3, np.float32), np.empty(3, np.float32)
    n_step_returns(reward, discount, np.float32(1), total, product)
    assert total[0] == np.inf
    assert np.isnan(total[1])
    assert np.isnan(total[2])  # 0 * -inf, as the formula has it
    assert product.tolist() == [1.0, 1.0, 0.0]
