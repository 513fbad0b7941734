"""The contract of a sampler."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from replaystore.batches.protocol import BatchView
from replaystore.batches.transitions import TransitionView
from replaystore.errors import NotEnoughData
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.following import RowFollower
from replaystore.sampling.generators import generator_state, restore_generator
from replaystore.sampling.protocol import Draw, RowSampler
from replaystore.store import ReplayStore
from replaystore.testing.checks import copied, raises, same_arrays
from replaystore.testing.episodes import arrays_of, make_history, make_store

Probability = Callable[[IndexSnapshot], Mapping[int, float]]

_SIZE = 64
_MANY = 40_000
_DEVIATIONS = 5  # of the chi-square statistic; a correct sampler exceeds them once in a million seeds


def sampler_contract(
    make_sampler: Callable[[], RowSampler], *, view: BatchView | None = None, probability: Probability | None = None
) -> None:
    """Checks that a sampler keeps its contract, on stores of made-up episodes. Needs the extra `torch`.

    Rows are live and have the steps that the view needs, also after appends and evictions. The same seed gives the same
    draws, and a loader gives the same batches for any number of threads. A draw can be gathered after its rows were
    evicted. A restored state and generator give the same draws. The sampler can be pickled. If there is nothing to
    draw, the state does not change.

    Args:
        make_sampler: makes a new sampler. Every call makes an equal one.
        view: the view that the rows are drawn for. None takes `TransitionView()`.
        probability: returns, for a snapshot, the probability of each row that a new sampler can draw. None does not
            check the distribution.

    Raises:
        AssertionError: the sampler breaks the contract.
    """
    view = TransitionView() if view is None else view
    checks: list[Callable[[Path], None]] = [
        lambda path: _nothing_to_draw(make_sampler, view, path),
        lambda path: _draws_are_valid(make_sampler, view, path),
        lambda path: _draws_repeat(make_sampler, path),
        lambda path: _evicted_between(make_sampler, view, path),
        lambda path: _state_is_restored(make_sampler, view, path),
        lambda path: _loader_repeats(make_sampler, view, path),
    ]
    if probability is not None:
        checks.append(lambda path: _distribution(make_sampler, probability, path))
    with tempfile.TemporaryDirectory() as directory:
        for number, check in enumerate(checks):
            check(Path(directory) / str(number))


class _Driven:
    """A sampler over a store, with a generator. It is notified of appends and evictions, as by a loader."""

    def __init__(self, sampler: RowSampler, store: ReplayStore, rng: np.random.Generator) -> None:
        self.sampler = sampler
        self.rng = rng
        self._store = store
        self._follower = RowFollower(sampler)

    def follow(self) -> IndexSnapshot:
        snapshot = self._store.snapshot()
        self._follower.update(snapshot)
        return snapshot

    def draw(self, size: int = _SIZE) -> Draw:
        return self.sampler.draw(self.follow(), self.rng, size)

    def arrays(self) -> dict[str, Any]:
        """Returns copies of the arrays of a draw."""
        draw = self.draw()
        return copied({"rows": draw.rows, **draw.extras()})


def _driven(make_sampler: Callable[[], RowSampler], store: ReplayStore, seed: int = 3) -> _Driven:
    return _Driven(make_sampler(), store, np.random.default_rng(seed))


def _history(path: Path) -> ReplayStore:
    return make_history(path, "disk")  # rows do not depend on the mode, and this one is the fastest


def _check(draw: Draw, snapshot: IndexSnapshot, view: BatchView, label: str) -> None:
    rows = draw.rows
    assert isinstance(draw, Draw), f"{label}: expected a Draw, got {type(draw).__name__}"
    assert rows.dtype == np.int64, f"{label}: expected int64 rows, got {rows.dtype}"
    assert rows.shape == (_SIZE,), f"{label}: expected {_SIZE} rows, got an array {rows.shape}"
    episodes, times = snapshot.locate(rows)
    bad = (episodes < 0) | (times < 1) | (times + view.num_steps > snapshot.episode_num_rows[episodes])
    assert not bad.any(), (
        f"{label}: expected live rows that are not the first of their episode and have {view.num_steps} steps, got"
        f" rows {rows[bad][:5].tolist()}"
    )
    for name, array in draw.extras().items():
        assert array.shape[:1] == (_SIZE,), f"{label}: {name!r}: expected one entry for each row, got {array.shape}"
    if draw.weights is not None:
        fits = draw.weights.dtype == np.float32 and draw.weights.ndim == 1
        assert fits, f"{label}: expected float32 ({_SIZE},) weights, got {draw.weights.dtype} {draw.weights.shape}"
        assert np.isfinite(draw.weights).all(), f"{label}: expected finite weights"
        assert (draw.weights >= 0).all(), f"{label}: expected weights from 0 on"


def _nothing_to_draw(make_sampler: Callable[[], RowSampler], view: BatchView, path: Path) -> None:
    with make_store(path, ()) as store:
        driven = _driven(make_sampler, store)
        for label in ("an empty store", "an episode of one row"):
            driven.follow()
            before = copy.deepcopy((generator_state(driven.rng), driven.sampler.state_dict()))
            raises(NotEnoughData, driven.draw, label)
            after = generator_state(driven.rng), driven.sampler.state_dict()
            np.testing.assert_equal(after, before, f"{label}: nothing was drawn, so the state is as before")
            store.append(arrays_of(0, 1))
        store.append(arrays_of(1, 40))
        _check(driven.draw(), store.snapshot(), view, "after the first episode that can be drawn from")


def _draws_are_valid(make_sampler: Callable[[], RowSampler], view: BatchView, path: Path) -> None:
    with _history(path) as store:
        driven = _driven(make_sampler, store)
        for number in range(30):
            draw = driven.draw()
            label = f"draw {number} of a store that grows and evicts"
            _check(draw, store.snapshot(), view, label)
            before = copied({"rows": draw.rows, **draw.extras()})
            driven.draw()
            same_arrays({"rows": draw.rows, **draw.extras()}, before, f"{label}, after the next draw")
            store.gather(draw, view=view)
            if number % 2:
                store.append(arrays_of(10 + number, 3 + number % 9))
            if number == 12:
                store.end_episode(6)


def _draws_repeat(make_sampler: Callable[[], RowSampler], path: Path) -> None:
    with _history(path) as store:
        samplers = make_sampler(), make_sampler(), pickle.loads(pickle.dumps(make_sampler()))
        one, *others = (_Driven(sampler, store, np.random.default_rng(3)) for sampler in samplers)
        for number in range(5):
            expected = one.arrays()
            for other, label in zip(others, ("the same seed", "the same seed after pickling"), strict=True):
                same_arrays(other.arrays(), expected, f"{label}, draw {number}")


def _evicted_between(make_sampler: Callable[[], RowSampler], view: BatchView, path: Path) -> None:
    with _history(path) as store:
        driven, snapshot = _driven(make_sampler, store), store.snapshot()
        draw = driven.draw()
        before = copied(store.gather(draw, view=view))
        store.append(arrays_of(10, 40))
        store.flush()
        store.set_capacity(45)
        same_arrays(store.gather(draw, view=view, snapshot=snapshot), before, "gathered after the eviction")
        _check(driven.draw(), store.snapshot(), view, "after an eviction")


def _state_is_restored(make_sampler: Callable[[], RowSampler], view: BatchView, path: Path) -> None:
    with _history(path) as store:
        driven = _driven(make_sampler, store)
        for _ in range(3):
            driven.draw()
        state, generator = driven.sampler.state_dict(), generator_state(driven.rng)
        saved = pickle.loads(pickle.dumps(state))
        expected = [driven.arrays() for _ in range(4)]
        np.testing.assert_equal(state, saved, "a state is as it was when it was taken, whatever happens later")
        if not driven.sampler.draws_change_state:
            np.testing.assert_equal(driven.sampler.state_dict(), saved, "draws_change_state is False, and a draw did")
        for drawn_before in (0, 2):
            restored = _driven(make_sampler, store, seed=99)
            restored.follow()
            for _ in range(drawn_before):
                restored.draw()
            restored.sampler.load_state_dict(pickle.loads(pickle.dumps(saved)))
            restored.rng = restore_generator(generator)
            for number, arrays in enumerate(expected):
                same_arrays(restored.arrays(), arrays, f"draw {number} of a restored sampler")
        store.append(arrays_of(10, 40))
        store.set_capacity(45)
        late = _driven(make_sampler, store)
        late.follow()
        late.sampler.load_state_dict(saved)
        for _ in range(3):
            _check(late.draw(), store.snapshot(), view, "restored after rows of the state were evicted")


def _loader_repeats(make_sampler: Callable[[], RowSampler], view: BatchView, path: Path) -> None:
    from replaystore.loading.loader import ReplayLoader

    runs = []
    for num_threads in (1, 3):
        options: dict[str, Any] = {"batch_size": _SIZE, "view": view, "num_threads": num_threads, "pin_memory": False}
        with _history(path.with_name(f"{path.name}_{num_threads}")) as store:
            with ReplayLoader(store, sampler=make_sampler(), seed=7, **options) as loader:
                batches = []
                for number in range(8):
                    batches.append(copied(next(loader)))
                    store.append(arrays_of(10 + number, 5 + number))
                for _ in range(8):  # what was drawn ahead of the last append
                    next(loader)
                state = loader.state_dict()
                expected = [copied(next(loader)) for _ in range(3)]
            with ReplayLoader(store, sampler=make_sampler(), **options) as loader:
                next(loader)
                loader.load_state_dict(pickle.loads(pickle.dumps(state)))
                for number, batch in enumerate(expected):
                    same_arrays(copied(next(loader)), batch, f"batch {number} of a restored loader")
        runs.append(batches)
    for number, (one, other) in enumerate(zip(*runs, strict=True)):
        same_arrays(other, one, f"batch {number} with three threads in place of one")


def _distribution(make_sampler: Callable[[], RowSampler], probability: Probability, path: Path) -> None:
    with _history(path) as store:
        driven = _driven(make_sampler, store)
        expected = dict(probability(driven.follow()))
        total = sum(expected.values())
        assert abs(total - 1) < 1e-6, f"probability: expected values that sum to 1, got {total}"
        drawn, counts = np.unique(driven.draw(_MANY).rows, return_counts=True)
        impossible = [row for row in drawn.tolist() if not expected.get(row)]
        assert not impossible, f"rows {impossible[:5]} were drawn, and their probability is 0"
        found = dict(zip(drawn.tolist(), counts.tolist(), strict=True))
        likely = {row: share * _MANY for row, share in expected.items() if share}
        statistic = sum((found.get(row, 0) - count) ** 2 / count for row, count in likely.items())
        freedom = len(likely) - 1
        deviations = (statistic - freedom) / np.sqrt(2 * max(freedom, 1))
        assert deviations < _DEVIATIONS, (
            f"{_MANY} rows: chi-square {statistic:.1f} with {freedom} degrees of freedom, {deviations:.1f} deviations"
            " from what `probability` says"
        )
