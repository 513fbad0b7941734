"""Makes the sampler and the view of a loader from its arguments."""

from __future__ import annotations

from typing import Any

from replaystore.batches.protocol import BatchView
from replaystore.batches.transitions import TransitionView
from replaystore.errors import SpecError
from replaystore.sampling.protocol import RowSampler
from replaystore.sampling.sampler import Distribution, Sampler


def sampler_and_view(
    *, n_step: int | None, discount: float | None, distribution: Distribution | None, window: int | None,
    sampler: RowSampler | None, view: BatchView | None,
) -> tuple[RowSampler, BatchView]:  # fmt: skip
    """Returns the sampler and the view of a loader.

    Args:
        n_step: steps of the n-step return. None: taken from `view`, then from `sampler`, else 1.
        discount: discount factor of the view. None: 0.99.
        distribution: distribution of the sampler. None: `"uniform"`.
        window: window of the sampler. None: all episodes.
        sampler: the sampler. None: a `Sampler` made from the other arguments.
        view: the view. None: a `TransitionView` made from the other arguments.

    Raises:
        SpecError: a value is outside its range, or it contradicts `sampler` or `view`.
    """
    if sampler is not None:
        _agree("distribution", distribution, "sampler", sampler)
        _agree("window", window, "sampler", sampler)
        if n_step is not None and hasattr(sampler, "n_step"):
            _agree("n_step", n_step, "sampler", sampler)
    if view is not None:
        _agree("n_step", n_step, "view", view)
        _agree("discount", discount, "view", view)
    else:
        steps = getattr(sampler, "n_step", 1) if n_step is None else n_step
        view = TransitionView(n_step=steps, discount=0.99 if discount is None else discount)
    if sampler is None:
        sampler = Sampler(
            n_step=view.num_steps, distribution="uniform" if distribution is None else distribution, window=window
        )
    elif getattr(sampler, "n_step", view.num_steps) < view.num_steps:
        raise SpecError(
            f"sampler: expected one whose rows have the {view.num_steps} steps that {view!r} needs, got {sampler!r};"
            f" give it n_step={view.num_steps}"
        )
    return sampler, view


def _agree(name: str, value: Any, owner_name: str, owner: Any) -> None:
    if value is not None and getattr(owner, name, None) != value:
        raise SpecError(
            f"{name}: expected it in {owner_name}= alone, got {name}={value!r} beside {owner_name}={owner!r};"
            f" leave {name}= out"
        )
