"""The view of transitions keeps the contract that is shipped for views of users, and so do views of other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from replaystore import BatchView, Draw, TransitionView
from replaystore.batches.layout import ArrayLayout
from replaystore.batches.protocol import Read, ViewRows
from replaystore.index.snapshot import IndexSnapshot
from replaystore.testing import view_contract
from replaystore.testing.episodes import FRAME_STACK, Episode, join, stack_frames
from replaystore.testing.oracle import transition


@pytest.mark.parametrize(("n_step", "discount"), [(1, 0.99), (3, 0.5)])
def test_transitions(n_step: int, discount: float) -> None:
    def expected(episode: Episode, t: int) -> Mapping[str, Any]:
        found = transition(episode, t, n_step, discount, FRAME_STACK)
        return {
            "observation": join(list(found["obs"]), "first"),
            "next_observation": join(list(found["next_obs"]), "first"),
            "action": found["action"],
            "reward": found["reward"].reshape(1),
            "discount": found["discount"].reshape(1),
        }

    view_contract(lambda: TransitionView(n_step=n_step, discount=discount), expected=expected)


@dataclass(frozen=True)
class Sequences(BatchView):
    """Rows become sequences (batch, time, ...) of every field."""

    length: int = 4

    @property
    def num_steps(self) -> int:
        return self.length

    def layout(self, spec: Any) -> Any:
        return {
            field.name: ArrayLayout((self.length, *field.stacked_shape), np.dtype(field.dtype)) for field in spec.fields
        }

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: Any) -> ViewRows:
        steps = fields.steps(snapshot, draw.rows, self.length)[0].reshape(-1)
        return ViewRows(
            [Read(column, fields.windows(snapshot, column, steps), (name,)) for name, column in fields.columns.items()]
        )

    def finish(self, batch: Any, rows: ViewRows, fields: Any) -> None:
        pass


def test_sequences() -> None:
    def expected(episode: Episode, t: int) -> Mapping[str, Any]:
        times = range(t, t + 4)
        return {
            "observation": np.stack([join(stack_frames(episode, s, FRAME_STACK), "first") for s in times]),
            "action": episode.action[t : t + 4],
            "reward": episode.reward[t : t + 4, None],
            "discount": episode.discount[t : t + 4, None],
        }

    view_contract(Sequences, expected=expected)


@dataclass(frozen=True)
class WithGoal(BatchView):
    """Transitions with the observation of a goal row, which is a column of the draw."""

    transitions: TransitionView = field(default_factory=TransitionView)

    @property
    def num_steps(self) -> int:
        return self.transitions.num_steps

    def layout(self, spec: Any) -> Any:
        layout = self.transitions.layout(spec)
        return {**layout, "goal": layout["observation"]._replace(pair=None)}

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: Any) -> ViewRows:
        rows = self.transitions.rows_of(draw, snapshot, fields)
        column = fields.columns["observation"]
        goal = Read(column, fields.windows(snapshot, column, draw.columns["goal_row"]), ("goal",))
        return ViewRows([*rows.reads, goal], rows.other)

    def finish(self, batch: Any, rows: ViewRows, fields: Any) -> None:
        self.transitions.finish(batch, rows, fields)


def last_rows(rows: Any, snapshot: IndexSnapshot) -> Draw:
    episodes, _ = snapshot.locate(rows)
    return Draw(rows, None, {"goal_row": snapshot.rows_of(episodes, snapshot.episode_num_rows[episodes] - 1)})


def test_goals() -> None:
    view_contract(WithGoal, draw_of=last_rows)


@dataclass(frozen=True)
class Broken(TransitionView):
    """Transitions of two steps, wrong in one way."""

    n_step: int = 2
    wrong: str = ""

    @property
    def num_steps(self) -> int:
        return 1 if self.wrong == "fewer steps" else 2

    def layout(self, spec: Any) -> Any:
        layout = super().layout(spec)
        if self.wrong == "pair":
            layout["observation"] = layout["observation"]._replace(pair="action")
        if self.wrong == "extra array":
            layout["mask"] = ArrayLayout((), np.dtype(np.float32))
        if self.wrong == "dtype":
            layout["action"] = layout["action"]._replace(dtype=np.dtype(np.float64))
        return layout

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: Any) -> ViewRows:
        rows = super().rows_of(draw, snapshot, fields)
        if self.wrong == "crosses":  # an action two rows too far, whichever episode has it
            *others, action = rows.reads
            windows = np.minimum(action.windows + 2, snapshot.index.part_first_row[-1])
            return ViewRows([*others, action._replace(windows=windows)], rows.other)
        if self.wrong == "count":
            return ViewRows([read._replace(windows=read.windows[1:]) for read in rows.reads], rows.other)
        return rows

    def finish(self, batch: Any, rows: ViewRows, fields: Any) -> None:
        super().finish(batch, rows, fields)
        if self.wrong == "order":
            batch["reward"][:] = np.cumsum(batch["reward"]).reshape(-1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("crosses", "crosses an episode"),
        ("extra array", "an element is not filled"),
        ("order", "rows in another order"),
        ("pair", "expected its pair 'action' to be the next array"),
    ],
)
def test_what_breaks_the_contract_is_found(wrong: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        view_contract(lambda: Broken(wrong=wrong))


def test_too_few_steps_are_found() -> None:
    with pytest.raises(Exception, match="2 steps on"):
        view_contract(lambda: Broken(wrong="fewer steps"))


@pytest.mark.parametrize("wrong", ["count", "dtype"])
def test_reads_that_do_not_fit_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected \d+ windows and .* got .*mend the view's layout or rows_of"):
        view_contract(lambda: Broken(wrong=wrong))


def test_other_values_than_expected_are_found() -> None:
    def of_sequences(episode: Episode, t: int) -> Mapping[str, Any]:
        return {"observation": 0, "action": episode.action[t], "reward": 0, "discount": 0}

    with pytest.raises(AssertionError, match="mode disk, episode 3, time step 1: observation"):
        view_contract(lambda: Sequences(2), expected=of_sequences)
    with pytest.raises(AssertionError, match="expected the arrays"):
        view_contract(TransitionView, expected=of_sequences)
