"""Runs a program under a memory limit, in a control group of its own (cgroup v2 or v1).

The group is removed afterwards, whatever happened. Where no memory controller can be written to, the program runs
without a limit and the result says so. The group is charged for page cache too, so a limit holds for anonymous
memory and cached file pages together, as in a container.
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
    """A program could not be started inside its control group."""


@dataclass(frozen=True, kw_only=True)
class LimitedRun:
    """How a program ended.

    Attributes:
        returncode: exit status; negative: the signal that ended it.
        limited: whether a memory limit was in force.
        killed: whether the kernel killed it, or a process of it, at the limit.
        timed_out: whether it was ended because `timeout_seconds` had passed.
        stderr_tail: the last 4,000 characters it wrote to standard error.
        wall_seconds: from start to end.
        memory: what the group counted, read after the end; None where there was no limit.
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
    """A control group with a memory limit, or the lack of one; made by `memory_group`.

    Attributes:
        path: directory of the group; None where none could be made.
        reason: why there is no limit; None where there is one.
    """

    path: Path | None
    reason: str | None = None

    @property
    def limited(self) -> bool:
        """Whether a limit is in force."""
        return self.path is not None

    def read(self) -> MemoryUse | None:
        """Counters now; None without a limit."""
        return None if self.path is None else read_memory(self.path)

    def run(
        self, argv: Sequence[str], *, timeout_seconds: float | None = None, env: Mapping[str, str] | None = None
    ) -> LimitedRun:
        """Runs `argv` in the group to its end; what it prints to standard output is dropped.

        Raises:
            MemoryGroupError: it could not be started inside the group.
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
    """A control group limited to `limit_bytes`, removed on leaving together with what still runs in it.

    Args:
        limit_bytes: at least 16 MiB: a Python interpreter has to fit.
        parents: directories of groups to try, in order; None: those found on this machine.

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
