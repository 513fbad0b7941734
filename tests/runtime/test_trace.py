"""Calls are recorded where a thread asks for it, and nowhere else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from replaystore.runtime import trace


def add(a: int, b: int) -> int:
    return a + b


def test_calls_are_recorded_while_asked_for():
    found = trace.Trace()
    assert trace.call(add, 1, 2) == 3
    with found.recording():
        assert trace.call(add, 3, 4) == 7
        assert trace.call(max, 5, 6) == 6
    assert trace.call(add, 7, 8) == 15
    assert [(call.kernel, call.arguments) for call in found.calls] == [(add, (3, 4)), (max, (5, 6))]
    assert all(call.milliseconds >= 0 for call in found.calls)


def test_the_inner_recording_takes_the_calls_and_an_error_ends_it():
    outer, inner = trace.Trace(), trace.Trace()

    def fail() -> None:
        with inner.recording():
            trace.call(add, 1, 2)
            trace.call(add, 1)

    with outer.recording():
        with pytest.raises(TypeError):
            fail()
        trace.call(add, 3, 4)
    assert [call.arguments for call in inner.calls] == [(1, 2)]
    assert [call.arguments for call in outer.calls] == [(3, 4)]


def test_other_threads_are_not_recorded():
    found = trace.Trace()
    with found.recording(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(trace.call, add, 1, 2).result() == 3
    assert found.calls == []
