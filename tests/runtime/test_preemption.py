"""Threads behind the caller: what they ask of the scheduler."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import pytest

from replaystore.runtime import preemption as scheduling


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def slice_of_this_thread() -> int:
    buffer = ctypes.create_string_buffer(scheduling.ATTRIBUTES.size)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]  # sched_getattr
    assert ctypes.CDLL(None).syscall(number, 0, buffer, len(buffer), 0) == 0
    return scheduling.ATTRIBUTES.unpack(buffer.raw)[5]


@pytest.mark.skipif(platform.machine() not in scheduling.SCHED_SETATTR, reason="number of the system call not known")
def test_a_thread_gets_a_longer_slice_and_keeps_its_share():
    release = tuple(int(part) for part in platform.release().split(".")[:2])

    def work():
        before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
        scheduling.let_others_preempt()
        return before, (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)), slice_of_this_thread()

    before, after, found = in_a_thread(work)
    assert after == before
    if release >= (6, 12):
        assert found == 20_000_000
    assert slice_of_this_thread() != 20_000_000  # the caller's is as it was


def test_a_thread_of_another_policy_is_left_alone():
    def work():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        scheduling.let_others_preempt()
        return os.sched_getscheduler(0)

    assert in_a_thread(work) == os.SCHED_BATCH


def test_a_machine_whose_call_is_not_known_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("called"))
    assert in_a_thread(scheduling.let_others_preempt) is None
