"""Runs a program under a memory limit, in its own control group (cgroup v2 or v1).

The group is always removed afterwards. If no memory controller is writable, the program runs without a limit and the
result says so. The group is also charged for page cache. So the limit holds for anonymous memory and cached file pages
together, as in a container.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from replaystore.bench.control_group import MemoryUse, make_group, possible_parents, read_memory, remove_group
from replaystore.bench.join_group import JOIN_FAILED
from replaystore.errors import ReplayStoreError, SpecError

MIN_LIMIT_BYTES = 16 << 20


class MemoryGroupError(ReplayStoreError):
    """A program cannot be started in its control group."""


@dataclass(frozen=True, kw_only=True)
class LimitedRun:
    """How a program ended.

    Attributes:
        returncode: exit status. If negative, the signal that ended it.
        limited: whether a memory limit was in force.
        killed: whether the kernel killed a process of it at the limit.
        timed_out: whether it was ended after `timeout_seconds`.
        stderr_tail: the last 4,000 characters that it wrote to standard error.
        wall_seconds: time from start to end.
        memory: counters of the group, read after the end. None without a limit.
    """

    returncode: int
    limited: bool
    killed: bool
    timed_out: bool
    stderr_tail: str
    wall_seconds: float
    memory: MemoryUse | None


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with a memory limit, or the reason why there is none. `memory_group` makes it.

    Attributes:
        path: directory of the group. None if no group could be made.
        reason: why there is no limit. None if there is one.
    """

    path: Path | None
    reason: str | None = None

    @property
    def limited(self) -> bool:
        """Whether a limit is in force."""
        return self.path is not None

    def read(self) -> MemoryUse | None:
        """Returns the counters now. None without a limit."""
        return None if self.path is None else read_memory(self.path)

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float | None = None, env: Mapping[str, str] | None = None
    ) -> LimitedRun:
        """Runs a program in the group to its end. Its standard output is dropped.

        Args:
            argv: the program and its arguments.
            timeout_seconds: time after which it is killed. None waits for its end.
            env: environment of the program. None inherits that of this process.

        Raises:
            MemoryGroupError: the program cannot be started in the group.
        """
        command = list(argv)
        if self.path is not None:
            command = [sys.executable, "-m", "replaystore.bench.join_group", str(self.path), *command]
        before = self.read()
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
        ) as process:
            timed_out = False
            try:
                _, stderr = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                timed_out = True
                process.kill()
                _, stderr = process.communicate()
            except BaseException:
                process.kill()
                raise
        wall_seconds = time.perf_counter() - start
        tail = stderr.decode(errors="replace")[-4000:]
        if self.limited and process.returncode == JOIN_FAILED:
            raise MemoryGroupError(tail.strip() or f"{self.path}: could not start {argv[0]!r} in this control group")
        after = self.read()
        return LimitedRun(
            returncode=process.returncode,
            limited=self.limited,
            killed=before is not None and after is not None and after.oom_kills > before.oom_kills,
            timed_out=timed_out,
            stderr_tail=tail,
            wall_seconds=wall_seconds,
            memory=after,
        )


@contextmanager
def memory_group(limit_bytes: int, *, parents: Sequence[Path] | None = None) -> Iterator[MemoryGroup]:
    """Makes a control group with a memory limit for the block, then kills what still runs in it and removes it.

    Args:
        limit_bytes: memory limit, at least 16 MiB. A Python interpreter must fit.
        parents: directories of groups to try, in order. None takes those found on this machine.

    Raises:
        SpecError: `limit_bytes` is too small.
    """
    if limit_bytes < MIN_LIMIT_BYTES:
        raise SpecError(f"limit_bytes: expected at least {MIN_LIMIT_BYTES}, got {limit_bytes}; Python itself must fit")
    reasons = []
    for parent in possible_parents() if parents is None else parents:
        try:
            path = make_group(parent, limit_bytes)
        except OSError as err:
            reasons.append(f"{err.filename or parent}: {err.strerror or err}")
            continue
        try:
            yield MemoryGroup(path)
        finally:
            remove_group(path)
        return
    why = "; ".join(reasons) or "no control group that can limit memory was found"
    yield MemoryGroup(None, f"{why}. Run as root, or in a group to which the memory controller is delegated")
