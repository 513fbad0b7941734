"""The first thing that the `train.py` of a patched checkout calls, before imports that a half patched one fails at."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from drqv2_patch.device import check_device_argument
from drqv2_patch.errors import PatchError
from drqv2_patch.patch.checkout import Checkout
from drqv2_patch.patch.config_edits import CONFIG
from replaystore.errors import ReplayStoreError

_REFUSED = 2
_TASK = "task@_global_"


def require_whole(train: str) -> None:
    """Ends the process with one line where the checkout of this `train.py` is half patched, or cannot run as asked.

    That is, where it has no such task, or is to use a GPU that is not there.
    """
    directory = Path(train).resolve().parent
    try:
        Checkout(directory).check_whole()
        check_task(directory / "cfgs" / "task", sys.argv[1:])
        check_device_argument(sys.argv[1:], directory / CONFIG)
    except ReplayStoreError as err:
        print(f"train.py: error: {err}", file=sys.stderr)
        sys.exit(_REFUSED)


def check_task(directory: Path, arguments: Sequence[str]) -> None:
    """Raises `PatchError` for a task that has no file in `directory`, which Hydra would answer with a page of names.

    `arguments`: of the command line. Several tasks with commas, as in a sweep, and anything but a plain name are left
    to Hydra.
    """
    tasks = sorted(path.stem for path in directory.glob("*.yaml"))
    if not tasks:
        return
    for argument in arguments:
        name, _, value = argument.partition("=")
        unknown = [task for task in value.split(",") if task.replace("_", "").isalnum() and task not in tasks]
        if name == "task":
            raise PatchError(f"{argument}: expected {_TASK}={value}, as Hydra 1.3 takes it")
        if name == _TASK and unknown:
            near = difflib.get_close_matches(unknown[0], tasks, n=3, cutoff=0.5) or tasks[:3]
            raise PatchError(
                f"{argument}: expected one of {len(tasks)} tasks in {directory}, found {unknown[0]!r}; try"
                f" {', '.join(near)}"
            )
