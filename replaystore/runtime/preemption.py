"""Scheduling of the threads that work in the background."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from contextlib import suppress

_SLICE_NS = 20_000_000
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # number of the system call, which the C library does not wrap
ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, 2 more


def let_others_preempt() -> None:
    """Gives the calling thread a time slice of 20 ms, so that waking threads with a shorter slice preempt it at once.

    A running thread on Linux finishes its slice unless the waking thread has a shorter one (since 6.12). By default all
    slices have the same length. A learner that slept for a millisecond then waits for up to 4 ms more if every core
    decodes a batch. The thread's share of processor time stays the same. Nothing happens if the system does not support
    it.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    with suppress(OSError):
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = ATTRIBUTES.pack(ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
        system_call = ctypes.CDLL(None).syscall
        system_call(ctypes.c_long(number), ctypes.c_int(0), ctypes.create_string_buffer(attributes), ctypes.c_uint(0))
