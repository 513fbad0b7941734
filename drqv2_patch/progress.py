"""What a run says of itself: the memory that its buffer takes, and how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from drqv2_patch.storage import ReplayBufferStorage
from replaystore import ReplayStore
from replaystore.cli.output import bytes_text

_FIRST_SECONDS, _LEAST_SECONDS, _MOST_SECONDS = 2.0, 5.0, 60.0
_GROWTH = 0.25  # of the time since the start


class Pulse:
    """Says when the next line about progress is due: after seconds at first, later once a minute.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._next = self._started + _FIRST_SECONDS

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return self._clock() - self._started

    def due(self) -> bool:
        """Whether it is time; if so, it is not again for a while."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + min(_MOST_SECONDS, max(_LEAST_SECONDS, _GROWTH * (now - self._started)))
        return True


def buffer_line(storage: ReplayBufferStorage, capacity: int) -> str:
    """The bytes that `capacity` transitions take, and where they will be.

    Without compression they are known from the fields. In mode `full` that is a bound, until the store has encoded
    rows of this run that can be measured.
    """
    store = storage.store
    measured = None if store is None else measured_row_bytes(store)
    num_bytes = capacity * (storage.row_bytes() if measured is None else measured)
    size = bytes_text(num_bytes)
    if measured is not None:
        size = f"about {size}, measured at its rows so far"
    elif storage.mode == "full":
        size = f"at most {size}, which is their size before compression"
    return f"buffer: mode {storage.mode}, {capacity:,} transitions take {size}{_place(store, num_bytes)}"


def _place(store: ReplayStore | None, num_bytes: float) -> str:
    if store is None:
        return ""
    if store.residency == "mapped":
        return "; in files, of which the page cache keeps what it has room for"
    budget = int(store.info()["budget_bytes"])
    if num_bytes <= budget:
        return "; all in memory"
    if store.residency == "ram":
        return f"; all in memory, where there is room for {bytes_text(budget)}"
    return f"; {bytes_text(budget)} of it in memory, the rest is read from files"


def measured_row_bytes(store: ReplayStore) -> float | None:
    """Bytes of a row in the chunks of a store; None while they hold less rows than one chunk has room for."""
    info = store.info()
    rows = info["rows"] - info["rows_in_tail"]
    if rows < info["chunk_rows"]:
        return None
    fields = info["fields"].values()
    raw = sum(math.prod(field["stored_shape"]) * np.dtype(field["dtype"]).itemsize for field in fields)
    total = sum(field["bytes_on_disk"] for field in fields)
    return float(max(total - info["rows_in_tail"] * raw, 0) / rows)  # rows of the tail are not encoded yet


def watch(environment: Any, told: Callable[[Any], None]) -> None:
    """Calls `told` with every time step that `environment.step` returns, of this environment alone."""
    step = environment.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        time_step = step(*args, **kwargs)
        told(time_step)
        return time_step

    environment.step = watched
