"""Whatever happens to a store, in whatever configuration: every live transition is that of the naive oracle."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from replaystore import FieldSpec, ReplayStore, Sampler
from replaystore.errors import CapacityError, Evicted, NotEnoughData, SpecError
from replaystore.testing.episodes import Episode, join, make_episode, stacks, valid_steps
from replaystore.testing.oracle import transition

MODES = ["disk", "half", "full"]
LONGEST = 40  # rows of an episode, at most
GAMMA = 0.97

# Frame shape, channels.
LAYOUTS = [((3, 5, 4), "first"), ((5, 4, 3), "last"), ((5, 4), "first"), ((5, 4), "last"), ((1, 5, 4), "first")]


@dataclass(frozen=True)
class Config:
    layout: tuple[tuple[int, ...], str]
    frame_stack: int
    chunk_rows: int
    capacity: int | None
    residency: dict[str, Any]
    n_step: int

    def fields(self) -> list[FieldSpec]:
        shape, channels = self.layout
        return [
            FieldSpec.image("observation", shape, frame_stack=self.frame_stack, channels=channels),
            FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
            FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
            FieldSpec(name="discount", shape=(1,), dtype="float32", role="discount"),
            FieldSpec(name="state", shape=(70,), dtype="float64"),  # too large a row to be held in memory
        ]


configs = st.builds(
    Config,
    layout=st.sampled_from(LAYOUTS),
    frame_stack=st.integers(1, 4),
    chunk_rows=st.sampled_from([1, 2, 3, 5, 8, 16, 64]),
    capacity=st.one_of(st.none(), st.integers(1, 40)),
    residency=st.sampled_from(
        [
            {"residency": "mapped"},
            {"residency": "ram"},
            {"residency": "auto"},
            {"residency": "auto", "budget_bytes": 3000},
        ]
    ),
    n_step=st.integers(1, 4),
)

# Episodes at once, rows of open episodes that wait, are committed as a part, or end theirs; what an owner may do.
appends = st.tuples(st.just("append"), st.integers(1, 14), st.booleans(), st.booleans())
adds = st.tuples(
    st.just("add"),
    st.integers(0, 2),
    st.integers(1, 6),
    st.sampled_from(["wait", "part", "last", "end"]),
    st.booleans(),
)
others = st.sampled_from([("flush",), ("reopen",), ("reopen",), ("discard", 0), ("capacity", 9), ("capacity", None)])
histories = st.lists(st.one_of(appends, appends, adds, adds, adds, others), max_size=22)


def arrays_of(episode: Episode, config: Config) -> dict[str, np.ndarray]:
    """All fields as they are appended; the image as stacks."""
    t = np.arange(episode.num_rows)
    return {
        "observation": stacks(episode, config.frame_stack, config.layout[1]),
        "action": episode.action,
        "reward": episode.reward[:, None],
        "discount": episode.discount[:, None],
        "state": np.sqrt(episode.number + 1 + t[:, None] * np.arange(1.0, 71)),
    }


def cut(episode: Episode, rows: int) -> Episode:
    return Episode(
        episode.number, episode.frames[:rows], episode.action[:rows], episode.reward[:rows], episode.discount[:rows],
        episode.zero_padding,
    )  # fmt: skip


@dataclass
class Model:
    """What is live, as loops say it: contents by episode id, in order of their first commit."""

    capacity: int | None
    committed: dict[int, int] = field(default_factory=dict)  # id -> rows
    contents: dict[int, Episode] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)
    next_id: int = 0

    def fits(self, new: int, own: int | None) -> bool:
        open_ids = {number for number in self.committed if number not in self.complete}
        if own is not None:
            open_ids.add(own)
        kept = sum(self.committed[number] - 1 for number in open_ids)
        return self.capacity is None or new + kept <= self.capacity

    def commit(self, content: Episode, episode: int | None, rows: int, last: bool) -> int:
        if episode is None:
            episode, self.next_id = self.next_id, self.next_id + 1
            self.contents[episode], self.committed[episode] = content, 0
        self.committed[episode] += rows
        if last:
            self.complete.add(episode)
        self.evict()
        return episode

    def evict(self) -> None:
        for episode in list(self.committed):
            total = sum(rows - 1 for rows in self.committed.values())
            if self.capacity is None or total <= self.capacity:
                return
            if episode in self.complete:
                del self.committed[episode], self.contents[episode]

    def episodes(self) -> dict[int, Episode]:
        return {number: cut(self.contents[number], rows) for number, rows in self.committed.items()}


class Played:
    """A store and its model, taken through a history."""

    def __init__(self, config: Config, mode: str, path: Path) -> None:
        self.config, self.mode, self.path = config, mode, path
        self.store = ReplayStore.create(
            path, config.fields(), mode=mode, capacity=config.capacity, chunk_rows=config.chunk_rows,
            num_threads=2, **config.residency,
        )  # fmt: skip
        self.model = Model(config.capacity)
        self.open: dict[int, Any] = {}  # env -> [content, id or None, rows added]
        self.count = 0
        self.seen_rows: dict[int, list[int]] = {}

    def content(self, zero_padding: bool, rows: int = LONGEST) -> Episode:
        self.count += 1
        return make_episode(self.count, rows, self.config.layout[0], zero_padding and self.config.frame_stack > 1)

    def play(self, history: list[Any]) -> None:
        for what, *arguments in history:
            getattr(self, f"do_{what}")(*arguments)
            self.note_rows()
            assert [info.episode for info in self.store.episodes()] == list(self.model.committed)

    def do_append(self, rows: int, zero_padding: bool, as_frames: bool) -> None:
        content = self.content(zero_padding, rows)
        arrays = arrays_of(content, self.config)
        if as_frames and not content.zero_padding:
            arrays["observation"] = content.frames
        if self.model.fits(rows - 1, None):
            assert self.store.append(arrays) == self.model.commit(content, None, rows, last=True)
        else:
            with pytest.raises(CapacityError):
                self.store.append(arrays)

    def do_add(self, env: int, rows: int, how: str, zero_padding: bool) -> None:
        content, episode, added = self.open.setdefault(env, [self.content(zero_padding), None, 0])
        rows = min(rows, LONGEST - added)
        arrays = arrays_of(content, self.config)
        before = 0 if episode is None else self.model.committed[episode]
        waiting = added + rows - before
        fits = how == "wait" or self.model.fits(waiting - (before == 0), episode) or not waiting
        if rows and self.model.capacity is not None and added + rows - 1 > self.model.capacity:
            fits = False  # an open episode does not grow beyond the capacity
        try:
            for t in range(added, added + rows):
                last = how == "last" and t == added + rows - 1
                self.store.add({name: array[t] for name, array in arrays.items()}, env=env, last=last)
            self.open[env][2] = added + rows
            if how == "part":
                self.store.commit_part(env)
            elif how == "end" or (how == "last" and not rows):
                self.store.end_episode(env)
        except CapacityError:
            assert not fits
            self.do_discard(env)
            return
        assert fits
        if how != "wait":
            self.open[env][1] = self.model.commit(content, episode, waiting, last=how != "part")
            if how != "part":
                del self.open[env]

    def do_discard(self, env: int) -> None:
        self.store.discard_episode(env)
        _, episode, _ = self.open.pop(env, (None, None, 0))
        if episode is not None:
            self.model.complete.add(episode)
            self.model.evict()

    def do_flush(self) -> None:
        self.store.flush()

    def do_capacity(self, capacity: int | None) -> None:
        self.store.set_capacity(capacity)
        self.model.capacity = capacity
        self.model.evict()

    def do_reopen(self) -> None:
        self.store.close()
        self.store = ReplayStore.open(self.path, num_threads=2, **self.config.residency)
        self.model.complete |= set(self.model.committed)
        self.model.evict()
        self.open.clear()

    def note_rows(self) -> None:
        """Where the episodes are; rows are never used twice."""
        for info in self.store.episodes():
            rows = [row for part in info.parts for row in range(part.first_row, part.first_row + part.num_rows)]
            assert rows[: len(self.seen_rows.get(info.episode, []))] == self.seen_rows.get(info.episode, [])
            self.seen_rows[info.episode] = rows
        taken = [row for rows in self.seen_rows.values() for row in rows]
        assert len(taken) == len(set(taken))

    def check(self, store: ReplayStore) -> None:
        """Compares all that can be read with the oracle."""
        config, episodes = self.config, self.model.episodes()
        assert store.num_episodes == len(episodes)
        assert len(store) == sum(content.num_rows - 1 for content in episodes.values())
        assert store.capacity == self.model.capacity
        wanted = [(e, i) for e, content in episodes.items() for i in valid_steps(content.num_rows, config.n_step)]
        batch = store.gather(
            [self.seen_rows[e][i] for e, i in wanted], n_step=config.n_step, discount=GAMMA, num_threads=2
        )
        all_arrays = {e: arrays_of(content, config) for e, content in episodes.items()}
        for at, (e, i) in enumerate(wanted):
            expected = transition(episodes[e], i, config.n_step, GAMMA, config.frame_stack)
            for name in ("obs", "next_obs"):
                expected[name] = join(list(expected[name]), config.layout[1])
            found = {
                "obs": batch["observation"][at],
                "next_obs": batch["next_observation"][at],
                "action": batch["action"][at],
                "reward": batch["reward"][at, 0],
                "discount": batch["discount"][at, 0],
            }
            for name, value in expected.items():
                assert found[name].dtype == value.dtype
                assert found[name].shape == value.shape
                assert found[name].tobytes() == value.tobytes(), (name, e, i)
            assert np.array_equal(batch["state"][at], all_arrays[e]["state"][i])
        for e in episodes:
            for name, array in store.read_episode(e).items():
                assert array.dtype == all_arrays[e][name].dtype
                assert np.array_equal(array, all_arrays[e][name]), (name, e)
        self.check_refusals(store, {self.seen_rows[e][i] for e, i in wanted})

    def check_refusals(self, store: ReplayStore, valid: set[int]) -> None:
        """Rows that name no transition: evicted, dead, too near to an end, of a reset, never written."""
        resets = {info.parts[0].first_row for info in store.episodes()}
        some = {row for rows in self.seen_rows.values() for row in (rows[0], rows[len(rows) // 2], rows[-1])}
        for row in sorted(some | {-1, 10_000}):
            if row not in valid:
                with pytest.raises(SpecError if row in resets else Evicted):
                    store.gather([row], n_step=self.config.n_step)

    def check_zarr(self) -> None:
        """Reads the closed store with plain zarr, as it is stored."""
        group = zarr.open_group(self.path, mode="r")
        for name in ("observation", "action", "reward", "discount", "state"):
            stored = group[name][:]
            for e, content in self.model.episodes().items():
                expected = arrays_of(content, self.config)[name]
                if name == "observation" and self.mode != "disk":
                    expected = content.frames
                assert np.array_equal(stored[self.seen_rows[e]], expected), (name, e)


@settings(max_examples=90, deadline=None, derandomize=False)
@given(configs, st.sampled_from(MODES), histories)
def test_every_live_transition_is_that_of_the_oracle(config, mode, history):
    with tempfile.TemporaryDirectory() as place:
        played = Played(config, mode, Path(place, "store"))
        try:
            played.play(history)
            event(f"live episodes: {min(3, len(played.model.committed))}{'+' * (len(played.model.committed) > 3)}")
            played.check(played.store)
            with ReplayStore.open(played.path, read_only=True, residency="mapped") as reader:
                played.check(reader)
            played.do_reopen()
            played.check(played.store)
            assert played.store.verify().ok
        finally:
            played.store.close()
        played.check_zarr()
        with ReplayStore.open(played.path, read_only=True, **config.residency) as reader:
            played.check(reader)


def drawn(played: Played, seed: int) -> list[Any]:
    """Draws and batches, with appends between them."""
    rng, result = np.random.default_rng(seed), []
    for distribution in ("uniform", "per_episode"):
        for window in (None, 7):
            sampler = Sampler(n_step=played.config.n_step, distribution=distribution, window=window)
            try:
                rows = played.store.draw(sampler, rng, 9)
            except NotEnoughData:
                result.append(None)
            else:
                batch = played.store.gather(rows, n_step=played.config.n_step, discount=GAMMA)
                result.append((rows.tolist(), {name: array.tobytes() for name, array in batch.items()}))
            played.do_append(6, zero_padding=False, as_frames=False)
            played.note_rows()
    return result


@settings(max_examples=25, deadline=None, derandomize=False)
@given(configs, histories, st.integers(0, 2**32))
def test_the_same_draws_and_bytes_in_all_modes(config, history, seed):
    results = []
    for mode in MODES:
        with tempfile.TemporaryDirectory() as place:
            played = Played(config, mode, Path(place, "store"))
            try:
                played.play(history)
                results.append(drawn(played, seed))
            finally:
                played.store.close()
    note(f"{sum(result is not None for result in results[0])} batches")
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("mode", MODES)
def test_a_process_that_imports_only_zarr_reads_what_is_stored(tmp_path, mode):
    config = Config(LAYOUTS[0], 3, 8, 30, {"residency": "auto"}, 1)
    played = Played(config, mode, tmp_path / "store")
    rows = [("append", rows, rows % 2 == 0, False) for rows in (9, 12, 5, 3, 7)]
    played.play([*rows, ("add", 0, 6, "part", False), ("append", 4, False, False), ("add", 0, 6, "last", False)])
    played.store.close()
    assert len(played.model.committed) < 7  # some are evicted
    played.check_zarr()
    code = (
        "import sys, zarr\n"
        "group = zarr.open_group(sys.argv[1], mode='r')\n"
        "import numpy as np\n"
        "np.savez(sys.argv[2], **{name: group[name][:] for name in sys.argv[3:]})\n"
    )
    names = [spec.name for spec in config.fields()]
    subprocess.run(
        [sys.executable, "-c", code, str(played.path), str(tmp_path / "read.npz"), *names], check=True, timeout=120
    )
    with np.load(tmp_path / "read.npz") as read:
        for name in names:
            for e, content in played.model.episodes().items():
                expected = arrays_of(content, config)[name]
                if name == "observation" and mode != "disk":
                    expected = content.frames
                assert np.array_equal(read[name][played.seen_rows[e]], expected)
