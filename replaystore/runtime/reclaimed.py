"""Whether pages of memory maps leave memory while the process uses them.

Bringing pages into memory that are there takes a third of the time of copying them. So it is left out until a thread
had to wait for the device, and then done for a while. A page of a device that fails can end the process in between.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 2.0

_until = 0.0  # time.monotonic()


def lately() -> bool:
    """Whether a thread had to wait for the device in the last two seconds."""
    return time.monotonic() < _until


def note() -> None:
    """Notes that a thread had to wait for the device."""
    global _until
    _until = time.monotonic() + _SECONDS


@contextmanager
def watched() -> Iterator[None]:
    """Notes it if the calling thread has to wait for the device in the `with` block."""
    before = _major_faults()
    yield
    if _major_faults() != before:
        note()


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
