"""Control groups of Linux, v2 and v1: finds a parent, makes a group with a memory limit, reads it and removes it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from replaystore.runtime.mounts import parse_mounts

_UNLIMITED_BYTES = 1 << 60  # without a limit v1 writes a number near 2**63
REMOVAL_SECONDS = 5.0  # for the processes of a group to end once they are killed
_numbering = itertools.count()


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Counters of a control group, in bytes and events.

    Attributes:
        usage_bytes: anonymous memory, page cache and kernel memory that are charged now.
        peak_bytes: largest charge ever. None if the kernel does not report it.
        limit_hits: charges that reached the limit and had to reclaim memory. None if the kernel does not count them.
        oom_kills: processes that were killed because nothing could be reclaimed.
        anonymous_bytes: heap, stacks and private copies.
        cache_bytes: page cache, mapped or not.
        mapped_bytes: the part of the page cache that a process has mapped.
    """

    usage_bytes: int
    peak_bytes: int | None
    limit_hits: int | None
    oom_kills: int
    anonymous_bytes: int
    cache_bytes: int
    mapped_bytes: int


def _numbers(path: Path) -> dict[str, int]:
    """Returns the `key number` lines of a file. Empty if the file cannot be read."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def read_memory(group: Path) -> MemoryUse:
    """Returns the counters of a control group. Its files show whether it is v1 or v2.

    Args:
        group: directory of the group.
    """
    stat = _numbers(group / "memory.stat")
    if (group / "memory.current").exists():
        events = _numbers(group / "memory.events")
        return MemoryUse(
            usage_bytes=_number(group / "memory.current") or 0,
            peak_bytes=_number(group / "memory.peak"),
            limit_hits=events.get("max", 0),
            oom_kills=events.get("oom_kill", 0),
            anonymous_bytes=stat.get("anon", 0),
            cache_bytes=stat.get("file", 0),
            mapped_bytes=stat.get("file_mapped", 0),
        )
    # With equal limits the kernel checks memory and swap together first, and counts the hit there.
    limit_hits: int | None = sum(_number(group / name) or 0 for name in ("memory.failcnt", "memory.memsw.failcnt"))
    peak_bytes = _number(group / "memory.max_usage_in_bytes")
    limit_bytes = _number(group / "memory.limit_in_bytes")
    if not limit_hits and peak_bytes is not None and limit_bytes is not None and peak_bytes >= limit_bytes:
        limit_hits = None  # newer kernels leave the counters of v1 at zero
    return MemoryUse(
        usage_bytes=_number(group / "memory.usage_in_bytes") or 0,
        peak_bytes=peak_bytes,
        limit_hits=limit_hits,
        oom_kills=_numbers(group / "memory.oom_control").get("oom_kill", 0),
        anonymous_bytes=stat.get("total_rss", 0),
        cache_bytes=stat.get("total_cache", 0),
        mapped_bytes=stat.get("total_mapped_file", 0),
    )


def _memory_mounts(proc: Path) -> Iterator[tuple[int, str, Path]]:
    """Yields (cgroup version, root within the hierarchy, mount point) of each hierarchy that may count memory."""
    for mount in parse_mounts((proc / "mountinfo").read_text().splitlines()):
        if mount.kind == "cgroup2":
            yield 2, mount.root, Path(mount.point)
        elif mount.kind == "cgroup" and "memory" in mount.options:
            yield 1, mount.root, Path(mount.point)


def _own_groups(proc: Path) -> dict[int, str]:
    """Returns this process's group in the v1 memory hierarchy and in v2, by version."""
    result = {}
    for line in (proc / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            result[2] = path
        elif "memory" in controllers.split(","):
            result[1] = path
    return result


def possible_parents(proc: Path = Path("/proc/self")) -> list[Path]:
    """Returns the directories of groups that a memory group could be made in, best first.

    In v2, these are the groups at or above this process's own that give the memory controller to their children. In v1,
    it is the process's own group if that has a limit, so that the limit stays in force. Otherwise the top comes first.

    Args:
        proc: directory of the process below /proc.
    """
    parents = []
    try:
        own_groups, mounts = _own_groups(proc), sorted(_memory_mounts(proc), key=lambda mount: -mount[0])
    except (OSError, ValueError):
        return []
    for version, root, point in mounts:
        own = own_groups.get(version, root)
        below = os.path.relpath(own, root)
        group = point if below.startswith("..") else point / below
        if version == 2:
            above = [path for path in (group, *group.parents) if path == point or point in path.parents]
            parents += [path for path in above if "memory" in _words(path / "cgroup.subtree_control")]
        elif _numbers(group / "memory.stat").get("hierarchical_memory_limit", 0) < _UNLIMITED_BYTES:
            parents.append(group)
        else:
            parents += dict.fromkeys([point, group])
    return parents


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def make_group(parent: Path, limit_bytes: int) -> Path:
    """Makes a group with a memory limit. If the kernel counts swap, the group gets none.

    Args:
        parent: directory of the group above.
        limit_bytes: memory limit.

    Returns:
        Directory of the new group.

    Raises:
        OSError: the group cannot be made or limited. Nothing is left behind.
    """
    group = parent / f"replaystore-{os.getpid()}-{next(_numbering)}"
    group.mkdir()
    try:
        if (group / "memory.max").exists():
            (group / "memory.max").write_text(str(limit_bytes))
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
            if (group / "memory.memsw.limit_in_bytes").exists():
                (group / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
    except BaseException:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise
    return group


def remove_group(group: Path) -> None:
    """Kills the processes left in `group` and removes it. Warns if that takes longer than five seconds."""
    end = time.monotonic() + REMOVAL_SECONDS
    while True:
        for pid in _words(group / "cgroup.procs"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as err:
            if time.monotonic() > end:
                warnings.warn(f"{group}: control group left behind ({err}); remove it with rmdir", stacklevel=2)
                return
            time.sleep(0.02)
        else:
            return
