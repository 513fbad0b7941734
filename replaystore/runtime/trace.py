"""Calls of the kernels that write observations, recorded for a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: what was called.
        arguments: what it was called with.
        milliseconds: how long it took.
    """

    kernel: Callable[..., Any]
    arguments: tuple[Any, ...]
    milliseconds: float


@dataclass
class Trace:
    """The calls that one thread made through `call` while it recorded.

    Attributes:
        calls: in the order in which they ended.
    """

    calls: list[Call] = field(default_factory=list)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the calls of this thread. Those of other threads are not recorded."""
        token = _recording.set(self)
        try:
            yield
        finally:
            _recording.reset(token)


_recording: ContextVar[Trace | None] = ContextVar("replaystore_trace", default=None)


def call(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a kernel, and records the call where this thread records. This is the only place that asks.

    Args:
        kernel: what to call.
        arguments: what to call it with.

    Returns:
        What the kernel returns.
    """
    trace = _recording.get()
    if trace is None:
        return kernel(*arguments)
    start = time.perf_counter()
    result = kernel(*arguments)
    trace.calls.append(Call(kernel, arguments, 1000 * (time.perf_counter() - start)))
    return result
