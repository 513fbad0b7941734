"""States the conditions of a measurement, such as machine, versions, commit and date, as plain data."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

import replaystore
from replaystore.runtime.available_memory import total_bytes

_BLOCK_BYTES = 64 << 10
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


def random_read_milliseconds(directory: Path, rng: np.random.Generator, num_reads: int = 64) -> float | None:
    """Measures the median time to read 64 KiB at a random place of the files below `directory`.

    The reads are made one at a time and bypass the page cache. The host of a virtual disk may still cache them.

    Args:
        directory: directory with files of at least 64 KiB.
        rng: source of the places.
        num_reads: number of reads.

    Returns:
        Milliseconds. None if the file system cannot bypass the cache, or there is no such file.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.stat().st_size >= _BLOCK_BYTES]
    seconds = []
    with mmap.mmap(-1, _BLOCK_BYTES) as page_aligned:
        for _ in range(num_reads if files else 0):
            path = files[int(rng.integers(len(files)))]
            offset = int(rng.integers(path.stat().st_size // _BLOCK_BYTES)) * _BLOCK_BYTES
            try:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            except OSError:
                return None
            try:
                start = time.perf_counter()
                os.preadv(descriptor, [page_aligned], offset)
                seconds.append(time.perf_counter() - start)
            except OSError:
                return None
            finally:
                os.close(descriptor)
    return round(1000 * float(np.median(seconds)), 3) if seconds else None


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
