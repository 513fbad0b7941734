"""`TransitionView`: the batch view of transitions with n-step returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from replaystore.batches.fields_by_role import FieldsByRole
from replaystore.batches.layout import ArrayLayout, Batch, Layout
from replaystore.batches.protocol import BatchView, Read, ViewRows
from replaystore.errors import SpecError
from replaystore.index.snapshot import IndexSnapshot
from replaystore.kernels.returns import cached_returns, n_step_returns
from replaystore.runtime.numbers import whole_number
from replaystore.sampling.protocol import Draw
from replaystore.spec import StoreSpec


@dataclass(frozen=True, kw_only=True)
class TransitionView(BatchView):
    """Turns a drawn row i into a transition with an n-step return.

    >>> import tempfile
    >>> from replaystore import Sampler
    >>> from replaystore.testing.episodes import make_store
    >>> with make_store(tempfile.mkdtemp() + "/store") as store:
    ...     rows = store.draw(Sampler(n_step=3), np.random.default_rng(0), batch_size=4)
    ...     batch = store.gather(rows, view=TransitionView(n_step=3, discount=0.9))
    >>> batch["reward"].shape, batch["next_observation"].dtype.name
    ((4, 1), 'uint8')

    For each observation field, a batch holds the value at i - 1 under the field's name, and the value at i + n_step - 1
    as `next_<name>`. It holds actions and extra fields at i. Reward and discount are float32:

        reward   = sum over k < n_step of (product over j < k of discount * d[i + j]) * r[i + k]
        discount = product over k < n_step of discount * d[i + k]

    In a store with rewards and without discounts d is 1. Its batches have a `discount` nevertheless.

    Attributes:
        n_step: steps of the n-step return.
        discount: discount factor per step.

    Raises:
        SpecError: `n_step` is not a whole number of at least 1, or `discount` is not in [0, 1].
    """

    n_step: int = 1
    discount: float = 0.99

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_step", whole_number(self.n_step, "n_step"))
        try:
            object.__setattr__(self, "discount", float(self.discount))
        except (TypeError, ValueError) as err:
            raise SpecError(f"discount: expected a number from 0 to 1, got {self.discount!r}") from err
        if not 0 <= self.discount <= 1:  # nor NaN
            raise SpecError(f"discount: expected a number from 0 to 1, got {self.discount!r}")

    @property
    def num_steps(self) -> int:
        """Time steps that a drawn row needs: `n_step`."""
        return self.n_step

    def layout(self, spec: StoreSpec) -> Layout:
        """Returns the arrays of a batch, in the order of the fields. An observation and its next one are a pair.

        Raises:
            SpecError: the store has an extra field named `discount`.
        """
        result: Layout = {}
        for field in spec.fields:
            is_scalar = field.role in ("reward", "discount")
            dtype = np.dtype(np.float32 if is_scalar else field.dtype)
            following = f"next_{field.name}" if field.role == "observation" else None
            result[field.name] = ArrayLayout(field.stacked_shape, dtype, following)
            if following is not None:
                result[following] = ArrayLayout(field.stacked_shape, dtype)
        reward = next((field for field in spec.fields if field.role == "reward"), None)
        if reward is not None and not any(field.role == "discount" for field in spec.fields):
            if "discount" in result:  # a store of an earlier release
                raise SpecError(
                    "field 'discount' has role 'extra', and a batch has a discount of its own; make a new store in"
                    " which it has role 'discount'"
                )
            result["discount"] = ArrayLayout(reward.shape, np.dtype(np.float32))
        return result

    def rows_of(self, draw: Draw, snapshot: IndexSnapshot, fields: FieldsByRole) -> ViewRows:
        """Returns the rows of both observations, of the other fields at i, and the `steps` of the returns.

        Raises:
            Evicted: a row is not live, or its transition does not fit its episode.
        """
        steps, windows = fields.steps(snapshot, draw.rows, self.n_step)
        reads = []
        for column in fields.observations:
            # The window of a shorter stack is the end of the window of a longer one.
            depth = column.window_depth
            own = windows if depth == fields.depth else np.ascontiguousarray(windows[:, fields.depth - depth :])
            reads.append(Read(column, own, (column.name, f"next_{column.name}")))
        at_row = draw.rows.reshape(-1, 1)  # `steps` has checked that they are live
        for column in fields.at_row:
            own = fields.windows(snapshot, column, draw.rows) if column.window_depth > 1 else at_row
            reads.append(Read(column, own, (column.name,)))
        return ViewRows(reads, {"steps": steps})

    def finish(self, batch: Batch, rows: ViewRows, fields: FieldsByRole) -> None:
        """Computes rewards and discounts of n steps."""
        if fields.reward is None and fields.discount is None:
            return
        steps, gamma = rows.other["steps"], np.float32(self.discount)
        products = batch["discount" if fields.discount is None else fields.discount.name].reshape(-1)
        sums = np.empty(len(steps), np.float32) if fields.reward is None else batch[fields.reward.name].reshape(-1)
        rewards, factors = fields.held_reward, fields.held_discount
        if (
            rewards is None
            or factors is None
            or not cached_returns(*rewards.held(), *factors.held(), steps, gamma, sums, products)
        ):
            reward, discount = fields.float32(fields.reward, 0, steps), fields.float32(fields.discount, 1, steps)
            n_step_returns(reward, discount, gamma, sums, products)


def view_or_transitions(view: BatchView | None, n_step: int | None = None, discount: float | None = None) -> BatchView:
    """Returns `view`, or a `TransitionView` if it is None.

    Args:
        view: a view of the caller's own.
        n_step: steps of the n-step return, only without a view. None: 1.
        discount: discount factor per step, only without a view. None: 0.99.

    Raises:
        SpecError: a value cannot work, or there is a view as well.
    """
    if view is None:
        chosen = 1 if n_step is None else n_step, 0.99 if discount is None else discount
        try:
            return _transition_view(*chosen)
        except TypeError:  # a value that cannot be hashed, which is no number
            return TransitionView(n_step=chosen[0], discount=chosen[1])
    if n_step is not None or discount is not None:
        name = "discount" if n_step is None else "n_step"
        raise SpecError(f"gather: {name}= is part of a view, and view= is given; give it to the view alone")
    return view


@lru_cache(typed=True)  # the same object each time: `Gatherer` keeps the layout of the view that was used last
def _transition_view(n_step: int, discount: float) -> TransitionView:
    return TransitionView(n_step=n_step, discount=discount)
