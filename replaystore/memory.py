"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

_LIMITS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Bytes free for new use: what the machine has, and what the memory control group of the process leaves."""
    free = int(psutil.virtual_memory().available)
    for mount, limit_name, usage_name in _LIMITS:
        for group in _groups():
            directory = Path(mount + group)
            try:
                limit = (directory / limit_name).read_text().strip()
                usage = int((directory / usage_name).read_text())
            except (OSError, ValueError):
                continue
            if limit.isdigit():
                free = min(free, max(0, int(limit) - usage))
    return free


def _groups() -> list[str]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    paths = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return [path for _, controllers, path in paths if not controllers or "memory" in controllers.split(",")]
