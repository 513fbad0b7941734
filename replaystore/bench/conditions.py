"""States the conditions of a measurement, such as machine, versions, commit and date, as plain data."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import replaystore
from replaystore.runtime.available_memory import total_bytes

_PACKAGES = ("numpy", "numba", "numcodecs", "lz4")


def _first_value(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def git_commit() -> str | None:
    """Commit of the package's sources, with `+changes` if files differ from it. None outside a checkout."""
    folder = Path(replaystore.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "--no-optional-locks", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--", ".") else "")


def block_device(directory: Path) -> tuple[str | None, int | None]:
    """Returns the name and read-ahead in bytes of the block device that holds `directory`. None if there is none."""
    number = directory.stat().st_dev
    sysfs = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    for folder in (sysfs, sysfs.resolve().parent if sysfs.exists() else sysfs):
        try:
            kilobytes = int((folder / "queue" / "read_ahead_kb").read_text())
        except (OSError, ValueError):
            continue
        return folder.resolve().name, kilobytes << 10
    return None, None


def conditions(directory: Path) -> dict[str, str | int | float | None]:
    """Returns the conditions of a measurement on files below `directory`, by name. Sizes are in bytes."""
    device, read_ahead_bytes = block_device(directory)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "replaystore": replaystore.__version__,
        "git_commit": git_commit(),
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "memory_bytes": total_bytes(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        "block_device": device,
        "read_ahead_bytes": read_ahead_bytes,
    }
