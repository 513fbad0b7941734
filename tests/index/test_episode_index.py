import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_rows import World, actions

from replaystore.index.episode_index import EpisodeIndex
from replaystore.index.parts import Part
from replaystore.index.snapshot import PartColumn
from replaystore.testing.episodes import valid_steps


def part(episode, t_start, first_row, num_rows, last=False, zero_padding=False):
    return Part(episode, t_start, first_row, num_rows, last, zero_padding)


def check_equal(world: World, index: EpisodeIndex) -> None:
    owners = world.owners()
    assert index.num_rows == len(owners)
    assert index.num_episodes == len(world.order)
    assert index.num_transitions == sum(len(valid_steps(len(world.rows[e]), 1)) for e in world.order)
    assert index.next_episode_id == world.next_episode
    assert index.oldest_complete() == world.oldest_complete()
    assert index.live_chunks() == world.live_chunks()
    for chunk in range(world.end_row // world.chunk_rows + 1):
        live = sum(row // world.chunk_rows == chunk for row in owners)
        assert index.live_rows_in(chunk) == live
        assert index.chunk_is_live(chunk) == (live > 0)
    infos = index.episodes()
    assert [info.episode for info in infos] == world.order
    for info in infos:
        assert info == index.episode(info.episode)
        assert info.num_rows == len(world.rows[info.episode])
        assert info.complete == (info.episode in world.complete)
        assert [r for p in info.parts for r in range(p.first_row, p.first_row + p.num_rows)] == world.rows[info.episode]


def check_snapshot(world: World, index: EpisodeIndex) -> None:
    snapshot = index.snapshot()
    assert snapshot is index.snapshot()
    assert snapshot.episode_ids.tolist() == world.order
    assert snapshot.episode_num_rows.tolist() == [len(world.rows[e]) for e in world.order]
    assert snapshot.num_rows == index.num_rows
    assert np.all(np.diff(snapshot.index.part_first_row) > 0)
    rows = {}
    for p in range(len(snapshot.index.part_first_row)):
        episode = world.order[snapshot.part_episode[p]]
        assert snapshot.index.part_zero_padding[p] == (episode % 3 == 1)
        for k in range(snapshot.index.part_num_rows[p]):
            rows[int(snapshot.index.part_first_row[p]) + k] = (episode, int(snapshot.index.part_t_start[p]) + k)
        for link, back, way in (
            (snapshot.index.part_next, snapshot.index.part_prev, 1),
            (snapshot.index.part_prev, snapshot.index.part_next, -1),
        ):
            other = link[p]
            if other >= 0:
                assert back[other] == p
                assert snapshot.part_episode[other] == snapshot.part_episode[p]
                early, late = (p, other) if way == 1 else (other, p)
                assert (
                    snapshot.index.part_t_start[late]
                    == snapshot.index.part_t_start[early] + snapshot.index.part_num_rows[early]
                )
    assert rows == world.owners()
    for e, episode in enumerate(world.order):
        times = np.arange(len(world.rows[episode]))
        assert snapshot.rows_of(np.full(len(times), e), times).tolist() == world.rows[episode]
        for outside in (-1, len(times)):
            with pytest.raises(IndexError, match="entry 0: no time step"):
                snapshot.rows_of(np.array([e]), np.array([outside]))


@settings(max_examples=80)
@given(actions(30))
def test_index_equals_the_model_after_every_step(happened):
    world, index = World(8), EpisodeIndex(chunk_rows=8)
    for what, *rest in happened:
        if what == "part":
            index.add_part(Part(**world.commit(*rest)))
            assert index.end_row == world.end_row
        elif what == "skip":
            world.skip_to_chunk()
        elif (oldest := world.oldest_complete()) is not None:
            before = world.live_chunks()
            world.evict(oldest)
            assert index.remove_episodes([oldest]) == sorted(before - world.live_chunks())
        check_equal(world, index)
    check_snapshot(world, index)


@settings(max_examples=60)
@given(actions(30), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 30)))
def test_counts_equal_the_model(happened, n_step, window):
    world, index = World(8), EpisodeIndex(chunk_rows=8)
    for what, *rest in happened:
        if what == "part":
            index.add_part(Part(**world.commit(*rest)))
    snapshot = index.snapshot()
    start, cumulative = snapshot.counts(n_step, window)
    counts = [len(valid_steps(len(world.rows[e]), n_step)) for e in world.order]
    kept = list(range(len(world.order)))
    if window is not None:
        while len(kept) > 1 and sum(len(world.rows[world.order[e]]) - 1 for e in kept) > window:
            if sum(counts[e] for e in kept[1:]) == 0 < sum(counts):
                break  # never left without a transition while there is one
            kept.pop(0)
    assert list(range(start, len(counts))) == kept
    assert cumulative.dtype == np.int64
    assert cumulative.tolist() == np.cumsum([counts[e] for e in kept]).tolist()
    assert snapshot.counts(n_step, window)[1] is cumulative
    positions, valid = snapshot.drawable(n_step, window)
    assert positions.tolist() == [e for e in kept if counts[e]]
    assert valid.tolist() == [counts[e] for e in kept if counts[e]]


def test_the_newest_episode_is_in_every_window():
    index = EpisodeIndex(chunk_rows=4)
    for number in range(3):
        index.add_part(part(number, 0, 5 * number, 5, last=True))
    start, cumulative = index.snapshot().counts(9, 2)
    assert (start, cumulative.tolist()) == (2, [0])


def test_parts_must_continue_each_other():
    index = EpisodeIndex(chunk_rows=4)
    index.add_part(part(0, 0, 0, 3))
    index.add_part(part(1, 0, 5, 3, last=True))
    before = index.snapshot()
    for wrong, message in (
        (part(0, 2, 8, 1), "expected an episode id from 0 on and t_start 3, got t_start 2"),
        (part(0, 4, 8, 1), "got t_start 4"),
        (part(1, 3, 8, 1), "one that has ended"),
        (part(2, 1, 8, 1), "t_start 0, got t_start 1"),
        (part(-1, 0, 8, 1), "id from 0 on"),
        (part(0, 3, 7, 1), "from row 8 on"),
        (part(0, 3, 8, 0), "at least one row"),
        (part(0, 3, 8, -1, last=True), "at least one row"),
        (part(2, 0, 8, 0, last=True), "at least one row"),
        (part(0, 3, 8, 1, zero_padding=True), "zero_padding False as in"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add_part(wrong)
        assert index.snapshot() is before
        assert index.num_episodes == 2
        assert index.end_row == 8
    index.add_part(part(0, 3, 9, 1, last=True))
    assert index.episode(0).num_rows == 4


def test_an_open_episode_can_be_ended_without_another_row():
    index = EpisodeIndex(chunk_rows=4)
    index.add_part(part(3, 0, 0, 3))
    assert index.oldest_complete() is None
    index.add_part(part(3, 3, 3, 0, last=True))
    assert index.oldest_complete() == 3
    assert index.episode(3).complete
    assert len(index.episode(3).parts) == 1
    assert index.snapshot().index.part_num_rows.tolist() == [3]


def test_removing_what_is_not_live_changes_nothing():
    index = EpisodeIndex(chunk_rows=4)
    index.add_part(part(0, 0, 0, 3, last=True))
    before = index.snapshot()
    with pytest.raises(ValueError, match="episode 5: not live"):
        index.remove_episodes([0, 5])
    assert index.snapshot() is before
    assert index.remove_episodes([0, 0]) == [0]
    assert index.num_rows == index.num_transitions == 0
    with pytest.raises(ValueError, match="episode 0: not live"):
        index.episode(0)


def test_an_empty_index():
    snapshot = EpisodeIndex(chunk_rows=4).snapshot()
    assert snapshot.num_rows == snapshot.num_episodes == 0
    assert snapshot.index.episode_part_start.tolist() == [0]
    start, cumulative = snapshot.counts(3, 10)
    assert (start, len(cumulative)) == (0, 0)
    with pytest.raises(IndexError, match="of 0"):
        snapshot.rows_of(np.array([0]), np.array([0]))


def test_snapshots_do_not_change():
    index = EpisodeIndex(chunk_rows=4)
    index.add_part(part(0, 0, 0, 3))
    snapshot = index.snapshot()
    arrays = snapshot.index._asdict() | {name: getattr(snapshot, name) for name in snapshot.__slots__}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            assert not array.flags.writeable, name
            with pytest.raises(ValueError, match="read-only"):
                array[:1] = 0
    index.add_part(part(0, 3, 3, 2))
    index.remove_episodes([0])
    assert snapshot.episode_num_rows.tolist() == [3]
    assert snapshot.index.part_next.tolist() == [-1]


def test_dead_parts_are_forgotten_and_order_survives():
    index, world = EpisodeIndex(chunk_rows=8), World(8)
    rng = np.random.default_rng(0)
    for k in range(4000):
        index.add_part(Part(**world.commit(int(rng.integers(3)), int(rng.integers(1, 4)), bool(rng.random() < 0.5))))
        if k > 50 and (oldest := world.oldest_complete()) is not None and rng.random() < 0.48:
            world.evict(oldest)
            assert index.oldest_complete() == oldest
            index.remove_episodes([oldest])
    check_equal(world, index)
    check_snapshot(world, index)
    assert index.held_bytes < 2048 * len(PartColumn) * 8  # room for so many parts, of int64


def large_index(parts):
    index = EpisodeIndex(chunk_rows=1024)
    for number in range(parts):
        index.add_part(part(number, 0, number * 10, 10, last=True))
    return index


@pytest.mark.timing
def test_a_snapshot_of_a_large_index_is_soon_taken():
    parts = 100_000
    index = large_index(parts)
    seconds = []
    for attempt in range(3):
        index.add_part(part(parts + attempt, 0, (parts + attempt) * 10, 10, last=True))
        begin = time.perf_counter()
        index.snapshot()
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.1  # about 5 ms; the margin is for busy machines


def test_a_large_index_is_small():
    parts = 100_000
    index = large_index(parts)
    snapshot = index.snapshot()
    arrays = [*snapshot.index, *(getattr(snapshot, name) for name in snapshot.__slots__)]
    num_bytes = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) + index.held_bytes
    assert num_bytes < 300 * parts  # under 1 B a transition for episodes of 500
