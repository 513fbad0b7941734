"""The contract of a batch view."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.batches.protocol import BatchView
from replaystore.errors import Evicted, SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.sampling.protocol import Draw, RowSampler
from replaystore.sampling.sampler import Sampler
from replaystore.spec import MODES
from replaystore.store import ReplayStore
from replaystore.testing.checks import copied, raises, same_arrays
from replaystore.testing.episodes import Episode, arrays_of, history_arrays, history_episode, make_history, make_store

I64 = NDArray[np.int64]
DrawOf = Callable[[I64, IndexSnapshot], Draw]
Expected = Callable[[Episode, int], Mapping[str, Any]]


def view_contract(
    make_view: Callable[[], BatchView], *, expected: Expected | None = None, draw_of: DrawOf | None = None
) -> None:
    """Checks that a batch view keeps its contract, on stores of made-up episodes. Needs the extra `torch`.

    Every valid row becomes the same arrays in every mode, for any number of threads, and in any order of the rows. It
    does not matter whether a pair of arrays shares its memory, or which other episodes the store holds. Every element
    is filled. Rows that are not live or have too few steps are refused. A draw can be gathered with its snapshot after
    its rows were evicted. The view can be pickled.

    Args:
        make_view: makes the view.
        expected: returns the arrays of one row, given its episode and time step. None checks only the above.
        draw_of: makes a draw of rows, with the columns that the view needs. The columns depend only on a row's episode
            and time step. None draws rows without columns.

    Raises:
        AssertionError: the view breaks the contract.
    """
    check = _ViewCheck(make_view(), draw_of or (lambda rows, _: Draw(rows)))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        check.all_modes(path, expected)
        check.episodes_alone(path)
        with make_history(path / "refused") as store:
            check.refused(store)
        with make_history(path / "evicted") as store:
            check.evicted(store)
        check.loader(path)
        pickled = _ViewCheck(pickle.loads(pickle.dumps(check.view)), check.draw_of)
        pickled.episodes_alone(path / "pickled")


class _DrawsOf(RowSampler):
    """Draws uniformly, and adds the columns of `draw_of`."""

    def __init__(self, num_steps: int, draw_of: DrawOf) -> None:
        self._sampler = Sampler(n_step=num_steps)
        self._draw_of = draw_of

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        return self._draw_of(self._sampler.draw(snapshot, rng, size).rows, snapshot)


class _ViewCheck:
    def __init__(self, view: BatchView, draw_of: DrawOf) -> None:
        self.view = view
        self.draw_of = draw_of

    def gather(self, store: ReplayStore, rows: I64, snapshot: IndexSnapshot | None = None, **options: Any) -> Any:
        """Returns the arrays of the layout."""
        draw = self.draw_of(rows, store.snapshot() if snapshot is None else snapshot)
        batch = store.gather(draw, view=self.view, snapshot=snapshot, **options)
        return {name: batch[name] for name in batch if name not in draw.extras()}

    def valid(self, snapshot: IndexSnapshot) -> tuple[I64, I64, I64]:
        """Returns the rows that the view takes, and the ids of their episodes and their time steps."""
        rows = np.concatenate([
            np.arange(first, first + count) for first, count in
            zip(snapshot.index.part_first_row.tolist(), snapshot.index.part_num_rows.tolist(), strict=True)
        ])  # fmt: skip
        episodes, times = snapshot.locate(rows)
        fits = (times >= 1) & (times + self.view.num_steps <= snapshot.episode_num_rows[episodes])
        return rows[fits], snapshot.episode_ids[episodes[fits]], times[fits]

    def all_modes(self, path: Path, expected: Expected | None) -> None:
        first: dict[str, NDArray[Any]] | None = None
        for mode in MODES:
            with make_history(path / mode, mode) as store:
                rows, episodes, times = self.valid(store.snapshot())
                assert len(rows) > 1, f"num_steps={self.view.num_steps}: no made-up episode is so long; take fewer"
                self._check_pairs(store)
                batch = copied(self.gather(store, rows))
                self._check_layout(store, batch, len(rows))
                self._check_memory(store, rows, batch)
                if expected is not None:
                    for at, (number, t) in enumerate(zip(episodes.tolist(), times.tolist(), strict=True)):
                        found = {name: array[at] for name, array in batch.items()}
                        label = f"mode {mode}, episode {number}, time step {t}"
                        same_arrays(found, expected(history_episode(number), t), label)
                first = batch if first is None else first
                same_arrays(batch, first, f"mode {mode}, beside mode {MODES[0]}")
                for num_threads in (1, 3):
                    label = f"mode {mode}, {num_threads} threads"
                    same_arrays(self.gather(store, rows, num_threads=num_threads), batch, label)
                order = np.random.default_rng(1).permutation(len(rows))
                shuffled = {name: array[order] for name, array in batch.items()}
                same_arrays(self.gather(store, rows[order]), shuffled, f"mode {mode}, rows in another order")
                none = self.gather(store, rows[:0])
                same_arrays(none, {name: array[:0] for name, array in batch.items()}, "no rows at all")

    def _check_pairs(self, store: ReplayStore) -> None:
        layout = self.view.layout(store.spec)
        for (name, entry), following in zip(layout.items(), [*layout, ""][1:], strict=True):
            fits = entry.pair is None or (entry.pair == following and layout[following] == entry._replace(pair=None))
            assert fits, f"{name}: expected its pair {entry.pair!r} to be the next array, of the same shape and dtype"

    def _check_layout(self, store: ReplayStore, batch: Mapping[str, NDArray[Any]], size: int) -> None:
        layout = self.view.layout(store.spec)
        assert [*batch] == [*layout], f"expected the arrays {[*layout]} of the layout in that order, got {[*batch]}"
        for name, (shape, dtype, _) in layout.items():
            found, wanted = (batch[name].shape, batch[name].dtype), ((size, *shape), dtype)
            assert found == wanted, f"{name}: expected {wanted}, got {found}"

    def _check_memory(self, store: ReplayStore, rows: I64, batch: Mapping[str, NDArray[Any]]) -> None:
        for byte in (0, 0xFF):
            together = store.allocate(len(rows), view=self.view)
            apart = {name: np.empty_like(array) for name, array in batch.items()}
            for out, label in ((together, "arrays of allocate"), (apart, "arrays of their own")):
                for array in out.values():
                    array.view(np.uint8)[...] = byte
                found = self.gather(store, rows, out=out)
                same_arrays(found, batch, f"{label} that held bytes {byte:#x}: an element is not filled")

    def episodes_alone(self, path: Path) -> None:
        """Checks that the rows of an episode become the same arrays in a store without other episodes."""
        with make_history(path / "together") as store:
            rows, episodes, times = self.valid(store.snapshot())
            complete = {info.episode for info in store.episodes() if info.complete} & set(episodes.tolist())
            for number in sorted(complete):
                of_it = episodes == number
                expected = copied(self.gather(store, rows[of_it]))
                with make_store(path / f"alone_{number}", ()) as alone:
                    alone.append(history_arrays(number))
                    found = self.gather(alone, times[of_it])
                same_arrays(found, expected, f"episode {number} beside others and alone: something crosses an episode")

    def refused(self, store: ReplayStore) -> None:
        snapshot = store.snapshot()
        rows = self.valid(snapshot)[0]
        taken = set(rows.tolist())
        end = int(snapshot.index.part_first_row[-1] + snapshot.index.part_num_rows[-1])
        for row in range(-1, end + 1):
            if row not in taken:
                draw = self.draw_of(rows[:3], snapshot)._replace(rows=np.array([rows[0], row, rows[-1]]))
                is_reset = snapshot.locate(np.array([row]))[1][0] == 0
                error = SpecError if is_reset else Evicted
                label = f"row {row}, which is not live, or the reset row, or has under {self.view.num_steps} steps"
                raises(error, partial(store.gather, draw, view=self.view), label)

    def evicted(self, store: ReplayStore) -> None:
        snapshot = store.snapshot()
        rows, episodes, _ = self.valid(snapshot)
        oldest = rows[episodes == episodes.min()]
        before = copied(self.gather(store, oldest))
        store.append(arrays_of(10, 60))
        store.flush()
        store.set_capacity(60)
        same_arrays(self.gather(store, oldest, snapshot), before, "gathered with its snapshot after the eviction")
        raises(Evicted, lambda: store.gather(self.draw_of(oldest, snapshot), view=self.view), "evicted rows")

    def loader(self, path: Path) -> None:
        from replaystore.loading.loader import ReplayLoader

        runs = []
        with make_history(path / "loader") as store:
            for num_threads in (1, 3):
                with ReplayLoader(
                    store, batch_size=32, sampler=_DrawsOf(self.view.num_steps, self.draw_of), view=self.view, seed=5,
                    num_threads=num_threads, pin_memory=False,
                ) as loader:  # fmt: skip
                    runs.append([copied(next(loader)) for _ in range(6)])
        for number, (one, other) in enumerate(zip(*runs, strict=True)):
            same_arrays(other, one, f"batch {number} of a loader with three threads in place of one")
