"""Measures how much memory this process may still use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
LIMITS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Returns the bytes that this process may still use.

    That is what the machine has available, or less if a memory control group of the process leaves less. The groups
    above count too, because they limit the process as well. If the kernel does not report available memory, free memory
    is used instead.
    """
    free = _from_meminfo("MemAvailable")
    if free is None:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for mount, limit_name, usage_name in LIMITS:
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
    """Returns the bytes of memory of the machine."""
    return _from_meminfo("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _from_meminfo(name: str) -> int | None:
    """Returns a value of /proc/meminfo in bytes. The file counts in KiB. None if the value is missing."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    values = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(value) << 10 for value in values if value.isdigit()), None)


def _groups(mount: Path) -> Iterator[Path]:
    """Yields the directories of the control groups that limit this process: its own first, then those above it."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers or "memory" in controllers.split(","):
            group = Path(path.lstrip("/"))
            yield from (mount / directory for directory in (group, *group.parents))
