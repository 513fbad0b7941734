"""The lines that a run prints: the memory of its buffer, and its progress."""

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

        >>> pulse = Pulse(iter([0.0, 1.0, 2.0, 3.0]).__next__)
        >>> [pulse.due() for _ in range(3)]
        [False, True, False]

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._next = self._started + _FIRST_SECONDS

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._started

    def due(self) -> bool:
        """Returns whether a line is due. If it is, the next one is not due for a while."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + min(_MOST_SECONDS, max(_LEAST_SECONDS, _GROWTH * (now - self._started)))
        return True


def buffer_line(storage: ReplayBufferStorage, capacity: int) -> str:
    """Returns a line that says how many bytes `capacity` transitions take, and where they will be.

    The fields give the bytes without compression. In mode `full` they are an upper bound, which the line states until
    the store has encoded a chunk whose rows can be measured.
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
    if store.residency in ("mapped", "files"):
        return "; in files, of which the page cache keeps what it has room for"
    budget = int(store.info()["budget_bytes"])
    if num_bytes <= budget:
        return "; all in memory"
    if store.residency == "ram":
        return f"; all in memory, where there is room for {bytes_text(budget)}"
    return f"; {bytes_text(budget)} of it in memory, the rest in files"


def measured_row_bytes(store: ReplayStore) -> float | None:
    """Returns the bytes per row in the chunks of a store, or None while they hold fewer rows than one full chunk."""
    info = store.info()
    rows = info["rows"] - info["rows_in_tail"]
    if rows < info["chunk_rows"]:
        return None
    fields = info["fields"].values()
    raw = sum(math.prod(field["stored_shape"]) * np.dtype(field["dtype"]).itemsize for field in fields)
    total = sum(field["bytes_on_disk"] for field in fields)
    return float(max(total - info["rows_in_tail"] * raw, 0) / rows)  # rows of the tail are not encoded yet


def watch(environment: Any, told: Callable[[Any], None]) -> None:
    """Calls `told` with every time step that `environment.step` returns. Other environments stay unchanged."""
    step = environment.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        time_step = step(*args, **kwargs)
        told(time_step)
        return time_step

    environment.step = watched
