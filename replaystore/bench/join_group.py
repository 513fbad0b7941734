"""Joins a control group, then becomes another program: `python -m replaystore.bench.join_group GROUP PROGRAM ...`.

The process joins before `exec`, so every page of the program is charged to the group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

JOIN_FAILED = 125


def join_and_exec(group: Path, argv: Sequence[str]) -> NoReturn:
    """Moves this process into a group and replaces it by a program. If that fails, it exits with status 125.

    Args:
        group: directory of the group.
        argv: the program and its arguments.
    """
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        os.execvp(argv[0], list(argv))
    except OSError as err:
        sys.stderr.write(f"{group}: could not start {argv[0]!r} in this control group: {err}\n")
        sys.exit(JOIN_FAILED)


if __name__ == "__main__":
    join_and_exec(Path(sys.argv[1]), sys.argv[2:])
