"""Reads the mount points that the system lists for this process."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Mount(NamedTuple):
    """A mount point.

    Attributes:
        root: the directory of the file system that is mounted.
        point: where it is mounted.
        kind: type of the file system.
        options: options of the file system, such as the controllers of a control group.
    """

    root: str
    point: str
    kind: str
    options: tuple[str, ...]


def parse_mounts(lines: Iterable[str]) -> Iterator[Mount]:
    """Yields the mount points of /proc/self/mountinfo, as proc_pid_mountinfo(5) describes it. Skips other lines."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, point = (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), text) for text in fields[3:5])
        yield Mount(root, point, kind[0], tuple(kind[2].split(",")))
