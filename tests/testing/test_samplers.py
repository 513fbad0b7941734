"""The sampler keeps the contract that is shipped for samplers of users, and the contract finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sampling.prioritised import Prioritised

from replaystore import Draw, RowSampler, Sampler, TransitionView
from replaystore.errors import NotEnoughData
from replaystore.index.snapshot import IndexSnapshot
from replaystore.testing import sampler_contract
from replaystore.testing.episodes import valid_steps


def by_the_book(n_step: int, distribution: str, window: int | None) -> Callable[[IndexSnapshot], Mapping[int, float]]:
    """The probability of each row: episodes of `make_history`, newest first, as long as the window has room."""

    def probability(snapshot: IndexSnapshot) -> Mapping[int, float]:
        steps: dict[int, list[int]] = {}
        room = 10**9 if window is None else window
        for position in range(snapshot.num_episodes - 1, -1, -1):
            num_rows = int(snapshot.episode_num_rows[position])
            room -= num_rows - 1
            if room < 0 and any(steps.values()):
                break
            steps[position] = valid_steps(num_rows, n_step)
        shares = {}
        drawable = {position: times for position, times in steps.items() if times}
        total = sum(map(len, drawable.values()))
        for position, times in drawable.items():
            share = 1 / total if distribution == "uniform" else 1 / len(drawable) / len(times)
            rows = snapshot.rows_of(np.full(len(times), position), np.array(times))
            shares.update(dict.fromkeys(rows.tolist(), share))
        return shares

    return probability


@pytest.mark.parametrize(("n_step", "window"), [(1, None), (3, 45)])
@pytest.mark.parametrize("distribution", ["uniform", "per_episode"])
def test_sampler(distribution: Any, window: int | None, n_step: int) -> None:
    sampler_contract(
        lambda: Sampler(n_step=n_step, distribution=distribution, window=window),
        view=TransitionView(n_step=n_step),
        probability=by_the_book(n_step, distribution, window),
    )


def test_a_sampler_with_priorities_keeps_it() -> None:
    sampler_contract(
        lambda: Prioritised(n_step=2), view=TransitionView(n_step=2), probability=by_the_book(2, "uniform", None)
    )


class Broken(RowSampler):
    """Uniform, and wrong in one way."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, snapshot: IndexSnapshot, rng: np.random.Generator, size: int) -> Draw:
        return Sampler().draw(snapshot, rng, size)


class Narrow(Broken):
    def draw(self, snapshot, rng, size):
        draw = super().draw(snapshot, rng, size)
        return Draw(draw.rows.astype(np.int32))


class Global(Broken):
    def draw(self, snapshot, rng, size):
        return super().draw(snapshot, np.random.default_rng(np.random.randint(1 << 30)), size)  # noqa: NPY002


class Resets(Broken):
    def draw(self, snapshot, rng, size):
        draw = super().draw(snapshot, rng, size)
        draw.rows[0] = snapshot.index.part_first_row[0]
        return draw


class Stale(Broken):
    """Draws from the first snapshot that it saw."""

    snapshot = None

    def draw(self, snapshot, rng, size):
        self.snapshot = self.snapshot or snapshot
        try:
            return super().draw(self.snapshot, rng, size)
        except NotEnoughData:
            self.snapshot = None
            raise


class Reused(Broken):
    """Returns the same memory each time."""

    def draw(self, snapshot, rng, size):
        rows = super().draw(snapshot, rng, size).rows
        if not hasattr(self, "memory"):
            self.memory = rows.copy()
        self.memory[:] = rows
        return Draw(self.memory)


class Counting(Broken):
    """Every other batch is drawn per episode; the count is lost, or aliased, or changes in spite of the flag."""

    def draw(self, snapshot, rng, size):
        distribution: Any = "uniform" if self.count % 2 else "per_episode"
        draw = Sampler(distribution=distribution).draw(snapshot, rng, size)
        self.count += 1
        return draw


class Aliased(Counting):
    def __init__(self) -> None:
        self.state = {"count": 0}

    @property
    def count(self) -> int:
        return self.state["count"]

    @count.setter
    def count(self, value: int) -> None:
        self.state["count"] = value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state.update(state)


class Unannounced(Counting):
    draws_change_state = False

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Announced(Unannounced):
    draws_change_state = True


class Eager(Broken):
    """Advances the generator where there is nothing to draw."""

    def draw(self, snapshot, rng, size):
        rng.random()
        return super().draw(snapshot, rng, size)


class Silent(Broken):
    """Returns nothing useful where there is nothing to draw."""

    def draw(self, snapshot, rng, size):
        try:
            return super().draw(snapshot, rng, size)
        except NotEnoughData:
            return Draw(np.zeros(size, np.int64))


class Heavy(Broken):
    def draw(self, snapshot, rng, size):
        return super().draw(snapshot, rng, size)._replace(weights=np.ones(size))


class Short(Broken):
    def draw(self, snapshot, rng, size):
        return super().draw(snapshot, rng, size)._replace(columns={"row": np.zeros(1)})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Narrow, "expected int64 rows, got int32"),
        (Global, "the same seed, draw 0"),
        (Resets, "expected live rows that are not the first of their episode"),
        (Stale, "expected live rows"),
        (Reused, "after the next draw"),
        (Counting, "of a restored sampler"),
        (Aliased, "a state is as it was when it was taken"),
        (Unannounced, "draws_change_state is False, and a draw did"),
        (Eager, "nothing was drawn"),
        (Silent, "expected NotEnoughData, and nothing was raised"),
        (Heavy, r"float32 \(64,\) weights, got float64"),
        (Short, "'row': expected one entry for each row"),
    ],
)
def test_what_breaks_the_contract_is_found(broken: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        sampler_contract(broken)


def test_a_sampler_whose_state_changes_with_draws_keeps_it() -> None:
    sampler_contract(Announced)


def test_a_wrong_distribution_is_found() -> None:
    for right, wrong in (("uniform", "per_episode"), ("per_episode", "uniform")):
        with pytest.raises(AssertionError, match="deviations from what"):
            sampler_contract(lambda right=right: Sampler(distribution=right), probability=by_the_book(1, wrong, None))
    with pytest.raises(AssertionError, match="their probability is 0"):
        sampler_contract(Sampler, probability=by_the_book(1, "uniform", 20))


def test_a_view_that_needs_more_steps_is_found() -> None:
    with pytest.raises(AssertionError, match="have 2 steps"):
        sampler_contract(Sampler, view=TransitionView(n_step=2))
