"""How much memory this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_LIMITS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Bytes free for new use: what the machine has, and what the memory control groups of the process leave.

    A group above that of the process limits it as well. Where the kernel does not say what is available, what is free.
    """
    free = _from_meminfo("MemAvailable")
    if free is None:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for mount, limit_name, usage_name in _LIMITS:
        for directory in _groups(mount):
            try:
                limit = (directory / limit_name).read_text().strip()
                usage = int((directory / usage_name).read_text())
            except (OSError, ValueError):
                continue
            if limit.isdigit():
                free = min(free, max(0, int(limit) - usage))
    return free


def total_bytes() -> int:
    """Bytes of memory that the machine has."""
    return _from_meminfo("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _from_meminfo(name: str) -> int | None:
    """A value of /proc/meminfo, which counts in KiB; None where it is not there."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    values = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(value) << 10 for value in values if value.isdigit()), None)


def _groups(mount: Path) -> Iterator[Path]:
    """The directories of the control groups that limit this process, its own first, then those above it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers or "memory" in controllers.split(","):
            group = Path(path.lstrip("/"))
            yield from (mount / directory for directory in (group, *group.parents))
